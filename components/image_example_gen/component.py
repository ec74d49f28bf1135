"""The component that ingests labelled images."""

from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.components.example_gen.driver import QueryBasedDriver
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2

from components.code_digest import code_digest
from components.image_example_gen.executor import BaseFiles, Executor, IngestionSettings
from components.image_example_gen.spans import Part, node_id

MAX_LISTED = 1000  # files whose checksums are kept one by one in ML Metadata


class ImageExampleGen(FileBasedExampleGen):
    """A file-based ExampleGen for labelled images.

    Outputs:
      examples: tf.Examples in the splits train, eval (where some are held out) and test; see `executor.serialize`.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    # The driver for files adds a fingerprint of names, sizes and times to the parameters. It would take another file of
    # the same size for the same, and a span that arrives in the base's folder for a change of the base. Here the digest
    # of the content is among the parameters.
    DRIVER_CLASS = QueryBasedDriver

    def __init__(self, part: Part, files: dict[str, str], digest: str, base: BaseFiles | None = None) -> None:
        """Makes the component of one part of the input; a span's has the span's name in its own.

        Args:
          part: the files, their format and splits.
          files: SHA-256 of each file, by its name below the part's folder.
          digest: SHA-256 of all of them; the cache holds for the same digest.
          base: for a span, the base files, whose splits test and eval must not be in it.
        """
        settings = IngestionSettings(
            part=part.name,
            dataset=part.dataset,
            input_digest=digest,
            input_files=files if len(files) <= MAX_LISTED else {},
            code_digest=code_digest("components.image_example_gen.executor"),
            base=base,
        )
        custom_config = example_gen_pb2.CustomConfig()
        custom_config.custom_config.Pack(settings.to_message())
        patterns = part.dataset.splits.patterns.items()
        splits = [example_gen_pb2.Input.Split(name=name, pattern=pattern) for name, pattern in patterns]
        super().__init__(
            input_base=str(part.folder),
            input_config=example_gen_pb2.Input(splits=splits),
            custom_config=custom_config,
        )
        self.with_id(node_id(part.name))
