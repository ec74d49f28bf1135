"""The component that stops a run on anomalous data, which ExampleValidator only writes down."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact
from tfx.types.artifact_utils import decode_split_names
from tfx.types.standard_artifacts import ExampleAnomalies

from components.anomaly_gate.executor import DataAnomalies, describe
from components.cached_component import cached_component


@cached_component()
def AnomalyGate(anomalies: InputArtifact[ExampleAnomalies]) -> None:
    """Fails if there is any anomaly in any split, and passes otherwise.

    Args:
      anomalies: ExampleValidator's output.

    Raises:
      DataAnomalies: names each anomaly with its split.
    """
    found = describe(Path(anomalies.uri), decode_split_names(anomalies.split_names))
    if found:
        raise DataAnomalies("The data has anomalies, so nothing was trained on it:\n  " + "\n  ".join(found))
