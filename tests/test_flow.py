"""The gradient's way back: against complex steps through the NumPy oracle, step by step."""

import csv
import logging
import warnings

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from families import FAMILIES, mask_array
from grids import product
from numpy.testing import assert_allclose
from tensorflow.core.util import event_pb2

import keras_gated
from keras_gated import GradientFlowLogger, gradient_flow

pytestmark = pytest.mark.usefixtures("short_turns")

FEATURES, UNITS = 2, 3
NAMES = ("kernel", "recurrent_kernel", "bias")
CLOSE = {"rtol": 1e-6, "atol": 1e-7}  # Keras computes losses in float32


def weighed(y, outputs):
    """A loss whose derivative by an output is its weight `y`."""
    return keras.ops.sum(y * outputs)


def model_of(family, masked=False, dtype="float64", **options):
    inputs = keras.Input((None, FEATURES), dtype=dtype)
    x = keras.layers.Masking(9.0, dtype=dtype)(inputs) if masked else inputs
    layer = family.make(UNITS, dtype=dtype, name="r", **options)
    model = keras.Model(inputs, layer(x))
    layer.set_weights(family.random_weights(FEATURES, UNITS, seed=4)[: len(layer.weights)])
    model.compile("sgd", weighed)
    return model


def data(mask, rows=3, steps=5, all_steps=True):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, steps, FEATURES))
    if mask is not None:
        x[~mask] = 9.0
    return x, rng.normal(size=(rows, steps, UNITS) if all_steps else (rows, UNITS))


def loss_from(family, t, states, x, mask, y, weights):
    """The oracle's loss of one row from step t on, of which `states` come after."""
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    later = slice(t + 1, None)
    outputs, _ = oracles.sequence(
        family.oracle, x[:, later], mask[:, later], [s[None] for s in states], weights
    )
    none_yet = np.cumsum(mask[:, later], axis=1) == 0
    outputs = np.where(none_yet[..., None], states[0], outputs)
    return np.sum(y[0, t] * states[0]) + np.sum(y[:, later] * outputs)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "family, mask_name",
    product(FAMILIES, ("no mask", "right padding", "gaps")),
    indirect=["family"],
)
def test_norms_are_those_of_the_loss_by_each_state(family, mask_name):
    mask = mask_array(mask_name)
    x, y = data(mask)
    model = model_of(family, mask is not None, return_sequences=True)
    weights = model.get_layer("r").get_weights()
    flow = gradient_flow(model, x, y, layer="r")
    zeros = [np.zeros((3, UNITS))] * family.states
    fields, _ = oracles.trace(family.oracle, x, mask, zeros, weights)
    for row in range(3):
        own = slice(row, row + 1)
        own_mask = None if mask is None else mask[own]
        for t in range(5):
            if mask is not None and not mask[row, : t + 1].any():
                continue  # the state before the first step is shown by no output

            def by_states(*states, t=t, own=own, own_mask=own_mask):
                return loss_from(family, t, states, x[own], own_mask, y[own], weights)

            def by_memory(c, t=t, row=row):
                return by_states(fields["output"][row, t] * np.tanh(c), c, t=t)

            states = [fields[n][row, t] for n in ("hidden", "memory") if n in fields]
            [by_hidden, *_] = oracles.gradients(by_states, states)
            assert_allclose(flow.hidden[row, t], np.linalg.norm(by_hidden), **CLOSE)
            if "memory" in fields and (mask is None or mask[row, t]):
                [expected] = oracles.gradients(by_memory, states[1:])
                assert_allclose(flow.memory[row, t], np.linalg.norm(expected), **CLOSE)
    assert (flow.memory is None) == ("memory" not in fields)
    assert_allclose(flow.mask, np.ones((3, 5), bool) if mask is None else mask)


@pytest.mark.sampled
def test_each_step_contributes_its_own_part_of_the_weight_gradients(family):
    """The oracle with other weights at one step alone."""
    x, y = data(None, rows=2, steps=3)
    model = model_of(family, return_sequences=True)
    weights = model.get_layer("r").get_weights()
    flow = gradient_flow(model, x, y, layer="r")
    for t in range(3):

        def loss(*moved, t=t):
            total, states = 0, [np.zeros((2, UNITS))] * family.states
            for step in range(3):
                at_step = moved if step == t else weights
                outputs, states = oracles.sequence(
                    family.oracle, x[:, step : step + 1], None, states, at_step
                )
                total = total + np.sum(outputs[:, 0] * y[:, step])
            return total

        for name, expected in zip(NAMES, oracles.gradients(loss, weights), strict=False):
            assert_allclose(flow.contributions[name][t], expected, **CLOSE)


LONG = (pytest.mark.slow, pytest.mark.long)
OPTIONS = {
    "last output": {},
    "all outputs": {"return_sequences": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "zero output": {"zero_output_for_mask": True, "return_sequences": True},
    "no bias": {"use_bias": False},
    "cell's loop": {"fused": False},
    "not trainable": {"trainable": False},
}


@pytest.mark.parametrize(
    "family, options",
    [  # all options, and families in turn
        pytest.param(family, options, marks=() if f == o % len(FAMILIES) else LONG)
        for f, family in enumerate(FAMILIES)
        for o, options in enumerate(OPTIONS)
    ],
    indirect=["family"],
)
def test_the_sum_over_steps_is_the_ordinary_gradient(family, options):
    options = OPTIONS[options]
    mask = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    x, y = data(mask, all_steps="return_sequences" in options)
    model = model_of(family, masked=True, **options)
    layer = model.get_layer("r")
    flow = gradient_flow(model, x, y, layer=layer)
    with tf.GradientTape() as tape:
        variables = [v.value for v in layer.cell.weights]
        tape.watch(variables)
        loss = model.compute_loss(y=y, y_pred=model(x))
    expected = tape.gradient(loss, variables, unconnected_gradients="zero")
    for name, gradient in zip(NAMES, expected, strict=False):
        assert_allclose(flow.gradients[name], gradient, **CLOSE)
        assert flow.contributions[name].shape == (5, *gradient.shape)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "mask_name, backwards",
    product(("no mask", "left padding", "gaps"), (False, True)),
)
def test_the_path_is_the_product_of_the_gates_that_keep_the_memory(mask_name, backwards):
    mask = mask_array(mask_name)
    x, y = data(mask, all_steps=False)
    for name, gate in (("lstm", "forget"), ("gru", "update"), ("simple_rnn", None)):
        family = FAMILIES[name]
        model = model_of(family, mask is not None, go_backwards=backwards)
        flow = gradient_flow(model, x, y, layer="r", contributions=False)
        assert flow.contributions is None and flow.gradients is None
        if gate is None:
            assert flow.path is None
            continue
        weights = model.get_layer("r").get_weights()
        zeros = [np.zeros((3, UNITS))] * family.states
        fields, _ = oracles.trace(family.oracle, x, mask, zeros, weights, backwards)
        kept = fields[gate] if gate == "forget" else 1 - fields[gate]
        if mask is not None:
            kept = np.where(mask[..., None], kept, 1)
        for t in range(5):
            later = kept[:, :t] if backwards else kept[:, t + 1 :]
            assert_allclose(flow.path[:, t], later.prod(1), rtol=0, atol=1e-9)


def test_of_an_lstm_without_recurrent_weights_the_path_is_the_gradient():
    """c_T depends on c_t through the forget gates alone, if no gate reads h."""
    family = FAMILIES["lstm"]
    model = model_of(family, return_state=True)
    layer = model.get_layer("r")
    kernel, recurrent, bias = layer.get_weights()
    layer.set_weights([kernel, 0 * recurrent, bias])
    model = keras.Model(model.inputs, model.outputs[2])  # the memory
    model.compile("sgd", weighed)
    x, y = data(None, all_steps=False)
    flow = gradient_flow(model, x, y, layer="r")
    for t in range(5):
        assert_allclose(flow.memory[:, t], np.linalg.norm(flow.path[:, t] * y, axis=-1), **CLOSE)


@pytest.mark.sampled
@pytest.mark.parametrize("family, backwards", product(FAMILIES, (False, True)), indirect=["family"])
def test_a_loss_of_the_gates_themselves_is_followed_back_too(family, backwards):
    options = {"return_sequences": True, "go_backwards": True} if backwards else {}
    inputs = keras.Input((None, FEATURES))
    layer = family.make(UNITS, return_gates=True, name="r", **options)
    output, gates = layer(keras.layers.Masking(9.0)(inputs))
    model = keras.Model(inputs, {"output": output, **gates})
    model.compile("sgd", loss={name: weighed for name in ("output", *gates)})
    mask = mask_array("gaps")
    x, _ = data(mask)
    rng = np.random.default_rng(3)
    y = {name: rng.normal(size=value.shape) for name, value in model(x).items()}
    flow = gradient_flow(model, x, y, layer="r")
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=y, y_pred=model(x))
    expected = tape.gradient(loss, [v.value for v in layer.cell.weights])
    for name, gradient in zip(NAMES, expected, strict=True):
        assert_allclose(flow.gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_half_precision_and_stateful_layers_are_followed_back():
    inputs = keras.Input(batch_shape=(2, None, FEATURES))
    layer = keras_gated.LSTM(UNITS, stateful=True, dtype="mixed_float16", name="r")
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(2, 4, FEATURES)).astype("float32")
    model(x)
    before = keras_gated.get_state(model)["r"]
    flow = gradient_flow(model, x, np.ones((2, UNITS)), layer="r")
    assert flow.hidden.dtype == tf.float32 and np.all(flow.hidden > 0)
    for a, b in zip(before, keras_gated.get_state(model)["r"], strict=True):
        assert_allclose(a, b)


@pytest.mark.slow
def test_all_layers_of_a_model_by_name_and_both_directions_in_reading_order():
    ids = keras.Input((None,))
    x = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    x = keras_gated.Bidirectional(keras_gated.GRU(3, return_sequences=True), name="both")(x)
    x = keras_gated.LSTM(2, name="top")(x)
    model = keras.Model(ids, keras.layers.Dense(1)(x))
    model.compile("adam", "mse")
    x, y = np.array([[1, 2, 3, 4, 0, 0], [5, 6, 7, 8, 1, 2]]), np.ones((2, 1))
    before = [w.copy() for w in model.get_weights()]
    flows = gradient_flow(model, x, y)
    assert list(flows) == ["both", "top"] and list(flows["both"]) == ["forward", "backward"]
    for a, b in zip(before, model.get_weights(), strict=True):
        assert_allclose(a, b)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=y, y_pred=model(x))
    both = model.get_layer("both")
    for direction, layer in (("forward", both.forward_layer), ("backward", both.backward_layer)):
        flow = flows["both"][direction]
        assert flow.hidden.shape == (2, 6) and flow.backwards == (direction == "backward")
        assert [c.shape[0] for c in flow.contributions.values()] == [6, 6, 6]
        assert layer.name.startswith(direction)
    kernels = [both.forward_layer.cell.kernel, both.backward_layer.cell.kernel]
    expected = tape.gradient(loss, [k.value for k in kernels])
    for direction, gradient in zip(("forward", "backward"), expected, strict=True):
        assert_allclose(flows["both"][direction].gradients["kernel"], gradient, atol=1e-6)


def test_what_cannot_be_differentiated_is_refused_by_name():
    x, y = np.ones((1, 3, FEATURES)), np.ones((1, UNITS))
    inputs = keras.Input((None, FEATURES))
    with pytest.raises(ValueError, match="must be a compiled Keras model"):
        gradient_flow(keras.Model(inputs, keras_gated.GRU(UNITS)(inputs)), x, y)
    with pytest.raises(ValueError, match="must be a compiled Keras model"):
        gradient_flow(keras_gated.GRU(UNITS), x, y)
    model = model_of(FAMILIES["gru"])
    with pytest.raises(ValueError, match=r"`layer` must be one of \['r'\]. Received: 'q'"):
        gradient_flow(model, x, y, layer="q")
    with pytest.raises(ValueError, match="without any step"):
        gradient_flow(model, x[:, :0], y)
    dense = keras.Model(inputs, keras.layers.Dense(UNITS)(inputs))
    dense.compile("sgd", "mse")
    with pytest.raises(ValueError, match="called no recurrent layer of keras_gated"):
        gradient_flow(dense, x, np.ones((1, 3, UNITS)))


def of_six_layers():
    x = inputs = keras.Input((None, 1))
    for units in range(2, 8):
        x = keras_gated.SimpleRNN(units, return_sequences=True)(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    return model


def test_many_layers_warn_of_no_retracing(caplog):
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        flows = gradient_flow(
            of_six_layers(), np.ones((1, 2, 1)), np.ones((1, 2, 7)), contributions=False
        )
    assert len(flows) == 6 and "retracing" not in caplog.text


def test_a_shared_layer_names_its_calls_whose_gradients_add_up():
    shared = keras_gated.SimpleRNN(UNITS, name="s")
    a, b = keras.Input((None, FEATURES)), keras.Input((None, FEATURES))
    model = keras.Model([a, b], keras.layers.Dot(1)([shared(a), shared(b)]))
    model.compile("sgd", "mse")
    x, y = [data(None)[0].astype("float32"), np.ones((3, 5, FEATURES), "float32")], np.ones((3, 1))
    with pytest.raises(ValueError, match=r"'s' is called 2 times.*one of \['s', 's/2'\]"):
        gradient_flow(model, x, y, layer=shared)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=y, y_pred=model(x))
    expected = tape.gradient(loss, shared.cell.kernel.value)
    calls = [gradient_flow(model, x, y, layer=name) for name in ("s", "s/2")]
    assert_allclose(sum(c.gradients["kernel"] for c in calls), expected, atol=1e-6)


def test_weights_of_layers_in_a_cell_have_names_of_their_own():
    """As many names as weights, and each has the ordinary gradient; integers have none."""

    class Deep(keras_gated.GatedCell):
        gates = ("candidate",)

        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.inside = keras.layers.Dense(units, name="inside")
            self.late = keras.layers.Dense(units, name="late")

        def build(self, input_shape):
            super().build(input_shape)
            self.inside.build((None, self.units))
            self.table = self.add_weight(shape=(2,), dtype="int32", trainable=False, name="table")

        def step(self, x, states, weights):
            n = self.late(self.inside(states[0])) + states[0] @ weights[0]
            n = self.activation(x + n)
            return dict(candidate=n, hidden=n)

    layer = keras_gated.RNN(Deep(3))
    model = keras.Sequential([keras.Input((None, 2)), layer])
    model.compile(loss="mse")
    x, y = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("float32"), np.ones((4, 3), "f")
    [flow] = gradient_flow(model, x, y).values()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    names = ["kernel", "recurrent_kernel", "bias", "inside/kernel", "inside/bias"]
    names += ["late/kernel", "late/bias"]
    weights = [w.value for w in layer.trainable_weights]
    expected = dict(zip(names, tape.gradient(loss, weights), strict=True))
    assert list(flow.gradients) == names
    for name, gradient in expected.items():
        assert_allclose(flow.gradients[name], gradient, atol=1e-5)


def test_a_direction_is_given_by_its_name_or_itself():
    inputs = keras.Input((None, FEATURES))
    both = keras_gated.Bidirectional(keras_gated.SimpleRNN(UNITS), name="both")
    model = keras.Model(inputs, both(inputs))
    model.compile("sgd", "mse")
    x, y = data(None)[0], np.ones((3, 2 * UNITS))
    expected = gradient_flow(model, x, y)["both"]["backward"]
    for given in ("both/backward", both.backward_layer):
        flow = gradient_flow(model, x, y, layer=given)
        assert flow.backwards
        assert_allclose(flow.hidden, expected.hidden, atol=1e-6)


# During training


def of_first_step(family, steps=120, rate=1e-6, **options):
    """A model that is to name its first input at the end."""
    inputs = keras.Input((None, 1))
    hidden = family.make(4, name="r", **options)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(keras.optimizers.SGD(rate), "mse")
    x = np.random.default_rng(0).normal(size=(8, steps, 1)).astype("float32")
    return model, x, x[:, 0]


def events(directory):
    for file in directory.glob("events*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                yield event.step, value.tag, float(tf.make_ndarray(value.tensor))


def test_a_callback_logs_every_epoch_to_csv_and_tensorboard(tmp_path):
    model, x, y = of_first_step(FAMILIES["lstm"], steps=6)
    logger = GradientFlowLogger(x, y, tmp_path / "logs", every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(x, y, epochs=3, verbose=0, callbacks=[logger])
    with open(tmp_path / "logs" / "gradient_flow.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["epoch"]) for r in rows] == [1] * 6 + [3] * 6
    assert [int(r["step"]) for r in rows] == [*range(6), *range(6)]
    flow = gradient_flow(model, x, y, layer="r")
    assert_allclose([float(r["hidden"]) for r in rows[6:]], np.mean(flow.hidden, 0), rtol=1e-4)
    assert_allclose([float(r["memory"]) for r in rows[6:]], np.mean(flow.memory, 0), rtol=1e-4)
    logged = {(step, tag.split("/", 1)[1]): v for step, tag, v in events(tmp_path / "logs")}
    assert set(logged) == {(e, f"r/{what}") for e in (1, 3) for what in ("first", "last", "reach")}
    assert logged[3, "r/reach"] == pytest.approx(logged[3, "r/first"] / logged[3, "r/last"])
    assert logged[3, "r/first"] == pytest.approx(float(rows[6]["hidden"]), rel=1e-4)

    logger = GradientFlowLogger(x, y, tmp_path / "logs")  # gone on with
    model.fit(x, y, initial_epoch=3, epochs=4, verbose=0, callbacks=[logger])
    with open(tmp_path / "logs" / "gradient_flow.csv") as file:
        assert [int(r["epoch"]) for r in csv.DictReader(file)] == [1] * 6 + [3] * 6 + [4] * 6


def test_a_gradient_that_vanishes_is_told_in_words(tmp_path):
    family = FAMILIES["simple_rnn"]
    model, x, y = of_first_step(family, recurrent_initializer=keras.initializers.Orthogonal(0.5))
    with pytest.warns(UserWarning, match=r"Epoch 1: .* of 'r' vanishes: over 120 steps.*LSTM"):
        model.fit(x, y, verbose=0, callbacks=[GradientFlowLogger(x, y, tmp_path)])


@pytest.mark.slow
def test_a_gradient_that_explodes_is_told_in_words(tmp_path):
    options = {"recurrent_initializer": keras.initializers.Orthogonal(1.2), "activation": "linear"}
    model, x, y = of_first_step(FAMILIES["simple_rnn"], rate=0.0, **options)
    with pytest.warns(UserWarning, match=r"'r' explodes: over 120 steps.*Clip gradients"):
        model.fit(x, y, verbose=0, callbacks=[GradientFlowLogger(x, y, tmp_path)])
    model, x, y = of_first_step(FAMILIES["simple_rnn"], 1000, **options)
    with pytest.warns(UserWarning, match="'r' is not finite"):
        model.fit(x, y, verbose=0, callbacks=[GradientFlowLogger(x, y, tmp_path)])


def test_a_direction_read_backwards_counts_from_its_own_end(tmp_path):
    model, x, y = of_first_step(
        FAMILIES["simple_rnn"], go_backwards=True,
        recurrent_initializer=keras.initializers.Orthogonal(0.5),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="'r' vanishes"):
        model.fit(x, y, verbose=0, callbacks=[GradientFlowLogger(x, y, tmp_path)])


def test_a_gradient_of_zero_is_told_in_words(tmp_path):
    model, x, y = of_first_step(FAMILIES["simple_rnn"], steps=3, rate=0.0)
    model.layers[-1].kernel.assign(np.zeros((4, 1)))
    with pytest.warns(UserWarning, match="'r' is zero at every step"):
        model.fit(x, y, verbose=0, callbacks=[GradientFlowLogger(x, y, tmp_path)])


def test_a_wrong_logger_is_refused_before_the_training(tmp_path):
    model, x, y = of_first_step(FAMILIES["simple_rnn"], steps=3)
    for every in (0, "2", 1.5, True):
        with pytest.raises(ValueError, match="GradientFlowLogger: `every` must be a positive"):
            GradientFlowLogger(x, y, tmp_path, every=every)
    (tmp_path / "file").write_text("")
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(FileExistsError):
        model.fit(x, y, verbose=0, callbacks=[GradientFlowLogger(x, y, tmp_path / "file")])
    for a, b in zip(before, model.get_weights(), strict=True):
        assert_allclose(a, b, rtol=0, atol=0)
