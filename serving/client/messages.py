"""The messages of TensorFlow Serving's protocol that the client needs, declared for `protobuf`.

The generated modules of tensorflow-serving-api import TensorFlow; the client is to run where TensorFlow is not. The
messages lie in a descriptor pool of their own, so that both can be loaded in one process.

Sources: tensorflow_serving/apis/{model,predict,get_model_status,get_model_metadata}.proto in
https://github.com/tensorflow/serving and tensorflow/core/framework/{tensor,tensor_shape}.proto and
tensorflow/core/protobuf/meta_graph.proto in https://github.com/tensorflow/tensorflow. Fields that the client does not
read are left out.
"""

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "conveyor.client"
_TYPES = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}
# Message -> field -> its number and type: a scalar, or a message of this table. `*` repeats it, `@` maps text to it,
# `?` marks a member of the message's one choice. Texts that come from elsewhere are bytes: they need not be UTF-8.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Int64Value": {"value": (1, "int64")},
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "Dim": {"size": (1, "int64"), "name": (2, "string")},
    "TensorShapeProto": {"dim": (2, "*Dim"), "unknown_rank": (3, "bool")},
    "TensorProto": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "*float"),
        "double_val": (6, "*double"),
        "int_val": (7, "*int32"),
        "string_val": (8, "*bytes"),
        "int64_val": (10, "*int64"),
        "bool_val": (11, "*bool"),
        "half_val": (13, "*int32"),
        "uint32_val": (16, "*uint32"),
        "uint64_val": (17, "*uint64"),
    },
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "?Int64Value"),
        "version_label": (4, "?string"),
        "signature_name": (3, "string"),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "@TensorProto"),
        "output_filter": (3, "*string"),
    },
    "PredictResponse": {"outputs": (1, "@TensorProto"), "model_spec": (2, "ModelSpec")},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
    "StatusProto": {"error_code": (1, "int32"), "error_message": (2, "bytes")},
    "ModelVersionStatus": {"version": (1, "int64"), "state": (2, "int32"), "status": (3, "StatusProto")},
    "GetModelStatusResponse": {"model_version_status": (1, "*ModelVersionStatus")},
    "GetModelMetadataRequest": {"model_spec": (1, "ModelSpec"), "metadata_field": (2, "*string")},
    "GetModelMetadataResponse": {"model_spec": (1, "ModelSpec"), "metadata": (2, "@Any")},
    "TensorInfo": {"name": (1, "string"), "dtype": (2, "int32"), "tensor_shape": (3, "TensorShapeProto")},
    "SignatureDef": {"inputs": (1, "@TensorInfo"), "outputs": (2, "@TensorInfo"), "method_name": (3, "bytes")},
    "SignatureDefMap": {"signature_def": (1, "@SignatureDef")},
}


def new(kind: str, /, **fields: Any) -> Any:
    """Returns a message, such as `PredictRequest`, with some fields set."""
    return _class_of(kind)(**fields)


@functools.cache
def _class_of(name: str) -> Any:
    descriptor = _pool().FindMessageTypeByName(f"{_PACKAGE}.{name}")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return _old_factory().GetPrototype(descriptor)


@functools.cache
def _old_factory() -> Any:
    """Returns the factory of protobuf before 4.22; messages of one factory fit into each other."""
    return message_factory.MessageFactory(_pool())


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="conveyor_client.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        _declare(file.message_type.add(name=name), fields)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _declare(message: descriptor_pb2.DescriptorProto, fields: dict[str, tuple[int, str]]) -> None:
    for field, (number, kind) in fields.items():
        declared = message.field.add(name=field, number=number, label="LABEL_OPTIONAL")
        if kind[0] in "*@":
            declared.label = declared.LABEL_REPEATED
        if kind[0] == "?":
            if not message.oneof_decl:
                message.oneof_decl.add(name="choice")
            declared.oneof_index = 0
        _set_type(declared, kind.lstrip("*@?"))
        if kind[0] == "@":
            entry_name = "".join(part.capitalize() for part in field.split("_")) + "Entry"
            entry = message.nested_type.add(name=entry_name)
            entry.options.map_entry = True
            _set_type(entry.field.add(name="key", number=1, label="LABEL_OPTIONAL"), "string")
            _set_type(entry.field.add(name="value", number=2, label="LABEL_OPTIONAL"), kind[1:])
            declared.type_name = f".{_PACKAGE}.{message.name}.{entry_name}"


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
