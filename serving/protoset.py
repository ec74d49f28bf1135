"""Writes the descriptors of TensorFlow Serving's protocol for grpcurl: `python -m serving.protoset FILE`."""

import sys
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

_MODULES = (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
# The services themselves are declared here: their generated modules do not load under protobuf 6.
# Service -> method -> the stem of its request's and response's names.
_SERVICES = {
    "PredictionService": {
        "Classify": "Classification",
        "Regress": "Regression",
        "Predict": "Predict",
        "MultiInference": "MultiInference",
        "GetModelMetadata": "GetModelMetadata",
    },
    "ModelService": {"GetModelStatus": "GetModelStatus", "HandleReloadConfigRequest": "ReloadConfig"},
}


def descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Returns the protocol's files, each after those it imports."""
    files: dict[str, Any] = {}

    def gather(file: Any) -> None:
        for dependency in file.dependencies:
            gather(dependency)
        if file.name not in files:
            files[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(files[file.name])

    for module in (*_MODULES, health_pb2):
        gather(module.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=[*files.values(), _services()])


def _services() -> descriptor_pb2.FileDescriptorProto:
    package = "tensorflow.serving"
    file = descriptor_pb2.FileDescriptorProto(name="services.proto", package=package, syntax="proto3")
    file.dependency.extend(module.DESCRIPTOR.name for module in _MODULES)
    for name, methods in _SERVICES.items():
        service = file.service.add(name=name)
        for method, stem in methods.items():
            prefix = f".{package}.{stem}"
            service.method.add(name=method, input_type=f"{prefix}Request", output_type=f"{prefix}Response")
    return file


def main(path: Path) -> None:
    """Writes them, whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(descriptors().SerializeToString())
    scratch.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m serving.protoset FILE")
    main(Path(sys.argv[1]))
