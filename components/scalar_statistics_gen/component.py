"""The component that measures the label and the derived scalars of examples."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.types.artifact_utils import decode_split_names
from tfx.types.standard_artifacts import Examples, ExampleStatistics, Schema
from tfx.utils import io_utils

from components.cached_component import cached_component
from components.scalar_statistics_gen.executor import write


@cached_component()
def ScalarStatisticsGen(
    examples: InputArtifact[Examples], schema: InputArtifact[Schema], statistics: OutputArtifact[ExampleStatistics]
) -> None:
    """A StatisticsGen that looks at no pixel.

    Args:
      examples: tf.Examples in splits.
      schema: of them.
      statistics: holds `Split-<name>/FeatureStats.pb`.
    """
    stated = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri))
    statistics.split_names = examples.split_names
    write(Path(examples.uri), decode_split_names(examples.split_names), stated, Path(statistics.uri))
