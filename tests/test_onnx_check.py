"""`to_onnx` asks onnxruntime about what it wrote, and a refusal leaves the old file as it was."""

import importlib.util
import os
import resource

import keras
import numpy as np
import pytest
from families import set_random
from keras import layers
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import to_litert, to_onnx
from keras_gated.convert.examples import difference
from keras_gated.convert.onnx import graph, recurrent
from keras_gated.recipes.ngrams import NGrams

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_graphs import ask_onnxruntime  # noqa: E402


def of_ids(*stack, mask_zero=True, dtype="int32"):
    ids = keras.Input((None,), dtype=dtype, name="ids")
    x = layers.Embedding(20, 6, mask_zero=mask_zero)(ids)
    for layer in stack:
        x = layer(x)
    return set_random(keras.Model(ids, x))


@pytest.fixture
def old(tmp_path):
    """A file that stands where another is to be written, in a folder without any else."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    yield path
    assert os.listdir(tmp_path) == ["model.onnx"]


@pytest.fixture
def swapped_gates(monkeypatch):
    own = recurrent._weights
    monkeypatch.setattr(recurrent, "_weights", lambda cell: [
        None if w is None else np.roll(w, cell.units, axis=0) for w in own(cell)
    ])  # fmt: skip


@pytest.mark.parametrize("layer", [keras_gated.LSTM, keras_gated.GRU])
@pytest.mark.parametrize("check", [None, True])
def test_a_file_that_answers_otherwise_is_refused(layer, check, old, swapped_gates):
    message = r"answers otherwise in onnxruntime, by 0\.\d+ of its largest answer.*check=False"
    with pytest.raises(ValueError, match=message):
        to_onnx(of_ids(layer(5)), old, check=check)
    assert old.read_bytes() == b"old"
    to_onnx(of_ids(layer(5)), old, check=False)  # at the caller's own risk
    assert old.read_bytes() != b"old"


def test_lengths_that_count_wrongly_are_refused(old, monkeypatch):
    own = graph.Graph.add

    def one_more(self, op, inputs, *args, **kwargs):
        return own(self, "Less" if op == "LessOrEqual" else op, inputs, *args, **kwargs)

    monkeypatch.setattr(graph.Graph, "add", one_more)
    with pytest.raises(ValueError, match="answers otherwise"):
        to_onnx(of_ids(keras_gated.GRU(5), mask_zero=False), old, lengths=True)
    assert old.read_bytes() == b"old"


def test_without_onnxruntime_a_file_is_written_unchecked_unless_a_check_is_asked_for(
    old, monkeypatch, swapped_gates
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(ImportError, match=r"onnxruntime, which is not installed.*check=False"):
        to_onnx(of_ids(keras_gated.LSTM(5)), old, check=True)
    assert old.read_bytes() == b"old"
    to_onnx(of_ids(keras_gated.LSTM(5)), old)
    assert old.read_bytes() != b"old"
    with pytest.raises(ValueError, match="`check` must be True, False or None"):
        to_onnx(of_ids(keras_gated.LSTM(5)), old, check="yes")


@pytest.mark.slow
@pytest.mark.usefixtures("loop_of_the_cell")
def test_every_kind_of_input_is_made_up_and_compared(tmp_path):
    """Fixed and free sizes, states, masks, ids as floats, vectors with a `Masking` layer."""
    path = tmp_path / "model.onnx"
    x, h = keras.Input((None, 3), name="x"), keras.Input((4,), name="h")
    mask = keras.Input((None,), dtype="bool", name="mask")
    given = keras_gated.GRU(4, return_state=True)(x, initial_state=h, mask=mask)
    fixed = keras.Input(batch_shape=(3, 5, 2), name="fixed")
    masked = keras_gated.LSTM(4, return_sequences=True)(layers.Masking(-1.0)(x))
    turned = keras_gated.LSTM(3)(x, mask=keras.ops.flip(mask, axis=1))
    one = keras.Sequential([keras.Input((None,)), layers.Embedding(1, 3), keras_gated.LSTM(3)])
    for model in (
        one,
        keras.Model([x, h, mask], given),
        keras.Model(fixed, keras_gated.Bidirectional(keras_gated.LSTM(3))(fixed)),
        keras.Model(x, layers.GlobalAveragePooling1D()(masked)),
        keras.Model([x, mask], turned),
        of_ids(keras_gated.LSTM(3), dtype="float32"),
        of_ids(
            keras_gated.Bidirectional(keras_gated.GRU(3, return_sequences=True)), layers.Dense(2)
        ),
    ):
        to_onnx(set_random(model), path, check=True)


BACKWARDS = {"go_backwards": True, "return_sequences": True}


@pytest.mark.sampled
@pytest.mark.usefixtures("loop_of_the_cell")
@pytest.mark.parametrize("stack", [
    lambda: [keras_gated.LSTM(4, **BACKWARDS), keras_gated.LSTM(3)],
    lambda: [keras_gated.GRU(4, **BACKWARDS), layers.Dense(3), keras_gated.GRU(3, **BACKWARDS)],
    lambda: [
        keras_gated.Bidirectional(keras_gated.LSTM(3, return_sequences=True)),
        layers.GlobalMaxPooling1D(),
    ],
    lambda: [layers.GlobalAveragePooling1D()],
], ids=["backwards, forwards", "twice backwards", "largest", "average"])  # fmt: skip
def test_lengths_mean_that_a_row_is_read_as_if_it_were_cut(stack, tmp_path):
    model = of_ids(*stack(), mask_zero=False)
    path = to_onnx(model, tmp_path / "model.onnx", lengths=True, check=True)
    ids = np.random.default_rng(3).integers(0, 20, (3, 7)).astype("int32")
    lengths = np.array([7, 2, 4], "int32")
    [received] = ask_onnxruntime(path, {"ids": ids, "lengths": lengths})
    for row, length in enumerate(lengths):
        expected = np.asarray(model(ids[row : row + 1, :length]))[0]
        assert_allclose(received[row][: len(expected)], expected, atol=1e-5)


@pytest.mark.usefixtures("loop_of_the_cell")
def test_a_layer_after_both_orders_at_once_is_refused_with_lengths(tmp_path):
    x = keras.Input((None, 3))
    both = [keras_gated.LSTM(3, return_sequences=True)(x), keras_gated.LSTM(3, **BACKWARDS)(x)]
    model = keras.Model(x, keras_gated.LSTM(2)(layers.Add(name="told")(both)))
    with pytest.raises(ValueError, match="'told' has inputs of which one has its last step first"):
        to_onnx(model, tmp_path / "model.onnx", lengths=True)
    to_onnx(model, tmp_path / "model.onnx", check=True)


def test_runs_of_words_end_with_the_lengths(tmp_path):
    ids = keras.Input((None,), dtype="int64", name="ids")
    model = set_random(keras.Model(ids, NGrams(20_000, 200_003)(ids)))
    path = to_onnx(model, tmp_path / "model.onnx", lengths=True, check=True)
    words = np.random.default_rng(0).integers(2, 20_000, (2, 9))
    [received] = ask_onnxruntime(path, {"ids": words, "lengths": np.array([9, 4], "int32")})
    words[1, 4:] = 0
    assert_allclose(received, model(words), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float16", "mixed_bfloat16"])
def test_other_floats_are_refused_with_the_way_out(dtype, old):
    x = keras.Input((None, 3), dtype="float32")
    model = keras.Model(x, keras_gated.LSTM(4, dtype=dtype, name="odd")(x))
    with pytest.raises(ValueError, match=r"'odd' is of b?float\d+.*dtype='float32'.*set_weights"):
        to_onnx(model, old)
    for around in (keras_gated.Bidirectional, layers.Bidirectional):
        inside = keras.Model(x, around(keras_gated.GRU(4, dtype=dtype, name="odd"))(x))
        with pytest.raises(ValueError, match=r"'forward_odd' is of b?float\d+"):
            to_onnx(inside, old)
    x = keras.Input((None, 3), dtype="float64", name="wide")
    with pytest.raises(ValueError, match="the input 'wide' is of float64"):
        to_onnx(keras.Model(x, keras_gated.LSTM(4)(x)), old)
    assert old.read_bytes() == b"old"


def test_weights_that_keras_quantized_are_refused_by_the_names_of_their_layers(old):
    model = keras.Sequential(
        [keras.Input((None, 3)), keras_gated.GRU(4), layers.Dense(2, name="d")]
    )
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"{'d': 'int8'}\. Write the model as it was before"):
        to_onnx(model, old)


def small():
    return set_random(keras.Sequential([keras.Input((None, 3)), keras_gated.LSTM(64)]))


@pytest.mark.parametrize("write", [to_onnx, to_litert])
def test_a_full_disk_destroys_nothing(write, old):
    if write is to_litert:
        pytest.importorskip("ai_edge_litert")
    model = small()
    write(model, old.parent.with_name("first"))  # what XLA compiles goes to the disk, too
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # a larger file fails half-way
    try:
        with pytest.raises(OSError, match="File too large"):
            write(model, old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert old.read_bytes() == b"old"


@pytest.mark.sampled
@pytest.mark.parametrize("write", [to_onnx, to_litert])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_write_leaves_nothing_behind(write, call, old, monkeypatch):
    if write is to_litert:
        pytest.importorskip("ai_edge_litert")

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(small(), old)
    assert old.read_bytes() == b"old"


def test_what_a_killed_process_left_is_removed_by_a_later_write(old):
    left, new, other = (old.with_name(f".model.onnx.{n}.unfinished") for n in ("a", "b", "c"))
    other = old.with_name(".other.onnx.a.unfinished")
    for path in (left, new, other):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    os.utime(other, (0, 0))
    to_onnx(small(), old, check=False)
    assert new.exists() and other.exists()  # of a process that may still write; of another file
    new.unlink()
    other.unlink()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    to_onnx(small(), tmp_path / "link", check=False)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").stat().st_size > 1000


@pytest.mark.parametrize("write", [to_onnx, to_litert])
def test_a_path_that_is_none_is_refused_before_the_work(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as /dev/null, it would be replaced by a file
    for path, message in (
        (None, "must be the path of the file to write. Received: None"),
        (3, "must be the path"),
        (b"model", "must be the path"),
        ("", "must be the path"),
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "pipe', a device or a pipe"),
        (tmp_path / "none" / "model", "Create '.*none' first"),
    ):
        with pytest.raises(ValueError, match=f"^{write.__name__}: .*{message}"):
            write(None, path)


@pytest.mark.parametrize("write", [to_onnx, to_litert])
def test_a_folder_that_may_not_be_written_is_refused_before_the_work(write, tmp_path, monkeypatch):
    """The error was that of an unfinished file with a hidden name, after the work."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root, every folder may be written
    with pytest.raises(
        ValueError, match=f"^{write.__name__}: the folder of `path` must be one tha"
    ):
        write(None, tmp_path / "model")


def test_differences_are_parts_of_the_largest_answer():
    assert difference([np.array([1.0, 2.0])], [np.array([1.0, 2.5])]) == 0.5 / 2.5
    assert difference([np.array([0.1])], [np.array([0.2])]) == pytest.approx(0.1)
    odd = np.array([np.nan, np.inf, -np.inf])
    assert difference([odd], [odd]) == 0
    assert difference([odd], [-odd]) == np.inf
    assert difference([np.zeros((2, 1))], [np.zeros(2)]) == np.inf
    assert difference([np.array([np.nan])], [np.array([1.0])]) == np.inf


def encoder_and_decoder():
    """Two inputs of unequal steps, and dense layers whose memory onnxruntime would use twice."""
    source, target = keras.Input((None, 3), name="source"), keras.Input((None, 3), name="target")
    encoded = layers.Dense(4)(layers.Dense(4, activation="relu")(source))
    state = keras_gated.GRU(4)(encoded)
    x = layers.Dense(4)(layers.Dense(4, activation="relu")(target))
    x = keras_gated.GRU(4, return_sequences=True)(x, initial_state=[state])
    return set_random(keras.Model([source, target], layers.Dense(2)(x)))


def test_two_inputs_may_have_unequal_steps(tmp_path):
    model = encoder_and_decoder()
    path = to_onnx(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    for steps in ((9, 4), (4, 9), (5, 5)):
        given = [rng.normal(size=(2, n, 3)).astype("float32") for n in steps]
        [answer] = ask_onnxruntime(path, dict(zip(("source", "target"), given, strict=True)))
        assert_allclose(answer, model(given), atol=1e-5)


def test_an_output_of_fewer_steps_has_an_axis_of_its_own(tmp_path):
    x = keras.Input((None, 3))
    y = layers.MaxPooling1D(2)(keras_gated.LSTM(4, return_sequences=True)(x))
    graph = onnx.load(to_onnx(keras.Model(x, y), tmp_path / "m.onnx")).graph
    [shape] = [[d.dim_param for d in o.type.tensor_type.shape.dim] for o in graph.output]
    assert shape[1] not in ("", "time")


class Twice(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


@pytest.mark.parametrize("write", [to_onnx, to_litert])
def test_a_call_of_ones_own_is_refused_by_name(write, tmp_path):
    model = Twice([keras.Input((None, 3)), keras_gated.LSTM(4)], name="mine")
    with pytest.raises(ValueError, match="'mine' is a Twice, a Sequential that has a `call`"):
        write(model, tmp_path / "m")


def of_my_own(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2)


@pytest.mark.parametrize("write", [to_onnx, to_litert])
def test_a_model_of_keras_that_was_fitted_and_frozen_is_written(write, tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4), layers.Dense(1)])
    model.compile("adam", of_my_own)
    model.fit(np.zeros((4, 3, 3)), np.zeros((4, 1)), verbose=0)
    model.layers[0].trainable = False
    write(model, tmp_path / "m")
