"""A client of TensorFlow Serving and of the embedded server."""

from serving.client.client import Client
from serving.client.errors import ServingError
from serving.client.models import ModelSpec, Prediction, Signature, TensorInfo, Tls, VersionStatus

__all__ = ["Client", "ModelSpec", "Prediction", "ServingError", "Signature", "TensorInfo", "Tls", "VersionStatus"]
