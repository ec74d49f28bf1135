"""The same SavedModel behind litserve: `python -m benchmarks.litserve_peer MODEL PORT SHAPE`.

As its documentation has it: one worker, batches of up to 32 with a short wait, the image as base64 in JSON. The worker
calls the model as the embedded server does, through the same Session.
"""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import litserve
import numpy as np


class Classifier(litserve.LitAPI):
    """The model, as litserve wants it."""

    def __init__(self, model: Path, shape: list[int]) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.002)
        self.model, self.shape = model, shape

    def setup(self, device: str) -> None:  # noqa: ARG002 (litserve's signature)
        from serving.server.models.bundle import SavedModelBundle

        self.bundle = SavedModelBundle(self.model)
        self.names = self.bundle.plans["predict_images"].outputs

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return np.frombuffer(base64.b64decode(request["images"]), np.float32).reshape(self.shape)

    def predict(self, images: np.ndarray) -> list[dict[str, Any]]:
        outputs = dict(zip(self.names, self.bundle.run("predict_images", [images]), strict=True))
        return [{name: value[row] for name, value in outputs.items()} for row in range(len(images))]

    def unbatch(self, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return outputs

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        classes = [name.decode() for name in output["classes"].tolist()]
        return {"scores": output["scores"].tolist(), "classes": classes, "label": int(output["label"])}


if __name__ == "__main__":
    api = Classifier(Path(sys.argv[1]), json.loads(sys.argv[3]))
    server = litserve.LitServer(api, accelerator="cpu", devices=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, num_api_servers=1, log_level="error"
    )
