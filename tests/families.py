"""The registry of recurrent families that drives the suites."""

from typing import Any, NamedTuple

import keras
import numpy as np
import oracles
import own_cells

import keras_gated


def set_random(model, scale=0.5):
    """Every weight differs, so a swapped gate or bias changes the answer. Integers stay."""
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.normal(0, scale, w.shape) if w.dtype.kind == "f" else w for w in model.get_weights()]
    )
    return model


def same(weights):
    return weights


def z_negated(weights):
    """Turns weights of our GRU into those of Keras's, and back (1 - sigmoid(a) = sigmoid(-a))."""
    units = weights[1].shape[0]
    signs = np.r_[-np.ones(units), np.ones(2 * units)]
    return [w * signs.astype(w.dtype) for w in weights]


def of_keras(gates):
    """Shapes of the weights of a family with so many gates, as `keras.layers` has them."""
    return lambda f, u: [(f, gates * u), (u, gates * u), (gates * u,)]


class Family(NamedTuple):
    layer: Any
    cell: Any
    oracle: Any
    shapes: Any  # of the weights, by features and units
    states: int = 1
    keras_layer: Any = None
    keras_cell: Any = None
    convert: Any = same  # our weights to Keras's, and back
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
        return [rng.normal(0, 0.5, shape).astype(dtype) for shape in self.shapes(features, units)]

    def random_states(self, rng, rows, units, dtype="float64"):
        widths = self.make_cell(units).state_widths()
        return [rng.normal(size=(rows, width)).astype(dtype) for width in widths]


def gru_shapes(f, u):
    return [(f, 3 * u), (u, 3 * u), (2, 3 * u)]


k = keras.layers
FAMILIES = {  # those that Keras has
    "simple_rnn": Family(
        keras_gated.SimpleRNN, keras_gated.SimpleRNNCell, oracles.simple_rnn, of_keras(1), 1,
        k.SimpleRNN, k.SimpleRNNCell,
    ),
    "lstm": Family(
        keras_gated.LSTM, keras_gated.LSTMCell, oracles.lstm, of_keras(4), 2, k.LSTM, k.LSTMCell
    ),
    "gru": Family(
        keras_gated.GRU, keras_gated.GRUCell, oracles.gru, gru_shapes, 1, k.GRU, k.GRUCell,
        z_negated,
    ),
    "gru_reset_before": Family(
        keras_gated.GRU, keras_gated.GRUCell, oracles.gru_reset_before, of_keras(3), 1,
        k.GRU, k.GRUCell, z_negated, {"reset_after": False},
    ),
}  # fmt: skip


def around(cell):
    """Returns what makes the layer around a user's own cell, with the arguments of both."""
    names = cell.argument_names()

    def layer(units, **options):
        of_cell = {n: options.pop(n) for n in names if n in options}
        dtype = options.get("dtype")
        return keras_gated.RNN(cell(units, dtype=dtype, **of_cell), **options)

    return layer


def peephole_shapes(f, u):
    return [*of_keras(4)(f, u), (u,), (u,), (u,)]


def projected_shapes(f, u):
    return [(f, 4 * u), (2, 4 * u), (4 * u,), (u, 2)]


def mogrifier_shapes(f, u):
    return [*of_keras(4)(f, u), (u, f), (f, u), (u, f)]


def norm_lstm_shapes(f, u):
    return [*of_keras(4)(f, u), *[(4 * u,)] * 4, (u,), (u,)]


def norm_gru_shapes(f, u):
    return [*of_keras(3)(f, u), *[(3 * u,)] * 4]


def without_recurrent_kernel(gates):
    return lambda f, u: [(f, gates * u), (gates * u,)]


NEW = {
    "peephole_lstm": Family(
        keras_gated.PeepholeLSTM, keras_gated.PeepholeLSTMCell, oracles.peephole_lstm,
        peephole_shapes, 2,
    ),
    "projected_lstm": Family(
        keras_gated.LSTM, keras_gated.LSTMCell, oracles.projected_lstm, projected_shapes, 2,
        options={"projection": 2},
    ),
    "coupled_lstm": Family(
        keras_gated.CoupledLSTM, keras_gated.CoupledLSTMCell, oracles.coupled_lstm, of_keras(3), 2
    ),
    "layer_norm_lstm": Family(
        keras_gated.LayerNormLSTM, keras_gated.LayerNormLSTMCell, oracles.layer_norm_lstm,
        norm_lstm_shapes, 2,
    ),
    "layer_norm_gru": Family(
        keras_gated.LayerNormGRU, keras_gated.LayerNormGRUCell, oracles.layer_norm_gru,
        norm_gru_shapes,
    ),
    "mogrifier_lstm": Family(
        keras_gated.MogrifierLSTM, keras_gated.MogrifierLSTMCell, oracles.mogrifier_lstm,
        mogrifier_shapes, 2, options={"rounds": 3},
    ),
    "mgu": Family(keras_gated.MGU, keras_gated.MGUCell, oracles.mgu, of_keras(2)),
    "min_gru": Family(
        keras_gated.MinGRU, keras_gated.MinGRUCell, oracles.min_gru, without_recurrent_kernel(2)
    ),
    "min_lstm": Family(
        keras_gated.MinLSTM, keras_gated.MinLSTMCell, oracles.min_lstm, without_recurrent_kernel(3)
    ),
    "lstm_with_zoneout": Family(
        keras_gated.LSTM, keras_gated.LSTMCell, oracles.zoned(oracles.lstm, (0.2, 0.4)),
        of_keras(4), 2, options={"zoneout": [0.2, 0.4]},
    ),
    "gru_with_zoneout": Family(
        keras_gated.GRU, keras_gated.GRUCell, oracles.zoned(oracles.gru, (0.3,)),
        gru_shapes, options={"zoneout": 0.3},
    ),
}  # fmt: skip
OWN = {
    f"own_{cell.__name__}": NEW[name]._replace(layer=around(cell), cell=cell, options={})
    for name, cell in {
        "peephole_lstm": own_cells.Peephole,
        "projected_lstm": own_cells.Projected,
        "coupled_lstm": own_cells.Coupled,
        "layer_norm_lstm": own_cells.NormLSTM,
        "layer_norm_gru": own_cells.NormGRU,
        "mgu": own_cells.Minimal,
        "min_gru": own_cells.InputGated,
        "min_lstm": own_cells.InputGatedLSTM,
    }.items()
}
ALL = {**FAMILIES, **NEW, **OWN}

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
