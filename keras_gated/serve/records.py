"""The records of TensorFlow Serving that hold requests and responses, with the fields needed.

The package `tensorflow-serving-api` has these messages with all fields, but brings gRPC and a
client. The numbers of the fields are those of the server's protocol buffers
(`tensorflow_serving/apis/{model,predict,prediction_log}.proto`).
"""

import functools

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

_TENSOR = tensor_pb2.TensorProto.DESCRIPTOR
_FIELDS = {  # message: name, number, and the type, "string" or another message
    "ModelSpec": [("name", 1, "string"), ("signature_name", 3, "string")],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "Tensors")],
    "PredictResponse": [("outputs", 1, "Tensors"), ("model_spec", 2, "ModelSpec")],
    "PredictLog": [("request", 1, "PredictRequest"), ("response", 2, "PredictResponse")],
    "PredictionLog": [("predict_log", 6, "PredictLog")],
}
_PACKAGE = "keras_gated.records"


def predict_record(name, signature, inputs, outputs):
    """Returns the bytes of a `PredictionLog` of one request and its response.

    Args:
        name: The model's name on the server.
        signature: The name of the signature.
        inputs, outputs: Name to `TensorProto`.
    """
    log = _messages()["PredictionLog"]()
    sides = log.predict_log.request, log.predict_log.response
    for message, tensors in zip(sides, (inputs, outputs), strict=True):
        message.model_spec.name = name
        message.model_spec.signature_name = signature
        fields = message.inputs if message is sides[0] else message.outputs
        for key, tensor in tensors.items():
            fields[key].CopyFrom(tensor)
    return log.SerializeToString(deterministic=True)


@functools.cache
def _messages():
    """Returns the classes of the messages by name."""
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_gated/records.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[_TENSOR.file.name],
    )
    for message, fields in _FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind in fields:
            field = made.field.add(name=name, number=number, label=types.LABEL_OPTIONAL)
            if kind == "string":
                field.type = types.TYPE_STRING
                continue
            field.type, field.type_name = types.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            if kind == "Tensors":  # a map is stored as a list of entries, whose type is made here
                entry = made.nested_type.add(name=f"{name.capitalize()}Entry")
                entry.options.map_entry = True
                entry.field.add(
                    name="key", number=1, label=types.LABEL_OPTIONAL, type=types.TYPE_STRING
                )
                entry.field.add(
                    name="value",
                    number=2,
                    label=types.LABEL_OPTIONAL,
                    type=types.TYPE_MESSAGE,
                    type_name=f".{_TENSOR.full_name}",
                )
                field.label = types.LABEL_REPEATED
                field.type_name = f".{_PACKAGE}.{message}.{entry.name}"
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }
