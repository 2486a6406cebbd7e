"""The registry of recurrent families that drives the suites."""

from typing import Any, NamedTuple

import keras
import numpy as np
import oracles

import keras_gated


def same(weights):
    return weights


def z_negated(weights):
    """Turns weights of our GRU into those of Keras's, and back (1 - sigmoid(a) = sigmoid(-a))."""
    units = weights[1].shape[0]
    signs = np.r_[-np.ones(units), np.ones(2 * units)]
    return [w * signs.astype(w.dtype) for w in weights]


class Family(NamedTuple):
    layer: Any
    cell: Any
    keras_layer: Any
    keras_cell: Any
    oracle: Any
    gates: int
    states: int
    convert: Any = same
    options: Any = {}  # noqa: RUF012 (never changed)

    def make(self, units, **kwargs):
        return self.layer(units, **self.options, **kwargs)

    def make_cell(self, units, **kwargs):
        return self.cell(units, **self.options, **kwargs)

    def make_keras(self, units, **kwargs):
        return self.keras_layer(units, **self.options, **kwargs)

    def random_weights(self, features, units, seed=0, dtype="float64"):
        """Every entry differs, so a swapped gate or bias changes the answer."""
        rng = np.random.default_rng(seed)
        width = self.gates * units
        bias = (2, width) if self.oracle is oracles.gru else (width,)
        shapes = [(features, width), (units, width), bias]
        return [rng.normal(0, 0.5, shape).astype(dtype) for shape in shapes]


k = keras.layers
FAMILIES = {
    "simple_rnn": Family(
        keras_gated.SimpleRNN, keras_gated.SimpleRNNCell, k.SimpleRNN, k.SimpleRNNCell,
        oracles.simple_rnn, 1, 1,
    ),
    "lstm": Family(
        keras_gated.LSTM, keras_gated.LSTMCell, k.LSTM, k.LSTMCell, oracles.lstm, 4, 2
    ),
    "gru": Family(
        keras_gated.GRU, keras_gated.GRUCell, k.GRU, k.GRUCell, oracles.gru, 3, 1, z_negated
    ),
    "gru_reset_before": Family(
        keras_gated.GRU, keras_gated.GRUCell, k.GRU, k.GRUCell, oracles.gru_reset_before, 3, 1,
        z_negated, {"reset_after": False},
    ),
}  # fmt: skip

# Rows of five steps: True where a step counts.
MASKS = {
    "no mask": None,
    "right padding": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
    "left padding": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
    "both sides": [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 1, 1, 1, 1]],
    "gaps": [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1], [1, 1, 0, 0, 1]],
    "a row without a valid step": [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
    "no valid step at all": [[0] * 5] * 3,
}


def mask_array(name):
    return None if MASKS[name] is None else np.array(MASKS[name], bool)
