"""The component that measures how far new spans differ from the data that the serving model was trained on."""

import json
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.artifact_utils import decode_split_names
from tfx.types.standard_artifacts import ExampleAnomalies, Examples, Schema
from tfx.utils import io_utils

from components.drift_gate.executor import DRIFT, DriftStopped, measure


@component
def DriftGate(
    trained_on: InputArtifact[list[Examples]],
    arrived: InputArtifact[list[Examples]],
    schema: InputArtifact[Schema],
    drift: OutputArtifact[ExampleAnomalies],
    label: Parameter[float],
    scalars: Parameter[float],
    stops: Parameter[int],
    code: Parameter[str],
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
      code: digest of this package, for the cache.

    Raises:
      DriftStopped: a distance is above its limit, and that stops the run.
    """
    del code
    stated = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri))
    found = measure(_folders(trained_on), _folders(arrived), stated, label, scalars)
    folder = Path(drift.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DRIFT).write_text(json.dumps([vars(one) for one in found], indent=1))
    beyond = [one.sentence for one in found if one.beyond]
    if stops and beyond:
        raise DriftStopped("The new spans differ from the training data:\n  " + "\n  ".join(beyond))


def _folders(examples: list[Examples]) -> list[Path]:
    """Returns the folders of the splits that are trained on."""
    return [Path(one.uri, "Split-train") for one in examples if "train" in decode_split_names(one.split_names)]
