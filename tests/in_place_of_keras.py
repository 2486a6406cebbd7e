"""A pytest plugin: Keras's own tests meet our classes where they ask for `keras.layers`'s.

python -m pytest -p in_place_of_keras --pyargs keras.src.layers.rnn.lstm_test
"""

import keras
import keras.src.layers as keras_layers
import numpy as np
from keras.src.layers.rnn import bidirectional, gru, lstm, rnn, simple_rnn

import keras_gated
from keras_gated.cells.base import GatedCell


def negate_z(cell):
    for weight in (cell.kernel, cell.recurrent_kernel, cell.bias):
        if weight is not None:
            signs = np.ones(weight.shape[-1], "float32")
            signs[: cell.units] = -1
            weight.assign(weight * signs)


@keras.saving.register_keras_serializable(package="in_place_of_keras")
class GRUCell(keras_gated.GRUCell):
    """Our cell with z as Keras has it, as soon as there are weights."""

    def build(self, input_shape):
        super().build(input_shape)
        negate_z(self)


@keras.saving.register_keras_serializable(package="in_place_of_keras")
class GRU(keras_gated.GRU):
    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape, initial_state_shape)
        negate_z(self.cell)


OURS = {
    "SimpleRNN": keras_gated.SimpleRNN,
    "SimpleRNNCell": keras_gated.SimpleRNNCell,
    "LSTM": keras_gated.LSTM,
    "LSTMCell": keras_gated.LSTMCell,
    "GRU": GRU,
    "GRUCell": GRUCell,
    "Bidirectional": keras_gated.Bidirectional,
}
for name, ours in OURS.items():
    for module in (keras_layers, bidirectional, gru, lstm, rnn, simple_rnn):
        if hasattr(module, name):
            setattr(module, name, ours)

BUILT = []
build = GatedCell.build


def counted(self, input_shape):
    BUILT.append(type(self).__name__)
    build(self, input_shape)


GatedCell.build = counted


def pytest_configure(config):
    config.addinivalue_line("markers", "requires_trainable_backend: Keras's own")


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"built {len(BUILT)} cells of keras_gated")
