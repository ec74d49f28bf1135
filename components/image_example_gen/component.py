"""The component that ingests labelled images."""

import dataclasses
import json
from pathlib import Path

from google.protobuf import struct_pb2
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.components.example_gen.input_processor import FileBasedInputProcessor
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2

from components.image_example_gen.dataset import Dataset
from components.image_example_gen.executor import Executor


class ImageExampleGen(FileBasedExampleGen):
    """A file-based ExampleGen for labelled images.

    Outputs:
      examples: tf.Examples in the splits train, eval (where some are held out) and test; see `executor.serialize`.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, input_base: Path, dataset: Dataset, fingerprint: str) -> None:
        """Makes the component.

        Args:
          input_base: the folder of the input files.
          dataset: their format and splits. Where the patterns hold `{SPAN}`, the newest span is taken.
          fingerprint: a digest of the files' content and of this code. TFX's own fingerprint of the files is made of
            sizes and times, and would take another file of the same size for the same.
        """
        settings = struct_pb2.Struct()
        settings.update({"dataset": json.loads(json.dumps(dataclasses.asdict(dataset))), "fingerprint": fingerprint})
        custom_config = example_gen_pb2.CustomConfig()
        custom_config.custom_config.Pack(settings)
        super().__init__(
            input_base=str(input_base),
            input_config=example_gen_pb2.Input(splits=_input_splits(dataset)),
            custom_config=custom_config,
        )


def newest_span(input_base: Path, dataset: Dataset) -> list[tuple[str, str]]:
    """Returns the splits and their patterns, with the number of the newest span where they have spans."""
    processor = FileBasedInputProcessor(str(input_base), _input_splits(dataset))
    span, version = processor.resolve_span_and_version()
    return [
        (split, processor.get_pattern_for_span_version(pattern, span, version)) for split, pattern in dataset.splits
    ]


def _input_splits(dataset: Dataset) -> list[example_gen_pb2.Input.Split]:
    return [example_gen_pb2.Input.Split(name=name, pattern=pattern) for name, pattern in dataset.splits]
