"""Weights and models from other libraries, and to them: exactly, or refused with the reason."""

from keras_gated.convert.keras_layers import from_keras, to_keras
from keras_gated.convert.litert.write import LiteRT, to_litert
from keras_gated.convert.onnx.quantize import QuantizedONNX
from keras_gated.convert.onnx.read import from_onnx
from keras_gated.convert.onnx.write import to_onnx
from keras_gated.convert.pytorch import from_torch, to_torch

__all__ = [
    "LiteRT",
    "QuantizedONNX",
    "from_keras",
    "from_onnx",
    "from_torch",
    "to_keras",
    "to_litert",
    "to_onnx",
    "to_torch",
]
