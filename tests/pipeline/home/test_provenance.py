import dataclasses

import pytest

from pipeline.experiments import load
from pipeline.home.provenance import PartDigest, Provenance


@pytest.fixture
def provenance():
    parts = (PartDigest("base", "b", False), PartDigest("span-1", "s", True))
    return Provenance(load("mnist"), parts, 3, "trainer", "pipeline", "baseline")


def test_a_version_says_what_it_comes_from(provenance):
    record = provenance.version_record("r1")
    assert (record.run, record.experiment_name, record.warm_start) == ("r1", "mnist", 3)
    assert record.parts == {"span-1": "s"}  # the base files were only measured on
    assert (record.data_digest, record.trainer_digest) == (provenance.data_digest, "trainer")
    assert (record.version, record.digest, record.identity) == (0, "", "")  # the push knows


def test_a_report_says_it_with_the_versions_of_the_stack(provenance):
    fields = provenance.to_dict()
    assert fields["experiment"] == load("mnist").to_dict()
    assert fields["data"]["digest"] == provenance.data_digest
    assert fields["data"]["parts"][1] == {"name": "span-1", "digest": "s", "trained_on": True}
    assert (fields["warm_start"], fields["baseline"]) == (3, "baseline")
    assert fields["code"] == {"trainer_digest": "trainer", "pipeline_digest": "pipeline"}
    assert "tensorflow" in fields["versions"]


@pytest.mark.parametrize(
    "part",
    [PartDigest("span-2", "s", True), PartDigest("span-1", "t", True), PartDigest("span-1", "s", False)],
    ids=str,
)
def test_the_data_are_their_parts_by_name_content_and_use(provenance, part):
    other = dataclasses.replace(provenance, parts=(provenance.parts[0], part))
    assert other.data_digest != provenance.data_digest
    assert other.fingerprint != provenance.fingerprint


@pytest.mark.parametrize("field", ["warm_start", "trainer_digest", "baseline"])
def test_the_fingerprint_is_not_of_what_was_there_before(provenance, field):
    assert dataclasses.replace(provenance, **{field: "another"}).fingerprint == provenance.fingerprint
    assert len(provenance.fingerprint) == 12
