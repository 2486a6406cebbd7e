"""The layers in the places where keras.layers stand: models, wrappers, files, precision."""

import importlib.util
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES
from grids import product
from numpy.testing import assert_allclose
from scripts import assert_answered_in_a_new_process

import keras_gated
from keras_gated import keras_private


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(4, 6, 3)).astype("float32")


MASK = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 1], [0] * 6], bool)


def pair(family, units=5, **options):
    """Returns a layer of ours and one of Keras's with the same weights, built for 3 features."""
    ours, theirs = family.make(units, **options), family.make_keras(units, **options)
    weights = family.random_weights(3, units, dtype="float32")
    for layer, w in ((ours, weights), (theirs, family.convert(weights))):
        layer.build((4, 6, 3))
        layer.set_weights(w)
    return ours, theirs


def test_constructors_take_the_arguments_of_keras_in_its_order_with_its_defaults(family):
    for ours, theirs in ((family.layer, family.keras_layer), (family.cell, family.keras_cell)):
        expected = list(inspect.signature(theirs.__init__).parameters.values())
        received = list(inspect.signature(ours.__init__).parameters.values())
        ours_alone = ["fused", "return_gates", "recurrent_weight_dropout", "zoneout", "projection"]
        ours_alone += ["zero_output_for_mask"]  # theirs, too, and not named
        named = [(p.name, p.default) for p in received if p.name not in ours_alone]
        assert named == [(p.name, p.default) for p in expected]
    call = list(inspect.signature(family.layer.call).parameters)
    assert call == list(inspect.signature(family.keras_layer.call).parameters)


@pytest.mark.sampled
@pytest.mark.parametrize("options", [
    {},
    {"return_sequences": True},
    {"return_state": True},
    {"unroll": True, "return_sequences": True},
    {"use_bias": False, "return_sequences": True},
    {"activation": "relu", "return_sequences": True},
    {"go_backwards": True, "zero_output_for_mask": True, "return_sequences": True},
])  # fmt: skip
@pytest.mark.parametrize("mask", [None, MASK])
def test_options_mean_what_they_mean_in_keras(family, x, options, mask):
    ours, theirs = family.make(5, **options), family.make_keras(5, **options)
    weights = family.random_weights(3, 5, dtype="float32")[: 2 + options.get("use_bias", True)]
    for layer, w in ((ours, weights), (theirs, family.convert(weights))):
        layer.build((4, 6, 3))
        layer.set_weights(w)
    received, expected = ours(x, mask=mask), theirs(x, mask=mask)
    for a, b in zip(tf.nest.flatten(received), tf.nest.flatten(expected), strict=True):
        assert_allclose(a, b, atol=1e-5)


@pytest.mark.sampled
def test_cells_plug_into_keras_rnn_and_stack(family, x):
    ours, _ = pair(family, return_sequences=True)
    rnn = keras.layers.RNN(family.make_cell(5), return_sequences=True)
    rnn.build(x.shape)
    rnn.set_weights(ours.get_weights())
    assert_allclose(rnn(x, mask=MASK), ours(x, mask=MASK), atol=1e-6)

    cells = [family.make_cell(5), family.make_cell(4)]
    stacked = keras.layers.RNN(keras.layers.StackedRNNCells(cells), return_sequences=True)
    second = family.make(4, return_sequences=True)
    second.build((4, 6, 5))
    stacked.build(x.shape)
    stacked.set_weights([*ours.get_weights(), *second.get_weights()])
    assert_allclose(stacked(x), second(ours(x)), atol=1e-6)


@pytest.mark.sampled
@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
def test_bidirectional_equals_the_same_wrapper_around_keras_layers(family, x, merge_mode):
    wrappers = [
        keras.layers.Bidirectional(make(5, return_sequences=True), merge_mode=merge_mode)
        for make in (family.make, family.make_keras)
    ]
    directions = [family.random_weights(3, 5, seed, "float32") for seed in (1, 2)]
    for wrapper, convert in zip(wrappers, (lambda w: w, family.convert), strict=True):
        wrapper.build(x.shape)
        wrapper.set_weights([w for weights in directions for w in convert(weights)])
    for a, b in zip(*(tf.nest.flatten(w(x, mask=MASK)) for w in wrappers), strict=True):
        assert_allclose(a, b, atol=1e-5)


@pytest.mark.sampled
def test_functional_models_take_any_batch_and_any_length_and_pass_the_mask_on(family):
    ids = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(7, 3, mask_zero=True)(ids)
    hidden = family.make(5, return_sequences=True)(hidden)
    model = keras.Model(ids, [hidden, family.make(4)(hidden)])
    short = np.array([[1, 2, 3]])
    padded = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2]])
    sequences, last = model(short)
    padded_sequences, padded_last = model(padded)
    assert_allclose(padded_last[:1], last, atol=1e-6)
    assert_allclose(padded_sequences[:1, :3], sequences, atol=1e-6)


SWITCHES = ["return_sequences", "return_state", "go_backwards", "stateful", "unroll", "use_bias",
            "zero_output_for_mask", "unit_forget_bias", "reset_after"]  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("given, meant", [
    (1, True), (0, False), (None, False), (np.bool_(True), True), (np.int64(0), False),
    (np.array(True), True),
])  # fmt: skip
def test_what_keras_takes_for_a_switch_is_taken_and_a_config_holds_a_bool(family, given, meant):
    switches = [name for name in SWITCHES if name in family.layer(2).get_config()]
    layer = family.layer(2, **dict.fromkeys(switches, given))
    theirs = family.keras_layer(2, **dict.fromkeys(switches, given))
    x = np.ones((2, 3, 4), "float32")
    shapes = [[np.shape(y) for y in tf.nest.flatten(made(x))] for made in (layer, theirs)]
    assert shapes[0] == shapes[1]
    config = layer.get_config()
    assert [(name, config[name]) for name in switches if config[name] is not meant] == []
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("options", [
    {"units": np.int64(3)}, {"units": np.array(3)},
    {"dropout": 1}, {"dropout": np.float32(0.5)}, {"recurrent_dropout": np.array(0.5)},
    {"dropout": False}, {"implementation": np.int64(1)}, {"autocast": False},
], ids=str)  # fmt: skip
def test_numbers_of_numpy_are_taken_and_a_config_holds_plain_ones(family, options):
    for make in (family.layer, family.cell):
        config = make(**{"units": 3, **options}).get_config()
        assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize(
    "family, shape, dtype",
    product(FAMILIES, ((4, 6, 1), (1, 6), (1, 6, 1)), ("bool", "int32", "float32")),
    indirect=["family"],
)
def test_masks_of_the_shapes_that_keras_takes(family, x, shape, dtype):
    mask = np.resize(MASK[1], shape[:2]).reshape(shape).astype(dtype)
    ours, theirs = pair(family, return_sequences=True)
    received = ours(x, mask=mask)
    assert_allclose(received, theirs(x, mask=mask), atol=1e-5)
    top = family.make(4)
    assert_allclose(top(received), top(np.array(received)[:, 2:]), atol=1e-5)  # valid steps
    inputs, steps = keras.Input((None, 3)), keras.Input((None, *shape[2:]), dtype=dtype)
    model = keras.Model([inputs, steps], ours(inputs, mask=steps))
    mask = np.broadcast_to(mask, (4, *shape[1:]))
    assert_allclose(model.predict([x, mask], verbose=0), received, atol=1e-5)


def test_scripts_for_keras_2_find_its_names(family, x):
    layer = family.make(5, stateful=True)
    layer(x)
    layer.reset_states()
    assert not any(np.any(state) for state in layer.states)
    layer.reset_states([np.ones((4, 5))] * family.states)
    assert all(np.all(state) for state in layer.states)
    for made in (layer, family.make_cell(5)):
        for states in (
            made.get_initial_state(x),
            made.get_initial_state(inputs=x),
            made.get_initial_state(batch_size=4, dtype="float64"),
            made.get_initial_state(tf.shape(x)[0]),
        ):
            assert [s.shape for s in states] == [(4, 5)] * family.states
        assert states[0].dtype == "float32"
        assert made.get_initial_state(2, dtype="float64")[0].dtype == "float64"


def backwards_and_on_top(family, x, mask):
    """What two layers answer to each row's valid steps alone, the first one reading backwards."""
    first = family.make(5, go_backwards=True, return_sequences=True, fused=False)
    second = family.make(4, fused=False)
    rows = []
    for steps, valid in zip(x, mask, strict=True):
        rows.append(second(first(steps[valid][None])))
    return first.get_weights(), second.get_weights(), np.concatenate(rows)


WAYS = {
    "as it is": {},
    "cell's loop": {"fused": False},
    "states": {"return_state": True},
    "gates": {"return_gates": True},
}


@pytest.mark.sampled
@pytest.mark.parametrize("family, way", product(FAMILIES, WAYS), indirect=["family"])
def test_a_layer_on_top_of_one_that_reads_backwards_reads_its_valid_steps(family, x, way):
    options = WAYS[way]
    below, above, expected = backwards_and_on_top(family, x, MASK)
    masked = keras.layers.Masking()(x * MASK[..., None])
    first = family.make(5, go_backwards=True, return_sequences=True, **options)
    second = family.make(4)
    for layer, features, weights in ((first, 3, below), (second, 5, above)):
        layer.build((None, None, features))
        layer.set_weights(weights)
    outputs = first(masked)
    results = outputs if isinstance(outputs, tuple) else (outputs,)
    assert_allclose(second(results[0]), expected, atol=1e-6)
    assert_allclose(results[0]._keras_mask, MASK[:, ::-1])
    if "return_gates" in options:  # a gate's steps are those of the inputs
        assert_allclose(results[-1]["hidden"]._keras_mask, MASK)

    ids = keras.Input((None, 3))
    outputs = first(keras.layers.Masking()(ids))
    model = keras.Model(ids, second(outputs[0] if isinstance(outputs, tuple) else outputs))
    assert_allclose(model.predict(x * MASK[..., None], verbose=0), expected, atol=1e-6)


@pytest.mark.sampled
@pytest.mark.parametrize("family, backwards", product(FAMILIES, (False, True)), indirect=["family"])
def test_the_padding_of_a_ragged_input_is_masked_in_the_next_layer_too(family, x, backwards):
    ragged = tf.RaggedTensor.from_tensor(x[:2], lengths=[6, 4])
    first = family.make(5, return_sequences=True, go_backwards=backwards)
    second = family.make(4)
    expected = [second(first(row[None])) for row in (x[0], x[1, :4])]
    assert_allclose(second(first(ragged)), np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize("wrapper", [keras.layers.Bidirectional, keras_gated.Bidirectional])
def test_bidirectional_passes_the_mask_on_as_its_outputs_stand(family, x, wrapper):
    masked = keras.layers.Masking()(x * MASK[..., None])
    both = wrapper(family.make(5, return_sequences=True))(masked)
    assert_allclose(both._keras_mask, MASK)
    if wrapper is keras_gated.Bidirectional:
        turned = wrapper(family.make(5, return_sequences=True, go_backwards=True),
                         backward_layer=family.make(5, return_sequences=True))  # fmt: skip
        outputs = turned(masked)
        assert_allclose(outputs._keras_mask, MASK[:, ::-1])
        assert not np.array(outputs)[~MASK[:, ::-1]].any()


@pytest.mark.sampled
def test_the_mask_of_an_embedding_counts_when_initial_states_are_given(family):
    """An encoder and a decoder: `keras.layers` drops the decoder's mask here."""
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embed = keras.layers.Embedding(7, 3, mask_zero=True)
    _, *states = family.make(5, return_state=True)(embed(source))
    model = keras.Model([source, target], family.make(5)(embed(target), initial_state=states))
    short, padded = np.array([[1, 2]]), np.array([[1, 2, 0, 0]])
    assert_allclose(model([padded, padded]), model([short, short]), atol=1e-6)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name == "lstm" else (pytest.mark.slow, pytest.mark.long))
        for name in FAMILIES
    ],
    indirect=True,
)
def test_a_model_trains_on_batches_of_changing_length(family):
    ids = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(5, 8, mask_zero=True)(ids)
    model = keras.Model(ids, keras.layers.Dense(1, "sigmoid")(family.make(8)(hidden)))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)

    def batches():  # does the sequence start with token 1?
        for length in [4, 9, 2, 6] * 30:
            tokens = rng.integers(1, 5, (32, length))
            tokens[rng.random((32, length)).cumsum(1) > length * 0.6] = 0
            tokens[:16, 0] = 1
            yield tokens, (tokens[:, 0] == 1).astype("float32")

    history = model.fit(batches(), steps_per_epoch=60, epochs=2, verbose=0)
    assert history.history["accuracy"][-1] > 0.95


@pytest.mark.slow
def test_keras_files_load_in_a_new_process_without_custom_objects(tmp_path, x):
    answers = {}
    for name, family in FAMILIES.items():
        inputs = keras.Input((None, 3))
        both = keras.layers.Bidirectional(family.make(5, return_sequences=True, dropout=0.1))
        rnn = keras.layers.RNN([family.make_cell(4), family.make_cell(3)])
        model = keras.Model(inputs, rnn(both(inputs)))
        model.save(tmp_path / f"{name}.keras")
        answers[name] = model(x)
    assert_answered_in_a_new_process(tmp_path, x, answers)


def test_weight_files_move_between_keras_layers_and_ours(tmp_path, x):
    models = [keras.Sequential([keras.Input((None, 3)), layer(5)])
              for layer in (keras.layers.LSTM, keras_gated.LSTM)]  # fmt: skip
    models[0].save_weights(tmp_path / "keras.weights.h5")
    models[1].load_weights(tmp_path / "keras.weights.h5")
    assert_allclose(models[1](x), models[0](x), atol=1e-6)


def test_every_constructor_argument_survives_the_config_a_file_and_a_clone(family, tmp_path):
    options = {
        "activation": "relu",
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "recurrent_initializer": "glorot_uniform",
        "bias_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "recurrent_regularizer": keras.regularizers.L1(0.2),
        "bias_regularizer": keras.regularizers.L1L2(0.3, 0.4),
        "kernel_constraint": keras.constraints.MaxNorm(2),
        "recurrent_constraint": keras.constraints.NonNeg(),
        "bias_constraint": keras.constraints.UnitNorm(),
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "seed": 5,
        "implementation": 1,
        "name": "mine",
    }
    sequence_options = {
        "activity_regularizer": keras.regularizers.L2(0.5),
        "return_sequences": True,
        "return_state": True,
        "go_backwards": True,
        "stateful": True,
        "unroll": True,
        "zero_output_for_mask": True,
        "fused": False,
    }
    if family.oracle.__name__ != "simple_rnn":
        sequence_options["use_cudnn"] = False
    if "lstm" in family.cell.__name__.lower():
        options["unit_forget_bias"] = False
    if family.oracle.__name__ != "simple_rnn":
        options["recurrent_activation"] = "hard_sigmoid"
    layer = family.make(3, **options, **sequence_options, dtype="float64")
    for original in (layer, family.make_cell(3, **options)):
        config = original.get_config()
        again = type(original).from_config(config)
        assert again.get_config() == config
        default = type(original)(3).get_config()
        given = {**options, **(sequence_options if original is layer else {})}
        assert not [name for name in given if config[name] == default[name]]

    inputs = keras.Input(batch_shape=(2, 3, 4))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    for other in (
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert other.get_layer("mine").get_config() == layer.get_config()


def serializable(cls):
    return keras.saving.register_keras_serializable(package="test_layers")(cls)


@serializable
class OwnCell(keras_gated.LSTMCell):
    def __init__(self, units, mine, *, scale=2, **kwargs):
        super().__init__(units, **kwargs)
        self.mine, self.scale = mine, scale


@serializable
class OwnerOfOwnCell(OwnCell):
    def __init__(self, *args, scale_initializer="ones", **kwargs):
        super().__init__(*args, recurrent_activation="hard_sigmoid", **kwargs)
        self.scale_initializer = keras.initializers.get(scale_initializer)


@serializable
class OwnLSTM(keras_gated.LSTM):
    cell_class = OwnCell

    def __init__(self, units, noise=0.1, **kwargs):
        super().__init__(units, return_sequences=True, **kwargs)
        self.noise = noise


@serializable
class OwnGRU(keras_gated.GRU):
    def __init__(self, units, *, mine, **kwargs):
        super().__init__(units, **kwargs)
        self.mine = mine


GIVEN = {"activation": "relu", "dropout": 0.1, "unit_forget_bias": False, "use_bias": False,
         "kernel_regularizer": keras.regularizers.L2(0.3), "name": "own"}  # fmt: skip


@pytest.mark.parametrize("make, expected", [
    (lambda: OwnCell(3, 2.5, **GIVEN), {"mine": 2.5, "recurrent_dropout": 0.0}),
    (lambda: OwnerOfOwnCell(3, 2.5, scale_initializer="zeros", **GIVEN), {"mine": 2.5}),
    (lambda: OwnLSTM(3, noise=0.2, mine="a", seed=7, return_state=True, **GIVEN),
     {"noise": 0.2, "mine": "a", "seed": 7, "return_state": True}),
])  # fmt: skip
def test_a_subclass_keeps_all_arguments_in_its_config(make, expected, tmp_path):
    layer = make()
    config = layer.get_config()
    given = {k: v for k, v in GIVEN.items() if k != "kernel_regularizer"}
    for name, value in {"units": 3, **given, **expected}.items():
        assert config[name] == value
    again = type(layer).from_config(config)
    assert again.get_config() == config
    assert again.recurrent_activation is layer.recurrent_activation
    assert again.kernel_regularizer.l2 == pytest.approx(0.3)

    wrapped = keras.layers.RNN(layer) if "Cell" in type(layer).__name__ else layer
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, wrapped(inputs))
    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    x = np.ones((1, 3, 2), "float32")
    for a, b in zip(tf.nest.flatten(loaded(x)), tf.nest.flatten(model(x)), strict=True):
        assert_allclose(a, b, atol=1e-6)
    loaded = loaded.layers[-1]
    loaded = loaded.cell if wrapped is not layer else loaded
    assert loaded.get_config() == config


def test_objects_among_a_subclass_s_arguments_come_back_as_objects():
    layer = OwnGRU(3, mine=keras.layers.Dense(4, name="dense"), activation="relu")
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.mine.units == 4 and again.activation is keras.activations.relu
    both = keras.layers.Bidirectional(OwnGRU(3, mine=1, reset_after=False))
    assert [d.mine for d in (both.forward_layer, both.backward_layer)] == [1, 1]
    assert not both.backward_layer.reset_after


def test_an_argument_without_an_attribute_is_named_unless_get_config_holds_it(family):
    class Forgets(family.cell):
        def __init__(self, units, mine, **kwargs):
            super().__init__(units, **kwargs)
            self._mine = mine

    class Remembers(Forgets):
        def get_config(self):
            return {**super().get_config(), "mine": self._mine}

    with pytest.raises(NotImplementedError, match=r"argument `mine`.*`self.mine`.*`get_config`"):
        Forgets(3, 4).get_config()
    again = Remembers.from_config(Remembers(3, 4, dropout=0.5).get_config())
    assert (again._mine, again.dropout) == (4, 0.5)


@pytest.mark.sampled
@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16", "float16"])
def test_precision_policies_give_the_float64_answer_within_their_own_precision(family, x, policy):
    reference, _ = pair(family, return_sequences=True, dtype="float64")
    layer, _ = pair(family, return_sequences=True, dtype=policy)
    output = layer(x, mask=MASK)
    assert output.dtype == layer.compute_dtype
    assert {v.dtype for v in layer.trainable_variables} == {layer.variable_dtype}
    tolerance = {"float64": 1e-12, "mixed_bfloat16": 0.05}.get(policy, 5e-3)
    assert_allclose(tf.cast(output, "float64"), reference(x, mask=MASK), atol=tolerance)


@pytest.mark.sampled
def test_dropout_acts_in_training_only_and_drops_the_same_units_at_every_step(family):
    x = np.ones((2, 4, 3), "float32")
    layer = family.make(5, dropout=0.5, recurrent_dropout=0.5, return_sequences=True, seed=1)
    layer(x)
    assert_allclose(layer(x, training=False), layer(x))
    assert np.abs(layer(x, training=True) - layer(x)).max() > 1e-3

    # Without recurrence, equal inputs and one mask for all steps give equal outputs.
    still = keras_gated.SimpleRNN(5, dropout=0.5, recurrent_initializer="zeros",
                                  return_sequences=True, seed=1)  # fmt: skip
    output = np.array(still(x, training=True))
    assert_allclose(output, output[:, :1].repeat(4, axis=1))
    assert np.abs(output[0] - output[1]).max() > 1e-3


def test_a_subclass_may_ask_for_dropout_at_inference(family):
    """Monte Carlo dropout: what counts is the `training` that `call` is given."""

    class Sampled(family.layer):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return super().call(sequences, initial_state, mask, training=True)

    x = np.random.default_rng(1).normal(size=(16, 6, 1)).astype("float32")
    weights = family.random_weights(1, 5, dtype="float32")
    ours, theirs = Sampled(5, dropout=0.5, seed=1, **family.options), family.make_keras(5)
    for layer, w in ((ours, weights), (theirs, family.convert(weights))):
        layer.build(x.shape)
        layer.set_weights(w)
    output = ours(x)  # of each row the only feature is dropped, or doubled
    kept, dropped = (np.abs(output - theirs(n * x)).max(-1) < 1e-5 for n in (2, 0))
    assert (kept ^ dropped).all() and kept.any() and dropped.any()


def test_the_same_seed_drops_the_same_units(family, x):
    outputs = []
    for _ in range(2):
        layer = family.make(5, dropout=0.3, recurrent_dropout=0.3, seed=9)
        layer.build(x.shape)
        layer.set_weights(family.random_weights(3, 5, dtype="float32"))
        outputs.append(np.stack([layer(x, training=True) for _ in range(3)]))
    assert_allclose(outputs[0], outputs[1], rtol=0, atol=0)


def test_one_layer_can_be_shared_and_cloned(family, x):
    inputs = keras.Input((None, 3))
    layer = family.make(5)
    model = keras.Model(inputs, [layer(inputs), layer(inputs * 2.0)])
    assert len(model.weights) == len(layer.weights)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for a, b in zip(clone(x), model(x), strict=True):
        assert_allclose(a, b, atol=1e-6)


def test_time_distributed_runs_the_layer_over_an_outer_axis(family, x):
    layer, _ = pair(family)
    outer = np.stack([x, -x], axis=1)
    expected = np.stack([layer(x), layer(-x)], axis=1)
    assert_allclose(keras.layers.TimeDistributed(layer)(outer), expected, atol=1e-6)


def path_of(layer, x):
    return layer._path_of(layer._asked(x, [], None, False)).__name__


def test_one_switch_turns_the_fused_path_off_for_a_whole_program(x, loop_of_the_cell):
    x = tf.constant(x)
    layers = {fused: keras_gated.LSTM(5, fused=fused) for fused in ("auto", True, False)}
    for layer in layers.values():
        layer.build(x.shape)
    paths = {fused: path_of(layer, x) for fused, layer in layers.items()}
    loop, fused = "keras_gated.paths.keras_loop", "keras_gated.paths.fused"
    assert paths == {"auto": loop, True: fused, False: loop}  # what a layer was given wins
    assert layers["auto"].get_config()["fused"] == "auto"
    keras_gated.set_fused("auto")
    assert path_of(layers["auto"], x) == fused
    with pytest.raises(
        ValueError, match=r"`fused` must be 'auto', 'compiled', True or False.*fused='off'"
    ):
        keras_gated.set_fused("off")


@pytest.mark.parametrize("value, expected", [("0", False), ("1", True), ("auto", True)])
def test_the_switch_is_an_environment_variable_too(value, expected, monkeypatch):
    monkeypatch.setenv("KERAS_GATED_FUSED", value)
    spec = importlib.util.find_spec("keras_gated.layers.config")
    as_in_a_new_program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(as_in_a_new_program)
    assert as_in_a_new_program.fused_default() is expected


@pytest.mark.parametrize("family", ["lstm"], indirect=True)
def test_ragged_ids_have_their_padding_masked_by_an_embedding(family):
    ids = tf.ragged.constant([[1, 2, 3], [4], [5, 6]])
    embedding = keras.layers.Embedding(9, 3, mask_zero=True)
    layer = family.make(4, return_sequences=True)
    outputs = layer(embedding(ids))
    for row, length in enumerate([3, 1, 2]):
        own = layer(embedding(ids[row : row + 1].to_tensor()))
        assert_allclose(outputs[row : row + 1, :length], own, atol=1e-6)
    assert layer.compute_mask(embedding(ids), keras_private.mask_of(embedding(ids))).shape == (3, 3)


@pytest.mark.parametrize("family", ["lstm"], indirect=True)
def test_sparse_sequences_are_those_with_the_zeros_written_out(family, x):
    x = np.maximum(x, 0)
    sparse, layer = tf.sparse.from_dense(x), family.make(4)
    inputs = keras.Input((6, 3), sparse=True)
    model = keras.Model(inputs, layer(inputs))
    expected = layer(x)
    assert_allclose(layer(sparse), expected, atol=1e-6)
    assert_allclose(model.predict(sparse, verbose=0), expected, atol=1e-6)
    both = keras_gated.Bidirectional(layer)
    assert_allclose(both(sparse), both(x), atol=1e-6)
