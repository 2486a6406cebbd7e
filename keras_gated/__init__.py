"""Gated recurrent networks for Keras 3 and TensorFlow that read like the textbook."""

from keras_gated.bidirectional import Bidirectional
from keras_gated.callbacks import GradientFlowLogger
from keras_gated.checking import check_export
from keras_gated.convert import (
    from_keras,
    from_onnx,
    from_torch,
    to_keras,
    to_litert,
    to_onnx,
    to_torch,
)
from keras_gated.export import export_model
from keras_gated.flow import gradient_flow
from keras_gated.gru import GRUCell
from keras_gated.layers import GRU, LSTM, SimpleRNN
from keras_gated.lstm import LSTMCell
from keras_gated.simple_rnn import SimpleRNNCell
from keras_gated.states import ResetState, get_state, reset_state, windows
from keras_gated.trace import trace_gates
from keras_gated.units import find_units

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "Bidirectional",
    "GRUCell",
    "GradientFlowLogger",
    "LSTMCell",
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
    "reset_state",
    "to_keras",
    "to_litert",
    "to_onnx",
    "to_torch",
    "trace_gates",
    "windows",
]
