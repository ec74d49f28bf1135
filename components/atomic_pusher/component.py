"""The component that pushes a model which every gate has passed."""

import json
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types.standard_artifacts import InfraBlessing, Model, ModelBlessing, PushedModel
from tfx.utils import path_utils

from components.cached_component import cached_component
from serving.model_store import ModelWithdrawn, StoredModel, VersionRecord
from serving.tflite import FOLDER


@cached_component()
def AtomicPusher(
    model: InputArtifact[Model],
    model_blessing: InputArtifact[ModelBlessing],
    infra_blessing: InputArtifact[InfraBlessing],
    pushed_model: OutputArtifact[PushedModel],
    destination: Parameter[str],
    record: Parameter[str],
    canary: Parameter[int],
    formats: InputArtifact[Model] = None,
    formats_blessing: InputArtifact[InfraBlessing] = None,
) -> None:
    """Pusher whose versions appear atomically and only ever grow.

    Args:
      model: the exported model.
      model_blessing: the Evaluator's verdict.
      infra_blessing: the servability check's verdict.
      pushed_model: its custom property `pushed` is 1 if the model is being served; then `pushed_version` and
        `pushed_destination` say under what number and where, and `pushed_new` whether this run put it there. Where a
        person took the model back, `withdrawn` says so in a sentence.
      destination: folder of the served model's versions.
      record: where the model comes from, the fields of `VersionRecord` as JSON.
      canary: 1 to label it `canary` and keep the stable version; 0 to make it stable.
      formats: the same model in further formats, which lie beside the SavedModel; left out where there are none.
      formats_blessing: their verdict.
    """
    verdicts = (model_blessing, infra_blessing, *([formats_blessing] if formats else []))
    blessed = [verdict.get_int_custom_property("blessed") == 1 for verdict in verdicts]
    pushed_model.set_int_custom_property("pushed", 0)
    if not all(blessed):
        return
    source = Path(path_utils.serving_model_path(model.uri))
    known = VersionRecord.from_dict(json.loads(record))
    try:
        beside = {FOLDER: Path(formats.uri)} if formats else {}
        pushed = StoredModel(Path(destination)).push(source, known, as_canary=bool(canary), beside=beside)
    except ModelWithdrawn as error:
        pushed_model.set_string_custom_property("withdrawn", str(error))
        return
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_int_custom_property("pushed_version", pushed.version)
    pushed_model.set_string_custom_property("pushed_destination", str(pushed.path))
    pushed_model.set_int_custom_property("pushed_new", int(pushed.new))
