"""The component that pushes a model which every gate has passed."""

import json
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import InfraBlessing, Model, ModelBlessing, PushedModel
from tfx.utils import path_utils

from components.atomic_pusher.executor import push


@component
def AtomicPusher(
    model: InputArtifact[Model],
    model_blessing: InputArtifact[ModelBlessing],
    infra_blessing: InputArtifact[InfraBlessing],
    pushed_model: OutputArtifact[PushedModel],
    destination: Parameter[str],
    record: Parameter[str],
    canary: Parameter[int],
    code: Parameter[str],
) -> None:
    """Pusher whose versions appear atomically and only ever grow.

    Args:
      model: the exported model.
      model_blessing: the Evaluator's verdict.
      infra_blessing: the servability check's verdict.
      pushed_model: its custom property `pushed` is 1 if the model is being served; then `pushed_version` and
        `pushed_destination` say under what number and where, and `pushed_new` whether this run put it there.
      destination: folder of the served model's versions.
      record: where the model comes from, as JSON.
      canary: 1 to name it `canary` and let what serves serve on; 0 to serve it.
      code: digest of this package.
    """
    del code
    blessed = [b.get_int_custom_property("blessed") == 1 for b in (model_blessing, infra_blessing)]
    pushed_model.set_int_custom_property("pushed", int(all(blessed)))
    if not all(blessed):
        return
    pushed = push(Path(path_utils.serving_model_path(model.uri)), Path(destination), json.loads(record), bool(canary))
    pushed_model.set_int_custom_property("pushed_version", pushed.version)
    pushed_model.set_string_custom_property("pushed_destination", str(pushed.path))
    pushed_model.set_int_custom_property("pushed_new", int(pushed.new))
