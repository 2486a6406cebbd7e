"""Over 2000 steps nothing drifts: the float64 answer is met within the output's rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES
from grids import product

STEPS, FEATURES, UNITS = 2000, 4, 8
# Half of the distance between two numbers just above 1: what rounding an output costs at most.
ROUNDING = {"float32": 2.0**-24, "mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}


def integrator(family):
    """Weights that add up their input: what is added is small against the sum."""
    weights = [w * 0 for w in family.random_weights(FEATURES, UNITS, dtype="float32")]
    W, _, b = weights
    names = family.cell.gates
    gates = dict(zip(names, np.split(b, len(names), axis=-1), strict=True))
    columns = dict(zip(names, np.split(W, len(names), axis=-1), strict=True))
    columns["candidate"] += 0.2
    gates["forget"] += 20
    gates["input"] -= 1
    gates["output"] += 20
    return weights


def run(family, policy, x, weights, fused):
    dtype = "float64" if policy == "float64" else policy
    layer = family.make(UNITS, dtype=dtype, fused=fused, return_sequences=True, return_state=True)
    layer.build(x.shape)
    layer.set_weights(weights)
    x = tf.cast(x, layer.compute_dtype)

    @tf.function
    def call(x):
        with tf.GradientTape() as tape:
            outputs, *states = layer(x, training=True)
            loss = tf.reduce_mean(tf.cast(outputs, "float64") ** 2)
        gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
        return outputs, states, gradients

    return [np.asarray(tf.cast(v, "float64")) for v in tf.nest.flatten(call(x))]


def relative_errors(family, policy, weights, fused):
    rng = np.random.default_rng(0)
    # Numbers that even bfloat16 holds: how an input is rounded is not the layer's doing.
    x = np.round(rng.normal(size=(2, STEPS, FEATURES)) * 16) / 64
    exact = run(family, "float64", x, [w.astype("float64") for w in weights], fused=False)
    received = run(family, policy, x, weights, fused)
    return [np.abs(a - b).max() / np.abs(a).max() for a, b in zip(exact, received, strict=True)]


@pytest.mark.sampled
@pytest.mark.parametrize(
    "family, policy, fused", product(FAMILIES, ROUNDING, ("auto", False)), indirect=["family"]
)
def test_values_and_gradients_of_2000_steps(family, policy, fused):
    weights = family.random_weights(FEATURES, UNITS, dtype="float32")
    weights = [w * 0.8 for w in weights]  # of larger ones a vanilla RNN's answer is chaos
    errors = relative_errors(family, policy, weights, fused)
    values, gradients = errors[: 1 + family.states], errors[1 + family.states :]
    assert max(values) < ROUNDING[policy] + 2e-6
    assert max(gradients) < ROUNDING[policy] + 5e-6


@pytest.mark.parametrize("policy, fused", product(ROUNDING, ("auto", False)))
def test_a_memory_counts_to_the_end(policy, fused):
    """With the forget gate open the memory is a sum of 2000 terms, each too small for float16."""
    family = FAMILIES["lstm"]
    weights = integrator(family)
    weights[2][UNITS * 2 : UNITS * 3] += 0.05
    errors = relative_errors(family, policy, weights, fused)
    assert max(errors[: 1 + family.states]) < ROUNDING[policy] + 2e-6


def test_the_states_of_a_stateful_layer_are_kept_in_float32(family):
    layer = family.make(3, stateful=True, dtype=keras.DTypePolicy("mixed_float16"))
    layer(np.ones((2, 3, 4)))
    assert {v.dtype for v in layer.states} == {"float32"}
