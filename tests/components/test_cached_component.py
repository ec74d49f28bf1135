import pytest
from tfx.types import channel_utils, standard_artifacts

from components.anomaly_gate.component import AnomalyGate
from components.atomic_pusher.component import AtomicPusher
from components.code_digest import code_digest
from components.drift_gate.component import DriftGate
from components.schema_gen.component import DatasetSchemaGen
from components.servability_check.component import ServabilityCheck


def channel(kind):
    return channel_utils.as_channel([kind()])


def test_the_digest_of_the_code_is_among_the_parameters_of_the_cache_key():
    gate = AnomalyGate(anomalies=channel(standard_artifacts.ExampleAnomalies))
    assert gate.exec_properties == {"code_digest": code_digest("components.anomaly_gate.component")}


def test_the_digest_is_of_the_processes_that_it_runs_too():
    check = ServabilityCheck(
        model=channel(standard_artifacts.Model),
        model_run=channel(standard_artifacts.ModelRun),
        examples=channel(standard_artifacts.Examples),
        count=3,
    )
    expected = code_digest("components.servability_check.component", "serving.servability")
    assert check.exec_properties == {"code_digest": expected, "count": 3}


@pytest.mark.parametrize("component", [AnomalyGate, AtomicPusher, DatasetSchemaGen, DriftGate, ServabilityCheck])
def test_every_component_of_ours_has_the_digest(component):
    assert "code_digest" in component.SPEC_CLASS.PARAMETERS
