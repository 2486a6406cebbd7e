"""Any shape, mask, dtype and options: the fused layer, the cell's loop and NumPy agree."""

import numpy as np
import oracles
import pytest
from families import FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,  # the same cases in every run
    suppress_health_check=list(HealthCheck),
)


@st.composite
def cases(draw):
    family = draw(st.sampled_from(sorted(FAMILIES)))
    batch, time = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    masked = draw(st.sampled_from([None, 0.1, 0.5, 0.9]))
    return {
        "family": FAMILIES[family],
        "x": rng.normal(size=(batch, time, draw(st.integers(1, 3)))),
        "units": draw(st.integers(1, 4)),
        "mask": None if masked is None else rng.random((batch, time)) > masked,
        "states": draw(st.booleans()) and rng,
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "training": draw(st.booleans()),
        "options": {
            "return_sequences": draw(st.booleans()),
            "go_backwards": draw(st.booleans()),
            "zero_output_for_mask": draw(st.booleans()),
            "use_bias": draw(st.booleans()),
        },
    }


@pytest.mark.slow
@given(cases())
@SETTINGS
def test_fused_layer_cell_loop_and_numpy_agree(case):
    family, x, mask, options = (case[name] for name in ("family", "x", "mask", "options"))
    weights = family.random_weights(x.shape[2], case["units"], seed=2)
    if not options["use_bias"]:
        weights[2] *= 0
    shape = (x.shape[0], case["units"])
    rng = case["states"]
    states = [rng.normal(size=shape) if rng else np.zeros(shape) for _ in range(family.states)]
    outputs, finals = oracles.sequence(
        family.oracle, x, mask, states, weights,
        options["go_backwards"], options["zero_output_for_mask"],
    )  # fmt: skip
    if not options["return_sequences"]:
        outputs = outputs[:, -1] if x.shape[1] else np.zeros(shape)
    for fused in ("auto", False):
        layer = family.make(
            case["units"], return_state=True, dtype=case["dtype"], fused=fused, **options
        )
        layer.build(x.shape)
        layer.set_weights(weights[: len(layer.weights)])
        given_states = {"initial_state": states} if rng else {}
        received = layer(x, mask=mask, training=case["training"], **given_states)
        tolerance = 1e-9 if case["dtype"] == "float64" else 1e-5
        for a, b in zip(received, [outputs, *finals], strict=True):
            assert a.shape == b.shape and a.dtype == case["dtype"]
            assert_allclose(a, b, rtol=0, atol=tolerance)
