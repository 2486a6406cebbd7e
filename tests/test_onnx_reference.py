"""The layers against the ONNX project's own reference of RNN, LSTM and GRU."""

import numpy as np
import pytest
from families import FAMILIES
from numpy.testing import assert_allclose

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

FEATURES, UNITS = 3, 4
LENGTHS = (6, 1, 4)
# The places of ONNX's gates among ours (RNN: one; LSTM: i, o, f, c; GRU: z, r, h).
ORDER = {"RNN": [0], "LSTM": [0, 3, 1, 2], "GRU": [0, 1, 2]}


def onnx_weights(op, W, U, b):
    """`W` (1, gates * units, features), `R`, and `B`, both biases one after the other."""

    def reordered(weight):
        blocks = np.split(np.atleast_2d(weight), len(ORDER[op]), axis=1)
        if op == "GRU":
            blocks[0] = -blocks[0]  # its z keeps the state that ours overwrites
        return np.concatenate([blocks[place] for place in ORDER[op]], axis=1)

    biases = reordered(b)
    if len(biases) == 1:
        biases = np.concatenate([biases, np.zeros_like(biases)])
    return reordered(W).T[None], reordered(U).T[None], biases.reshape(1, -1)


def evaluate(op, x, states, weights, **attributes):
    """Runs one row; returns its outputs `(time, units)` and final states."""
    inputs = {"X": x[:, None], **dict(zip("WRB", onnx_weights(op, *weights), strict=True))}
    names = ["initial_h", "initial_c"][: len(states)]
    inputs.update((n, s[None, None]) for n, s in zip(names, states, strict=True))
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(states)]
    wires = ["X", "W", "R", "B", "", *names]
    node = helper.make_node(op, wires, outputs, hidden_size=UNITS, **attributes)
    declare = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in part]
        for part in (inputs, outputs)
    ]
    graph = helper.make_graph([node], "row", *declare)
    y, *finals = ReferenceEvaluator(helper.make_model(graph)).run(
        None, {n: np.asarray(v, "float32") for n, v in inputs.items()}
    )
    return y[:, 0, 0], [f[0, 0] for f in finals]


@pytest.mark.sampled
@pytest.mark.parametrize("name, op, attributes", [
    ("simple_rnn", "RNN", {}),
    ("lstm", "LSTM", {}),
    ("gru", "GRU", {"linear_before_reset": 1}),
    ("gru_reset_before", "GRU", {"linear_before_reset": 0}),
])  # fmt: skip
@pytest.mark.parametrize("fused", ["auto", False])
def test_layers_agree_with_the_reference_at_unequal_lengths(name, op, attributes, fused):
    family, rng = FAMILIES[name], np.random.default_rng(1)
    weights = family.random_weights(FEATURES, UNITS, dtype="float32")
    x = rng.normal(size=(3, max(LENGTHS), FEATURES)).astype("float32")
    states = [rng.normal(size=(3, UNITS)).astype("float32") for _ in range(family.states)]
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    layer = family.make(UNITS, return_sequences=True, return_state=True, fused=fused)
    layer.build(x.shape)
    layer.set_weights(weights)
    outputs, *finals = layer(x, mask=mask, initial_state=states)
    for row, length in enumerate(LENGTHS):
        own = [s[row] for s in states]
        expected, expected_finals = evaluate(op, x[row, :length], own, weights, **attributes)
        assert_allclose(outputs[row, :length], expected, atol=1e-5)
        for a, b in zip(finals, expected_finals, strict=True):
            assert_allclose(a[row], b, atol=1e-5)
