"""Activations and steps that are more than a function of their row: right, or refused in words."""

import dataclasses
import gc
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import GatedCell, product

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow tapes")
X = np.random.default_rng(1).normal(size=(20, 5, 2)).astype("float32")
OUTSIDE = tf.Variable([1.0, 2.0, 0.5])
CONSTANT = tf.constant([1.0, 2.0, 0.5])


def printed(a):
    tf.print("", output_stream="file:///dev/null")
    return tf.tanh(a)


def looped(a):
    return tf.while_loop(lambda n, a: n < 2, lambda n, a: (n + 1, tf.tanh(a)), (0, a))[1]


def in_python(a):
    return tf.ensure_shape(tf.numpy_function(np.sign, [a], tf.float32), a.shape) * a


ACTIVATIONS = {
    "joins_rows": (lambda a: ops.tanh(a - ops.mean(a, axis=0, keepdims=True)), "several rows"),
    "scales_rows": (
        lambda a: a * ops.rsqrt(ops.mean(a * a, axis=0, keepdims=True) + 0.1),
        "several rows",
    ),
    "reads_a_variable": (lambda a: ops.tanh(a * OUTSIDE), "reads a tensor or a variable"),
    "reads_a_tensor": (lambda a: ops.tanh(a * CONSTANT), "reads a tensor or a variable"),
    "prints": (printed, "operation PrintV2"),
    "loops": (looped, "loop of its own"),
    "runs_python": (in_python, "operation PyFunc"),
}


def gradients(layer):
    with tf.GradientTape() as tape:
        outputs = layer(X)
        loss = tf.reduce_sum(outputs**2)
    return [outputs, *tape.gradient(loss, [*layer.trainable_variables, OUTSIDE])]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_may_do_what_it_may_do_in_keras_layers(name):
    activation, reason = ACTIVATIONS[name]
    found = []
    for layer_class in (keras.layers.SimpleRNN, keras_gated.SimpleRNN):
        keras.utils.set_random_seed(1)
        found.append(gradients(layer_class(3, activation=activation, return_sequences=True)))
    for theirs, ours in zip(*found, strict=True):
        assert (theirs is None) == (ours is None)
        if theirs is not None:
            assert_allclose(ours, theirs, atol=2e-5)
    with pytest.raises(ValueError, match=f"`fused=True` cannot be kept, because .*{reason}"):
        keras_gated.SimpleRNN(3, activation=activation, fused=True)(X)


def test_the_weights_of_an_activation_are_trained():
    found = []
    for layer_class in (keras.layers.LSTM, keras_gated.LSTM):
        keras.utils.set_random_seed(1)
        found.append(gradients(layer_class(3, activation=keras.layers.PReLU("ones")))[:-1])
    assert len(found[0]) == 1 + 4
    for theirs, ours in zip(*found, strict=True):
        assert_allclose(ours, theirs, atol=2e-5)


def test_random_numbers_of_a_step_are_the_same_in_its_derivative():
    # Without a bias, the outputs are homogeneous in the inputs, whatever is dropped.
    layer = keras_gated.SimpleRNN(3, activation=lambda a: tf.nn.dropout(a, 0.5), use_bias=False)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x))
    assert float(tf.reduce_sum(x * tape.gradient(loss, x))) == pytest.approx(float(loss), rel=1e-4)


class Noisy(GatedCell):
    gates = ("candidate",)

    def step(self, x, states, weights):
        n = ops.tanh(x + product(states[0], weights[0]))
        n *= keras.random.uniform(ops.shape(n), seed=self.seed_generator)
        return dict(candidate=n, hidden=n)


class Doubles(keras.layers.Layer):
    def call(self, inputs, training=None):
        return 2 * inputs if training else inputs


@pytest.mark.parametrize("make", [lambda: keras.layers.Dropout(0.5, seed=1), Doubles])
@pytest.mark.parametrize("first", [True, False])
def test_a_layer_in_a_step_may_do_something_else_in_training(make, first):
    """It gets `training` of each call, whichever call comes first."""

    class Calls(GatedCell):
        gates = ("candidate",)

        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.inside = make()

        def step(self, x, states, weights):
            n = self.activation(x + product(self.inside(states[0]), weights[0]))
            return dict(candidate=n, hidden=n)

    ours = keras_gated.RNN(Calls(3))
    plain = keras_gated.SimpleRNN(3)
    plain.build(X.shape)
    ours(X, training=first)
    ours.set_weights(plain.get_weights())
    expected = plain(X)
    for training in (first, not first, first, None):
        same = np.allclose(ours(X, training=training), expected, atol=1e-6)
        assert same is not bool(training)
    # Of `call`, in a subclass that always drops: the context of Keras says inference.
    assert not np.allclose(ours.call(tf.constant(X), training=True), expected, atol=1e-2)
    with pytest.raises(ValueError, match=r"in training|reads a tensor"):
        keras_gated.RNN(Calls(3), fused=True)(X)


class Around(keras.Model):
    """A model whose layers are built when it is first called."""

    def __init__(self, cell):
        super().__init__()
        self.layer = keras_gated.RNN(cell)

    def call(self, inputs):
        return self.layer(inputs)


def test_a_step_is_tried_where_fit_builds_the_layer():
    """Keras first builds a model without values of its weights."""

    class Calls(GatedCell):
        gates = ("candidate",)

        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.inside = keras.layers.Dense(units)

        def step(self, x, states, weights):
            n = self.activation(x + self.inside(states[0]) + product(states[0], weights[0]))
            return dict(candidate=n, hidden=n)

    class Reads(GatedCell):
        gates = ("candidate",)

        def step(self, x, states, weights):
            n = self.activation(x + product(states[0], self.recurrent_kernel))
            return dict(candidate=n, hidden=n)

    model = Around(Calls(3))
    model.compile("sgd", "mse")
    model.fit(X, np.ones((len(X), 3)), epochs=2, verbose=0)
    assert len(model.trainable_variables) == 5
    model = Around(Reads(3))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"reads the weights .* `weight_shapes`"):
        model.fit(X, np.ones((len(X), 3)), verbose=0)


def test_a_step_with_random_numbers_trains_predicts_and_is_exported(tmp_path):
    model = keras.Sequential([keras.Input((None, 2)), keras_gated.RNN(Noisy(3))])
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((20, 3)), verbose=0)
    one, other = (model.predict(X, verbose=0) for _ in range(2))
    assert np.abs(one - other).max() > 1e-3
    model.export(tmp_path / "noisy", verbose=False)
    assert tf.saved_model.load(tmp_path / "noisy").serve(X).shape == (20, 3)


class Branching(GatedCell):
    gates = ("candidate",)

    def step(self, x, states, weights):
        [h], [U] = states, weights
        heads = ops.reshape(product(ops.reshape(h, (-1, 2, 2)), U[:2, :2]), (-1, 4))
        more = ops.cond(ops.sum(U) > 0, lambda: product(h, U), lambda: -product(h, U))
        n = ops.tanh(x + heads + more)
        return dict(candidate=n, hidden=n)


def test_products_in_a_branch_or_of_several_vectors_a_row_are_derived():
    x, mask, found = X[:4], np.arange(5) < np.array([[5], [3], [2], [0]]), []
    for fused in (False, True):
        layer = keras_gated.RNN(Branching(4), fused=fused)
        layer.build(x.shape)
        layer.set_weights([np.sin(np.arange(w.size)).reshape(w.shape) for w in layer.get_weights()])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, mask=mask) ** 2)
        found.append([loss, *tape.gradient(loss, layer.trainable_variables)])
    for one, other in zip(*found, strict=True):
        assert_allclose(one, other, rtol=1e-5, atol=1e-5)


class OfLogarithms(GatedCell):
    gates = ("candidate",)

    def project(self, inputs, weights):
        return super().project(ops.log(inputs), weights)

    def step(self, x, states, weights):
        n = ops.tanh(x + product(states[0], weights[0]))
        return dict(candidate=n, hidden=n)


@pytest.mark.parametrize("fused", [False, "auto", True])
def test_equations_without_a_derivative_at_zero_train_with_and_without_a_mask(fused):
    x = np.random.default_rng(0).uniform(1, 2, (3, 4, 2)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4, 2)), keras_gated.RNN(OfLogarithms(2), fused=fused), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    model.fit(x, np.ones((3, 1)), verbose=0)  # the number of rows is unknown
    assert all(np.isfinite(weight).all() for weight in model.get_weights())

    layer, found = model.layers[0], []
    for sequences, mask in ((x[:1, :2], None), (x[:1], np.array([[True, True, False, False]]))):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(sequences, mask=mask))
        found.append(tape.gradient(loss, layer.trainable_variables))
    for cut, masked in zip(*found, strict=True):
        assert np.abs(cut).max() > 1e-3
        assert_allclose(masked, cut, rtol=1e-5)


def root(a):
    return ops.sign(a) * ops.sqrt(ops.abs(a))


def test_an_activation_without_a_derivative_at_zero_trains():
    x, found = np.random.default_rng(1).uniform(1, 2, (3, 5, 2)), []
    for layer_class in (keras.layers.SimpleRNN, keras_gated.SimpleRNN):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((5, 2)), layer_class(3, activation=root)])
        model.compile("sgd", "mse")
        model.fit(x, np.ones((3, 3)), verbose=0)
        found.append(model.get_weights())
    for theirs, ours in zip(*found, strict=True):
        assert_allclose(ours, theirs, atol=1e-5)


@keras.saving.register_keras_serializable(package="test_any_step")
class Normed(keras_gated.LSTMCell):
    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.norm = keras.layers.LayerNormalization()

    def build(self, input_shape):
        super().build(input_shape)
        self.norm.build(input_shape)

    def project(self, inputs, weights):
        return super().project(self.norm(inputs), weights)


def test_a_cell_with_a_layer_in_it_is_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((None, 2)), keras_gated.RNN(Normed(4), fused=True)])
    model.compile("adam", "mse")
    model.fit(X, np.ones((20, 4)), verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded, other = (
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    )
    other.load_weights(tmp_path / "model.weights.h5")
    for one in (loaded, other):
        assert_allclose(one.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)


class Leaky(GatedCell):
    gates = ("candidate",)

    def __init__(self, units, leaks=(0.9,), **kwargs):
        super().__init__(units, **kwargs)
        self.leaks = leaks
        self.last = None

    def step(self, x, states, weights):
        n = ops.tanh(x + product(states[0], weights[0]))
        self.last = n  # a note, which changes at every trace
        return dict(candidate=n, hidden=self.leaks[0] * states[0] + (1 - self.leaks[0]) * n)


def test_a_changed_attribute_of_a_cell_counts_from_the_next_call():
    ones = dict(kernel_initializer="ones", recurrent_initializer="ones")
    layer = keras_gated.RNN(Leaky(1, leaks=[0.5], **ones))
    x = np.ones((2, 1, 2), "float32")
    model = keras.Sequential([keras.Input((None, 2)), layer])
    model.compile("sgd", "mse")
    for leak in (0.5, 0.0):
        layer.cell.leaks[0] = leak
        model.compile("sgd", "mse")  # as in Keras, which keeps the function of `predict`
        expected = (1 - leak) * np.tanh(2)
        assert_allclose(layer(x)[0, 0], expected, rtol=1e-5)
        assert_allclose(model.predict(x, verbose=0)[0, 0], expected, rtol=1e-5)
    functions = layer.cell.last
    layer(x)
    assert layer.cell.last is functions  # traced only once


SLOPE = 0.5


def sloping(a):
    return ops.tanh(a) * SLOPE


def both_with(activation):
    keras.utils.set_random_seed(1)
    ours = keras_gated.LSTM(3, activation=activation)
    theirs = keras.layers.LSTM(3, activation=activation)
    ours(X), theirs(X)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


@pytest.mark.parametrize("activation", [sloping, lambda a: 2 * sloping(a)])
def test_a_new_layer_reads_anew_what_its_activation_reads(activation, monkeypatch):
    for slope in (0.5, -0.2):
        monkeypatch.setattr(sys.modules[__name__], "SLOPE", slope)
        ours, theirs = both_with(activation)
        assert_allclose(ours(X), theirs(X), rtol=0, atol=1e-6)


def edited(a):  # a notebook that reloads edited files replaces the code of a function
    return ops.tanh(a)


def test_a_new_layer_has_the_code_that_its_activation_has_then(monkeypatch):
    both_with(edited)
    monkeypatch.setattr(edited, "__code__", (lambda a: ops.tanh(2.0 * a)).__code__)
    ours, theirs = both_with(edited)
    assert_allclose(ours(X), theirs(X), rtol=0, atol=1e-6)


def test_an_activation_that_counts_its_calls_is_traced_once():
    class Counting:
        calls = 0

        def __call__(self, a):
            self.calls += 1
            return ops.tanh(a)

    activation = Counting()
    layer = keras_gated.LSTM(3, activation=activation)
    layer(X), layer(X)
    before = activation.calls
    layer(X)
    assert activation.calls == before


def test_a_cell_whose_attributes_refer_to_it_is_dropped():
    def dropped():
        cell = Leaky(1)
        cell.help, cell.mix = cell.compute_mask, lambda: cell
        keras_gated.RNN(cell)(X)
        return weakref.ref(cell)

    cell = dropped()
    gc.collect()
    assert cell() is None


def test_the_import_leaves_the_settings_of_keras():
    program = """
import keras, keras_gated
keras.config.set_floatx("float64")
assert keras.layers.Dense(1).dtype == "float64" == keras_gated.LSTM(1).dtype
assert keras.layers.Layer().name == "layer"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


class Centred(Normed):
    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.norm = keras.layers.Lambda(lambda x: x - ops.mean(x, axis=0, keepdims=True))


def test_rows_may_be_mixed_in_the_inputs_of_a_step():
    layer = keras_gated.RNN(Centred(3))
    assert_allclose(layer(X), keras.layers.RNN(layer.cell)(X), atol=1e-6)
    with pytest.raises(ValueError, match=r"`fused=True` cannot be kept.*several rows"):
        keras_gated.RNN(Centred(3), fused=True)(X)


def test_what_is_traced_for_an_activation_is_dropped_with_it():
    dropped = []
    for _ in range(2):
        activation = keras.layers.LeakyReLU(negative_slope=0.1)
        dropped.append(weakref.ref(activation))
        gradients(keras_gated.LSTM(3, activation=activation))
    del activation
    keras.utils.clear_session()
    gc.collect()
    assert [one() for one in dropped] == [None, None]


def test_an_activation_need_have_no_hash():
    @dataclasses.dataclass
    class Scaled:
        scale: float = 0.5

        def __call__(self, a):
            return ops.tanh(self.scale * a)

    found = []
    for layer_class in (keras.layers.SimpleRNN, keras_gated.SimpleRNN):
        keras.utils.set_random_seed(1)
        found.append(layer_class(3, activation=Scaled())(X))
    assert_allclose(*found, atol=1e-6)


@pytest.mark.sampled
def test_a_batch_without_rows_may_have_a_mask(family):
    layer = family.make(3)
    layer.build((None, None, 2))
    empty, mask = np.zeros((0, 5, 2), "float32"), np.ones((0, 5), bool)
    with tf.GradientTape() as tape:
        outputs = layer(empty, mask=mask)
        loss = tf.reduce_sum(outputs)
    assert outputs.shape == layer(empty, mask=mask).shape == (0, 3)
    assert all(not np.any(d) for d in tape.gradient(loss, layer.trainable_variables))


class Wide(GatedCell):
    gates = ("candidate",)
    state_names = ("hidden", "memory")

    def state_widths(self):
        return [self.units, 2]

    def weight_shapes(self, features):
        return {**super().weight_shapes(features), "reading": (2, self.units)}

    def step(self, x, states, weights):
        h, c = states
        n = ops.tanh(x + product(h, weights[0]) + product(c, weights[1]))
        return dict(candidate=n, hidden=n, memory=c + n[:, :2])


def test_a_product_that_recurrent_dropout_cannot_reach_is_named():
    layer = keras_gated.RNN(Wide(4, recurrent_dropout=0.5))
    assert layer(X).shape == (20, 4)
    with pytest.raises(ValueError, match=r"shape \(\d+, 2\).*4 units. Pass `recurrent=False`"):
        layer(X, training=True)


class Doubled(GatedCell):
    gates = ("candidate",)

    def weight_shapes(self, features):
        return {**super().weight_shapes(features), "kernel": (2 * features, self.units)}

    def project(self, inputs, weights):
        return super().project(ops.concatenate([inputs, inputs**2], axis=-1), weights)

    def step(self, x, states, weights):
        n = ops.tanh(x + product(states[0], weights[0]))
        return dict(candidate=n, hidden=n)


class WithoutKernel(GatedCell):
    gates = ("candidate",)

    def weight_shapes(self, features):
        return {"recurrent_kernel": (self.units, self.units)}

    def project(self, inputs, weights):
        return inputs

    def step(self, x, states, weights):
        n = ops.tanh(x[:, :1] + product(states[0], weights[0]))
        return dict(candidate=n, hidden=n)


class TooNarrow(Wide):
    def state_widths(self):
        return [self.units]


class NamedAsItsUnits(Wide):
    def weight_shapes(self, features):
        return {**super().weight_shapes(features), "units": (2,), "project": (2,), "free": (2,)}


@pytest.mark.parametrize("cell, words", [
    (TooNarrow, r"a width for each of the states \['hidden', 'memory'\]. Received: \[4\]"),
    (NamedAsItsUnits, r"names of arguments or methods .* Received: \['units', 'project'\]\."),
])  # fmt: skip
def test_widths_and_weights_that_do_not_fit_the_names_are_named_at_build(cell, words):
    with pytest.raises(ValueError, match=words):
        keras_gated.RNN(cell(4))(X)


@pytest.mark.parametrize("cell", [Doubled, WithoutKernel])
def test_a_kernel_may_have_any_shape(cell):
    layer = keras_gated.RNN(cell(4), fused=True)
    around = keras.layers.RNN(layer.cell)
    assert_allclose(layer(X), around(X), atol=1e-6)
    with pytest.raises(ValueError, match="was built for 2 features"):
        layer(X[..., :1])


def with_candidate(candidate):
    def step(self, x, states, weights):
        return dict(candidate=candidate(x), hidden=x)

    return type("Bare", (GatedCell,), {"gates": ("candidate",), "step": step})


@pytest.mark.parametrize(
    "cell, words",
    [
        (with_candidate(lambda x: x > 0), "'candidate' as float32.*Received: dtype=bool"),
        (with_candidate(lambda x: 1.0), "'candidate' as a tensor. Received: 1.0"),
        (type("Bare", (GatedCell,), {"gates": "forget"}), "names its gates.*Bare.gates = 'forget'"),
    ],
)
def test_a_field_that_is_no_tensor_of_numbers_is_named_at_build(cell, words):
    with pytest.raises(ValueError, match=words):
        keras_gated.RNN(cell(3))(X)


def test_names_of_states_may_be_a_list():
    cell = type("Listed", (Wide,), {"state_names": ["hidden", "memory"]})(4)
    assert keras_gated.RNN(cell, return_state=True)(X)[2].shape == (20, 2)


@pytest.mark.parametrize("built", [False, True])
def test_states_in_a_list_with_the_inputs_are_told_where_to_go(family, built):
    layer, states = family.make(3), [np.zeros((20, 3), "float32")]
    if built:
        layer(X)
    with pytest.raises(ValueError, match=r"initial_state=\[...\].*Received: a list of 2 input"):
        layer([X, *states])


def test_a_step_may_read_a_memory_with_a_row_for_each_sequence():
    class Reads(keras_gated.SimpleRNNCell):
        memory = None

        def step(self, x, states, weights):
            return super().step(x + ops.mean(self.memory, 1), states, weights)

    cell = Reads(3)
    cell.memory = tf.constant(np.random.default_rng(0).normal(size=(20, 4, 3)), "float32")
    expected = keras.layers.RNN(cell)(X)
    assert_allclose(keras_gated.RNN(cell)(X), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="a number of rows of its own"):
        keras_gated.RNN(cell, fused=True)(X)


def test_an_array_of_the_cell_may_be_changed_in_place():
    class Pruned(keras_gated.SimpleRNNCell):
        def step(self, x, states, weights):
            return super().step(x * self.kept, states, weights)

    cell = Pruned(3)
    cell.kept = np.ones(3, "float32")
    layer = keras_gated.RNN(cell)
    layer(X)
    cell.kept[:2] = 0
    assert_allclose(layer(X), keras.layers.RNN(cell)(X), rtol=0, atol=1e-6)
