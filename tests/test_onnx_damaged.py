"""Graphs and files that are no valid ONNX, or not for us: refused in words, by name."""

import pathlib

import numpy as np
import pytest
from numpy.testing import assert_allclose

from keras_gated import from_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper  # noqa: E402
from onnx_graphs import X, ask_onnxruntime, constants, model_of, recurrent  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

SOUND = recurrent("LSTM")


def changed(change):
    """Returns the sound graph after a change of its `graph`."""
    model = onnx.ModelProto()
    model.CopyFrom(SOUND)
    change(model.graph)
    return model


def with_constants(**arrays):
    return recurrent("LSTM", arrays={**constants("LSTM"), **arrays})


def test_nodes_may_stand_in_any_order():
    """As onnxruntime's converter to float16 leaves them."""
    [expected] = ask_onnxruntime(SOUND, {"x": X})
    for order in ([2, 1, 0], [1, 2, 0], [2, 0, 1]):
        nodes = [SOUND.graph.node[n] for n in order]
        turned = changed(lambda g, nodes=nodes: (g.ClearField("node"), g.node.extend(nodes)))
        assert_allclose(from_onnx(turned)(X), expected, atol=1e-6)


def test_nodes_of_the_same_name_become_layers_of_different_names():
    model = changed(lambda g: [setattr(node, "name", "same") for node in g.node])
    [expected] = ask_onnxruntime(SOUND, {"x": X})
    assert_allclose(from_onnx(model, check=False)(X), expected, atol=1e-6)  # onnxruntime: invalid


TWO, ONE = constants("LSTM", 2), constants("LSTM")
ODD_NODES = {
    "two directions' weights": (
        recurrent("LSTM", arrays=TWO),
        r"W of the shape \(1, 8, 3\).*\(2, ",
    ),
    "one direction's weights": (recurrent("LSTM", "bidirectional", arrays=ONE), r"\(2, 8, 3\)"),
    "reverse, two": (recurrent("LSTM", "reverse", arrays=TWO), r"direction='reverse'"),
    "a direction of its own": (recurrent("LSTM", "sideways", arrays=ONE), "Known: forward"),
    "W cut": (with_constants(W=ONE["W"][:, :7]), r"W.shape=\(1, 7, 3\)"),
    "R of two axes": (with_constants(R=ONE["R"][0]), r"R of the shape.*R.shape=\(8, 2\)"),
    "R a number": (with_constants(R=np.float32(1)), r"W of the shape"),
    "B cut": (with_constants(B=ONE["B"][:, :9]), r"B of the shape \(1, 16\).*B.shape=\(1, 9\)"),
    "no rows": (with_constants(W=np.zeros((0, 0, 0), "float32")), r"W.shape=\(0, 0, 0\)"),
    "other features": (with_constants(W=np.ones((1, 8, 5), "float32")), r"X of the shape"),
    "hidden_size": (recurrent("LSTM", hidden_size=7), "hidden_size=7"),
    "bytes": (with_constants(W=ONE["W"].astype("uint8")), "`W` of uint8.*quantised"),
    "halves and singles": (with_constants(W=ONE["W"].astype("float16")), "`R` of float32"),
    "no W": (recurrent("LSTM", inputs=("x", "", "R")), "`W` that are no constant"),
    "no inputs": (recurrent("LSTM", inputs=()), "`W` that are no constant|cannot be read"),
    "computed W": (recurrent("LSTM", inputs=("x", "x", "R")), "`W` that are no constant"),
    "a function of its own": (
        recurrent("LSTM", activations=["Sigmoid", "Nope", "Nope"]),
        "activation Nope.*Known: ",
    ),
    "clip": (recurrent("LSTM", clip=2.0), r"clip=2\.0"),
}


@pytest.mark.parametrize("name", ODD_NODES)
def test_a_recurrent_node_that_does_not_fit_is_refused_by_name(name):
    model, message = ODD_NODES[name]
    with pytest.raises(ValueError, match=f"^from_onnx: the LSTM node 'told' .*({message})"):
        from_onnx(model)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sound_nodes_of_all_kinds_are_read(kind, direction):
    model = recurrent(kind, direction)
    assert_allclose(from_onnx(model)(X), ask_onnxruntime(model, {"x": X})[0], atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 2), (1, 4, 3), (4, 2)])
def test_states_and_lengths_of_other_shapes_are_refused(shape):
    state = np.zeros(shape, "float32")
    arrays = {**ONE, "h": state, "c": state}
    with pytest.raises(ValueError, match=r"'told' must have initial_h of the shape \(1, None, 2\)"):
        from_onnx(recurrent("LSTM", arrays=arrays, inputs=("x", "W", "R", "B", "", "h", "c")))
    arrays = {**ONE, "lengths": np.ones((1, 4), "int32")}
    with pytest.raises(ValueError, match=r"'told' must have sequence_lens of the shape"):
        from_onnx(recurrent("LSTM", arrays=arrays, inputs=("x", "W", "R", "B", "lengths")))


ODD_GRAPHS = {
    "a cycle": (lambda g: g.node[0].input.__setitem__(0, "y"), "wait for each other.*'told'"),
    "itself": (lambda g: g.node[1].input.__setitem__(0, "turned"), "wait for each other"),
    "made twice": (lambda g: g.node.append(g.node[0]), "'told' makes 'y_apart'"),
    "no constants": (lambda g: g.ClearField("initializer"), "'told' reads 'W', which no node"),
    "no inputs": (lambda g: g.ClearField("input"), "the model has no inputs"),
    "no outputs": (lambda g: g.ClearField("output"), "no graph with nodes and outputs"),
    "no nodes": (lambda g: g.ClearField("node"), "no graph with nodes and outputs"),
    "an output of no node": (lambda g: setattr(g.output[0], "name", "z"), "no node makes 'z'"),
    "cut constants": (
        lambda g: setattr(g.initializer[0], "raw_data", b"123"),
        "the constant 'W' of the model is damaged",
    ),
    "another domain": (
        lambda g: setattr(g.node[0], "domain", "com.microsoft"),
        r"'told' is of the domain 'com\.microsoft'.*quantised",
    ),
    "no shape": (
        lambda g: g.input[0].type.tensor_type.ClearField("shape"),
        "the input 'x' of the model must be a tensor",
    ),
    "text": (
        lambda g: setattr(g.input[0].type.tensor_type, "elem_type", 8),
        "the input 'x' of the model must be a tensor of numbers",
    ),
    "four axes": (lambda g: g.input[0].type.tensor_type.shape.dim.add(), "'told' (must|cannot)"),
    "an axis that is none": (
        lambda g: g.node[1].attribute[0].ints.__setitem__(0, 9),
        r"the Transpose node \['turned'\] cannot be read\. Received: .*perm",
    ),
    "no shape to reshape to": (lambda g: g.node[2].input.pop(), r"the Reshape node \['y'\]"),
}


@pytest.mark.parametrize("name", ODD_GRAPHS)
def test_a_graph_that_does_not_hold_together_is_refused_in_words(name):
    change, message = ODD_GRAPHS[name]
    with pytest.raises(ValueError, match=f"^from_onnx: .*{message}"):
        from_onnx(changed(change))


def test_an_output_made_of_zeros_names_what_takes_them():
    shape = helper.make_node("Shape", ["x"], ["s"])
    zeros = helper.make_node("ConstantOfShape", ["s"], ["z"])
    part = helper.make_node("Unsqueeze", ["z", "axis"], ["p"])
    added = helper.make_node("Add", ["x", "p"], ["y"], name="sum")
    with pytest.raises(
        ValueError, match=r"the Add node 'sum' takes zeros of a size.*initial states"
    ):
        from_onnx(model_of([shape, zeros, part, added], {"axis": np.array([0])}))


def test_a_damaged_file_is_told_by_its_name(tmp_path):
    whole = SOUND.SerializeToString()
    path = tmp_path / "model.onnx"
    contents = {n: whole[:n] for n in (0, 1, 10, len(whole) // 2, len(whole) - 1)}
    for content in (*contents.values(), b"<html>not found</html>", bytes(1000)):
        path.write_bytes(content)
        for given in (path, str(path)):
            with pytest.raises(ValueError, match=r"^from_onnx: '.*model\.onnx' (cannot|holds no)"):
                from_onnx(given)


def test_what_is_no_file_is_refused(tmp_path):
    for given in (SOUND.SerializeToString(), 3, None, [str(tmp_path)], SOUND.graph, b"model.onnx"):
        with pytest.raises(ValueError, match=r"must be the path of an ONNX file.*Received: .*type"):
            from_onnx(given)
    with pytest.raises(ValueError, match="is a folder"):
        from_onnx(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        from_onnx(pathlib.Path("no such.onnx"))


def with_data_at(location, **more):
    """Returns the sound graph with one constant in a file beside it."""
    model = changed(lambda g: None)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return model


@pytest.mark.parametrize("node", [None, 0])
def test_data_outside_of_the_folder_or_of_another_size_are_refused(node, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    size = ONE["W"].nbytes
    for place in (tmp_path / "secret", folder / "short"):
        place.write_bytes(bytes(size if place.name == "secret" else 5))
    (folder / "link").symlink_to(tmp_path / "secret")
    path = folder / "model.onnx"
    monkeypatch.chdir(folder)  # what a model in memory would be read beside
    for model in (
        with_data_at("../secret"),
        with_data_at(str(tmp_path / "secret")),
        with_data_at("folder/../../secret"),
        with_data_at("link"),
        with_data_at("none"),
        with_data_at("short"),
        with_data_at("short", offset=0, length=2**60),
        with_data_at("short", offset=-1),
        with_data_at("short", offset=2**62),
        with_data_at("."),
        with_data_at(""),
    ):
        path.write_bytes(model.SerializeToString())
        for given in (path, model):
            with pytest.raises((ValueError, OSError), match=r"damaged|cannot be read|from_onnx"):
                from_onnx(given, node=node)


@pytest.mark.parametrize("dims", [[2**40, 2**40], [-1, 8, 3], [2**62], [1, 8, 3, 0], [1, 8, 2**33]])
def test_constants_of_absurd_shapes_are_refused(dims):
    def change(graph):
        del graph.initializer[0].dims[:]
        graph.initializer[0].dims.extend(dims)

    for node in (None, "told"):
        with pytest.raises(ValueError, match=r"^from_onnx: .*(is damaged|of the shape)"):
            from_onnx(changed(change), node=node)


def test_inputs_of_absurd_sizes_are_refused():
    def change(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**50

    with pytest.raises(ValueError, match=r"the input 'x' of the model.*at most"):
        from_onnx(changed(change))


@pytest.mark.slow
def test_no_cut_of_a_file_of_many_operators_ends_otherwise_than_in_words(tmp_path):
    """Whatever is left of it is read, or refused by `from_onnx` itself."""
    arrays = {**ONE, "k": np.ones((3, 3, 2), "float32"), "shape": np.array([0, 0, -1])}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], pads=[1, 0]),
        helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2]),
        helper.make_node("Transpose", ["p"], ["s"], perm=[2, 0, 1]),
        *SOUND.graph.node,
    ]
    nodes[3] = helper.make_node("LSTM", ["s", *"WRB"], ["y_apart"], name="told", hidden_size=2)
    whole = model_of(nodes, arrays, [("x", 1, ["b", 3, "t"])]).SerializeToString()
    path = tmp_path / "model.onnx"
    rng, read = np.random.default_rng(0), 0
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        for node in (None, 0):
            try:
                from_onnx(path, node=node, check=False)
                read += 1
            except ValueError as error:
                assert str(error).startswith("from_onnx: "), error
    assert read
