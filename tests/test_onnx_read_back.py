"""`from_onnx` reads what `to_onnx` writes, and OpenVINO runs it: onnxruntime has the answers."""

import keras
import numpy as np
import pytest
from families import FAMILIES, set_random
from keras import layers
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_onnx, to_onnx
from keras_gated.convert.onnx import nodes
from keras_gated.recipes.ngrams import CHECK, NGrams

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_graphs import ask_onnxruntime  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

KEPT = np.array([[1, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0], [1] * 3 + [0] * 4, [1] * 7, [0] * 7])
RNG = np.random.default_rng(0)
GIVEN = {
    "ids": RNG.integers(1, 20, (5, 7)) * KEPT,
    "x": (RNG.normal(size=(5, 7, 4)) * KEPT[..., None]).astype("float32"),
    "h": RNG.normal(size=(5, 4)).astype("float32"),
    "kept": KEPT.astype(bool),
    "seven": RNG.normal(size=(5, 7, 4)).astype("float32"),
}


def inputs():
    return {
        "ids": keras.Input((None,), dtype="int64", name="ids"),
        "x": keras.Input((None, 4), name="x"),
        "h": keras.Input((4,), name="h"),
        "kept": keras.Input((None,), dtype="bool", name="kept"),
        "seven": keras.Input((7, 4), name="seven"),
    }


def of(layer, given="x"):
    return given, lambda i: layer(i[given])


def of_ids(*stack):
    def call(i):
        x = layers.Embedding(20, 4, mask_zero=True)(i["ids"])
        for layer in stack:
            x = layer(x)
        return x

    return "ids", call


def of_x(*stack):
    def call(i):
        x = i["x"]
        for layer in stack:
            x = layer(x)
        return x

    return "x", call


def of_ids_plain(*stack):
    return "ids", lambda i: of_x(layers.Embedding(20, 4), *stack)[1]({"x": i["ids"]})


def fixed(*stack):
    """A case of seven steps, no other number."""
    return "seven", lambda i: of_x(*stack)[1]({"x": i["seven"]})


def masked(i):
    return layers.Embedding(20, 4, mask_zero=True)(i["ids"])


def attention(options, call):
    """Attention over masked states, queried by the same masked steps."""

    def made(i):
        h = keras_gated.GRU(4, return_sequences=True)(masked(i))
        y = layers.Attention(**options)([h, layers.Dense(4)(h), h], **call)
        first = y[0] if call.get("return_attention_scores") else y
        return dict(zip("abc", [keras_gated.LSTM(3)(first), *keras.tree.flatten(y)], strict=False))

    return "ids", made


def merging(layer):
    return "x", lambda i: layer([i["x"], layers.Dense(4)(i["x"]), layers.Dense(4)(i["x"])])


def states(i):
    memory = layers.Dense(4)(i["h"])
    return keras_gated.LSTM(4, return_state=True)(i["x"], initial_state=[i["h"], memory])


# A model of everything that `to_onnx` writes, by the name of its class: inputs and outputs.
CASES = {
    "Embedding": of(layers.Embedding(20, 4), "ids"),
    "Dense": of(layers.Dense(3, activation="elu")),
    "TimeDistributed": of(layers.TimeDistributed(layers.Dense(3, use_bias=False))),
    "Activation": of(layers.Activation("hard_sigmoid")),
    "Dropout": of(layers.Dropout(0.5)),
    "SpatialDropout1D": of(layers.SpatialDropout1D(0.5)),
    "GaussianDropout": of(layers.GaussianDropout(0.5)),
    "GaussianNoise": of(layers.GaussianNoise(0.5)),
    "ActivityRegularization": of(layers.ActivityRegularization()),
    "Identity": of(layers.Identity()),
    "Masking": ("x", lambda i: keras_gated.LSTM(3)(layers.Masking()(i["x"]))),
    "GlobalAveragePooling1D": of(layers.GlobalAveragePooling1D(keepdims=True)),
    "GlobalMaxPooling1D": of(layers.GlobalMaxPooling1D()),
    "LayerNormalization": of(layers.LayerNormalization(epsilon=0.1)),
    **{
        cls.__name__: merging(cls())
        for cls in (
            layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply,
            layers.Concatenate,
        )
    },
    "NGrams": of(NGrams(20, 101), "ids"),
    "NotEqual": of_ids(keras_gated.GRU(3, return_sequences=True), keras_gated.GRU(3)),
    "Any": ("x", lambda i: keras_gated.GRU(3)(layers.Masking()(i["x"]))),
    "Flip": ("x kept", lambda i: keras_gated.GRU(3)(i["x"], mask=keras.ops.flip(i["kept"], 1))),
    "SimpleRNN": of_ids(keras_gated.SimpleRNN(3, return_state=True)),
    "RNN": of_ids(keras_gated.RNN(keras_gated.GRUCell(3))),
    "LSTM": ("x h", states),
    "PeepholeLSTM": of_ids(keras_gated.PeepholeLSTM(3, return_sequences=True)),
    "CoupledLSTM": of_ids(keras_gated.CoupledLSTM(3)),
    "states under a mask": (
        "ids h",
        lambda i: keras_gated.GRU(4, return_sequences=True, return_state=True)(
            layers.Embedding(20, 4, mask_zero=True)(i["ids"]), initial_state=i["h"]
        ),
    ),
    "GRU": of_ids(keras_gated.GRU(3, go_backwards=True, return_sequences=True)),
    "Bidirectional": of_ids(
        keras_gated.Bidirectional(keras_gated.LSTM(4, return_sequences=True), merge_mode="mul"),
        keras_gated.Bidirectional(keras_gated.GRU(3)),
    ),
    "a hard sigmoid of any values": of(
        layers.Dense(3, activation=keras_gated.hard_sigmoid(0.3, 0.4))
    ),
    "gates of any hard sigmoid": of_ids(
        keras_gated.GRU(4, recurrent_activation=keras_gated.hard_sigmoid(), return_sequences=True),
        keras_gated.Bidirectional(
            keras_gated.LSTM(3, recurrent_activation=keras_gated.hard_sigmoid(0.3, 0.6))
        ),
    ),
    **{
        f"Conv1D {options}": of_x(
            layers.Conv1D(5, 3, activation="silu", **options), keras_gated.LSTM(3)
        )
        for options in (
            {"padding": "same"}, {"padding": "same", "strides": 2},
            {"padding": "same", "dilation_rate": 2}, {"padding": "causal", "dilation_rate": 2},
            {"padding": "causal", "strides": 3}, {"strides": 2}, {"dilation_rate": 3},
            {"use_bias": False},
        )
    },
    "Conv1D": of(layers.Conv1D(4, 2, groups=2, padding="same")),
    **{
        f"{kind.__name__}{more}": of_x(kind(*options, padding=padding), keras_gated.GRU(3))
        for kind in (layers.MaxPooling1D, layers.AveragePooling1D)
        for more, options, padding in (
            ("", (2,), "valid"), (" of a part", (3, 2), "same"), (" one by one", (2, 1), "same")
        )
    },
    "BatchNormalization": of_x(keras_gated.LSTM(4), layers.BatchNormalization()),
    "a batch without scale": of(layers.BatchNormalization(scale=False, center=False)),
    "a batch of steps": fixed(layers.BatchNormalization(axis=1)),
    "Subtract": ("x", lambda i: layers.Subtract()([i["x"], layers.Dense(4)(i["x"])])),
    "ReLU": of(layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2)),
    "ReLU alone": of(layers.ReLU()),
    "LeakyReLU": of(layers.LeakyReLU(0.15)),
    "ELU": of(layers.ELU(0.7)),
    "PReLU": of(layers.PReLU(shared_axes=[1])),
    "Softmax": of(layers.Softmax()),
    "a softmax over steps": of(layers.Softmax(axis=1)),
    "Reshape": fixed(layers.Reshape((2, 7, -1))),
    "steps apart": of(layers.Reshape((-1, 2))),
    "Flatten": fixed(layers.Flatten(), layers.Dense(2)),
    "RepeatVector": of_ids(
        keras_gated.LSTM(4), layers.RepeatVector(3), keras_gated.GRU(3, return_sequences=True)
    ),
    "Permute": fixed(layers.Permute((2, 1)), keras_gated.LSTM(3)),
    "GetItem": of_ids(keras_gated.GRU(4, return_sequences=True), lambda h: h[:, -1]),
    **{
        f"GetItem {n}": of(key)
        for n, key in enumerate((
            lambda x: x[:, 1:-1:2, :3], lambda x: x[..., 0], lambda x: x[:, None, ::-1],
            lambda x: x[:, -2, 1:], lambda x: x[..., -1, None], lambda x: x[1:, 2],
        ))
    },
    "Attention ConvertToTensor": (
        "ids x",
        lambda i: layers.Attention(use_scale=True)([
            layers.Embedding(20, 4, mask_zero=True)(i["ids"]), i["x"]
        ]),
    ),
    **{
        f"Attention {options} {call}": attention(options, call)
        for options, call in (
            ({}, {}), ({"score_mode": "concat"}, {}), ({}, {"use_causal_mask": True}),
            ({"score_mode": "concat", "use_scale": True}, {"return_attention_scores": True}),
        )
    },
    # The mask of several masked layers, and of one that has none.
    "LogicalOr": (
        "ids x",
        lambda i: keras_gated.LSTM(3)(layers.Add()([masked(i), layers.Masking()(i["x"])])),
    ),
    "OnesLike": (
        "ids x", lambda i: keras_gated.LSTM(3)(layers.Concatenate()([masked(i), i["x"]]))
    ),
    "ZerosLike ExpandDims": (
        "ids x",
        lambda i: keras_gated.LSTM(3)(
            layers.Concatenate()([masked(i), layers.Masking()(i["x"])])
        ),
    ),
    "dgaintel": of_ids_plain(
        layers.Conv1D(6, 3, padding="same", activation="relu"),
        layers.MaxPooling1D(2),
        keras_gated.LSTM(5),
        layers.Dense(1, activation="sigmoid"),
    ),
    "a mask that a convolution drops": of_ids(layers.Conv1D(4, 2), keras_gated.LSTM(3)),
    "a mask that an activation passes on": of_ids(
        layers.BatchNormalization(), layers.LeakyReLU(), keras_gated.LSTM(3)
    ),
    "no centre": of(layers.LayerNormalization(center=False, scale=False)),
    "an average under a mask": of_ids(layers.GlobalAveragePooling1D()),
    "a mean of directions": of_ids(
        keras_gated.Bidirectional(keras_gated.LSTM(3, return_sequences=True), merge_mode="ave")
    ),
}  # fmt: skip


def written(case, path):
    """Returns the model, its path as ONNX, the inputs, and what onnxruntime answers."""
    names, call = case
    of_name = inputs()
    model = keras.Model([of_name[n] for n in names.split()], call(of_name))
    set_random(model)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(abs(layer.moving_variance))
    given = {name: GIVEN[name] for name in names.split()}
    to_onnx(model, path, check=False)
    return model, str(path), given, ask_onnxruntime(str(path), given)


def assert_same(received, expected):
    for a, b in zip(received, expected, strict=True):
        assert_allclose(a, b, atol=1e-5)


def test_there_is_a_case_for_everything_that_is_written():
    assert {kind.__name__ for kind in nodes.WRITERS} <= {
        word for name in CASES for word in name.split()
    }


@pytest.mark.sampled
@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_back(name, tmp_path):
    model, path, given, expected = written(CASES[name], tmp_path / "model.onnx")
    values = list(given.values())
    values = values if len(values) > 1 else values[0]
    assert_same(map(np.asarray, keras.tree.flatten(model(values))), expected)
    again = keras.tree.flatten(from_onnx(path)(given if len(given) > 1 else values))
    assert_same(map(np.asarray, again), expected)


def test_what_is_written_with_lengths_is_read_back(tmp_path):
    x = keras.Input((None, 4), name="x")
    y = keras_gated.GRU(3, go_backwards=True, return_sequences=True)(x)
    pooled = [layers.GlobalMaxPooling1D()(y), layers.GlobalAveragePooling1D()(y)]
    model = keras.Model(x, dict(zip("abc", [*pooled, keras_gated.LSTM(3)(y)], strict=True)))
    path = to_onnx(model, tmp_path / "model.onnx", lengths=True)
    given = {"x": GIVEN["x"], "lengths": np.array([7, 1, 3, 5, 4], "int32")}
    again = from_onnx(path)(given)
    assert_same(map(np.asarray, keras.tree.flatten(again)), ask_onnxruntime(path, given))


@pytest.mark.parametrize("padding", ["same", "causal"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_convolution_and_attention_with_lengths_read_rows_as_if_they_were_cut(
    padding, backwards, tmp_path
):
    x = keras.Input((None, 4), name="x")
    y = keras_gated.GRU(4, return_sequences=True, go_backwards=backwards)(x)
    y = layers.Conv1D(3, 3, padding=padding)(y)
    y = layers.Attention()([y, y])
    model = keras.Model(x, keras_gated.LSTM(3)(layers.Softmax()(y)))
    path = to_onnx(model, tmp_path / "model.onnx", lengths=True, check=False)
    lengths = np.array([7, 1, 3, 5, 4], "int32")
    [received] = ask_onnxruntime(path, {"x": GIVEN["x"], "lengths": lengths})
    for row, length in enumerate(lengths):
        alone = model(GIVEN["x"][row : row + 1, :length])
        assert_allclose(received[row : row + 1], alone, atol=1e-5)


@pytest.mark.parametrize("make", [
    lambda x: layers.Conv1D(3, 2)(x),
    lambda x: layers.Conv1D(3, 2, padding="same", strides=2)(x),
    lambda x: layers.MaxPooling1D()(x),
    lambda x: layers.AveragePooling1D(2)(x),
    lambda x: layers.Reshape((-1, 2))(x),
    lambda x: layers.Permute((2, 1))(x),
    lambda x: layers.RepeatVector(2)(keras_gated.LSTM(3)(x)),
    lambda x: layers.Softmax(axis=1)(x),
    lambda x: x[:, -1],
    lambda x: x[:, 1:],
    lambda x: x[:, None],
])  # fmt: skip
def test_other_steps_than_the_input_has_are_refused_with_lengths(make, tmp_path):
    x = keras.Input((None, 4), name="x")
    with pytest.raises(ValueError, match="other steps than its input, and `lengths`"):
        to_onnx(keras.Model(x, make(x)), tmp_path / "model.onnx", lengths=True)
    assert not [*tmp_path.iterdir()]
    to_onnx(keras.Model(x, make(x)), tmp_path / "model.onnx", check=True)  # of any least length


def test_a_model_is_asked_about_as_many_steps_as_its_windows_need(tmp_path):
    ids = keras.Input((None,), dtype="int64", name="ids")
    y = layers.Conv1D(4, 8, activation="gelu")(layers.Embedding(20, 4)(ids))
    inner = keras.Sequential([keras.Input((None, 4)), layers.MaxPooling1D(4), keras_gated.LSTM(3)])
    model = keras.Model(ids, layers.Dense(1)(inner(y)))
    path = to_onnx(model, tmp_path / "model.onnx", check=True)
    given = np.tile(GIVEN["ids"], 3)
    assert_allclose(ask_onnxruntime(path, {"ids": given})[0], model(given), atol=1e-5)


def ask_openvino(path, given):
    openvino = pytest.importorskip("openvino")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", exact)
    results = compiled(given)
    return [results[output] for output in compiled.outputs]


# OpenVINO (2026.4) leaves out the peepholes and `input_forget` of a node, without a word, and
# refuses a HardSigmoid in one.
@pytest.mark.sampled
@pytest.mark.parametrize(
    "name", sorted({*CASES} - {"PeepholeLSTM", "CoupledLSTM", "gates of any hard sigmoid"})
)
def test_openvino_answers_as_onnxruntime(name, tmp_path):
    _, path, given, expected = written(CASES[name], tmp_path / "model.onnx")
    assert_same(ask_openvino(path, given), expected)


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["a mask", "lengths", "neither"])
@pytest.mark.parametrize("options", [
    {}, {"return_sequences": True, "return_state": True},
    {"return_sequences": True, "go_backwards": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", FAMILIES)
def test_openvino_reads_as_many_steps_as_count(name, options, how, tmp_path):
    ids = keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(20, 4, mask_zero=how == "a mask")(ids)
    alone = keras.tree.flatten(FAMILIES[name].make(5, **options)(x))
    both = keras_gated.Bidirectional(FAMILIES[name].make(3, return_sequences=True))(x)
    between = FAMILIES[name].make(3, return_sequences=True)(both)
    stacked = keras_gated.Bidirectional(FAMILIES[name].make(3))(between)
    model = set_random(keras.Model(ids, [*alone, both, stacked]))
    path = to_onnx(model, tmp_path / "model.onnx", lengths=how == "lengths", check=False)
    given = {"ids": GIVEN["ids"]}
    if how == "lengths":
        given["lengths"] = np.array([7, 1, 3, 0, 4], "int32")
    assert_same(ask_openvino(path, given), ask_onnxruntime(path, given))


def test_runs_of_many_words_are_the_same_in_openvino(tmp_path):
    """Their numbers do not fit into 32 bits, nor their products into the 24 of a float."""
    ids = keras.Input((None,), dtype="int64", name="ids")
    model = keras.Model(ids, NGrams(20_000, 200_003)(ids))
    rng = np.random.default_rng(1)
    kernel, ratio, check = model.get_weights()
    given = {"ids": rng.integers(2, 20_000, (4, 30))}
    owners = given["ids"][0, :-1] * 20_000 + given["ids"][0, 1:]  # of every second bucket
    check[owners % 200_003] = (owners + np.arange(len(owners)) % 2) % CHECK
    model.set_weights([*(rng.normal(0, 0.5, w.shape) for w in (kernel, ratio)), check])
    path = to_onnx(model, tmp_path / "model.onnx", check=False)
    [expected] = ask_onnxruntime(path, given)
    assert_allclose(expected, model(given["ids"]), atol=1e-5)
    assert_allclose(ask_openvino(path, given)[0], expected, atol=1e-5)


@pytest.mark.parametrize("lengths", [False, True])
def test_no_whole_number_of_a_file_needs_more_than_32_bits(lengths, tmp_path):
    ids = keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(20, 4, mask_zero=not lengths)(ids)
    x = keras_gated.GRU(3, go_backwards=True, return_sequences=True)(x)
    x = keras_gated.Bidirectional(keras_gated.LSTM(3))(x)
    model = keras.Model(ids, layers.Add()([layers.Dense(1)(x), NGrams(20, 101)(ids)]))
    path = to_onnx(model, tmp_path / "model.onnx", lengths=lengths)
    arrays = [onnx.numpy_helper.to_array(a) for a in onnx.load(path).graph.initializer]
    numbers = np.concatenate([a.ravel() for a in arrays if a.dtype.kind == "i"])
    assert len(numbers) and np.abs(numbers.astype(object)).max() <= 2**31
    assert numbers.max() < 2**31
