"""The component that states what the data must be like."""

import json
from pathlib import Path

import tensorflow_data_validation as tfdv
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.artifact_utils import decode_split_names
from tfx.types.standard_artifacts import ExampleStatistics, Schema
from tfx.utils import io_utils

from components.image_example_gen.dataset import Dataset
from components.schema_gen.executor import tightened_schema


@component
def DatasetSchemaGen(
    statistics: InputArtifact[ExampleStatistics],
    schema: OutputArtifact[Schema],
    dataset: Parameter[str],
    code: Parameter[str],
) -> None:
    """SchemaGen that knows the data set: infers a schema and tightens it.

    Args:
      statistics: of the labels and derived scalars, with a split `train`.
      schema: the written schema, `schema.pbtxt`.
      dataset: the fields of `Dataset`, as JSON.
      code: digest of this package, for the cache.
    """
    del code
    assert "train" in decode_split_names(statistics.split_names)
    stats = tfdv.load_stats_binary(str(Path(statistics.uri) / "Split-train" / "FeatureStats.pb"))
    tightened = tightened_schema(stats, Dataset.from_dict(json.loads(dataset)))
    io_utils.write_pbtxt_file(str(Path(schema.uri) / "schema.pbtxt"), tightened)
