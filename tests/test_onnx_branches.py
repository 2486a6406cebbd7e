"""Graphs with branches: what they choose is read, if it is known. onnxruntime judges."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_graphs import UNITS, X, ask_onnxruntime, constants, model_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

node_of = helper.make_node
RNG = np.random.default_rng(2)


def branches(condition, then, other, outputs=("chosen",), **options):
    """Returns an `If`; a branch is a list of nodes, the last of which makes what it puts out."""

    def graph(name, nodes):
        last = [output for node in nodes for output in node.output][-len(outputs) :]
        out = [onnx.ValueInfoProto(name=output) for output in last]
        return helper.make_graph(nodes, name, [], out)

    return node_of(
        "If", [condition], list(outputs),
        then_branch=graph("then", then), else_branch=graph("else", other), **options,
    )  # fmt: skip


def detector(rate):
    """The nodes for one sampling rate: frames by a convolution, an LSTM with states in and out."""
    p = f"{rate}_"  # no name is made twice
    width = rate // 1000
    kernel = RNG.normal(size=(6, 1, width)).astype("float32") / width
    lstm = {n: a.astype("float32") for n, a in constants("LSTM", seed=rate).items()}
    arrays = {
        f"{p}k": kernel, f"{p}W": RNG.normal(size=(1, 8, 6)).astype("float32"),
        f"{p}R": lstm["R"], f"{p}B": lstm["B"],
        f"{p}out": RNG.normal(size=(1, UNITS, 1)).astype("float32"),
    }  # fmt: skip
    nodes = [
        node_of("Pad", ["x", "pads"], [f"{p}padded"], mode="reflect"),
        node_of("Unsqueeze", [f"{p}padded", "one"], [f"{p}channel"]),
        node_of("Conv", [f"{p}channel", f"{p}k"], [f"{p}frames"], strides=[width // 2]),
        node_of("Pow", [f"{p}frames", "two"], [f"{p}power"]),
        node_of("Sqrt", [f"{p}power"], [f"{p}size"]),
        node_of("Transpose", [f"{p}size"], [f"{p}steps"], perm=[2, 0, 1]),
        # In the manner of PyTorch, which writes a `squeeze` so where it does not know the size.
        node_of("Shape", [f"{p}size"], [f"{p}shape"]),
        node_of("Gather", [f"{p}shape", "one"], [f"{p}bins"]),
        node_of("Equal", [f"{p}bins", "one"], [f"{p}is_one"]),
        branches(
            f"{p}is_one",
            [node_of("Neg", [f"{p}steps"], [f"{p}other"])],
            [node_of("Identity", [f"{p}steps"], [f"{p}same"])],
            [f"{p}chosen"],
        ),
        node_of("Split", ["state", "parts"], [f"{p}h", f"{p}c"], axis=0),
        node_of(
            "LSTM",
            [f"{p}chosen", f"{p}W", f"{p}R", f"{p}B", "", f"{p}h", f"{p}c"],
            [f"{p}y", f"{p}y_h", f"{p}y_c"],
            name=f"lstm_{rate}",
            hidden_size=UNITS,
        ),
        node_of("Squeeze", [f"{p}y", "one"], [f"{p}flat"]),
        node_of("MatMul", [f"{p}flat", f"{p}out"], [f"{p}product"]),
        node_of("Sigmoid", [f"{p}product"], [f"{p}each"]),
        node_of("ReduceMean", [f"{p}each"], [f"{p}mean"], axes=[0], keepdims=0),
        node_of("Concat", [f"{p}y_h", f"{p}y_c"], [f"{p}next"], axis=0),
    ]
    return nodes, arrays


def speech_detector():
    """A graph in the manner of voice detectors: a model for each of two sampling rates."""
    (wide, of_wide), (narrow, of_narrow) = detector(16000), detector(8000)
    arrays = {
        **of_wide, **of_narrow, "wide": np.array(16000), "one": np.array([1]),
        "pads": np.array([0, 2, 0, 3]), "two": np.float32(2),
        "parts": np.array([1, 1]),
    }  # fmt: skip
    nodes = [
        node_of("Equal", ["sr", "wide"], ["is_wide"]),
        branches("is_wide", wide, narrow, ("speech", "next"), name="rates"),
        node_of("Identity", ["speech"], ["y"]),
    ]
    inputs = [("x", 1, ["b", 96]), ("state", 1, [2, "b", UNITS]), ("sr", 7, [])]
    return model_of(nodes, arrays, inputs, ("y", "next"))


GIVEN = {
    "x": RNG.normal(size=(3, 96)).astype("float32"),
    "state": RNG.normal(size=(2, 3, UNITS)).astype("float32"),
}


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_branch_that_a_constant_chooses_is_read(rate, tmp_path):
    model = speech_detector()
    expected = ask_onnxruntime(model, {**GIVEN, "sr": np.array(rate)})
    # As the message says: what chooses is no input any more.
    model.graph.initializer.append(numpy_helper.from_array(np.array(rate), "sr"))
    read = from_onnx(model)
    assert read.get_layer(f"lstm_{rate}").units == UNITS
    read.save(tmp_path / "m.keras")
    for one in (read, keras.models.load_model(tmp_path / "m.keras")):
        received = one([GIVEN["x"], GIVEN["state"]])
        assert_allclose(received["y"], expected[0], atol=1e-5)
        assert_allclose(received["next"], expected[1], atol=1e-5)


def test_a_branch_that_an_input_chooses_is_refused_with_two_ways_out():
    message = r"the If node 'rates' has a condition.*initializer\.append.*node=\.\.\."
    with pytest.raises(ValueError, match=message):
        from_onnx(speech_detector())


def test_nodes_of_both_branches_are_layers():
    model = speech_detector()
    for place, rate in enumerate((8000, 16000)):  # in the order of the file
        layer = from_onnx(model, node=f"lstm_{rate}")
        assert type(layer) is keras_gated.LSTM
        assert layer.return_sequences and layer.return_state  # Y and Y_c are read
        weights = from_onnx(model, node=place).get_weights()
        for a, b in zip(layer.get_weights(), weights, strict=True):
            assert_allclose(a, b)


def test_a_size_that_no_one_knows_chooses_nothing():
    nodes = [
        node_of("Shape", ["x"], ["s"]),
        node_of("Gather", ["s", "zero"], ["time"]),
        node_of("Equal", ["time", "one"], ["short"], name="told"),
        branches("short", [node_of("Neg", ["x"], ["a"])], [node_of("Abs", ["x"], ["b"])], ["y"]),
    ]
    model = model_of(nodes, {"zero": np.array(0), "one": np.array(1)})
    with pytest.raises(ValueError, match=r"Equal node 'told' compares sizes.*fixed sizes"):
        from_onnx(model)
    for axis, size in enumerate(X.shape):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    assert_allclose(from_onnx(model)(X), abs(X))


def test_branches_in_branches_read_what_stands_around_them():
    inner = branches(
        "yes", [node_of("Mul", ["doubled", "x"], ["a"])], [node_of("Neg", ["x"], ["b"])], ["i"]
    )  # fmt: skip
    outer = branches(
        "no", [node_of("Neg", ["x"], ["c"])],
        [node_of("Add", ["x", "x"], ["doubled"]), inner, node_of("Relu", ["i"], ["d"])], ["y"],
    )  # fmt: skip
    lstm = node_of("Strange", ["x"], ["unread"])  # nobody asks for it
    arrays = {"yes": np.array([True]), "no": np.array(False)}
    model = model_of([lstm, outer], arrays)
    assert_allclose(from_onnx(model, check=False)(X), 2 * X * X, atol=1e-5)


def test_deep_branches_are_read():
    node = node_of("Neg", ["x"], ["a0"])
    for n in range(25):  # protobuf allows few more
        node = branches("yes", [node], [node_of("Abs", ["x"], [f"b{n}"])], [f"a{n + 1}"])
    model = model_of([node, node_of("Neg", ["a25"], ["y"])], {"yes": np.array(True)})
    assert_allclose(from_onnx(model, check=False)(X), X)


def test_functions_of_a_file_are_read_as_their_nodes():
    body = [node_of("Add", ["a", "a"], ["two"]), node_of("Neg", ["two"], ["out"])]
    own = helper.make_function(
        "of.file", "Twice", ["a"], ["out"], body, [helper.make_opsetid("", 17)]
    )
    lstm = node_of("LSTM", ["t", "W", "R", "B"], ["y"], name="told", hidden_size=UNITS)
    model = model_of([node_of("Twice", ["x"], ["t"], domain="of.file"), lstm], constants("LSTM"))
    model.opset_import.append(helper.make_opsetid("of.file", 1))
    model.functions.append(own)
    [expected] = ask_onnxruntime(model, {"x": X})
    assert_allclose(from_onnx(model)(X), expected, atol=1e-6)
    assert from_onnx(model, node="told").units == UNITS


def test_a_long_chain_of_branches_is_refused_in_words():
    nodes = [
        branches("yes", [node_of("Neg", [f"a{n}"], [f"b{n}"])], [node_of("Abs", ["x"], [f"c{n}"])],
                 [f"a{n + 1}"])
        for n in range(400)
    ]  # fmt: skip
    first, last = node_of("Neg", ["x"], ["a0"]), node_of("Neg", ["a400"], ["y"])
    model = model_of([first, *nodes, last], {"yes": np.array(True)})
    with pytest.raises(ValueError, match="the branches of the model wait for too many others"):
        from_onnx(model)
