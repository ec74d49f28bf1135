import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from components.image_example_gen.data_error import DataError
from conveyor.errors import ConfigError
from pipeline.data import fetch
from pipeline.data.inputs import input_folder, read_inputs
from pipeline.experiments import load
from pipeline.experiments.overrides import override
from pipeline.home.folders import Home
from tests.digits import write_idx


@pytest.fixture
def root(tmp_path):
    write_idx(tmp_path, "train", np.zeros((2, 28, 28)), np.zeros(2))
    write_idx(tmp_path, "t10k", np.zeros((2, 28, 28)), np.zeros(2))
    write_idx(tmp_path / "span-1", "a", np.zeros((2, 28, 28)), np.zeros(2))
    return tmp_path


def span(root):
    return read_inputs(root, load("mnist"))[1]


def test_a_digest_is_of_content_and_not_of_times(root):
    file = root / "span-1" / "a-labels-idx1-ubyte"
    first = span(root).digest
    os.utime(file, (1, 1))
    assert span(root).digest == first
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    os.utime(file, (1, 1))  # TFX's own fingerprint, of size and time, would see no difference
    assert span(root).digest != first


def test_a_digest_is_of_names(root):
    first = span(root).digest
    file = root / "span-1" / "a-labels-idx1-ubyte"
    file.rename(file.with_name("b-labels-idx1-ubyte"))
    assert span(root).digest != first


def test_a_span_that_is_as_it_was_added_is_read(root):
    before = span(root)
    (root / "span-1" / "span.json").write_text(json.dumps({"files": before.files}))
    assert span(root) == before


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda file: file.write_bytes(b"x"), "another"), (lambda file: file.unlink(), "missing")],
    ids=["changed", "deleted"],
)
def test_a_span_that_is_not_what_was_added_is_refused(root, change, found):
    (root / "span-1" / "span.json").write_text(json.dumps({"files": span(root).files}))
    change(root / "span-1" / "a-labels-idx1-ubyte")
    with pytest.raises(DataError, match=rf"a-labels-idx1-ubyte: expected the file that was added.*found {found}"):
        span(root)


def test_own_data_need_a_folder(tmp_path):
    own = override(load("mnist"), ("dataset.name=own",))
    home = Home(tmp_path / "home")
    with pytest.raises(ConfigError, match="The data set own is your own: give its folder with --data"):
        input_folder(own, home, None, print)
    with pytest.raises(ConfigError, match="there is no such folder"):
        input_folder(own, home, tmp_path / "nowhere", print)
    assert input_folder(own, home, tmp_path, print) == tmp_path
    (home.data / "own").mkdir(parents=True)
    assert input_folder(own, home, None, print) == home.data / "own"


def test_what_differs_from_published_data_by_its_name_is_ones_own(tmp_path):
    own = dataclasses.replace(load("mnist").dataset, name="fashion", classes=("shirt", "shoe"))
    experiment = dataclasses.replace(load("mnist"), dataset=own)
    assert input_folder(experiment, Home(tmp_path / "home"), tmp_path, print) == tmp_path


@pytest.mark.parametrize("text", ["", '{"files": ', '{"other": 1}', "[]", '{"files": 3}', "\xff"])
def test_a_record_of_a_span_that_is_none_is_refused(root, text):
    (root / "span-1" / "span.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"span.json: expected the checksums that `conveyor add` writes"):
        span(root)


def test_a_name_that_is_not_utf8_is_refused(root):
    name = os.fsencode(root / "span-1") + b"/\xe9-labels-idx1-ubyte"
    with open(name, "wb"):  # noqa: PTH123 (a Path has no such name)
        pass
    with pytest.raises(DataError, match=r"span-1: expected names in UTF-8, found '.udce9-labels"):
        span(root)


def test_a_folders_name_that_is_not_utf8_is_told_of_by_itself(root, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.mkdir()
    for path in [path for path in root.iterdir() if path != odd]:
        path.rename(odd / path.name)
    with pytest.raises(DataError) as error:
        span(odd)
    assert str(error.value) == f"{tmp_path}: expected names in UTF-8, found '\\udcff'."


def test_spans_beside_published_files_are_not_used_without_a_word(root, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "fetch", lambda *_: None)
    said = []
    input_folder(load("mnist"), Home(tmp_path / "home"), root, said.append)
    place = tmp_path / "home" / "data" / "mnist"
    assert said == [f"The spans in {root} are not used: span-1. `conveyor add` brings them to {place}."]
