"""The component that states what the data must be like."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.types.standard_artifacts import Schema
from tfx.utils import io_utils

from components.cached_component import cached_component
from components.image_example_gen.dataset import Dataset
from components.schema_gen.executor import schema_of
from conveyor.settings import from_json


@cached_component()
def DatasetSchemaGen(schema: OutputArtifact[Schema], dataset: Parameter[str]) -> None:
    """A SchemaGen that takes the data set's word for what is right, instead of the data's.

    Args:
      schema: the written schema, `schema.pbtxt`.
      dataset: the fields of `Dataset`, as JSON.
    """
    path = Path(schema.uri) / "schema.pbtxt"
    io_utils.write_pbtxt_file(str(path), schema_of(from_json(Dataset, dataset)))
