"""One recurrent node of any graph becomes a layer: onnxruntime judges."""

import keras
import numpy as np
import pytest
from grids import grid, product
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_graphs import (  # noqa: E402
    FEATURES,
    UNITS,
    X,
    ask_onnxruntime,
    constants,
    model_of,
    recurrent,
)

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

SEQUENCES = np.swapaxes(X, 0, 1)  # (batch, time, features)
ROWS, STEPS = SEQUENCES.shape[:2]
NUMBER = {"forward": 1, "reverse": 1, "bidirectional": 2}
LENGTHS = np.array([5, 2, 1, 4], "int32")


def alone(kind, direction="forward", outputs=("y", "y_h", "y_c"), extra=(), **attributes):
    """Returns a graph of one node `told`, whose outputs are the graph's."""
    arrays = {**constants(kind, NUMBER[direction]), **dict(extra)}
    inputs = ["x", "W", "R", "B", "lengths" if "lengths" in outputs else ""]
    outputs = [o if o in ("y", "y_h", "y_c") else "" for o in outputs if o != "lengths"]
    outputs = outputs[: 3 if kind == "LSTM" else 2]
    inputs += ["", "", "P"] if "P" in arrays else []
    node = helper.make_node(
        kind, inputs, outputs, name="told", hidden_size=UNITS, direction=direction, **attributes
    )
    declared = [("x", 1, ["time", "batch", FEATURES])]
    declared += [("lengths", 6, ["batch"])] * ("lengths" in inputs)
    return model_of([node], arrays, declared, [o for o in outputs if o])


def by_name(model, given):
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ask_onnxruntime(model, given), strict=True))


def side_by_side(y):
    """Returns `Y` as our layers have it, `(batch, time, directions * units)`."""
    return y.transpose(2, 0, 1, 3).reshape(ROWS, STEPS, -1)


READ = {
    "all": (("y", "y_h", "y_c"), True, True),
    "steps": (("y",), True, False),
    "last": (("", "y_h"), False, False),
    "states": (("", "y_h", "y_c"), False, True),
    "steps and last": (("y", "y_h"), True, True),
    "memory": (("", "", "y_c"), True, True),
}


@pytest.mark.parametrize("kind, read, direction", grid(
    (kind, read, direction)
    for kind in ("LSTM", "GRU", "RNN") for read in READ for direction in NUMBER
    if kind == "LSTM" or "y_c" not in READ[read][0]
))  # fmt: skip
def test_a_node_is_a_layer_of_the_outputs_that_the_graph_reads(kind, read, direction):
    outputs, sequences, states = READ[read]
    model = alone(kind, direction, outputs)
    expected = by_name(alone(kind, direction), {"x": X})
    layer = from_onnx(model, node="told")
    assert layer.built and layer.name == "told"
    inner = getattr(layer, "forward_layer", layer)
    assert (inner.return_sequences, inner.return_state) == (sequences, states)
    results = keras.tree.flatten(layer(SEQUENCES))
    y = side_by_side(expected["y"])
    y = y[:, ::-1] if direction == "reverse" else y  # last step first, as in Keras
    assert_allclose(results[0], y if sequences else np.hstack(expected["y_h"]), atol=1e-6)
    names = [n for n in ("y_h", "y_c") if n in expected]
    finals = [expected[n][d] for d in range(NUMBER[direction]) for n in names]
    assert len(results) == 1 + len(finals) * states
    for received, final in zip(results[1:], finals, strict=False):
        assert_allclose(received, final, atol=1e-6)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "kind, direction", product(("RNN", "LSTM", "GRU"), NUMBER)
)  # fmt: skip
def test_lengths_of_a_node_are_a_mask_of_its_layer(kind, direction):
    model = alone(kind, direction, ("y", "y_h", "y_c", "lengths"))
    expected = by_name(model, {"x": X, "lengths": LENGTHS})
    layer = from_onnx(model, node="told")
    y, *finals = layer(SEQUENCES, mask=np.arange(STEPS) < LENGTHS[:, None])
    own = side_by_side(expected["y"])
    assert_allclose(y, own[:, ::-1] if direction == "reverse" else own, atol=1e-6)
    names = [n for n in ("y_h", "y_c") if n in expected]
    theirs = [expected[n][d] for d in range(NUMBER[direction]) for n in names]
    for a, b in zip(finals, theirs, strict=True):
        assert_allclose(a, b, atol=1e-6)


OPTIONS = {
    "peepholes": ("LSTM", {"P": np.array([[0.3, -0.4, 0.5, 0.2, -0.1, 0.9]], "float32")}, {}),
    "input_forget": ("LSTM", {}, {"input_forget": 1}),
    "reset before": ("GRU", {}, {"linear_before_reset": 0}),
    "reset after": ("GRU", {}, {"linear_before_reset": 1}),
    "relu": ("RNN", {}, {"activations": ["Relu"]}),
    "hard gates": (
        "LSTM", {}, {
            "activations": ["HardSigmoid", "Tanh", "Tanh"],
            "activation_alpha": [0.3], "activation_beta": [0.4],
        },
    ),
    "clip that cuts nothing": ("LSTM", {}, {"clip": 20.0}),
    "clip where it is flat": (
        "GRU", {}, {
            "activations": ["HardSigmoid", "HardSigmoid"],
            "activation_alpha": [0.25, 0.5], "activation_beta": [0.5, 0.5], "clip": 2.0,
        },
    ),
}  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_node_are_those_of_its_layer(name):
    kind, extra, attributes = OPTIONS[name]
    x = 30 * X if "clip" in attributes else X  # gates far beyond the clip
    model = alone(kind, outputs=("y",), extra=extra, **attributes)
    layer = from_onnx(model, node="told")
    expected = side_by_side(ask_onnxruntime(model, {"x": x})[0])
    assert_allclose(layer(np.swapaxes(x, 0, 1)), expected, atol=1e-5)
    kinds = {"peepholes": keras_gated.PeepholeLSTM, "input_forget": keras_gated.CoupledLSTM}
    assert type(layer) is kinds.get(name, type(layer))


@pytest.mark.parametrize("clip, attributes", [
    (2.0, {}),
    (19.0, {}),
    (1.9, {"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
    (30.0, {"activations": ["Sigmoid", "Relu", "Relu"]}),
])  # fmt: skip
def test_a_clip_that_changes_something_is_refused_by_name(clip, attributes):
    with pytest.raises(ValueError, match=rf"'told' has clip={clip}, which changes"):
        from_onnx(alone("LSTM", clip=clip, **attributes), node="told")


def test_the_layout_of_the_graph_does_not_matter_to_a_layer():
    """onnxruntime does not run layout=1, so the same node without it judges."""
    expected = side_by_side(ask_onnxruntime(alone("LSTM", outputs=("y",)), {"x": X})[0])
    layer = from_onnx(alone("LSTM", outputs=("y",), layout=1), node=0)
    assert_allclose(layer(SEQUENCES), expected, atol=1e-6)


W, R, B = (constants("LSTM")[n] for n in "WRB")


def node_of(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def value(array):
    return numpy_helper.from_array(np.asarray(array))


def quantised(array):
    scale = np.float32(np.abs(array).max() / 127)
    return np.round(array / scale).astype("int8"), scale


ROUND_W, SCALE = quantised(W)
# How exporters and tools write weights: nodes, initializers, and what they make of W.
FOLDED = {
    "constant": ([node_of("Constant", [], ["W"], value=value(W))], {}, W),
    "identity": ([node_of("Identity", ["w"], ["W"])], {"w": W}, W),
    "transpose": (
        [node_of("Transpose", ["w"], ["W"], perm=[0, 2, 1])],
        {"w": W.transpose(0, 2, 1).copy()},
        W,
    ),
    "parts": (
        [
            node_of("Slice", ["w", "c0", "c4", "c0"], ["a"]),
            node_of("Slice", ["w", "c4", "c8", "c0"], ["b"]),
            node_of("Concat", ["a", "b"], ["ab"], axis=0),
            node_of("Unsqueeze", ["ab", "c0"], ["W"]),
        ],
        {"w": W[0], **{f"c{n}": np.array([n]) for n in (0, 4, 8)}},
        W,
    ),
    "gates apart": (
        [
            node_of("Split", ["w"], list("iofc"), axis=0),
            node_of("Concat", list("ofci"), ["all"], axis=0),
            node_of("Reshape", ["all", "shape"], ["W"]),
        ],
        {"w": W[0], "shape": np.array([1, 8, -1])},
        np.roll(W, -2, axis=1),
    ),
    "halves": ([node_of("Cast", ["w"], ["W"], to=1)], {"w": W.astype("float16")},
               W.astype("float16").astype("float32")),
    "sums": (
        [node_of("Mul", ["w", "two"], ["d"]), node_of("Sub", ["d", "w"], ["W"])],
        {"w": W, "two": np.float32(2)},
        W,
    ),
    "rounded": (
        [node_of("DequantizeLinear", ["w", "s", "z"], ["W"])],
        {"w": ROUND_W, "s": SCALE, "z": np.int8(3)},
        SCALE * (ROUND_W.astype("float32") - 3),
    ),
    "rounded by gates": (
        [node_of("DequantizeLinear", ["w", "s"], ["W"], axis=1)],
        {"w": ROUND_W, "s": np.linspace(0.01, 0.02, 8, dtype="float32")},
        np.linspace(0.01, 0.02, 8, dtype="float32")[:, None] * ROUND_W,
    ),
}  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("name", FOLDED)
def test_weights_that_nodes_make_of_constants_are_worked_out(name):
    nodes, arrays, weight = FOLDED[name]
    lstm = node_of("LSTM", ["x", "W", "R", "B"], ["y"], name="told", hidden_size=UNITS)
    model = model_of([lstm, *nodes[::-1]], {"R": R, "B": B, **arrays})
    expected = ask_onnxruntime(recurrent("LSTM", arrays={"W": weight, "R": R, "B": B}), {"x": X})
    assert_allclose(ask_onnxruntime(model, {"x": X})[0].squeeze(1), expected[0], atol=1e-5)
    for layer in (from_onnx(model, node="told"), from_onnx(model, node="y")):
        assert_allclose(layer(SEQUENCES), np.swapaxes(expected[0], 0, 1), atol=1e-5)
    whole = from_onnx(model)
    assert_allclose(np.squeeze(whole(X), 1), expected[0], atol=1e-5)


def around(*nodes, node="LSTM", **arrays):
    """Returns a graph with nodes that nobody reads, before and after a recurrent one."""
    lstm = node_of(node, ["strange", "W", "R", "B"], ["y"], name="told", hidden_size=UNITS)
    before = node_of("Strange", ["x"], ["strange"], domain="of.somebody")
    after = node_of("NonZero", ["y"], ["z"])
    arrays = {**constants(node), **arrays}
    model = model_of([before, lstm, after, *nodes], arrays, outputs=("z",))
    model.opset_import.append(helper.make_opsetid("of.somebody", 1))
    return model


def in_a_branch(inner):
    def branch(name, nodes):
        out = [onnx.ValueInfoProto(name=nodes[-1].output[0])]
        return helper.make_graph(nodes, name, [], out)

    other = [node_of("Identity", ["x"], ["other"])]
    return node_of(
        "If", ["c"], ["chosen"],
        then_branch=branch("then", [inner]), else_branch=branch("else", other),
    )  # fmt: skip


def in_a_loop(inner):
    declared = [("i", 7, []), ("on", 9, []), ("sum", 1, None)]
    body = helper.make_graph(
        [inner, node_of("Identity", ["on"], ["still"])],
        "body",
        [helper.make_tensor_value_info(*one) for one in declared],
        [onnx.ValueInfoProto(name="still"), onnx.ValueInfoProto(name=inner.output[0])],
    )
    return node_of("Loop", ["n", "", "x"], ["looped"], body=body)


WHERE = {
    "among strange ones": lambda inner: [inner],
    "in a branch": lambda inner: [in_a_branch(inner)],
    "in a loop": lambda inner: [in_a_loop(inner)],
    "in a branch of a loop": lambda inner: [in_a_loop(in_a_branch(inner))],
}


@pytest.mark.parametrize("where", WHERE)
def test_a_node_is_read_wherever_it_stands(where):
    """Its weights stand around, and are made beside it."""
    inner = node_of("GRU", ["x", "V", "Q"], ["gru"], name="gru node", hidden_size=UNITS)
    gru = constants("GRU", seed=3)
    model = around(
        node_of("Transpose", ["v"], ["V"], perm=[0, 2, 1]),
        *WHERE[where](inner),
        v=gru["W"].transpose(0, 2, 1).copy(),
        Q=gru["R"],
        c=np.array(True),
        n=np.array(2),
    )
    del gru["B"]
    expected = ask_onnxruntime(
        recurrent("GRU", arrays=gru, inputs=("x", "W", "R")), {"x": X}
    )[0]  # fmt: skip
    for name in ("gru node", "gru", 1):
        layer = from_onnx(model, node=name)
        assert type(layer) is keras_gated.GRU
        sequences = layer.return_sequences
        assert sequences
        assert_allclose(layer(SEQUENCES), np.swapaxes(expected, 0, 1), atol=1e-5)
    with pytest.raises(ValueError, match=r"'Strange|of the domain|Strange node"):
        from_onnx(model)


def test_a_wrong_name_lists_the_nodes_with_their_shapes(tmp_path):
    gru = node_of("GRU", ["x", "V", "Q"], ["gru"], hidden_size=UNITS)
    model = around(in_a_branch(gru), V=constants("GRU")["W"], Q=X, c=np.array(True))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    listed = (
        r"0: LSTM 'told' \(W.shape=\(1, 8, 3\), R.shape=\(1, 8, 2\)\); "
        r"1: GRU 'gru' \(W.shape=\(1, 6, 3\), R.shape=\(5, 4, 3\)\)"
    )
    for wrong in ("tol", "x", "z", 2, -1):
        said = f"no recurrent node {wrong!r}.*Give the name or the number .*: {listed}"
        with pytest.raises(ValueError, match=said):
            from_onnx(path, node=wrong)
    for wrong in (True, "", 1.0, b"told", ["told"]):
        with pytest.raises(ValueError, match="`node` must be the name"):
            from_onnx(path, node=wrong)
    none = model_of([node_of("Relu", ["x"], ["y"])], {})
    with pytest.raises(ValueError, match=r"no recurrent node 'told'.*: none"):
        from_onnx(none, node="told")


def test_a_name_of_two_nodes_is_refused_and_their_places_tell_them_apart():
    nodes = [
        node_of("LSTM", ["x", "W", "R", "B"], [f"y{n}"], name="same", hidden_size=UNITS)
        for n in (0, 1)
    ]
    model = model_of(nodes, constants("LSTM"), outputs=("y0", "y1"))
    with pytest.raises(ValueError, match=r"has 2 recurrent nodes 'same'.*0: LSTM 'same'.*1: LSTM"):
        from_onnx(model, node="same")
    assert from_onnx(model, node=1).units == from_onnx(model, node="y1").units == UNITS


def test_weights_of_a_quantised_node_are_refused_with_the_way_out():
    node = node_of(
        "DynamicQuantizeLSTM", ["x", "W", "R", "B"], ["y"], name="told", domain="com.microsoft"
    )
    model = model_of([node], constants("LSTM"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for options in ({"node": "told"}, {"node": 0}, {}):
        with pytest.raises(ValueError, match=r"'told' is of the domain 'com.mic.*before a runtime"):
            from_onnx(model, **options)
    with pytest.raises(ValueError, match=r"0: com\.microsoft\.DynamicQuantizeLSTM 'told'"):
        from_onnx(model, node="other")


def test_weights_of_an_input_are_refused_by_name():
    lstm = node_of("LSTM", ["x", "W", "R", "B"], ["y"], name="told", hidden_size=UNITS)
    turned = node_of("Transpose", ["w"], ["W"], perm=[0, 2, 1])
    declared = [("x", 1, ["t", "b", FEATURES]), ("w", 1, [1, FEATURES, 8])]
    model = model_of([turned, lstm], {"R": R, "B": B}, declared)
    with pytest.raises(ValueError, match="'told' has weights `W` that depend on inputs"):
        from_onnx(model, node="told")


def test_a_node_that_does_not_fit_is_refused_by_name():
    for arrays, message in (
        ({"W": W[:, :7]}, r"W of the shape \(1, 8, 3\)"),
        ({"R": R[0]}, r"R of the shape"),
        ({"B": B.astype("float64")}, "`B` of float64"),
        ({"W": np.float32(1)}, "W of the shape|cannot be read"),
    ):
        model = recurrent("LSTM", arrays={**constants("LSTM"), **arrays})
        with pytest.raises(ValueError, match=f"^from_onnx: the LSTM node 'told' .*({message})"):
            from_onnx(model, node="told")
    with pytest.raises(ValueError, match=r"'told' has weights|'told' cannot be read"):
        from_onnx(recurrent("LSTM", inputs=("x", "W")), node="told")


ABSURD = {
    "filled": [node_of("ConstantOfShape", ["n"], ["W"], value=value(np.ones(1, "float32")))],
    "zeros": [node_of("ConstantOfShape", ["n"], ["W"])],
    "expanded": [node_of("Expand", ["one", "n"], ["W"])],
    "repeated": [node_of("Tile", ["one", "n"], ["W"])],
    "counted": [
        node_of("Range", ["zero", "many", "step"], ["r"]),
        node_of("Cast", ["r"], ["W"], to=1),
    ],
    "padded": [node_of("Pad", ["one", "p"], ["W"])],
    "products": [
        node_of("Reshape", ["long", "column"], ["a"]),
        node_of("MatMul", ["a", "long"], ["W"]),
    ],
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ABSURD)
def test_constants_of_absurd_sizes_are_refused_before_they_are_made(name, whole):
    lstm = node_of("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=UNITS)
    arrays = {
        "n": np.array([2**20, 2**20, 3]), "one": np.ones((1, 1, 1), "float32"), "R": R, "B": B,
        "zero": np.array(0), "many": np.array(2**60), "step": np.array(1),
        "p": np.array([0, 0, 0, 0, 0, 2**50]), "long": np.ones((1, 2**19), "float32"),
        "column": np.array([-1, 1]),
    }  # fmt: skip
    model = model_of([*ABSURD[name], lstm], arrays)
    with pytest.raises(ValueError, match=r"makes a constant of the shape.*Known: up to"):
        from_onnx(model, node=None if whole else 0)


def test_a_file_of_float16_or_float64_keeps_its_weights():
    for dtype in ("float16", "float64"):
        arrays = {n: a.astype(dtype) for n, a in constants("LSTM").items()}
        model = recurrent("LSTM", arrays=arrays)
        model.graph.input[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(
            np.dtype(dtype)
        )
        layer = from_onnx(model, node="told")  # compared in onnxruntime's float32
        assert layer.cell.kernel.dtype == dtype
        assert_allclose(layer.cell.recurrent_kernel[:, :2], arrays["R"][0, :2].T)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_row_without_a_step_ends_with_zeros_whatever_it_began_with(kind):
    inputs = ["x", "W", "R", "B", "lengths", "before"]
    node = helper.make_node(kind, inputs, ["", "y_h"], name="told", hidden_size=UNITS)
    declared = [
        ("x", 1, ["time", "batch", FEATURES]), ("lengths", 6, ["batch"]),
        ("before", 1, [1, "batch", UNITS]),
    ]  # fmt: skip
    graph = model_of([node], constants(kind), declared, ["y_h"])
    before = np.random.default_rng(1).normal(size=(1, ROWS, UNITS)).astype("float32")
    lengths = np.array([5, 0, 1, 0], "int32")
    [expected] = ask_onnxruntime(graph, {"x": X, "lengths": lengths, "before": before})
    assert_allclose(from_onnx(graph)([X, lengths, before]), expected, atol=1e-5)


def test_axes_are_turned_around_if_no_order_is_given():
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=UNITS),
        helper.make_node("Transpose", ["y"], ["z"]),
    ]
    graph = model_of(nodes, constants("GRU"), outputs=["z"])
    [expected] = ask_onnxruntime(graph, {"x": X})
    assert_allclose(from_onnx(graph)(X), expected, atol=1e-5)


def test_sizes_are_split_as_told():
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=UNITS),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Split", ["sizes", "one_and_two"], ["first", "rest"], axis=0),
        helper.make_node("Concat", ["all", "first"], ["shape"], axis=0),
        helper.make_node("Reshape", ["y", "shape"], ["z"]),
    ]
    arrays = {"one_and_two": np.array([1, 2]), "all": np.array([-1])}
    graph = model_of(nodes, {**constants("GRU"), **arrays}, outputs=["z"])
    [expected] = ask_onnxruntime(graph, {"x": X})
    assert_allclose(from_onnx(graph, check=False)(X), expected, atol=1e-5)
