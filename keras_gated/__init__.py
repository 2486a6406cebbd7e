"""Gated recurrent networks for Keras 3 and TensorFlow that read like the textbook."""

from keras_gated.gru import GRUCell
from keras_gated.layers import GRU, LSTM, SimpleRNN
from keras_gated.lstm import LSTMCell
from keras_gated.simple_rnn import SimpleRNNCell

__version__ = "0.1.0"

__all__ = ["GRU", "LSTM", "GRUCell", "LSTMCell", "SimpleRNN", "SimpleRNNCell"]
