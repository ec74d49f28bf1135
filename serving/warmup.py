"""Writes the requests that TensorFlow Serving replays when it loads a version, so that no client waits for the first.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.signatures import SIGNATURES

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")


def write(model: Path, images: np.ndarray, batches: Iterable[int]) -> None:
    """Writes one request for each signature and size of batch into a SavedModel.

    Args:
      model: folder of the SavedModel.
      images: uint8 [N, height, width, channels], of which the first of each batch are sent.
      batches: sizes of the batches.
    """
    path = model / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, (name, make) in SIGNATURES.items():
            for batch in batches:
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = signature
                request.inputs[name].CopyFrom(tf.make_tensor_proto(make(images[:batch])))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())


def logs(model: Path) -> list[prediction_log_pb2.PredictionLog]:
    """Returns the warm-up file of a SavedModel; nothing where it has none.

    Raises:
      tf.errors.OpError: the file is damaged.
    """
    path = model / WARMUP_FILE
    if not path.exists():
        return []
    return [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]


def read(model: Path) -> list[predict_pb2.PredictRequest]:
    """Returns the requests to Predict in a SavedModel's warm-up file."""
    return [log.predict_log.request for log in logs(model)]
