"""One life of a state: carried, set, saved, and the gradient cut where a window ends."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from families import FAMILIES, MASKS, mask_array
from grids import product
from numpy.testing import assert_allclose
from scripts import assert_answered_in_a_new_process
from test_contract import CLOSE, FEATURES, UNITS, array, build, data, needs_tensorflow, weights_of

import keras_gated

STATEFUL = ("simple_rnn", "lstm", "gru")


@pytest.fixture(params=STATEFUL)
def stateful(request):
    return FAMILIES[request.param]


def pieces(layer, x, mask=None):
    cuts = [(0, 2), (2, 3), (3, x.shape[1])]
    masks = [None if mask is None else mask[:, a:b] for a, b in cuts]
    return np.concatenate(
        [array(layer(x[:, a:b], mask=m)) for (a, b), m in zip(cuts, masks, strict=True)], axis=1
    )


@pytest.mark.parametrize(
    "stateful, mask_name, fused", product(STATEFUL, MASKS, (False, "auto")), indirect=["stateful"]
)
def test_a_sequence_in_pieces_is_the_sequence(stateful, mask_name, fused):
    mask = mask_array(mask_name)
    x, _ = data(stateful, mask=mask)
    options = {"return_sequences": True, "dtype": "float64", "fused": fused}
    layer = build(stateful.make(UNITS, stateful=True, **options), stateful, batch=3)
    expected, finals = oracles.sequence(
        stateful.oracle, x, mask, [np.zeros((3, UNITS))] * stateful.states, weights_of(stateful),
        zero_output_for_mask=True,
    )  # fmt: skip
    layer.zero_output_for_mask = True  # else a piece would not know the output before it
    for _ in range(2):
        layer.reset_state()
        assert_allclose(pieces(layer, x, mask), expected, **CLOSE)
        for a, b in zip(layer.states, finals, strict=True):
            assert_allclose(array(a), b, **CLOSE)


def test_states_are_set_as_a_whole_or_by_row(stateful):
    x, states = data(stateful)
    layer = build(stateful.make(UNITS, stateful=True, dtype="float64"), stateful, batch=3)
    layer.reset_state(states)
    for a, b in zip(layer.states, states, strict=True):
        assert_allclose(array(a), b)
    layer.reset_state(rows=[True, False, True])
    for a, b in zip(layer.states, states, strict=True):
        assert_allclose(array(a), b * np.array([[0.0], [1.0], [0.0]]))
    _, expected = oracles.sequence(
        stateful.oracle, x, None, [s * [[0], [1], [0]] for s in states], weights_of(stateful)
    )
    assert_allclose(array(layer(x)), expected[0], **CLOSE)


def test_wrong_states_and_rows_are_refused_and_change_nothing(stateful):
    layer = build(stateful.make(UNITS, stateful=True), stateful, batch=3, dtype="float32")
    ones = [np.ones((3, UNITS), "float32")] * stateful.states
    layer.reset_state(ones)
    with pytest.raises(ValueError, match=r"`states` must hold .*Received: .*\(2, 3\)"):
        layer.reset_state([np.zeros((2, UNITS))] * stateful.states)
    with pytest.raises(ValueError, match=r"`rows` must be bool.*\(3,\).*rows.shape=\(2,\)"):
        layer.reset_state(rows=[True, False])
    with pytest.raises(ValueError, match=r"has no stateful layer.*`stateful=True`"):
        stateful.make(UNITS).reset_state(rows=[True])
    assert_allclose(array(layer.states[0]), ones[0])


@pytest.mark.parametrize("rows", [[0, 2], [1, 0, 1], [0.0, 1.0, 1.0], "abc"])
def test_rows_that_are_not_bool_are_refused_and_change_nothing(rows):
    """Numbers may be meant as the places of rows."""
    layer = keras_gated.GRU(2, stateful=True)
    layer(np.zeros((3, 1, 1), "float32"))
    layer.reset_state([np.ones((3, 2))])
    with pytest.raises(ValueError, match="`rows` must be bool"):
        layer.reset_state(rows=rows)
    assert_allclose(array(layer.states[0]), np.ones((3, 2)))


def stateful_model(family, batch=2):
    inputs = keras.Input(batch_shape=(batch, None, FEATURES))
    x = family.make(UNITS, stateful=True, return_sequences=True, name="first")(inputs)
    both = keras_gated.Bidirectional(
        family.make(UNITS, stateful=True, return_sequences=True, return_state=True, name="two"),
        name="both",
    )
    cells = [family.make_cell(4), family.make_cell(UNITS)]
    last = keras.layers.RNN(cells, stateful=True, name="stacked")
    return keras.Model(inputs, last(both(keras.layers.Masking()(x))[0]))


@pytest.mark.sampled
def test_the_states_of_a_whole_model_are_read_set_and_reset(stateful):
    model = stateful_model(stateful)
    x = np.random.default_rng(0).normal(size=(2, 4, FEATURES))
    first = array(model(x))
    kept = keras_gated.get_state(model)
    assert sorted(kept) == ["backward_two", "first", "forward_two", "stacked"]
    second = array(model(x))
    assert np.abs(second - first).max() > 1e-4
    keras_gated.reset_state(model, kept)
    assert_allclose(array(model(x)), second, atol=1e-6)
    keras_gated.reset_state(model)
    assert_allclose(array(model(x)), first, atol=1e-6)
    with pytest.raises(ValueError, match="has no stateful layer"):
        keras_gated.get_state(keras.Sequential([keras.layers.Dense(1)]))


@pytest.mark.sampled
@needs_tensorflow
def test_rows_may_be_reset_inside_a_training_step(stateful):
    """Documents end in different batches: a row begins anew where its document does."""

    class Documents(keras.Model):
        def train_step(self, batch):
            (x, begins), y = batch
            keras_gated.reset_state(self, rows=begins)
            return super().train_step((x, y))

    inputs = keras.Input(batch_shape=(2, 3, FEATURES))
    layer = stateful.make(UNITS, stateful=True)
    model = Documents(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.random.default_rng(0).normal(size=(3, 2, 3, FEATURES)).astype("float32")
    begins = np.array([[True, True], [False, True], [False, False]])
    batches = tf.data.Dataset.from_tensor_slices(((x, begins), np.zeros((3, 2, UNITS), "float32")))
    keras_gated.reset_state(layer, [np.ones((2, UNITS))] * stateful.states)
    model.fit(batches, shuffle=False, verbose=0)
    alone = stateful.make(UNITS)
    alone.build((None, None, FEATURES))
    alone.set_weights(layer.get_weights()[: len(alone.weights)])
    for row, since in ((0, 0), (1, 1)):
        document = np.concatenate(x[since:, row])[None]
        assert_allclose(array(layer.states[0])[row], array(alone(document))[0], atol=1e-6)


def test_a_batch_of_another_size_is_an_error(stateful):
    layer = stateful.make(UNITS, stateful=True)
    layer(np.zeros((2, 3, FEATURES)))
    with pytest.raises(ValueError, match=r"batch size it was built with, 2.*a batch of 3.*drop"):
        layer(np.zeros((3, 3, FEATURES)))


@needs_tensorflow
def test_a_batch_of_another_size_is_an_error_where_sizes_are_unknown(stateful):
    layer = stateful.make(UNITS, stateful=True)
    layer(np.zeros((2, 3, FEATURES)))
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, FEATURES))])
    call(np.zeros((2, 3, FEATURES), "float32"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="batch size it was built with, 2"):
        call(np.zeros((3, 3, FEATURES), "float32"))


@pytest.mark.sampled
@needs_tensorflow
@pytest.mark.parametrize(
    "stateful, fused", product(STATEFUL, (False, "auto")), indirect=["stateful"]
)
def test_a_short_last_batch_is_an_error_in_our_words(stateful, fused):
    inputs = keras.Input(batch_shape=(2, None, FEATURES))
    model = keras.Model(inputs, stateful.make(UNITS, stateful=True, fused=fused)(inputs))
    model.compile("sgd", "mse")
    x, y = np.zeros((5, 4, FEATURES)), np.zeros((5, UNITS))
    for run in (model.fit, model.evaluate, lambda x, _, **how: model.predict(x, **how)):
        message = r"batch size it was built with, 2. Received: a batch of .*1.*Drop the last batch"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(x, y, batch_size=2, verbose=0)


@needs_tensorflow
@pytest.mark.parametrize("stateful", STATEFUL, indirect=True)
def test_layers_after_a_stateful_one_know_the_batch_size_as_after_keras_s(stateful):
    signature = [tf.TensorSpec((None, None, FEATURES))]
    layers = [make(UNITS, stateful=True) for make in (stateful.make, stateful.make_keras)]
    for layer in layers:
        layer(np.zeros((3, 2, FEATURES)))
    ours, theirs = (tf.function(layer, signature).get_concrete_function() for layer in layers)
    assert ours.output_shapes == theirs.output_shapes == (3, UNITS)


def one_layer(family, batch=2):
    inputs = keras.Input(batch_shape=(batch, None, FEATURES))
    both = keras.layers.Bidirectional(family.make(UNITS, stateful=True, return_sequences=True))
    return keras.Model(inputs, family.make(UNITS, stateful=True, name="last")(both(inputs)))


@pytest.mark.slow
def test_a_saved_model_goes_on_where_it_stopped(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 4, FEATURES)).astype("float32")
    answers = {}
    for name in STATEFUL:
        model = one_layer(FAMILIES[name])
        model(x)
        model.save(tmp_path / f"{name}.keras")
        answers[name] = array(model(x))
    assert_answered_in_a_new_process(tmp_path, x, answers)


@pytest.mark.sampled
def test_weights_trained_with_one_batch_size_serve_another(stateful, tmp_path):
    model, single = one_layer(stateful), one_layer(stateful, batch=1)
    x = np.random.default_rng(0).normal(size=(2, 4, FEATURES)).astype("float32")
    model(x)
    model.save_weights(tmp_path / "of.weights.h5")
    single.load_weights(tmp_path / "of.weights.h5")
    keras_gated.reset_state(model)
    assert_allclose(array(single(x[1:])), array(model(x))[1:], atol=1e-6)


def test_a_stateful_bidirectional_layer_returns_its_states_under_a_mask(stateful):
    layer = keras_gated.Bidirectional(
        stateful.make(UNITS, stateful=True, return_state=True, return_sequences=True)
    )
    x = np.random.default_rng(0).normal(size=(2, 4, FEATURES)).astype("float32")
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    x = keras.layers.Masking()(x * mask[..., None])
    outputs, *states = layer(x)
    assert outputs.shape == (2, 4, 2 * UNITS) and len(states) == 2 * stateful.states
    for kept, returned in zip(layer.states, states, strict=True):
        assert_allclose(array(kept), array(returned), atol=1e-6)
    again = keras_gated.Bidirectional.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    rows = np.array([True, False])
    layer.reset_state(rows=rows)
    assert not array(layer.states[0])[0].any() and array(layer.states[0])[1].any()


# A state of one row


@pytest.mark.parametrize(
    "family, mask_name, fused", product(FAMILIES, MASKS, (False, "auto")), indirect=["family"]
)
def test_an_initial_state_of_one_row_is_that_of_every_row(family, mask_name, fused):
    mask = mask_array(mask_name)
    x, states = data(family, mask=mask)
    rows = [s[:1] for s in states]
    layer = build(family.make(UNITS, return_sequences=True, dtype="float64", fused=fused), family)
    expected, _ = oracles.sequence(
        family.oracle, x, mask, [s.repeat(len(x), axis=0) for s in rows], weights_of(family)
    )
    for training in (False, True):
        received = layer(x, mask=mask, initial_state=rows, training=training)
        assert_allclose(array(received), expected, **CLOSE)


class Learned(keras.layers.Layer):
    """Weights that are the states of one row."""

    def __init__(self, number):
        super().__init__()
        self.states = [self.add_weight(shape=(1, UNITS), name=f"s{i}") for i in range(number)]

    def call(self, x):
        return [keras.ops.convert_to_tensor(state) for state in self.states]


@pytest.mark.sampled
@pytest.mark.parametrize("family, both", product(FAMILIES, (False, True)), indirect=["family"])
def test_an_initial_state_can_be_learned(family, both):
    x = np.random.default_rng(0).normal(size=(5, 4, FEATURES)).astype("float32")
    inputs = keras.Input((None, FEATURES))
    learned = Learned(family.states * (1 + both))
    layer = family.make(UNITS, return_sequences=True)
    if both:
        layer = keras_gated.Bidirectional(layer)
    model = keras.Model(inputs, layer(inputs, initial_state=learned(inputs)))
    weights = [array(s) for s in learned.states]
    many = [w.repeat(5, axis=0) for w in weights]
    assert_allclose(array(model(x)), array(layer(x, initial_state=many)), atol=1e-6)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, np.ones((5, 4, UNITS * (1 + both))), batch_size=2, verbose=0)
    assert model.predict(x, verbose=0).shape == (5, 4, UNITS * (1 + both))
    for before, after in zip(weights, learned.states, strict=True):
        assert np.abs(before - array(after)).min() > 0


def test_states_of_another_batch_size_are_refused_while_the_model_is_built(family):
    inputs = keras.Input(batch_shape=(4, None, FEATURES))
    states = [keras.Input(batch_shape=(3, UNITS)) for _ in range(family.states)]
    message = r"\(batch, units\) = \(4, 3\). Received: shapes \[\(3, 3\).*one row, \(1, 3\)"
    with pytest.raises(ValueError, match=message):
        family.make(UNITS)(inputs, initial_state=states)


# Truncated back-propagation through time


def test_windows_follow_each_other_row_by_row():
    inputs, targets = np.arange(22), np.arange(1, 23)
    batches = [tuple(map(array, batch)) for batch in keras_gated.windows(
        inputs, targets, batch_size=3, steps=3)]  # fmt: skip
    expected = [[[0, 1, 2], [7, 8, 9], [14, 15, 16]], [[3, 4, 5], [10, 11, 12], [17, 18, 19]],
                [[6], [13], [20]]]  # fmt: skip
    for (x, y), wanted in zip(batches, expected, strict=True):
        assert_allclose(x, wanted)
        assert_allclose(y, np.array(wanted) + 1)
    assert keras_gated.windows(np.zeros((9, 4)), np.zeros(9), batch_size=3, steps=2).element_spec[
        0
    ].shape.as_list() == [3, None, 4]


def test_sizes_of_windows_may_be_small_integers_of_numpy():
    stream = np.arange(600)
    sizes = {"batch_size": np.uint8(3), "steps": np.int8(100)}
    [(first, _), (second, _)] = keras_gated.windows(stream, stream, **sizes)
    assert_allclose(np.concatenate([first, second], axis=1), stream.reshape(3, 200))


@pytest.mark.parametrize("length, batch_size, steps", [
    (4, 5, 1), (0, 1, 1), (11, 1, 12), (23, 2, 12), (99, 10, 10),
])  # fmt: skip
def test_a_stream_shorter_than_one_window_is_refused(length, batch_size, steps):
    """Eleven steps of twelve used to be a window of eleven, without a word."""
    stream = np.zeros(length)
    with pytest.raises(ValueError, match=(
        rf"takes batch_size \* steps = {batch_size * steps} steps. Received: a stream of {length} "
        rf"steps, batch_size={batch_size}, steps={steps}. Pass a longer stream, a smaller"
    )):  # fmt: skip
        keras_gated.windows(stream, stream, batch_size=batch_size, steps=steps)


@pytest.mark.parametrize("targets, options", [
    (8, {"batch_size": 0, "steps": 2}), (8, {"batch_size": 2, "steps": 0}),
    (8, {"batch_size": 2, "steps": -1}), (7, {"batch_size": 2, "steps": 2}),
    (8, {"batch_size": 2.5, "steps": 2}), (8, {"batch_size": "2", "steps": 2}),
    (8, {"batch_size": True, "steps": 2}), (8, {"batch_size": 2, "steps": 1.5}),
])  # fmt: skip
def test_windows_refuses_unequal_streams_and_sizes_below_one(targets, options):
    with pytest.raises(ValueError, match=rf"equally long.*Received: 8 and {targets} steps, "):
        keras_gated.windows(np.zeros(8), np.zeros(targets), **options)


def test_windows_refuses_a_number_in_place_of_a_stream():
    with pytest.raises(ValueError, match=r"equally long.*Received: no and 8 steps, "):
        keras_gated.windows(5, np.zeros(8), batch_size=2, steps=2)


def stream_model(family, batch, **options):
    keras.config.set_floatx("float64")
    inputs = keras.Input(batch_shape=(batch, None, FEATURES))
    layer = family.make(UNITS, return_sequences=True, dtype="float64", **options)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights(weights_of(family)[: len(layer.weights)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("stateful", ["lstm"], indirect=True)
def test_one_window_as_long_as_the_stream_is_full_back_propagation(stateful):
    rng = np.random.default_rng(0)
    stream, targets = rng.normal(size=(24, FEATURES)), rng.normal(size=(24, UNITS))
    truncated, full = (stream_model(stateful, 2, stateful=s) for s in (True, False))
    whole = keras_gated.windows(stream, targets, batch_size=2, steps=12)
    truncated.fit(whole, epochs=2, shuffle=False, verbose=0, callbacks=[keras_gated.ResetState()])
    full.fit(stream.reshape(2, 12, -1), targets.reshape(2, 12, -1), epochs=2, verbose=0)
    for a, b in zip(truncated.get_weights(), full.get_weights(), strict=False):
        assert_allclose(a, b, **CLOSE)


@needs_tensorflow
def test_a_window_carries_the_state_and_cuts_the_gradient(stateful):
    """A step of training on the second window, against the oracle's derivative with its state."""
    rng = np.random.default_rng(0)
    stream, targets = rng.normal(size=(2, 8, FEATURES)), rng.normal(size=(2, 8, UNITS))
    model = stream_model(stateful, 2, stateful=True)
    model.optimizer.learning_rate = 0.0
    model.train_on_batch(stream[:, :4], targets[:, :4])
    weights = weights_of(stateful)
    _, states = oracles.sequence(
        stateful.oracle, stream[:, :4], None, [np.zeros((2, UNITS))] * stateful.states, weights
    )

    def loss(*weights):
        y, _ = oracles.sequence(stateful.oracle, stream[:, 4:], None, states, weights)
        return ((y - targets[:, 4:]) ** 2).mean()

    model.optimizer.learning_rate = 1.0
    model.train_on_batch(stream[:, 4:], targets[:, 4:])
    for after, before, gradient in zip(
        model.get_weights(), weights, oracles.gradients(loss, weights), strict=False
    ):
        assert_allclose(after, before - gradient, **CLOSE)


@pytest.mark.sampled
def test_validation_begins_anew_and_leaves_the_states_of_training(stateful):
    model = stream_model(stateful, 2, stateful=True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, FEATURES)), rng.normal(size=(2, 4, UNITS))
    keras_gated.reset_state(model)
    alone = model.evaluate(x, y, batch_size=2, verbose=0)
    callbacks = [keras_gated.ResetState()]
    states = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: states.append(keras_gated.get_state(model))
    )
    model.optimizer.learning_rate = 0.0
    history = model.fit(
        x, y, batch_size=2, validation_data=(x, y), verbose=0, callbacks=[*callbacks, keep]
    )
    assert history.history["val_loss"] == pytest.approx([alone], abs=1e-6)
    keras_gated.reset_state(model)
    model.predict(x, batch_size=2, verbose=0)
    for a, b in zip(
        *(v for s in (states[0], keras_gated.get_state(model)) for v in s.values()), strict=True
    ):
        assert_allclose(a, b, **CLOSE)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="elsewhere Keras makes no state there"
)
def test_a_state_that_does_not_exist_yet_is_zero():
    """A Sequential without an Input makes its states in the first step of `fit`."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3, FEATURES)), rng.normal(size=(4, 2))
    layer = keras_gated.SimpleRNN(2, stateful=True, name="r")
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    keras_gated.reset_state(model)
    with pytest.raises(ValueError, match="no state yet: call it once"):
        keras_gated.get_state(model)
    with pytest.raises(ValueError, match="no state yet: call it once"):
        keras_gated.reset_state(model, {"r": [np.zeros((2, 2))]})
    model.fit(x, y, batch_size=2, verbose=0, shuffle=False, callbacks=[keras_gated.ResetState()])
    trained = keras_gated.get_state(model)["r"]
    alone = layer(x[2:], initial_state=[layer(x[:2], initial_state=[np.zeros((2, 2))])])
    assert_allclose(trained[0], alone, atol=1e-6)

    model = keras.Sequential([keras_gated.SimpleRNN(2, stateful=True, name="r")])
    model.compile("sgd", "mse")
    model.evaluate(x, y, batch_size=2, verbose=0, callbacks=[keras_gated.ResetState()])
    assert_allclose(keras_gated.get_state(model)["r"][0], np.zeros((2, 2)))
