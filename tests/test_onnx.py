"""Models as ONNX and back: onnxruntime, the ONNX reference and PyTorch's exporters judge."""

import keras
import numpy as np
import pytest
from families import FAMILIES, set_random
from grids import product
from keras import layers
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_onnx, to_keras, to_onnx
from keras_gated.recipes.ngrams import NGrams

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx.reference import ReferenceEvaluator  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

IDS = np.random.default_rng(0).integers(1, 20, (4, 7)).astype("int32")
PADDED = np.where(np.arange(7) < np.array([4, 7, 1, 6])[:, None], IDS, 0)
# Masked steps anywhere, and a row without any step that counts.
GAPS = IDS * np.array([[1, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0], [0] * 7, [1] * 7], "int32")
RECURRENT = {"RNN", "LSTM", "GRU"}


def of_ids(*stack, mask_zero=True):
    """Returns a model of layers one after the other, behind an embedding."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(20, 6, mask_zero=mask_zero)(ids)
    for layer in stack:
        x = layer(x)
    model = keras.Model(ids, x)
    set_random(model)
    return model


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def nodes(path):
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def flat(results):
    return [np.asarray(r) for r in keras.tree.flatten(results)]


def assert_same(received, expected, atol=1e-5):
    for a, b in zip(received, expected, strict=True):
        assert_allclose(a, b, atol=atol)


OPTIONS = (
    "", "return_sequences", "return_sequences return_state", "return_sequences go_backwards",
    "zero_output_for_mask", "zero_output_for_mask return_sequences",
    "zero_output_for_mask return_sequences go_backwards", "no bias",
)  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("name, options, mask_zero", product(FAMILIES, OPTIONS, (True, False)))
def test_a_layer_is_one_node_that_answers_as_it_does(name, options, mask_zero, tmp_path):
    options = {"use_bias": False} if options == "no bias" else dict.fromkeys(options.split(), True)
    model = of_ids(FAMILIES[name].make(5, **options), mask_zero=mask_zero)
    path = to_onnx(model, tmp_path / "model.onnx", check=False)  # compared below
    found = nodes(path)
    assert len(RECURRENT & set(found)) == 1 and not {"Loop", "Scan", "If"} & set(found)
    runtime = session(path)
    for ids in (PADDED, GAPS, IDS[:1, :3], np.repeat(GAPS, 3, axis=0)):  # batch and time are free
        assert_same(runtime.run(None, {"ids": ids}), flat(model(ids)))
    # The reference reads every row to its end, whatever sequence_lens says.
    assert_same(ReferenceEvaluator(path).run(None, {"ids": IDS}), flat(model(IDS)))
    again = from_onnx(path)
    for ids in (PADDED, GAPS):
        assert_same(flat(again(ids)), flat(model(ids)))


@pytest.mark.parametrize(
    "name, return_sequences, merge_mode",
    product(FAMILIES, (True, False), ("concat", "sum", "ave", "mul", None)),
)
def test_both_directions_are_one_node(name, return_sequences, merge_mode, tmp_path):
    inner = FAMILIES[name].make(5, return_sequences=return_sequences)
    model = of_ids(keras_gated.Bidirectional(inner, merge_mode=merge_mode))
    path = to_onnx(model, tmp_path / "model.onnx", check=False)  # compared below
    assert len([op for op in nodes(path) if op in RECURRENT]) == 1
    for ids in (PADDED, GAPS):
        assert_same(session(path).run(None, {"ids": ids}), flat(model(ids)))
    assert_same(ReferenceEvaluator(path).run(None, {"ids": IDS}), flat(model(IDS)))


@pytest.mark.parametrize("name, both", product(FAMILIES, (False, True)))
def test_the_layer_around_a_cell_is_written_as_that_of_its_family(name, both, tmp_path):
    layer = keras_gated.RNN(FAMILIES[name].make(5).cell, return_sequences=True)
    model = of_ids(keras_gated.Bidirectional(layer) if both else layer)
    path = to_onnx(model, tmp_path / "model.onnx", check=False)  # compared below
    assert len(RECURRENT & set(nodes(path))) == 1
    for ids in (PADDED, GAPS):
        assert_same(session(path).run(None, {"ids": ids}), flat(model(ids)))
    of_keras = to_keras(model)
    path = to_onnx(of_keras, tmp_path / "of_keras.onnx", check=False)
    assert_same(session(path).run(None, {"ids": PADDED}), flat(of_keras(PADDED)))


@pytest.mark.parametrize(
    "name, both, return_sequences",
    product(("simple_rnn", "lstm", "gru"), (False, True), (True, False)),
)
def test_a_masked_row_without_a_step_keeps_its_initial_states(
    name, both, return_sequences, tmp_path
):
    layer = FAMILIES[name].make(5, return_sequences=return_sequences, return_state=True)
    number = len(layer.cell.state_names) * (1 + both)
    layer = keras_gated.Bidirectional(layer) if both else layer
    ids = keras.Input((None,), dtype="int32", name="ids")
    states = [keras.Input((5,), name=f"state_{n}") for n in range(number)]
    # Keras gives no mask to a layer that has initial states; ours finds it at its input.
    x = layers.Embedding(20, 6, mask_zero=True)(ids)
    model = keras.Model([ids, *states], layer(x, initial_state=states))
    set_random(model)
    path = to_onnx(model, tmp_path / "model.onnx", check=False)  # compared below
    rng = np.random.default_rng(4)
    given = [GAPS, *(rng.normal(size=(4, 5)).astype("float32") for _ in states)]
    named = dict(zip((t.name for t in model.inputs), given, strict=True))
    expected = flat(model(given))
    assert_allclose(expected[1][2], given[1][2], atol=1e-6)  # row 2 has no step
    assert_same(session(path).run(None, named), expected)
    assert_same(flat(from_onnx(path)(given)), expected)


def test_initial_states_and_lengths_are_inputs(tmp_path):
    x, h0, c0 = keras.Input((None, 3), name="x"), *(keras.Input((4,), name=n) for n in ("h", "c"))
    layer = keras_gated.LSTM(4, return_sequences=True, return_state=True, name="lstm")
    y, h, c = layer(x, initial_state=[h0, c0])
    model = keras.Model([x, h0, c0], {"y": y, "h1": h, "c1": c})
    set_random(model)
    path = to_onnx(model, tmp_path / "model.onnx", lengths=True)
    rng = np.random.default_rng(2)
    given = {"x": rng.normal(size=(3, 6, 3)), "h": rng.normal(size=(3, 4))}
    given = {n: v.astype("float32") for n, v in {**given, "c": rng.normal(size=(3, 4))}.items()}
    lengths = np.array([6, 2, 4], "int32")
    runtime = session(path)
    assert [i.name for i in runtime.get_inputs()] == ["x", "h", "c", "lengths"]
    assert [o.name for o in runtime.get_outputs()] == ["c1", "h1", "y"]
    mask = np.arange(6) < lengths[:, None]
    y, h, c = layer(given["x"], initial_state=[given["h"], given["c"]], mask=mask)
    assert_same(runtime.run(None, {**given, "lengths": lengths}), flat([c, h, y]))
    again = from_onnx(path)({**given, "lengths": lengths})
    assert_same(flat(again), flat([c, h, y]))


@pytest.mark.parametrize("both, masked", product((False, True), (False, True)))
def test_an_initial_state_of_one_row_is_that_of_every_row(both, masked, tmp_path):
    layer = keras_gated.LSTM(5, return_state=True)
    layer = keras_gated.Bidirectional(layer) if both else layer
    ids = keras.Input((None,), dtype="int32", name="ids")
    row = keras.Input((5,), batch_size=1, name="row")
    x = layers.Embedding(20, 6, mask_zero=masked)(ids)
    states = [row, keras.ops.ones((1, 5))] * (1 + both)
    model = keras.Model([ids, row], layer(x, initial_state=states))
    set_random(model)
    path = to_onnx(model, tmp_path / "model.onnx", check=False)  # compared below
    given = {"ids": GAPS, "row": np.random.default_rng(4).normal(size=(1, 5)).astype("float32")}
    every = [np.repeat(given["row"], 4, 0), np.ones((4, 5), "float32")] * (1 + both)
    mask = GAPS != 0 if masked else None
    expected = layer(model.get_layer(index=1)(GAPS), initial_state=every, mask=mask)
    assert_same(session(path).run(None, given), flat(expected))
    assert_same(flat(from_onnx(path)(given)), flat(expected))


def test_names_of_outputs_never_meet_those_of_nodes(tmp_path):
    x = keras.Input((None, 3), name="constant_0")
    names = ["lstm_1.0", "node_1", "transpose_0.0", "constant_1"]
    parts = [keras_gated.LSTM(2)(x) for _ in names]
    model = keras.Model(x, dict(zip(names, parts, strict=True)))
    set_random(model)
    path = to_onnx(model, tmp_path / "model.onnx")
    given = np.random.default_rng(5).normal(size=(2, 4, 3)).astype("float32")
    received = session(path).run(sorted(names), {"constant_0": given})
    assert_same(received, [model(given)[name] for name in sorted(names)])


def test_models_of_keras_layers_and_everything_around_are_written(tmp_path):
    ids = keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(20, 6, mask_zero=True)(ids)
    x = layers.SpatialDropout1D(0.5)(layers.Dropout(0.1)(x))
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True))(x)
    x = layers.LayerNormalization()(x)
    x = layers.TimeDistributed(layers.Dense(6, activation="relu"))(x)
    x = layers.LSTM(6, return_sequences=True, activation="relu")(x)
    parts = [layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)]
    parts.append(layers.SimpleRNN(6)(x))
    merged = [layer()(parts) for layer in (layers.Add, layers.Average, layers.Maximum)]
    merged += [layer()(parts) for layer in (layers.Minimum, layers.Multiply, layers.Concatenate)]
    inner = keras.Sequential([keras.Input((48,)), layers.Dense(4), layers.Activation("softmax")])
    runs = NGrams(20, 101)(ids)
    outputs = {"class": inner(layers.Concatenate()(merged)), "runs": runs}
    model = keras.Model(ids, outputs, name="everything")
    set_random(model)
    path = to_onnx(model, tmp_path / "model.onnx")
    ids = PADDED.astype("int64")
    repeated = np.tile(ids, 2)  # so that n-grams come again
    for given in (ids, IDS.astype("int64")):
        assert_same(session(path).run(None, {"ids": given}), flat(model(given)))
    assert_allclose(
        session(path).run(["runs"], {"ids": repeated})[0], model(repeated)["runs"], atol=1e-5
    )


def test_vectors_are_masked_by_a_masking_layer(tmp_path):
    x = keras.Input((None, 3), name="x")
    model = keras.Model(x, keras_gated.GRU(4)(layers.Masking(mask_value=-1.0)(x)))
    set_random(model)
    path = to_onnx(model, tmp_path / "model.onnx")
    given = np.random.default_rng(3).normal(size=(2, 5, 3)).astype("float32")
    given[1, 3:] = -1.0
    assert_same(session(path).run(None, {"x": given}), flat(model(given)))


def test_what_cannot_be_written_is_refused_by_name_and_leaves_no_file(tmp_path):
    path = tmp_path / "model.onnx"
    for stack, message in (
        ([keras_gated.LSTM(3, activation="gelu", name="odd")], r"'odd' has the activation 'gelu'"),
        ([keras_gated.GRU(3, recurrent_activation="relu")], "complement"),
        ([keras_gated.LSTM(3, return_sequences=True), layers.UpSampling1D()], "UpSam.*Known: "),
        ([keras_gated.RNN(keras_gated.MGUCell(3))], "a RNN around a MGUCell, which cannot be"),
        ([keras.layers.RNN(keras_gated.LSTMCell(3))], "a RNN around a LSTMCell, which cannot be"),
        ([keras.Sequential([keras_gated.LSTM(3)], name="inner")], "'inner', a model inside"),
        ([keras_gated.LSTM(3), layers.Dense(2, activation="celu")], "activation 'celu'"),
    ):
        with pytest.raises(ValueError, match=message):
            to_onnx(of_ids(*stack), path)
    with pytest.raises(ValueError, match="functional model"):
        to_onnx(layers.Dense(3), path)
    assert not path.exists()


@pytest.mark.slow
def test_a_node_without_lengths_reads_all_steps_of_one_with_them(tmp_path):
    helper, rng = onnx.helper, np.random.default_rng(0)
    sizes = {"W1": (1, 16, 3), "W2": (1, 16, 4), "R1": (1, 16, 4), "R2": (1, 16, 4)}
    arrays = {n: rng.normal(size=size).astype("float32") for n, size in sizes.items()}
    arrays["axis"] = np.array([1])
    nodes = [
        helper.make_node("LSTM", ["x", "W1", "R1", "", "lengths"], ["a"], hidden_size=4),
        helper.make_node("Squeeze", ["a", "axis"], ["b"]),
        helper.make_node("LSTM", ["b", "W2", "R2"], ["c"], hidden_size=4),
        helper.make_node("Squeeze", ["c", "axis"], ["y"]),
    ]
    declared = [("x", 1, ["t", "b", 3]), ("lengths", 6, ["b"])]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info(*one) for one in declared],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    given = {
        "x": rng.normal(size=(6, 3, 3)).astype("float32"),
        "lengths": np.array([6, 2, 4], "i4"),
    }
    [expected] = session(path).run(None, given)
    ours = from_onnx(path)
    assert_allclose(ours(given), expected, atol=1e-6)
    ours.save(tmp_path / "two.keras")
    assert_allclose(keras.models.load_model(tmp_path / "two.keras")(given), expected, atol=1e-6)


torch = pytest.importorskip("torch")


class Tagger(torch.nn.Module):
    """Every step's class, from all steps; or one class from the final states."""

    def __init__(self, kind, last=False, batch_first=True, **options):
        super().__init__()
        torch.manual_seed(1)
        directions = 1 + options.get("bidirectional", False)
        self.last, self.batch_first = last, batch_first
        self.embedding = torch.nn.Embedding(20, 6)
        self.recurrent = getattr(torch.nn, kind)(6, 5, batch_first=batch_first, **options)
        self.linear = torch.nn.Linear(5 * directions, 3)

    def forward(self, ids):
        y, finals = self.recurrent(self.embedding(ids))
        if not self.last:
            return torch.relu(self.linear(y))
        h = finals[0] if isinstance(finals, tuple) else finals
        return torch.sigmoid(self.linear(torch.cat([h[-2], h[-1]], 1)))


@pytest.mark.slow
@pytest.mark.parametrize("kind, options, dynamo", [
    ("LSTM", {"num_layers": 2, "bidirectional": True}, False),
    ("GRU", {"bidirectional": True, "last": True}, True),
    # PyTorch's newer exporter does not write its RNN, nor always what is time-major.
    ("LSTM", {"batch_first": False}, False),
    ("RNN", {"nonlinearity": "relu"}, False),
])  # fmt: skip
def test_what_pytorch_exports_is_read_as_our_layers(kind, options, dynamo, tmp_path):
    if dynamo:
        pytest.importorskip("onnxscript")
    theirs = Tagger(kind, **options).eval()
    ids = torch.from_numpy(IDS.astype("int64"))
    names = {"input_names": ["ids"], "output_names": ["y"]}
    free = ({0: "batch", 1: "time"},)
    sizes = {"dynamic_shapes": free} if dynamo else {"dynamic_axes": {"ids": free[0]}}
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        theirs, (ids,), str(path), dynamo=dynamo, external_data=False, **names, **sizes
    )
    ours = from_onnx(path)
    expected = theirs(ids).detach()
    assert_allclose(ours(IDS), expected, atol=1e-5)
    assert_allclose(ours(IDS[:2, :4]), theirs(ids[:2, :4]).detach(), atol=1e-5)
    kinds = {type(layer).__name__ for layer in ours.layers}
    assert kinds & {"LSTM", "GRU", "SimpleRNN", "Bidirectional"}
    ours.save(tmp_path / "ours.keras")  # as any Keras model
    assert_allclose(keras.models.load_model(tmp_path / "ours.keras")(IDS), expected, atol=1e-5)


@pytest.mark.sampled
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", [keras_gated.PeepholeLSTM, keras_gated.CoupledLSTM])
def test_peepholes_and_coupled_gates_are_one_node_of_onnx_both_ways(kind, both, masked, tmp_path):
    layer = kind(5, return_sequences=True, return_state=True)
    model = of_ids(keras_gated.Bidirectional(layer) if both else layer, mask_zero=masked)
    path = to_onnx(model, tmp_path / "model.onnx", check=False)  # compared below
    assert [op for op in nodes(path) if op in RECURRENT] == ["LSTM"]
    again = from_onnx(path)
    inner = [getattr(one, "forward_layer", one) for one in again.layers]
    assert kind in map(type, inner)
    for ids in (PADDED, GAPS) if masked else (IDS,):
        assert_same(session(path).run(None, {"ids": ids}), flat(model(ids)))
        assert_same(flat(again(ids)), flat(model(ids)))


def test_nodes_and_options_without_a_counterpart_are_refused_by_name():
    helper = onnx.helper

    def graph(op="LSTM", ops=(), **attributes):
        rng = np.random.default_rng(0)
        arrays = {"W": rng.normal(size=(1, 16, 3)), "R": rng.normal(size=(1, 16, 4))}
        arrays["P"] = rng.normal(size=(1, 12))
        constants = [
            onnx.numpy_helper.from_array(a.astype("float32"), n) for n, a in arrays.items()
        ]
        inputs = ["x", "W", "R", *ops]
        node = helper.make_node(op, inputs, ["y"], name="told", hidden_size=4, **attributes)
        x, y = (helper.make_tensor_value_info(n, 1, None) for n in "xy")
        x = helper.make_tensor_value_info("x", 1, ["t", "b", 3])
        return helper.make_model(helper.make_graph([node], "g", [x], [y], constants))

    for model, message in (
        (graph(clip=2.0), r"LSTM node 'told' has clip=2\.0"),
        (graph(input_forget=1, ops=["", "", "", "", "P"]), "input_forget=1 and peepholes"),
        (graph(layout=1), "layout=1"),
        (graph(ops=["", "", "", "", "x"]), "weights `P` that are no constant"),
        (graph(activations=["Sigmoid", "Tanh", "Relu"]), "must be one"),
        (graph(activations=["ScaledTanh", "Tanh", "Tanh"]), "ScaledTanh"),
        (graph("Unique"), "Unique node 'told' has no counterpart"),
    ):
        with pytest.raises(ValueError, match=message):
            from_onnx(model)


def test_the_mask_behind_a_layer_that_reads_backwards_is_written_reversed(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=True)(ids)
    x = keras_gated.GRU(4, go_backwards=True, return_sequences=True)(x)
    model = keras.Model(ids, keras_gated.LSTM(3)(x))
    session = runtime.InferenceSession(keras_gated.to_onnx(model, str(tmp_path / "m.onnx")))
    given = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [1, 2, 3, 4, 5]], "int32")
    [received] = session.run(None, {session.get_inputs()[0].name: given})
    np.testing.assert_allclose(received, model(given), atol=1e-6)
