"""Gated recurrent networks for Keras 3 and TensorFlow that read like the textbook."""

import importlib

import keras

from keras_gated.cells.activations import hard_sigmoid
from keras_gated.cells.arguments import tensorflow_for
from keras_gated.cells.base import GatedCell
from keras_gated.cells.coupled_lstm import CoupledLSTMCell
from keras_gated.cells.gru import GRUCell
from keras_gated.cells.layer_norm_gru import LayerNormGRUCell
from keras_gated.cells.layer_norm_lstm import LayerNormLSTMCell
from keras_gated.cells.lstm import LSTMCell
from keras_gated.cells.mgu import MGUCell
from keras_gated.cells.min_gru import MinGRUCell
from keras_gated.cells.min_lstm import MinLSTMCell
from keras_gated.cells.mogrifier_lstm import MogrifierLSTMCell
from keras_gated.cells.peephole_lstm import PeepholeLSTMCell
from keras_gated.cells.products import product
from keras_gated.cells.simple_rnn import SimpleRNNCell
from keras_gated.convert import (
    from_keras,
    from_onnx,
    from_torch,
    to_keras,
    to_litert,
    to_onnx,
    to_torch,
)
from keras_gated.inside.find_units import find_units
from keras_gated.inside.trace import trace_gates
from keras_gated.layers.base import RNN
from keras_gated.layers.bidirectional import Bidirectional
from keras_gated.layers.config import set_fused
from keras_gated.layers.families import (
    GRU,
    LSTM,
    MGU,
    CoupledLSTM,
    LayerNormGRU,
    LayerNormLSTM,
    MinGRU,
    MinLSTM,
    MogrifierLSTM,
    PeepholeLSTM,
    SimpleRNN,
)
from keras_gated.layers.states import ResetState, get_state, reset_state, windows

if keras.backend.backend() == "tensorflow":
    from keras_gated.inside.callbacks import GradientFlowLogger
    from keras_gated.inside.flow import gradient_flow
    from keras_gated.recipes import kneser_ney as _layer  # noqa: F401 (saved models name it)
    from keras_gated.recipes import text as _  # noqa: F401 (saved models name its `clean`)
    from keras_gated.serve.check import check_export
    from keras_gated.serve.export import export_model
    from keras_gated.serve.stream import stream

__version__ = "0.2.0"

__all__ = [
    "GRU",
    "LSTM",
    "MGU",
    "RNN",
    "Bidirectional",
    "CoupledLSTM",
    "CoupledLSTMCell",
    "GRUCell",
    "GatedCell",
    "GradientFlowLogger",
    "LSTMCell",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "MGUCell",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "MogrifierLSTM",
    "MogrifierLSTMCell",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "ResetState",
    "SimpleRNN",
    "SimpleRNNCell",
    "check_export",
    "export_model",
    "find_units",
    "from_keras",
    "from_onnx",
    "from_torch",
    "get_state",
    "gradient_flow",
    "hard_sigmoid",
    "product",
    "reset_state",
    "set_fused",
    "stream",
    "to_keras",
    "to_litert",
    "to_onnx",
    "to_torch",
    "trace_gates",
    "windows",
]

_OF_TENSORFLOW = {
    "GradientFlowLogger": "inside.callbacks",
    "check_export": "serve.check",
    "export_model": "serve.export",
    "gradient_flow": "inside.flow",
    "stream": "serve.stream",
}


def __getattr__(name):
    """Imports what needs TensorFlow when it is used, where Keras runs on another backend."""
    if name not in _OF_TENSORFLOW:
        raise AttributeError(f"module 'keras_gated' has no attribute {name!r}")
    tensorflow_for(name)
    return getattr(importlib.import_module(f"keras_gated.{_OF_TENSORFLOW[name]}"), name)
