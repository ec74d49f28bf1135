"""The component that measures how far new spans differ from the data that the serving model was trained on."""

import json
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types.artifact_utils import decode_split_names
from tfx.types.standard_artifacts import ExampleAnomalies, Examples, Schema
from tfx.utils import io_utils

from components.cached_component import cached_component
from components.drift_gate.executor import DRIFT, DriftStopped, measure


@cached_component()
def DriftGate(
    trained_on: InputArtifact[list[Examples]],
    arrived: InputArtifact[list[Examples]],
    schema: InputArtifact[Schema],
    drift: OutputArtifact[ExampleAnomalies],
    label: Parameter[float],
    scalars: Parameter[float],
    stops: Parameter[int],
) -> None:
    """Writes `drift.json`: the distances of the label's and the derived scalars' distributions, and their limits.

    Args:
      trained_on: what the serving model was trained on.
      arrived: the spans that it has not seen.
      schema: of both.
      drift: holds `drift.json`.
      label: limit of the label's L-infinity distance.
      scalars: limit of the scalars' Jensen-Shannon divergence.
      stops: 1 if a distance above its limit stops the run.

    Raises:
      DriftStopped: a distance is above its limit, and that stops the run.
    """
    stated = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri))
    found = measure(_folders(trained_on), _folders(arrived), stated, label, scalars)
    folder = Path(drift.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DRIFT).write_text(json.dumps([vars(measurement) for measurement in found], indent=1))
    beyond = [measurement.sentence for measurement in found if measurement.beyond]
    if stops and beyond:
        way = "`conveyor remove` takes a span out; a higher limit, or drift.stops=false, lets it pass."
        raise DriftStopped("The new spans differ from the training data:\n  " + "\n  ".join([*beyond, way]))


def _folders(examples: list[Examples]) -> list[Path]:
    """Returns the folders of the splits that are trained on."""
    return [Path(part.uri, "Split-train") for part in examples if "train" in decode_split_names(part.split_names)]
