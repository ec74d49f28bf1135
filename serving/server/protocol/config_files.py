"""The real server's configuration files: protocol buffers as text.

The messages of model configurations come with tensorflow-serving-api, and sessions' with TensorFlow. Those of batching,
TLS and monitoring do not; they are declared here, in a descriptor pool of their own.

Source: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/config and
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/servables/tensorflow/session_bundle_config.proto
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.protocol.errors import StatusError, invalid_argument

_INT64 = ".google.protobuf.Int64Value"
_BOOL = ".google.protobuf.BoolValue"
_STRING = ".google.protobuf.StringValue"
# Message -> field -> its type: a wrapper, a message of this file, or a scalar. Text has no field numbers.
_MESSAGES: dict[str, dict[str, str]] = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "thread_pool_name": _STRING,
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": _BOOL,
        "max_execution_batch_size": _INT64,
    },
    "SSLConfig": {"server_key": "string", "server_cert": "string", "custom_ca": "string", "client_verify": "bool"},
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": ".conveyor.PrometheusConfig"},
}
_SCALARS = {
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}


def read(path: Path, name: str) -> Any:
    """Reads a configuration file.

    Args:
      path: the file.
      name: its message: `ModelServerConfig`, `BatchingParameters`, `SSLConfig`, `MonitoringConfig` or `ConfigProto`.

    Raises:
      StatusError: NOT_FOUND or INVALID_ARGUMENT, with the file, and where in it the fault is.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise StatusError("NOT_FOUND", f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}' is not text.") from error
    message = _new(name)
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}': {name}, {error}") from error
    return message


def _declare() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="conveyor_server_config.proto", package="conveyor", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            declared = message.field.add(name=field, number=number, label="LABEL_OPTIONAL")
            if kind.startswith("repeated "):
                declared.label = declared.LABEL_REPEATED
            if kind.startswith("."):
                declared.type, declared.type_name = declared.TYPE_MESSAGE, kind
            else:
                declared.type = _SCALARS[kind.removeprefix("repeated ")]
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _declare()


def _new(name: str) -> Any:
    if name == "ModelServerConfig":
        return model_server_config_pb2.ModelServerConfig()
    if name == "ConfigProto":
        from tensorflow.core.protobuf import config_pb2  # all of TensorFlow, which not every process needs

        return config_pb2.ConfigProto()
    descriptor = _POOL.FindMessageTypeByName(f"conveyor.{name}")
    try:
        from google.protobuf.message_factory import GetMessageClass
    except ImportError:  # protobuf before 4.22
        from google.protobuf.message_factory import MessageFactory

        return MessageFactory(_POOL).GetPrototype(descriptor)()
    return GetMessageClass(descriptor)()
