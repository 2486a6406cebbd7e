"""Looking at gates: the values of the model itself, of every layer, from wherever one looks."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from families import FAMILIES, MASKS, mask_array
from grids import grid, in_full_for
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import trace_gates
from keras_gated.serve.signatures import Signature

pytestmark = pytest.mark.usefixtures("short_turns")

FEATURES, UNITS = 2, 3
NAMES = {
    "simple_rnn": ["hidden"],
    "lstm": ["input", "forget", "candidate", "output", "memory", "hidden"],
    "gru": ["update", "reset", "candidate", "hidden"],
    "gru_reset_before": ["update", "reset", "candidate", "hidden"],
}


@pytest.fixture(params=NAMES)
def named(request):
    return FAMILIES[request.param], NAMES[request.param]


def layer_of(family, dtype="float64", **options):
    layer = family.make(UNITS, dtype=dtype, **options)
    layer.build((None, None, FEATURES))
    layer.set_weights(family.random_weights(FEATURES, UNITS, seed=4)[: len(layer.weights)])
    return layer


def data(family, rows=3, steps=5):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, steps, FEATURES))
    return x, [rng.normal(size=(rows, UNITS)) for _ in range(family.states)]


OPTIONS = {
    "in order": {},
    "backwards": {"go_backwards": True},
    "zero output": {"zero_output_for_mask": True},
    "all it returns": {"return_sequences": True, "go_backwards": True, "return_state": True},
}


@pytest.mark.parametrize(
    "named, options, fused, mask_name",
    in_full_for(
        ("lstm", "gru"),
        grid(
            (name, options, fused, mask)
            for name in NAMES
            for options in OPTIONS
            for fused, masks in (("auto", MASKS), (False, ("no mask", "gaps")))
            for mask in masks
        ),
    ),
    indirect=["named"],
)
def test_every_gate_is_the_oracles_under_every_mask(named, mask_name, options, fused):
    options = OPTIONS[options]
    family, names = named
    mask = mask_array(mask_name)
    x, states = data(family)
    if mask is not None:
        x = np.where(mask[..., None], x, np.resize([np.nan, np.inf], x.shape))
    layer = layer_of(family, fused=fused, **options)
    gates = trace_gates(layer, x, mask=mask, initial_state=states)
    meaning = {k: v for k, v in options.items() if not k.startswith("return")}
    expected, _ = oracles.trace(family.oracle, x, mask, states, layer.get_weights(), **meaning)
    assert list(gates) == names
    for name in names:
        assert_allclose(gates[name], expected[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.sampled
def test_gates_can_be_differentiated(named):
    """The sum of a random weighing of all gates, against the complex step."""
    family, names = named
    x, states = data(family, 2, 4)
    mask = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)
    rng = np.random.default_rng(1)
    weigh = {name: rng.normal(size=(2, 4, UNITS)) for name in names}
    layer = layer_of(family)

    def total(x, *weights):
        fields, _ = oracles.trace(family.oracle, x, mask, states, weights)
        return sum(np.sum(fields[name] * weigh[name]) for name in names)

    expected = oracles.gradients(total, [x, *layer.get_weights()])
    x = tf.constant(x)
    for function in (trace_gates, tf.function(trace_gates)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            gates = function(layer, x, mask=mask, initial_state=states)
            loss = sum(tf.reduce_sum(gates[name] * weigh[name]) for name in names)
        received = tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])
        for a, b in zip(received, expected, strict=True):
            assert_allclose(a, b, rtol=0, atol=1e-9)


def reader(**options):
    """A model of ids with a mask, two directions, two layers and a nested model."""
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    both = keras_gated.Bidirectional(keras_gated.GRU(3, return_sequences=True), name="both")
    inner = keras.Input((None, 6))
    last = keras_gated.LSTM(2, name="last", **options)(inner)
    nested = keras.Model(inner, last, name="nested")
    nested.supports_masking = True
    return keras.Model(ids, keras.layers.Dense(1)(nested(both(x))))


IDS = np.array([[3, 1, 4, 0, 0], [1, 5, 8, 2, 6]])


def test_a_model_is_traced_by_the_names_of_its_layers():
    model = reader()
    gates = trace_gates(model, IDS)
    assert {name: list(g) for name, g in gates.items()} == {
        "both": ["forward", "backward"],
        "last": ["input", "forget", "candidate", "output", "memory", "hidden"],
    }
    both = model.get_layer("both")
    embedded = model.layers[1](IDS)
    alone = trace_gates(both, embedded)
    for direction in ("forward", "backward"):
        for name, values in gates["both"][direction].items():
            assert_allclose(values, alone[direction][name], atol=1e-6)
    # In reading order: side by side they are the layer's own output, step by step.
    hidden = [gates["both"][d]["hidden"] for d in ("forward", "backward")]
    assert_allclose(np.concatenate(hidden, -1), both(embedded), atol=1e-6)


def test_a_row_is_traced_as_if_it_were_alone_without_its_padding():
    model = reader()
    gates, alone = trace_gates(model, IDS), trace_gates(model, IDS[:1, :3])
    for of_batch, of_row in zip(keras.tree.flatten(gates), keras.tree.flatten(alone), strict=True):
        assert_allclose(of_batch[0, :3], of_row[0], atol=1e-6)


def test_a_layer_called_twice_has_both_calls():
    shared = keras_gated.GRU(3, name="shared")
    a, b = keras.Input((None, 2)), keras.Input((None, 2))
    model = keras.Model([a, b], keras.layers.Dot(1)([shared(a), shared(b)]))
    x, y = np.ones((1, 4, 2), "float32"), np.zeros((1, 6, 2), "float32")
    gates = trace_gates(model, [x, y])
    assert list(gates) == ["shared", "shared/2"]
    assert_allclose(gates["shared/2"]["reset"], trace_gates(shared, y)["reset"], atol=1e-6)


def test_a_layer_that_calls_several_recurrent_layers_has_the_gates_of_all():
    class Two(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.a = keras_gated.GRU(3, name="a", return_sequences=True)
            self.b = keras_gated.SimpleRNN(2, name="b")

        def call(self, x):
            return self.b(self.a(x))

    two, x = Two(), np.random.default_rng(0).normal(size=(2, 4, 2)).astype("float32")
    gates = trace_gates(two, x)
    assert {name: list(g) for name, g in gates.items()} == {"a": NAMES["gru"], "b": ["hidden"]}
    assert_allclose(gates["b"]["hidden"][:, -1], two(x), atol=1e-6)


def test_every_step_of_time_distributed_is_a_call_if_their_number_is_known():
    inner = keras_gated.GRU(3, name="inner")
    inputs = keras.Input((None, 4, 2))
    model = keras.Model(inputs, keras.layers.TimeDistributed(inner)(inputs))
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype("float32")
    gates = trace_gates(model, x)
    assert list(gates) == list(trace_gates(model.layers[1], x)) == ["inner", "inner/2", "inner/3"]
    last = [g["hidden"][:, -1] for g in gates.values()]
    assert_allclose(np.stack(last, 1), model(x), atol=1e-6)
    unknown = tf.function(
        lambda x: trace_gates(model, x), input_signature=[tf.TensorSpec((None, None, 4, 2))]
    )
    with pytest.raises(ValueError, match="`TimeDistributed` over an unknown number of steps"):
        unknown(x)
    rows = tf.function(lambda x: tf.vectorized_map(lambda x: trace_gates(inner, x), x))(x)
    for step, own in enumerate(gates.values()):  # inside of the map, it is looked at as it is
        assert_allclose(rows["hidden"][:, step], own["hidden"], atol=1e-6)


@pytest.fixture(scope="module")
def traced():
    model = reader()
    return model, trace_gates(model, IDS)


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
def test_a_layer_of_a_model_is_given_by_its_name_or_itself(traced, direction):
    model, gates = traced
    both = model.get_layer("both")
    layer, name, expected = both, "both", gates["both"]
    if direction != "both":
        layer, name = getattr(both, f"{direction}_layer"), f"both/{direction}"
        expected = gates["both"][direction]
    for given in (name, layer):
        received = trace_gates(model, IDS, layer=given)
        keras.tree.assert_same_structure(received, expected)
        for a, b in zip(keras.tree.flatten(received), keras.tree.flatten(expected), strict=True):
            assert_allclose(a, b, atol=1e-6)


def test_a_layer_that_does_not_tell_a_single_call_is_refused():
    shared = keras_gated.SimpleRNN(3, name="shared")
    a, b = keras.Input((None, 2)), keras.Input((None, 2))
    model = keras.Model([a, b], keras.layers.Dot(1)([shared(a), shared(b)]))
    x = [np.zeros((1, 4, 2), "float32"), np.ones((1, 4, 2), "float32")]
    with pytest.raises(ValueError, match=r"called 2 times.*one of \['shared', 'shared/2'\]"):
        trace_gates(model, x, layer=shared)
    with pytest.raises(ValueError, match=r"trace_gates: .*must be one of .*Received: 'other'"):
        trace_gates(model, x, layer="other")
    with pytest.raises(ValueError, match="called no recurrent layer <SimpleRNN"):
        trace_gates(model, x, layer=keras_gated.SimpleRNN(3, name="shared"))


def test_a_direction_that_is_called_alone_is_a_layer_like_any_other():
    both = keras_gated.Bidirectional(keras_gated.SimpleRNN(2))
    x = np.ones((1, 3, 2), "float32")
    both(x)
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, [both(inputs), both.forward_layer(inputs)])
    name = both.forward_layer.name
    gates = trace_gates(model, x)
    assert sorted(gates) == sorted([name, f"{name}/2", both.backward_layer.name])
    assert_allclose(gates[name]["hidden"], gates[f"{name}/2"]["hidden"], atol=1e-6)


def test_a_stateful_layer_starts_from_its_state_and_keeps_it():
    layer = keras_gated.LSTM(3, stateful=True, return_sequences=True)
    x = np.random.default_rng(0).normal(size=(2, 6, 2)).astype("float32")
    whole = layer(x)
    layer.reset_state()
    layer(x[:, :2])
    for _ in range(2):
        assert_allclose(trace_gates(layer, x[:, 2:])["hidden"], whole[:, 2:], atol=1e-6)


def test_half_precision_is_looked_at_as_it_is_computed():
    layer = keras_gated.LSTM(3, dtype="mixed_float16", return_sequences=True)
    x = np.random.default_rng(0).normal(size=(2, 6, 2)).astype("float32")
    gates = trace_gates(layer, x)
    assert {v.dtype for v in gates.values()} == {tf.float32}
    assert_allclose(gates["hidden"], layer(x), atol=5e-4)


def test_dropout_is_off():
    layer = keras_gated.GRU(3, dropout=0.5, recurrent_dropout=0.5, return_sequences=True)
    x = np.random.default_rng(0).normal(size=(2, 6, 2)).astype("float32")
    assert_allclose(trace_gates(layer, x)["hidden"], layer(x), atol=1e-6)


# As outputs of a functional model


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(name, marks=() if name == "lstm" else (pytest.mark.slow, pytest.mark.long))
        for name in FAMILIES
    ],
    indirect=True,
)
def test_gates_are_outputs_of_a_functional_model_that_saves_trains_and_exports(named, tmp_path):
    family, names = named
    inputs = keras.Input((None, FEATURES))
    layer = family.make(UNITS, return_gates=True, return_state=True, name="r")
    output, *states, gates = layer(keras.layers.Masking()(inputs))
    assert len(states) == family.states and list(gates) == names
    assert all(g.shape == (None, None, UNITS) for g in gates.values())
    model = keras.Model(inputs, {"output": output, **{f"gate_{k}": v for k, v in gates.items()}})
    x = np.random.default_rng(0).normal(size=(2, 5, FEATURES)).astype("float32")
    x[0, 3:] = 0
    expected = trace_gates(layer, x, mask=np.any(x, -1))
    for answer in (model(x), model.predict(x, verbose=0)):
        for name in names:
            assert_allclose(answer[f"gate_{name}"], expected[name], atol=1e-6)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert_allclose(again(x)["gate_hidden"], expected["hidden"], atol=1e-6)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported").signatures["serving_default"]
    [answer] = {tuple(served(v)) for v in [tf.constant(x)]}
    assert set(answer) == {"output", *(f"gate_{name}" for name in names)}

    target = {name: 0.5 * np.ones_like(value) for name, value in model(x).items()}
    model.compile("adam", "mse")
    before = [w.copy() for w in model.get_weights()]
    model.fit(x, target, verbose=0)
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.slow
def test_gates_carry_the_mask_and_can_be_regularised():
    """A penalty on open update gates closes them."""

    @keras.saving.register_keras_serializable(package="tests")
    class Penalty(keras.layers.Layer):
        def call(self, gate, mask=None):
            self.add_loss(keras.ops.mean(gate[mask]))
            return gate

    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    output, gates = keras_gated.GRU(3, return_gates=True, name="gru")(x)
    model = keras.Model(ids, [output, Penalty()(gates["update"])])
    model.compile(keras.optimizers.Adam(0.05))
    before = float(np.mean(trace_gates(model, IDS)["gru"]["update"]))
    model.fit(IDS, epochs=20, verbose=0)
    assert np.mean(trace_gates(model, IDS)["gru"]["update"]) < before - 0.2


def test_gates_are_served_by_an_exported_signature(tmp_path):
    model = reader()

    def look(ids):
        return trace_gates(model, ids)["last"]

    signature = Signature(look, [tf.TensorSpec((None, None), tf.int32, name="ids")])
    version = keras_gated.export_model(model, tmp_path, {"gates": signature})
    served = tf.saved_model.load(version).signatures["gates"](ids=tf.constant(IDS, tf.int32))
    for name, values in trace_gates(model, IDS)["last"].items():
        assert_allclose(served[name], values, atol=1e-6)


# What cannot be looked at


def test_what_has_no_gates_is_refused_by_name():
    x = np.ones((1, 3, 2), "float32")
    with pytest.raises(ValueError, match="'theirs' called no recurrent layer of keras_gated"):
        trace_gates(keras.layers.LSTM(2, name="theirs"), x)
    with pytest.raises(ValueError, match="`return_gates=True`"):
        trace_gates(keras_gated.GRU(2), keras.Input((None, 2)))
    with pytest.raises(ValueError, match=r"must be a layer or a model\. Received: 3"):
        trace_gates(3, x)
    with pytest.raises(ValueError, match="`initial_state`"):
        trace_gates(reader(), IDS, initial_state=[np.zeros((2, 2))])
    layer = keras_gated.LSTM(2, return_gates=True, use_cudnn=True)
    with pytest.raises(ValueError, match="cuDNN keeps its gates"):
        layer(x)
    with pytest.raises(ValueError, match="must not have `return_gates=True`"):
        keras_gated.Bidirectional(keras_gated.GRU(2, return_gates=True))
    with pytest.raises(ValueError, match="`return_gates` must be True or False"):
        keras_gated.GRU(2, return_gates="all")


def test_two_layers_of_one_name_are_refused():
    inputs = keras.Input((None, 2))
    parts = []
    for _ in range(2):
        inner = keras.Input((None, 2))
        parts.append(keras.Model(inner, keras_gated.GRU(2, name="same")(inner)))
    model = keras.Model(inputs, keras.layers.add([part(inputs) for part in parts]))
    with pytest.raises(ValueError, match="two recurrent layers are called 'same'"):
        trace_gates(model, np.ones((1, 3, 2), "float32"))


def test_a_model_that_hides_its_layers_in_a_function_is_refused():
    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.gru = keras_gated.GRU(2)

        @tf.function
        def call(self, x):
            return self.gru(x)

    model, x = Hidden(), np.ones((1, 3, 2), "float32")
    for _ in range(2):  # the second call runs what the first one traced
        with pytest.raises(ValueError, match="function"):
            trace_gates(model, x)


@pytest.mark.sampled
def test_gates_can_be_traced_inside_a_function_that_xla_compiles(family):
    layer = family.make(UNITS)
    x = np.random.default_rng(0).normal(size=(2, 40, FEATURES)).astype("float32")
    expected = trace_gates(layer, x)
    compiled = tf.function(lambda x: trace_gates(layer, x), jit_compile=True)(tf.constant(x))
    for name, values in expected.items():
        assert_allclose(compiled[name], values, atol=1e-5)
