"""A client of TensorFlow Serving and of the embedded server."""

from serving.client.client import Client, Prediction, ServingError, Signature, Spec, TensorInfo, Tls, VersionStatus

__all__ = ["Client", "Prediction", "ServingError", "Signature", "Spec", "TensorInfo", "Tls", "VersionStatus"]
