"""Writes the descriptors of TensorFlow Serving's protocol for grpcurl: `python -m serving.protoset FILE`."""

import sys
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2


def descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Returns the files of both services, each after those it imports."""
    files: dict[str, Any] = {}

    def gather(file: Any) -> None:
        for dependency in file.dependencies:
            gather(dependency)
        if file.name not in files:
            files[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(files[file.name])

    gather(prediction_service_pb2.DESCRIPTOR)
    gather(model_service_pb2.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=files.values())


def main(path: Path) -> None:
    """Writes them, whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(descriptors().SerializeToString())
    scratch.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m serving.protoset FILE")
    main(Path(sys.argv[1]))
