"""The fused path against the cell's own loop: outputs, states, gradients; and its limits."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from chunks import shorten_chunks
from families import FAMILIES, MASKS, mask_array
from grids import product
from numpy.testing import assert_allclose

import keras_gated
from keras_gated.cells import equations
from keras_gated.paths import compiled, packing, plain
from keras_gated.paths import fused as fused_path
from keras_gated.serve import export

FUSED = {name: FAMILIES[name] for name in ("simple_rnn", "lstm", "gru")}
ROWS, TIME, FEATURES, UNITS = 20, 7, 2, 3


@pytest.fixture(params=FUSED)
def family(request):
    return FUSED[request.param]


@pytest.fixture
def short_chunks(monkeypatch):
    shorten_chunks(monkeypatch)
    monkeypatch.setattr(plain, "LARGE", 1)  # products gate by gate, as for many units


def big_mask(name):
    """Twenty rows of seven steps made of the patterns of `MASKS`."""
    mask = mask_array(name)
    return None if mask is None else np.resize(np.concatenate([mask, mask[:, 1:3]], 1), (20, 7))


def data(family, dtype="float64", return_sequences=True):
    rng = np.random.default_rng(3)
    shapes = [(ROWS, UNITS)] * family.states
    outputs = (ROWS, TIME, UNITS) if return_sequences else (ROWS, UNITS)
    x = rng.normal(size=(ROWS, TIME, FEATURES))
    states, finals = ([rng.normal(size=s) for s in shapes] for _ in range(2))
    weigh = [rng.normal(size=outputs), *finals]
    return tf.nest.map_structure(lambda a: tf.constant(a, dtype), (x, states, weigh))


def values_and_gradients(layer, x, mask, states, weigh, training):
    with tf.GradientTape() as tape:
        tape.watch([x, *states])
        values = layer(x, mask=mask, initial_state=states or None, training=training)
        loss = sum(tf.reduce_sum(v * w) for v, w in zip(values, weigh, strict=True))
    sources = [x, *states, *(v.value for v in layer.trainable_variables)]
    return [*values, *tape.gradient(loss, sources, unconnected_gradients="zero")]


def both_ways(family, mask, training, mode="graph", dtype="float64", states_given=True, **options):
    """Returns values and gradients of the fused layer and of the cell's loop."""
    [pair] = under_masks([mask], family, training, mode, dtype, states_given, **options)
    return pair


def under_masks(
    masks, family, training, mode="graph", dtype="float64", states_given=True, **options
):
    """Returns values and gradients both ways for each mask, of functions that are traced once."""
    x, states, weigh = data(family, dtype, options.setdefault("return_sequences", True))
    states = states if states_given else []
    results = []
    for fused in (True, False):
        layer = family.make(UNITS, return_state=True, dtype=dtype, fused=fused, **options)
        layer.build(x.shape)
        layer.set_weights(family.random_weights(FEATURES, UNITS)[: len(layer.weights)])

        def call(x, mask=None, layer=layer):
            return values_and_gradients(layer, x, mask, states, weigh, training)

        given = [(x,) if mask is None else (x, tf.constant(mask)) for mask in masks]
        if fused and mode == "unknown sizes":
            signature = [tf.TensorSpec((None, None, FEATURES), dtype)]
            signature += [tf.TensorSpec((None, None), tf.bool)][: len(given[0]) - 1]
            call = tf.function(call, input_signature=signature, autograph=False)
        elif fused and mode != "eager":
            call = tf.function(call, jit_compile=mode == "xla", autograph=False)
        results.append([[tf.convert_to_tensor(v).numpy() for v in call(*one)] for one in given])
    return zip(*results, strict=True)


@pytest.mark.sampled
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_those_of_the_cell(family, masked, training, short_chunks):
    masks = [big_mask(name) for name in MASKS if name != "no mask"] if masked else [None]
    go_backwards = masked == training
    for fused, cell in under_masks(masks, family, training, go_backwards=go_backwards):
        for a, b in zip(fused, cell, strict=True):
            assert_allclose(a, b, rtol=0, atol=1e-9)


CHANGED = {
    "last output": (
        "gaps", {"return_sequences": False, "zero_output_for_mask": True, "states_given": False}
    ),
    "backwards": ("gaps", {"zero_output_for_mask": True, "go_backwards": True, "use_bias": False}),
    "unknown sizes, masked": ("gaps", {"mode": "unknown sizes"}),
    "unknown sizes": ("no mask", {"mode": "unknown sizes"}),
    "eager": ("no mask", {"mode": "eager", "return_sequences": False}),
}  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize(
    "family, changed, training", product(FUSED, CHANGED, (False, True)), indirect=["family"]
)
def test_options_and_modes_change_nothing(family, changed, training, short_chunks):
    mask_name, options = CHANGED[changed]
    fused, cell = both_ways(family, big_mask(mask_name), training, **options)
    for a, b in zip(fused, cell, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.sampled
@pytest.mark.parametrize("training", [False, True])
def test_inside_a_function_that_xla_compiles(family, training):
    fused, cell = both_ways(family, None, training, mode="xla")
    for a, b in zip(fused, cell, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.fixture
def large_batches(short_chunks, monkeypatch):
    """Every batch of known size counts as large: training cuts it into chunks."""
    monkeypatch.setattr(fused_path, "LARGE", 0)


@pytest.mark.parametrize("mode", ["graph", "eager", "xla"])
def test_training_on_a_large_batch_changes_nothing(mode, large_batches):
    fused, cell = both_ways(FUSED["gru"], None, training=True, mode=mode)
    for a, b in zip(fused, cell, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mask_name", ["no mask", "gaps"])
def test_functions_run_eagerly_over_several_chunks(mask_name, short_chunks):
    tf.config.run_functions_eagerly(True)
    try:
        fused, cell = both_ways(FUSED["lstm"], big_mask(mask_name), True, mode="eager")
    finally:
        tf.config.run_functions_eagerly(False)
    for a, b in zip(fused, cell, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "family, mask_name, training",
    product(FUSED, ("no mask", "gaps"), (False, True)),
    indirect=["family"],
)
def test_float32_agrees_to_1e_5(family, mask_name, training):
    fused, cell = both_ways(family, big_mask(mask_name), training, dtype="float32")
    for a, b in zip(fused, cell, strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_eager_calls_at_inference_and_in_training_may_follow_each_other(family):
    equations._shared.cache_clear()  # as in a new process
    layer, x = family.make(UNITS), np.ones((2, 4, FEATURES), "float32")
    first = layer(x)
    assert_allclose(layer(x, training=True), first, atol=1e-6)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "family, training, in_a_function",
    product(FUSED, (False, True), (False, True)),
    indirect=["family"],
)
def test_a_second_derivative_is_that_of_the_cell_in_training_and_at_inference(
    family, training, in_a_function
):
    x = data(family)[0][:3, :3]
    layer, cell_loop = (family.make(UNITS, dtype="float64", fused=f) for f in ("auto", False))

    def second(training, layer=layer):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(layer(x, training=training) ** 2)
            gradient = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return outer.gradient(gradient, x)

    cell_loop.build(x.shape)
    layer.build(x.shape)
    cell_loop.set_weights(layer.get_weights())
    call = tf.function(second, autograph=False) if in_a_function else second
    assert_allclose(call(training), second(False, cell_loop), atol=1e-9)


def test_a_gradient_through_a_function_traced_without_a_tape(family):
    x, *_ = data(family)
    layer = family.make(UNITS, dtype="float64")
    expected = None
    for training in (False, True):
        function = tf.function(lambda x, t=training: layer(x, training=t), autograph=False)
        function(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(function(x) ** 2)
        gradient = tape.gradient(loss, x)
        expected = gradient if expected is None else expected
        assert_allclose(gradient, expected, atol=1e-9)


@pytest.mark.sampled
@pytest.mark.parametrize("training", [False, True])
def test_sequences_without_a_step_give_zeros_and_keep_the_state(family, training):
    layer = family.make(UNITS, return_sequences=True, return_state=True)
    for rows, mask in ((2, None), (2, tf.ones((2, 0), tf.bool)), (0, None)):
        states = [tf.random.normal((rows, UNITS)) for _ in range(family.states)]
        x = tf.zeros((rows, 0 if rows else 4, FEATURES))
        outputs, *finals = layer(x, mask=mask, initial_state=states, training=training)
        assert outputs.shape == (*x.shape[:2], UNITS)
        for a, b in zip(finals, states, strict=True):
            assert_allclose(a, b)


def test_many_lengths_are_compiled_for_a_few_shapes_only():
    equations._shared.cache_clear()
    ids = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(5, 4, mask_zero=True)(ids)
    model = keras.Model(ids, keras.layers.Dense(1)(keras_gated.LSTM(4)(hidden)))
    model.compile("sgd", "mse")
    assert not model.jit_compile

    def batches():
        for longest in range(1, 120):
            tokens = np.ones((16, longest), "int32")
            tokens[1:, longest // 2 :] = 0
            yield tokens, np.zeros(16)

    model.fit(batches(), steps_per_epoch=119, verbose=0)
    shared = equations.equations_of(model.layers[2].cell)
    loops = {
        key[0]: function.experimental_get_tracing_count()
        for key, function in shared.functions.items()
        if isinstance(key, tuple) and key[0] in (compiled._forwards_loop, compiled._backwards_loop)
    }
    assert len(loops) == 2 and max(loops.values()) <= 2
    rows = {chunk for longest in range(1, 120) for chunk in chunk_rows(longest)}
    assert len(rows) == 1  # eight rows a group: one shape for XLA


@pytest.mark.slow
def test_answers_for_many_lengths_and_batch_sizes_compile_for_few_shapes():
    # Of a width that no other test has, since layers share what is traced.
    layer = keras_gated.CoupledLSTM(5)
    for rows, time in itertools.product((1, 3, 8, 20, 33), range(3, 300, 20)):
        mask = np.ones((rows, time), bool)
        mask[1:, time // 2 :] = False
        layer(np.ones((rows, time, FEATURES), "float32"), mask=mask)
    loops = [
        function.experimental_get_tracing_count()
        for key, function in equations.equations_of(layer.cell).functions.items()
        if isinstance(key, tuple) and key[0] is compiled._forwards_loop
    ]
    assert loops and max(loops) <= 20


def chunk_rows(longest):
    chunks = chunks_of([longest] + [longest // 2] * 7, packing.COMPILED)
    return chunks.rows.numpy().tolist()


def chunks_of(lengths, layout):
    return packing._chunks(tf.constant(lengths, tf.int32), layout.steps, layout.rows, False)


def test_chunks_take_slots_for_valid_steps_and_little_more():
    lengths = np.sort(np.random.default_rng(0).integers(1, 600, 32))[::-1]
    for layout, most in ((packing.COMPILED, 1.35), (packing.PLAIN, 1.05)):
        chunks = chunks_of(lengths, layout)
        slots = int(tf.reduce_sum(chunks.rows)) * layout.steps
        assert slots < most * lengths.sum()
        assert not (chunks.rows % layout.rows).numpy().any()


@pytest.mark.parametrize("rows", [64, 72, 500, 4096])
def test_a_batch_of_any_size_has_few_numbers_of_rows_to_compile_for(rows):
    seen = set()
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 600, rows)
        chunks = chunks_of(np.sort(lengths)[::-1], packing.COMPILED)
        assert (chunks.rows.numpy() >= (lengths > 32 * np.arange(19)[:, None]).sum(1)).all()
        seen |= set(chunks.rows.numpy().tolist())
    assert len(seen) <= 8


@pytest.mark.parametrize(
    "shape, units, whole",
    [((64, 200, 128), 128, True), ((64, 100, 256), 512, True), ((2048, 200, 16), 32, False)],
)
def test_only_training_on_a_large_batch_is_cut_into_chunks(shape, units, whole):
    x, layer = tf.zeros(shape), keras_gated.GRU(units)
    layer.build(shape)
    own = equations.equations_of(layer.cell)
    layout = fused_path._layout(compiled.run_group, own, x)
    batch = packing.pack(x, [tf.zeros((shape[0], units))], False, False, layout)
    assert [group.chunks.single for group in batch.groups] == [whole] * 2
    assert fused_path._layout(compiled.run_group_forwards, own, x).whole


def test_a_loop_over_chunks_is_traced_once_for_all_layers_and_directions(short_chunks):
    stack = [
        keras_gated.Bidirectional(keras_gated.LSTM(4, return_sequences=True)) for _ in range(2)
    ]
    x, mask = tf.random.normal((16, 7, 8)), tf.sequence_mask(range(1, 17), 7)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outputs = x
            for layer in stack:
                outputs = layer(outputs, mask=mask, training=True)
            loss = tf.reduce_sum(outputs)
        return tape.gradient(loss, [w.value for layer in stack for w in layer.trainable_variables])

    step()
    functions = equations.equations_of(stack[0].forward_layer.cell).functions
    traces = {}
    for key, function in functions.items():
        run = key[0] if isinstance(key, tuple) else None
        if run in (compiled._forwards, compiled._backwards, packing._places):
            number = function.experimental_get_tracing_count()
            traces.setdefault(run.__name__, []).append(number)
    # Places in both directions. The loops of the first layer's width are those of the others.
    assert traces == {"_places": [1, 1], "_forwards": [1], "_backwards": [1]}


def test_inference_graphs_hold_nothing_that_must_be_compiled(family):
    layer = keras.layers.Bidirectional(family.make(UNITS, return_sequences=True))
    layer.build((None, None, FEATURES))

    def call(x, mask):
        return layer(x, mask=mask, training=False)

    specs = [tf.TensorSpec((None, None, FEATURES)), tf.TensorSpec((None, None), tf.bool)]
    graph = tf.function(call, input_signature=specs).get_concrete_function().graph.as_graph_def()
    assert not [f.signature.name for f in graph.library.function if f.attr["_XlaMustCompile"].b]


def test_a_layer_trained_eagerly_exports_nothing_that_must_be_compiled(tmp_path):
    inputs = keras.Input((None, FEATURES))
    model = keras.Model(inputs, keras_gated.GRU(UNITS)(inputs))
    x = np.ones((2, 3, FEATURES), "float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True))
    assert tape.gradient(loss, model.trainable_variables)[0] is not None
    model.export(tmp_path / "model", verbose=False)
    export.check_export(tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")
    assert_allclose(loaded.serve(x), model(x), atol=1e-6)


@pytest.mark.parametrize("options, call, words", [({"unroll": True}, {}, "unroll=True")])
def test_where_it_is_not_valid_true_raises_and_auto_runs_the_cell(family, options, call, words):
    x = np.random.default_rng(0).normal(size=(3, 4, FEATURES)).astype("float32")
    with pytest.raises(ValueError, match=f"`fused=True` cannot be kept.*{words}"):
        family.make(UNITS, fused=True, **options)(x, **call)
    outputs = []
    for fused in ("auto", False):
        keras.utils.set_random_seed(0)
        layer = family.make(UNITS, fused=fused, seed=1, **options)
        layer.build(x.shape)
        layer.set_weights(family.random_weights(FEATURES, UNITS, dtype="float32"))
        outputs.append(np.array(layer(x, **call), "float32"))
    assert_allclose(outputs[0], outputs[1], rtol=0, atol=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_fused_and_equal_to_the_cell_but_for_one_rounding(family, policy):
    x = np.random.default_rng(0).normal(size=(3, 4, FEATURES)).astype("float32")
    outputs = []
    for fused in (True, False):
        layer = family.make(UNITS, fused=fused, dtype=policy, return_sequences=True)
        layer.build(x.shape)
        layer.set_weights(family.random_weights(FEATURES, UNITS, dtype="float32"))
        outputs.append(np.array(tf.cast(layer(x, mask=np.ones((3, 4), bool)), "float32")))
    # Nearly equal numbers round to the same one or to neighbours.
    assert_allclose(*outputs, rtol=2.0**-10 if policy == "mixed_float16" else 2.0**-7)


@pytest.mark.sampled
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", ["softsign", "relu"])
def test_other_activations_train_on_the_fused_path(family, activation, masked):
    """Their derivative is derived from `step`: it is that of Keras's layer, differentiated."""
    x = np.random.default_rng(0).normal(size=(9, 40, FEATURES))
    mask = np.random.default_rng(1).random((9, 40)) < 0.6 if masked else None
    options = {"activation": activation, "dtype": "float64", "return_sequences": True}
    layer, theirs = family.make(UNITS, fused=True, **options), family.make_keras(UNITS, **options)
    layer.build(x.shape), theirs.build(x.shape)
    layer.set_weights([0.3 * w for w in family.random_weights(FEATURES, UNITS)])
    theirs.set_weights(family.convert(layer.get_weights()))
    found = []
    for one in (layer, theirs):
        with tf.GradientTape() as tape:
            given = tf.constant(x)
            tape.watch(given)
            output = one(given, mask=mask, training=True)
            if mask is not None:  # Keras puts out something else before the first step
                output = tf.where(mask[..., None], output, 0)
            loss = tf.reduce_sum(output**2)
        by_x, *by_weights = tape.gradient(loss, [given, *one.trainable_variables])
        found.append([output, by_x, *by_weights])
    found[1][2:] = family.convert([np.array(w) for w in found[1][2:]])
    for ours, expected in zip(*found, strict=True):
        assert_allclose(ours, expected, rtol=1e-9, atol=1e-10)


def test_a_cell_with_equations_of_its_own_is_run_with_their_derivative():
    class Leaky(keras_gated.SimpleRNNCell):
        def step(self, x, states, weights):
            step = super().step(x, states, weights)
            return step._replace(hidden=0.5 * step.hidden)

    class LeakyRNN(keras_gated.SimpleRNN):
        cell_class = Leaky

    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    layer = LeakyRNN(3, fused=True)
    expected = keras.layers.RNN(layer.cell)
    assert_allclose(layer(x, training=True), expected(x), atol=1e-6)


def test_input_dropout_drops_the_same_units_on_both_paths(family):
    x = np.random.default_rng(0).normal(size=(5, 4, FEATURES)).astype("float32")
    outputs = []
    for fused in (True, False):
        layer = family.make(UNITS, dropout=0.5, seed=4, fused=fused, return_sequences=True)
        layer.build(x.shape)
        layer.set_weights(family.random_weights(FEATURES, UNITS, dtype="float32"))
        outputs.append(np.stack([layer(x, training=True) for _ in range(2)]))
    assert_allclose(outputs[0], outputs[1], atol=1e-6)


def test_the_argument_fused_is_checked_and_survives_the_config(family):
    with pytest.raises(
        ValueError, match=r"`fused` must be 'auto', 'compiled', True or False. Received: fused='y'"
    ):
        family.make(3, fused="y")
    for fused in ("auto", True, False):
        layer = family.make(3, fused=fused)
        assert type(layer).from_config(layer.get_config()).fused is layer.fused
