"""Every mode that TensorFlow offers, for every family, masked and not.

A mode is a function of a layer, inputs and a mask. It returns values, derivatives and static
shapes. `fused="auto"` must give what the cell's own loop gives, `fused=False`, called eagerly.
"""

import functools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import ALL
from grids import product
from numpy.testing import assert_allclose

ROWS, TIME, FEATURES, UNITS = 3, 5, 2, 4
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's modes"
)


def weights(layer):
    return [variable.value for variable in layer.trainable_variables]


def loss_of(results):
    return tf.add_n([tf.reduce_sum(r * r) for r in tf.nest.flatten(results)])


def gradients(layer, x, mask, **options):
    with tf.GradientTape() as tape:
        tape.watch(x)
        results = layer(x, mask=mask, **options)
        loss = loss_of(results)
    return results, tape.gradient(loss, [x, *weights(layer)])


def in_a_function(mode, **options):
    """A mode inside a function; all static shapes are known there, as those of eager tensors."""

    def inside(layer, x, mask):
        shapes = []

        def call(x):
            results = mode(layer, x, mask)
            shapes.append([r.shape for r in tf.nest.flatten(results)])
            return results

        results = tf.function(call, autograph=False, **options)(x)
        assert shapes[-1] == [r.shape for r in tf.nest.flatten(results)]
        return results

    return inside


def with_unknown(*unknown, **options):
    """A function whose inputs have no known size on some axes."""

    def inside(layer, x, mask):
        layer(x)
        shape = [None if axis in unknown else n for axis, n in enumerate(x.shape)]
        specs = [tf.TensorSpec(shape, x.dtype)]
        if mask is not None:
            specs.append(tf.TensorSpec(shape[:2], tf.bool))

        def call(x, mask=None):
            return gradients(layer, x, mask, training=True)

        return tf.function(call, specs, autograph=False, **options)(
            *(t for t in (x, mask) if t is not None)
        )

    return inside


def no_tape(layer, x, mask):
    return layer(x, mask=mask), layer(x, mask=mask, training=True)


def one_tape(layer, x, mask):
    return gradients(layer, x, mask, training=True)


def a_tape_without_training(layer, x, mask):
    return gradients(layer, x, mask)


def a_tape_that_watches_inputs_only(layer, x, mask):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        loss = loss_of(layer(x, mask=mask, training=True))
    return tape.gradient(loss, x)


def a_persistent_tape(layer, x, mask):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        results = layer(x, mask=mask, training=True)
        losses = loss_of(results), tf.reduce_sum(results[0])
    return [tape.gradient(loss, [x, *weights(layer)]) for loss in losses]


def two_tapes_and_first_derivatives(layer, x, mask):
    with tf.GradientTape() as one, tf.GradientTape() as other:
        one.watch(x)
        results = layer(x, mask=mask, training=True)
        losses = loss_of(results), tf.reduce_sum(results[0])
    return one.gradient(losses[0], [x, *weights(layer)]), other.gradient(losses[1], weights(layer))


def a_gradient_penalty(layer, x, mask):
    with tf.GradientTape() as tape:
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = loss_of(layer(x, mask=mask, training=True))
        penalty = tf.reduce_sum(inner.gradient(loss, x) ** 2)
    return tape.gradient(penalty, weights(layer), unconnected_gradients="zero")


def forward_mode(layer, x, mask):
    for time in (2, 3, 4):  # an eager layer has seen other sizes before
        one_tape(layer, x[:, :time], None if mask is None else mask[:, :time])
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        loss = loss_of(layer(x, mask=mask, training=True))
    return accumulator.jvp(loss)


def a_jacobian(layer, x, mask):
    with tf.GradientTape() as tape:
        output = layer(x, mask=mask, training=True)[-1]
    return tape.jacobian(output, weights(layer))


def a_batch_jacobian(layer, x, mask):
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = layer(x, mask=mask, training=True)[-1]
    return tape.batch_jacobian(output, x)


def vectorized_map(layer, x, mask):
    layer(x)
    return tf.vectorized_map(lambda x: layer(x, mask=mask), tf.stack([x, 2 * x]))


def one_by_one(layer, x, mask):
    found = [layer(factor * x, mask=mask) for factor in (1.0, 2.0)]
    return [tf.stack(pair) for pair in zip(*found, strict=True)]


def vectorized_gradients(layer, x, mask):
    layer(x)
    return tf.vectorized_map(
        lambda x: gradients(layer, x, mask, training=True)[1], tf.stack([x, 2 * x])
    )


def gradients_one_by_one(layer, x, mask):
    found = [gradients(layer, factor * x, mask, training=True)[1] for factor in (1.0, 2.0)]
    return [tf.stack(pair) for pair in zip(*found, strict=True)]


def map_fn(layer, x, mask):
    layer(x)
    with tf.GradientTape() as tape:
        results = tf.map_fn(lambda x: layer(x, mask=mask, training=True)[0], tf.stack([x, 2 * x]))
        loss = loss_of(results)
    return results, tape.gradient(loss, weights(layer))


def a_while_loop(layer, x, mask):
    layer(x)
    with tf.GradientTape() as tape:
        tape.watch(x)

        def body(i, x):
            outputs = layer(x, mask=mask, training=True)[0]
            return i + 1, x + tf.reduce_sum(outputs, -1, keepdims=True)

        _, results = tf.while_loop(lambda i, _: i < 3, body, (0, x), maximum_iterations=3)
        loss = loss_of(results)
    return results, tape.gradient(loss, [x, *weights(layer)])


def a_step_at_a_time(layer, x, mask):
    layer(x)
    with tf.GradientTape() as tape:
        states = layer.get_initial_state(ROWS)
        for k in tf.range(TIME):
            own = None if mask is None else mask[:, k : k + 1]
            _, *states = layer(x[:, k : k + 1], initial_state=states, mask=own, training=True)
        loss = loss_of(states)
    return states, tape.gradient(loss, weights(layer))


def functions_run_eagerly(layer, x, mask):
    tf.config.run_functions_eagerly(True)
    try:
        return gradients(layer, x, mask, training=True)
    finally:
        tf.config.run_functions_eagerly(False)


def numbers_checked(layer, x, mask):
    tf.debugging.enable_check_numerics()
    try:
        checked = gradients(layer, x, mask, training=True)
    finally:
        tf.debugging.disable_check_numerics()
    return checked, gradients(layer, x, mask, training=True)


def recomputed(layer, x, mask):
    layer(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        call = tf.recompute_grad(lambda x: layer(x, mask=mask, training=True)[0])
        loss = loss_of(call(x))
    return loss, tape.gradient(loss, [x, *weights(layer)])


def training_given_to_call(layer, x, mask):
    layer(x)
    return layer.call(x, mask=mask, training=True)


def two_threads(layer, x, mask):
    layer(x)
    results = [None, None]

    def work(i):
        results[i] = gradients(layer, (i + 1) * x, mask, training=True)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


MODES = {
    "no tape": no_tape,
    "one tape": one_tape,
    "a tape without training": a_tape_without_training,
    "a tape that watches inputs only": a_tape_that_watches_inputs_only,
    "a persistent tape": a_persistent_tape,
    "two tapes and first derivatives": two_tapes_and_first_derivatives,
    "a gradient penalty": a_gradient_penalty,
    "forward mode": forward_mode,
    "a Jacobian": a_jacobian,
    "a batch Jacobian": a_batch_jacobian,
    "vectorized_map": vectorized_map,
    "vectorized gradients": vectorized_gradients,
    "map_fn": map_fn,
    "functions run eagerly": functions_run_eagerly,
    "numbers checked": numbers_checked,
    "recomputed": recomputed,
    "training given to call": training_given_to_call,
    "two threads": two_threads,
    "unknown batch": with_unknown(0),
    "unknown time": with_unknown(1),
    "unknown features": with_unknown(2),
    "nothing known": with_unknown(0, 1, 2),
    "XLA": in_a_function(one_tape, jit_compile=True),
    "XLA around a while loop": in_a_function(a_while_loop, jit_compile=True),
    "XLA, unknown time": with_unknown(1, jit_compile=True),
    "XLA, nothing known": with_unknown(0, 1, jit_compile=True),
    "for in tf.range": tf.function(a_step_at_a_time),
}
IN_A_FUNCTION = (
    "no tape", "one tape", "a tape without training", "a persistent tape",
    "two tapes and first derivatives", "a gradient penalty", "forward mode", "a Jacobian",
    "a batch Jacobian", "vectorized_map", "vectorized gradients", "map_fn",
    "numbers checked", "recomputed",
)  # fmt: skip
# What is asked of the cell's loop where that is not the mode itself: the same, eagerly.
EXPECTED = {name: one_tape for name in MODES if name.startswith(("unknown", "nothing", "XLA"))}
EXPECTED |= {
    "functions run eagerly": one_tape,
    "XLA around a while loop": a_while_loop,
    "for in tf.range": a_step_at_a_time,
    "vectorized_map": one_by_one,
    "vectorized gradients": gradients_one_by_one,  # Keras's loop fails itself
}
for name in IN_A_FUNCTION:
    MODES[f"{name}, in a function"] = in_a_function(MODES[name])
    EXPECTED[f"{name}, in a function"] = EXPECTED.get(name, MODES[name])
MODES["a while loop, in a function"] = in_a_function(a_while_loop)
EXPECTED["a while loop, in a function"] = a_while_loop
FUSED = ("simple_rnn", "lstm", "gru")  # of which every mode is run
OTHERS = ("projected_lstm", "layer_norm_gru", "own_Minimal")  # whose derivative is derived


def run(mode, family, masked, fused):
    x = tf.constant(np.random.default_rng(0).normal(size=(ROWS, TIME, FEATURES)))
    family = ALL[family]
    layer = family.make(
        UNITS, return_sequences=True, return_state=True, dtype="float64", fused=fused
    )
    layer.build(x.shape)
    layer.set_weights(family.random_weights(FEATURES, UNITS))
    results = mode(layer, x, tf.constant(MASK) if masked else None)
    return [r.numpy() for r in tf.nest.flatten(results)]


expected = functools.cache(functools.partial(run, fused=False))


@pytest.mark.sampled
@pytest.mark.parametrize("family, mode, masked", product(FUSED, MODES, (False, True)))
def test_a_layer_gives_what_its_cell_gives_in_every_mode(family, mode, masked):
    wanted = expected(EXPECTED.get(mode, MODES[mode]), family, masked)
    for ours, theirs in zip(run(MODES[mode], family, masked, "auto"), wanted, strict=True):
        assert_allclose(ours, theirs, rtol=0, atol=1e-9)


MODES_OF_OTHERS = (
    "one tape, in a function", "a gradient penalty", "forward mode", "a Jacobian",
    "vectorized gradients", "unknown batch",
)  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("family, mode", product(OTHERS, MODES_OF_OTHERS))
def test_so_does_a_layer_whose_derivative_is_derived(family, mode):
    wanted = expected(EXPECTED.get(mode, MODES[mode]), family, True)
    for ours, theirs in zip(run(MODES[mode], family, True, "auto"), wanted, strict=True):
        assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def forward_mode_over_a_tape(layer, x, mask):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        d = gradients(layer, x, mask, training=True)[1]
    return [accumulator.jvp(one) for one in d]


def a_tape_over_forward_mode(layer, x, mask):
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            loss = loss_of(layer(x, mask=mask, training=True))
        slope = accumulator.jvp(loss)
    return tape.gradient(slope, [x, *weights(layer)])


@pytest.mark.parametrize("mode", [forward_mode_over_a_tape, a_tape_over_forward_mode])
@pytest.mark.parametrize("family, masked", [("lstm", True), ("mgu", False)])
def test_forward_mode_and_a_tape_give_a_product_with_the_hessian(family, masked, mode):
    wanted = expected(mode, family, masked)
    for ours, theirs in zip(run(mode, family, masked, "auto"), wanted, strict=True):
        assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def a_penalty_of_an_unknown_batch(layer, x, mask):
    layer(x)
    specs = [tf.TensorSpec((None, None, FEATURES), x.dtype), tf.TensorSpec((None, None), tf.bool)]
    call = functools.partial(a_gradient_penalty, layer)
    return tf.function(call, specs, autograph=False)(x, mask)


def test_a_penalty_has_a_gradient_if_a_group_of_the_batch_has_no_row():
    assert ROWS < 16  # two groups are made of an unknown batch, and these rows fill the first
    wanted = expected(a_gradient_penalty, "lstm", True)
    found = run(a_penalty_of_an_unknown_batch, "lstm", True, "auto")
    for ours, theirs in zip(found, wanted, strict=True):
        assert_allclose(ours, theirs, rtol=0, atol=1e-9)
