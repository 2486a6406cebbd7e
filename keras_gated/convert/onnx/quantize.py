"""Replaces weights of float32 in a written file by 8 bits, with onnxruntime's own operators."""

import collections
import pathlib
import tempfile
from typing import NamedTuple

import keras

from keras_gated import keras_private
from keras_gated.layers.families import GRU, SimpleRNN

# Operators that onnxruntime has with weights of 8 bits. It has `Conv`, too, which is slower then.
_OPERATORS = ["LSTM", "MatMul", "Gather"]
_STAYS = {
    GRU: "onnxruntime has no GRU of 8 bits",
    SimpleRNN: "onnxruntime has no RNN of 8 bits",
    keras.layers.Conv1D: "onnxruntime's convolutions are slower in 8 bits",
}


class QuantizedONNX(NamedTuple):
    """What `to_onnx(..., quantize="int8")` wrote.

    path: The path of the file, a string.
    size: The size of the file in bytes.
    difference: The largest difference from the model's answers to `representative`, or to random
        inputs, divided by the largest answer (by 1 if that is smaller).
    operations: How often each operator stands in the file, by name: an LSTM of 8 bits is a
        `DynamicQuantizeLSTM`, a matrix product a `MatMulInteger`.
    not_quantized: The name of each layer whose weights stay in 32 bits, and why.
    """

    path: str
    size: int
    difference: float
    operations: dict
    not_quantized: dict


def quantized(proto, model):
    """Returns a file's bytes with weights of 8 bits, its operators, and the layers without.

    Args:
        proto: The `onnx.ModelProto`, which is changed.
        model: The functional model that was written.

    Raises:
        ValueError: If it has no weights that could be of 8 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    stays = {
        part.name: _STAYS[type(part)]
        for part in keras_private.parts_of(model)
        if type(part) in _STAYS
    }
    # Without this entry onnxruntime recommends a step before, which helps only other models.
    proto.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "8.onnx")
        quantize_dynamic(
            proto,
            path,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            # Products of two unsigned numbers are exact on every processor; those with a signed
            # one overflow on processors without VNNI.
            weight_type=QuantType.QUInt8,
        )
        made = onnx.load(path)
    del made.metadata_props[:]
    operations = collections.Counter(node.op_type for node in made.graph.node)
    if not {"DynamicQuantizeLSTM", "MatMulInteger", "DequantizeLinear"} & {*operations}:
        named = "".join(f" {name!r}: {reason}." for name, reason in stays.items())
        raise ValueError(
            f"to_onnx: `quantize='int8'` finds no weights of {model.name!r} that onnxruntime has "
            f"in 8 bits (LSTM, Dense, Embedding).{named} Leave `quantize` out, or use `to_litert`, "
            "which has 8 bits for every layer. Nothing was written."
        )
    return made.SerializeToString(), dict(operations), stays
