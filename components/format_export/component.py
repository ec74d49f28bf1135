"""The component that converts a model to further formats, and blesses them if each is accurate enough."""

import json
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types.standard_artifacts import Examples, InfraBlessing, Model, ModelRun
from tfx.utils import path_utils

from components.cached_component import cached_component
from components.format_export.executor import FORMATS_FILE, Limits, convert, shortfalls


@cached_component("components.format_export.convert")
def FormatExport(
    model: InputArtifact[Model],
    model_run: InputArtifact[ModelRun],
    examples: InputArtifact[Examples],
    exported: OutputArtifact[Model],
    blessing: OutputArtifact[InfraBlessing],
    formats: Parameter[str],
    limits: Parameter[str],
) -> None:
    """Writes TensorFlow Lite files of a model, measures them on the test split, and compares that with the limits.

    Args:
      model: the exported SavedModel.
      model_run: the trainer's own predictions, its specification and the network's code.
      examples: tf.Examples with the splits `train`, whose images int8 is calibrated on, and `test`.
      exported: holds the files, and `formats.json` with what was measured of each.
      blessing: holds INFRA_BLESSED or INFRA_NOT_BLESSED, and `outcome.json` with the reasons.
      formats: names of formats, as a list in JSON: `tflite_float16`, `tflite_int8`.
      limits: the fields of `Limits` in JSON.
    """
    measured = convert(
        Path(path_utils.serving_model_path(model.uri)),
        Path(model_run.uri),
        Path(examples.uri),
        json.loads(formats),
        Path(exported.uri),
    )
    (Path(exported.uri) / FORMATS_FILE).write_text(json.dumps(measured, indent=1))
    reasons = shortfalls(measured, Limits(**json.loads(limits)))
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("INFRA_NOT_BLESSED" if reasons else "INFRA_BLESSED")).touch()
    (folder / "outcome.json").write_text(json.dumps({"ok": not reasons, "reasons": reasons}, indent=1))
    blessing.set_int_custom_property("blessed", int(not reasons))
