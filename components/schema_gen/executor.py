"""Infers a schema from statistics and tightens it to what the data set says of itself."""

import math

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from components.image_example_gen.dataset import Dataset

MAX_PIXEL = 255.0
MAX_STDDEV = 127.5  # of values from 0 to 255: half of them 0, half of them 255


def hint(dataset: Dataset) -> schema_pb2.Schema:
    """Returns what StatisticsGen must know before it counts: that labels are classes and not quantities."""
    schema = schema_pb2.Schema()
    _tighten_label(schema.feature.add(name="label", type=schema_pb2.INT), dataset)
    for name, kind in (("image_mean", schema_pb2.FLOAT), ("image_stddev", schema_pb2.FLOAT)):
        schema.feature.add(name=name, type=kind)
    schema.feature.add(name="image_size", type=schema_pb2.INT)
    return schema


def tightened_schema(statistics: statistics_pb2.DatasetFeatureStatisticsList, dataset: Dataset) -> schema_pb2.Schema:
    """Returns the schema that every split must satisfy.

    Inference alone takes whatever is there for right: nine classes where there should be ten, or labels up to 11. The
    data set knows its classes and its shape, and pixels have their range by their type.

    Args:
      statistics: of the training split, over labels and derived scalars.
      dataset: classes and shape of the images.
    """
    schema = tfdv.infer_schema(statistics)
    features = {feature.name: feature for feature in schema.feature}
    size = math.prod(dataset.shape)
    for name, limits in (("image_mean", (0.0, MAX_PIXEL)), ("image_stddev", (0.0, MAX_STDDEV))):
        if name in features:
            features[name].float_domain.min, features[name].float_domain.max = limits
    if "image_size" in features:
        features["image_size"].int_domain.min = features["image_size"].int_domain.max = size
    if "label" in features:
        _tighten_label(features["label"], dataset)
    return schema


def _tighten_label(feature: schema_pb2.Feature, dataset: Dataset) -> None:
    classes = len(dataset.classes)
    feature.int_domain.is_categorical = True
    feature.int_domain.min, feature.int_domain.max = 0, classes - 1
    feature.unique_constraints.min = feature.unique_constraints.max = classes
