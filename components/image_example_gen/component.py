"""The component that ingests labelled images."""

import dataclasses
import json

from google.protobuf import struct_pb2
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2

from components.image_example_gen.executor import Executor
from components.image_example_gen.spans import BASE, Part

MAX_LISTED = 1000  # files whose checksums are kept one by one in ML Metadata


class ImageExampleGen(FileBasedExampleGen):
    """A file-based ExampleGen for labelled images.

    Outputs:
      examples: tf.Examples in the splits train, eval (where some are held out) and test; see `executor.serialize`.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, part: Part, files: dict[str, str], digest: str, code: str) -> None:
        """Makes the component of one part of the input; a span's has the span's name in its own.

        Args:
          part: the files, their format and splits.
          files: SHA-256 of each file, by its name below the part's folder.
          digest: of all of them. TFX's own fingerprint of the files is made of sizes and times, and would take another
            file of the same size for the same.
          code: digest of this package.
        """
        settings = struct_pb2.Struct()
        settings.update(
            {
                "dataset": json.loads(json.dumps(dataclasses.asdict(part.dataset))),
                "part": part.name,
                "input_digest": digest,
                "input_files": files if len(files) <= MAX_LISTED else {},
                "code": code,
            }
        )
        custom_config = example_gen_pb2.CustomConfig()
        custom_config.custom_config.Pack(settings)
        splits = [example_gen_pb2.Input.Split(name=name, pattern=pattern) for name, pattern in part.dataset.splits]
        super().__init__(
            input_base=str(part.folder),
            input_config=example_gen_pb2.Input(splits=splits),
            custom_config=custom_config,
        )
        self.with_id(node_id(part.name))


def node_id(part: str) -> str:
    """Returns the name of a part's component in the pipeline."""
    return "ImageExampleGen" if part == BASE else f"ImageExampleGen-{part}"
