"""States as a schema what a data set says of itself."""

from tensorflow_metadata.proto.v0 import schema_pb2

from components.image_example_gen.dataset import Dataset

MAX_PIXEL = 255.0
MAX_STDDEV = 127.5  # of values from 0 to 255: half of them 0, half of them 255


def schema_of(dataset: Dataset) -> schema_pb2.Schema:
    """Returns the schema of labels and derived scalars that every split must satisfy.

    Nothing is inferred: inference takes whatever is there for right, nine classes where there should be ten, or labels
    up to 11. The data set knows its classes and its shape, and pixels have their range by their type.

    Args:
      dataset: classes and shape of the images.
    """
    schema = schema_pb2.Schema()
    classes = len(dataset.classes)
    label = _required(schema, "label", schema_pb2.INT)
    # A class is no quantity: so declared, its values are counted one by one, and a missing one is seen.
    label.int_domain.is_categorical = True
    label.int_domain.min, label.int_domain.max = 0, classes - 1
    label.unique_constraints.min = label.unique_constraints.max = classes
    for name, limit in (("image_mean", MAX_PIXEL), ("image_stddev", MAX_STDDEV)):
        domain = _required(schema, name, schema_pb2.FLOAT).float_domain
        domain.min, domain.max = 0.0, limit
    size = _required(schema, "image_size", schema_pb2.INT).int_domain
    size.min = size.max = dataset.image_size
    return schema


def _required(schema: schema_pb2.Schema, name: str, kind: int) -> schema_pb2.Feature:
    """Adds a feature that every example has once."""
    feature = schema.feature.add(name=name, type=kind)
    feature.presence.min_fraction, feature.presence.min_count = 1.0, 1
    feature.shape.dim.add(size=1)
    return feature
