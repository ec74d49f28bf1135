"""The component that blesses a model which TensorFlow Serving can load and which answers as it did in training."""

import json
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types.standard_artifacts import Examples, InfraBlessing, Model, ModelRun
from tfx.utils import path_utils

from components.cached_component import cached_component
from components.servability_check.executor import check


@cached_component("serving.servability")
def ServabilityCheck(
    model: InputArtifact[Model],
    model_run: InputArtifact[ModelRun],
    examples: InputArtifact[Examples],
    blessing: OutputArtifact[InfraBlessing],
    count: Parameter[int],
) -> None:
    """Loads the model in a separate process, calls every signature and compares its answers with the trainer's.

    Takes the place of TFX's InfraValidator, which needs a container engine.

    Args:
      model: the exported model.
      model_run: the trainer's own predictions.
      examples: tf.Examples with a split `test`.
      blessing: holds INFRA_BLESSED or INFRA_NOT_BLESSED, and `outcome.json` with the reason.
      count: how many test images are compared.
    """
    outcome = check(Path(path_utils.serving_model_path(model.uri)), Path(model_run.uri), Path(examples.uri), count)
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("INFRA_BLESSED" if outcome["ok"] else "INFRA_NOT_BLESSED")).touch()
    (folder / "outcome.json").write_text(json.dumps(outcome, indent=1))
    blessing.set_int_custom_property("blessed", int(outcome["ok"]))
    blessing.set_string_custom_property("reason", outcome["reason"])
