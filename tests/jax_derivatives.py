"""What `test_jax.py` runs with Keras on JAX: its loops against Keras's, which JAX differentiates.

KERAS_BACKEND=jax python jax_derivatives.py

Keras's `tanh` computes in float32 on JAX, also float64, so results agree to float32.
"""

import sys

import jax
import keras
import numpy as np
from families import FAMILIES, NEW, OWN, mask_array
from jax import numpy as jnp

import keras_gated
from keras_gated.paths import jax_packing

ROWS, STEPS, FEATURES, UNITS = 24, 5, 3, 4
jax.config.update("jax_enable_x64", True)
keras.config.set_floatx("float64")
jax_packing.NUMBERS_WORTH_A_GROUP = 1  # three groups of eight rows


def derived(family, fused, mask, second, **options):
    """Returns the results of a layer, and their derivatives by weights, inputs and states."""
    keras.utils.set_random_seed(0)  # for the dropouts
    layer = family.make(UNITS, return_sequences=True, return_state=True, fused=fused, **options)
    layer.build((ROWS, STEPS, FEATURES))
    rng = np.random.default_rng(1)
    weights = [jnp.asarray(rng.normal(0, 0.5, w.shape)) for w in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    states = [jnp.asarray(rng.normal(size=(ROWS, w))) for w in layer.cell.state_widths()]
    x = jnp.asarray(rng.normal(size=(ROWS, STEPS, FEATURES)))
    factors = []

    def loss(weights, x, states):
        results, _ = layer.stateless_call(
            weights, others, x, initial_state=states, mask=mask, training=True
        )
        results = jax.tree.leaves(results)
        if not factors:
            factors.extend(rng.normal(size=result.shape) for result in results)
        sums = (jnp.sum(f * r * (1 + r)) for f, r in zip(factors, results, strict=True))
        return sum(sums), results

    def penalty(*given):
        d_x, _ = jax.grad(loss, 1, has_aux=True)(*given)
        return jnp.sum(d_x**2)

    found = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(weights, x, states)
    return jax.tree.leaves((found, jax.grad(penalty, (0, 1))(weights, x, states) if second else ()))


def close(case, second=False, **options):
    name, mask = case
    mask = mask_array(mask)
    mask = None if mask is None else jnp.asarray(np.tile(mask, (ROWS // len(mask), 1)))
    ours, keras_loop = (
        derived({**FAMILIES, **NEW}[name], fused, mask, second, **options)
        for fused in (True, False)
    )
    for one, other in zip(ours, keras_loop, strict=True):
        scale = max(1, float(jnp.max(jnp.abs(other))))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * scale, err_msg=f"{case}")


def refused(text, function):
    try:
        function()
    except (TypeError, ValueError) as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"nothing was said of {text!r}")


def main():
    for name in {**FAMILIES, **NEW}:
        close((name, "gaps"))
    for mask in ("right padding", "left padding", "a row without a valid step"):
        close(("lstm", mask))
    for name in ("lstm", "gru", "gru_reset_before"):
        for mask in ("no mask", "gaps"):
            close((name, mask), second=True)
            close((name, mask), go_backwards=True, zero_output_for_mask=True)
            close((name, mask), return_gates=True)
            close((name, mask), zoneout=0.3, seed=0)
            rates = dict.fromkeys(("recurrent_dropout", "recurrent_weight_dropout"), 0.3)
            close((name, mask), dropout=0.3, **rates, seed=0)

    x = np.random.default_rng(0).normal(size=(ROWS, STEPS, FEATURES))
    refused("unroll", lambda: keras_gated.LSTM(4, unroll=True, fused=True)(x))
    own = next(iter(OWN.values()))
    refused("equations of this package", lambda: own.make(4, fused=True)(x))
    layer = keras_gated.LSTM(4)
    layer(x)
    # The page on troubleshooting has this error of JAX.
    refused("forward-mode autodiff", lambda: jax.jvp(layer, (jnp.asarray(x),), (jnp.asarray(x),)))
    layer.fused = False
    assert jax.jvp(layer, (jnp.asarray(x),), (jnp.asarray(x),))[1].shape == (ROWS, 4)


if __name__ == "__main__":
    sys.exit(main())
