"""Cells of a user's own: a layer runs what they say, with their derivative, on every path."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES
from grids import product
from keras import ops
from numpy.testing import assert_allclose

import keras_gated
from keras_gated.cells.dropout import Masks
from keras_gated.paths import cudnn
from keras_gated.paths.path import Call

FEATURES, UNITS = 3, 4
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow tapes")


def with_own_projection(base):
    class Own(base):
        def project(self, inputs, weights):
            return super().project(ops.tanh(inputs) * 2, weights)

    return Own


def with_a_weight_of_its_own(base):
    class Own(base):
        def build(self, input_shape):
            super().build(input_shape)
            self.scale = self.add_weight(shape=input_shape[-1:], name="scale", initializer="ones")

        def project(self, inputs, weights):
            return super().project(inputs * ops.cast(self.scale, inputs.dtype), weights)

    return Own


def with_own_whole_step(base):
    class Own(base):
        def whole_step(self, inputs, states, training=False, masks=None):
            step = super().whole_step(inputs, states, training, masks)
            return step._replace(hidden=0.5 * step.hidden)

    return Own


def with_own_whole_step_without_masks(base):
    class Own(base):
        def whole_step(self, inputs, states, training=False):
            step = super().whole_step(inputs, states, training)
            return step._replace(hidden=0.5 * step.hidden)

    return Own


def with_own_call(base):
    class Own(base):
        def call(self, inputs, states, training=False):
            output, states = super().call(inputs, states, training)
            return 2 * output, states

    return Own


def with_own_step(base):
    class Own(base):
        def step(self, x, states, weights):
            step = super().step(x, states, weights)
            return step._replace(hidden=ops.relu(step.hidden))

    return Own


def with_a_product_of_its_own(base):
    class Own(base):
        def step(self, x, states, weights):
            step = super().step(x, states, weights)
            return step._replace(hidden=ops.tanh(ops.matmul(step.hidden, weights[0][:, :UNITS])))

    return Own


def with_a_weight_in_its_step(base):
    class Own(base):
        def build(self, input_shape):
            super().build(input_shape)
            self.gain = self.add_weight(shape=(UNITS,), name="gain", initializer="ones")

        def recurrent_weights(self, mask=None):
            return (*super().recurrent_weights(mask), *self.tensors(self.gain))

        def step(self, x, states, weights):
            *others, gain = weights
            step = super().step(x, states, tuple(others))
            return step._replace(hidden=gain * step.hidden)

    return Own


def with_a_weight_that_its_step_is_not_given(base):
    class Own(base):
        def build(self, input_shape):
            super().build(input_shape)
            self.gain = self.add_weight(shape=(UNITS,), name="gain", initializer="ones")

        def step(self, x, states, weights):
            step = super().step(x, states, weights)
            return step._replace(hidden=ops.convert_to_tensor(self.gain) * step.hidden)

    return Own


def layer_of(family, cell_class, **options):
    own = type("Layer", (family.layer,), {"cell_class": cell_class})
    layer = own(UNITS, dtype="float64", return_sequences=True, **family.options, **options)
    layer.build((None, None, FEATURES))
    own_weights = layer.get_weights()[3:]
    layer.set_weights([*family.random_weights(FEATURES, UNITS), *own_weights])
    return layer


CHANGES = (
    with_own_projection,
    with_a_weight_of_its_own,
    with_own_whole_step,
    with_own_whole_step_without_masks,
    with_own_call,
    with_own_step,
    with_a_product_of_its_own,
    with_a_weight_in_its_step,
)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "family, change, masked", product(FAMILIES, CHANGES, (False, True)), indirect=["family"]
)
def test_a_layer_runs_its_cell_as_keras_does(family, change, masked):
    """Values and derivatives are those of `keras.layers.RNN` around the same cell."""
    layer = layer_of(family, change(family.cell))
    around = keras.layers.RNN(layer.cell, return_sequences=True, dtype="float64")
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 6, FEATURES)))
    mask = np.array([[1, 1, 1, 1, 0, 0], [1] * 6], bool) if masked else None
    found = []
    for call in (layer, around):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = call(x, mask=mask, training=True)
            loss = tf.reduce_sum(output**2)
        found.append([output, *tape.gradient(loss, [x, *(w.value for w in layer.weights)])])
    for ours, theirs in zip(*found, strict=True):
        assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert_allclose(layer(x, mask=mask), found[1][0], rtol=0, atol=1e-12)


class Residual(keras_gated.GRUCell):
    def call(self, inputs, states, training=False):
        output, new = super().call(inputs, states, training)
        return output + inputs, new


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_last_output_is_what_an_own_call_returned(masked, go_backwards):
    cell, x = Residual(FEATURES), np.random.default_rng(0).normal(size=(2, 5, FEATURES))
    mask = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 1, 1]], bool) if masked else None
    for sequences in (False, True):
        options = {"return_sequences": sequences, "go_backwards": go_backwards}
        last = keras_gated.RNN(cell, **options)(x.astype("float32"), mask=mask)
        expected = keras.layers.RNN(cell, **options)(x.astype("float32"), mask=mask)
        if sequences:
            last, expected = last[:, -1], expected[:, -1]
        assert_allclose(last, expected, rtol=0, atol=1e-6)


def test_nobody_looks_into_an_own_call(tmp_path):
    """Its steps are not known. What other layers get from it stays what it returned."""
    x = np.random.default_rng(0).normal(size=(4, 5, FEATURES)).astype("float32")
    inputs = keras.Input((None, FEATURES))
    own = keras_gated.RNN(Residual(FEATURES), return_sequences=True, name="own")
    top = keras_gated.GRU(3, name="top")
    model = keras.Model(inputs, top(own(inputs)))
    model.compile(loss="mse")
    looks = (
        lambda **layer: keras_gated.trace_gates(model, x, **layer),
        lambda **layer: keras_gated.find_units(model, x, x[..., 0], **layer),
        lambda **layer: keras_gated.gradient_flow(model, x, np.ones((4, 3)), **layer),
    )
    for look in looks:
        with pytest.raises(ValueError, match=r"cannot look into .own., because .* a `call` of"):
            look(layer="own")
        look(layer="top")
        look()
    between = keras.layers.RNN(own.cell, return_sequences=True)(x)
    [(name, gates)] = looks[0]().items()
    assert name == "top"
    assert_allclose(gates["hidden"][:, -1], top(between), atol=1e-6)
    with pytest.raises(ValueError, match="cannot look into 'own'"):
        keras_gated.trace_gates(own, x)
    assert keras_gated.export_model(model, tmp_path / "served", gates="top")
    with pytest.raises(ValueError, match=r"one of \['top'\]. Received: gates='own'"):
        keras_gated.export_model(model, tmp_path / "served", gates="own")
    with pytest.raises(ValueError, match="`return_gates=True` cannot be kept"):
        keras_gated.RNN(Residual(FEATURES), return_gates=True)


@pytest.mark.parametrize("change", [with_own_whole_step, with_own_call])
def test_the_fused_path_says_why_it_cannot_run_a_cell_of_ones_own(family, change):
    with pytest.raises(ValueError, match=r"`fused=True` cannot be kept, because .* of its own"):
        layer_of(family, change(family.cell), fused=True)(np.zeros((1, 2, FEATURES)))


def test_a_weight_that_a_step_is_not_given_is_named_at_build(family):
    with pytest.raises(ValueError, match=r"reads the weights \['.*gain'\].*`recurrent_weights`"):
        layer_of(family, with_a_weight_that_its_step_is_not_given(family.cell))


@pytest.mark.parametrize(
    "change",
    [with_own_projection, with_own_step, with_a_product_of_its_own, with_a_weight_in_its_step],
)
def test_equations_of_ones_own_stay_on_the_fused_path(change):
    layer = layer_of(FAMILY := Family(), change(FAMILY.cell), fused=True)
    assert layer(np.zeros((1, 2, FEATURES)), training=True).shape == (1, 2, UNITS)


class Family:
    layer, cell, options = keras_gated.LSTM, keras_gated.LSTMCell, {}

    def random_weights(self, features, units):
        shapes = [(features, 4 * units), (units, 4 * units), (4 * units,)]
        return [np.random.default_rng(1).normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("base", [keras_gated.LSTMCell, keras_gated.GRUCell])
@pytest.mark.parametrize("change", [with_own_projection, with_own_step, with_own_call])
def test_cudnn_runs_no_equations_but_its_own_wherever_they_stand(base, change, monkeypatch):
    monkeypatch.setattr(cudnn, "_gpu", lambda: True)
    own = change(base)
    own.__module__ = "keras_gated.peephole"  # as if it were ours
    layer_class = keras_gated.LSTM if base is keras_gated.LSTMCell else keras_gated.GRU
    layer = type("Layer", (layer_class,), {"cell_class": own})(UNITS)
    assert "of its own" in cudnn.why_not(asked(layer))
    assert cudnn.why_not(asked(layer_class(UNITS))) is None


def asked(layer):
    return Call(layer, tf.zeros([1, 2, FEATURES]), [], None, False, Masks(), (), False, None)


class Scaled(keras_gated.SimpleRNNCell):
    """A cell with a single number as a weight."""

    def weight_shapes(self, features):
        return {**super().weight_shapes(features), "scale": ()}

    def step(self, x, states, weights):
        *weights, scale = weights
        return super().step(x * (1 + scale), states, weights)


def test_a_single_number_is_a_weight_like_any_other():
    x = tf.random.normal((9, 40, FEATURES), seed=1)  # more steps than a chunk has
    mask = tf.sequence_mask([40, 7, 33, 1, 40, 0, 12, 32, 39], 40)
    found = []
    for fused in (True, False):
        keras.utils.set_random_seed(2)
        layer = keras_gated.RNN(Scaled(UNITS), fused=fused)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, mask=mask) ** 2)
        found.append(tape.gradient(loss, [w.value for w in layer.trainable_variables]))
        assert layer.cell.scale.shape == ()
    for ours, cells in zip(*found, strict=True):
        assert_allclose(ours, cells, rtol=1e-4, atol=1e-5)
