"""The same SavedModel behind BentoML: `MODEL=... SHAPE=... bentoml serve benchmarks.bentoml_peer:Classifier`.

As its documentation has it: one worker, adaptive batches of up to 32, the image as base64 in JSON. The worker calls the
model as the embedded server does, through a Session. It runs in an environment of its own, without Conveyor.

Source: https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
"""

import base64
import json
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import bentoml
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Classifier:
    """The model, as BentoML wants it."""

    def __init__(self) -> None:
        self.shape = json.loads(os.environ["SHAPE"])
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self.session, [tf.saved_model.SERVING], os.environ["MODEL"])
        signature = loaded.signature_def["predict_images"]
        self.names = sorted(signature.outputs)
        options = config_pb2.CallableOptions(
            feed=[signature.inputs["images"].name], fetch=[signature.outputs[name].name for name in self.names]
        )
        self.call = self.session._make_callable_from_options(options)

    @bentoml.api(batchable=True, max_batch_size=32)
    def predict(self, images: list[str]) -> list[dict[str, Any]]:
        """Answers a batch of images, float32, as base64."""
        rows = [np.frombuffer(base64.b64decode(image), np.float32).reshape(self.shape) for image in images]
        outputs = dict(zip(self.names, self.call(np.stack(rows)), strict=True))
        return [
            {
                "scores": outputs["scores"][row].tolist(),
                "classes": [name.decode() for name in outputs["classes"][row].tolist()],
                "label": int(outputs["label"][row]),
            }
            for row in range(len(images))
        ]
