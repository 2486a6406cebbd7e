"""ONNX with the states as inputs and outputs: pieces in onnxruntime are Keras's whole sequence."""

import keras
import numpy as np
import pytest
from families import FAMILIES, NEW, set_random
from grids import product
from keras import layers

import keras_gated
from keras_gated import to_onnx

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 9, 4)).astype("float32")
WRITTEN = {
    **FAMILIES, "peephole_lstm": NEW["peephole_lstm"], "coupled_lstm": NEW["coupled_lstm"],
}  # fmt: skip


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def in_pieces(runtime, ends, widths, **given):
    """Returns the outputs of pieces that end there, and the states after the last."""
    outputs = [o.name for o in runtime.get_outputs()]
    states = {name: np.zeros((3, width), "float32") for name, width in widths.items()}
    answers = []
    for start, end in zip([0, *ends], [*ends, None], strict=True):
        piece = {name: value[:, start:end] for name, value in given.items()}
        found = dict(zip(outputs, runtime.run(None, {**piece, **states}), strict=True))
        states = {name: found.pop(f"new_{name}") for name in widths}
        answers.append(found)
    return answers, states


@pytest.mark.sampled
@pytest.mark.parametrize("name, sequences", product(WRITTEN, (True, False)))
def test_pieces_of_any_length_are_the_whole_sequence(name, sequences, tmp_path):
    x = keras.Input((None, 4), name="x")
    layer = WRITTEN[name].make(5, return_sequences=True, name="one")
    second = WRITTEN[name].make(3, return_sequences=sequences, name="two")
    model = set_random(keras.Model(x, layers.Dense(2, name="y")(second(layer(x)))))
    runtime = session(to_onnx(model, tmp_path / "model.onnx", states=True))
    names = [f"{n}_{s}" for n in ("one", "two") for s in layer.cell.state_names]
    assert [i.name for i in runtime.get_inputs()] == ["x", *names]
    assert [o.name for o in runtime.get_outputs()] == ["y", *(f"new_{n}" for n in names)]
    widths = {n: 5 if n.startswith("one") else 3 for n in names}
    for ends in ([], [4], [1, 2, 3, 8]):
        answers, _ = in_pieces(runtime, ends, widths, x=X)
        parts = [answer["y"] for answer in answers]
        received = np.concatenate(parts, axis=1) if sequences else parts[-1]
        np.testing.assert_allclose(received, model(X), atol=1e-5)


def test_keras_layers_masks_and_lengths_go_with_states(tmp_path):
    ids = keras.Input((None,), dtype="int32", name="ids")
    y = layers.LSTM(5, name="l")(layers.Embedding(9, 4, mask_zero=True)(ids))
    model = set_random(keras.Model(ids, layers.Dense(2, name="y")(y)))
    path = to_onnx(model, tmp_path / "masked.onnx", states=True)
    given = RNG.integers(1, 9, (3, 9)).astype("int32")
    given[0, 2:6], given[1, 4:], given[2] = 0, 0, 0
    widths = {"l_hidden": 5, "l_memory": 5}
    answers, states = in_pieces(session(path), [3, 6], widths, ids=given)
    np.testing.assert_allclose(answers[-1]["y"][:1], model(given)[:1], atol=1e-5)
    h, c = states["l_hidden"], states["l_memory"]
    # Masked steps leave the states as they are: row 1 has those of its valid steps, row 2 zeros.
    alone = in_pieces(session(path), [], widths, ids=np.repeat(given[1:2, :4], 3, axis=0))[1]
    np.testing.assert_allclose(h[1], alone["l_hidden"][1], atol=1e-6)
    assert not h[2].any() and not c[2].any()

    x = keras.Input((None, 4), name="x")
    gru = keras_gated.GRU(5, return_sequences=True, name="g")
    model = set_random(keras.Model(x, gru(x)))
    runtime = session(to_onnx(model, tmp_path / "lengths.onnx", states=True, lengths=True))
    lengths, zeros = np.array([9, 2, 5], "int32"), np.zeros((3, 5), "float32")
    _, last = runtime.run(None, {"x": X, "lengths": lengths, "g_hidden": zeros})
    expected = np.asarray(model(X))[range(3), lengths - 1]
    np.testing.assert_allclose(last, expected, atol=1e-5)


def test_what_cannot_be_streamed_is_refused_by_name_and_leaves_no_file(tmp_path):
    x, h = keras.Input((None, 4), name="x"), keras.Input((3,), name="two_hidden")
    fixed = keras.Input((7, 4))
    twice = keras_gated.GRU(4, return_sequences=True, name="told")
    for model, message in (
        (keras.Model(x, keras_gated.Bidirectional(keras_gated.GRU(3))(x)), "'backward_gru"),
        (keras.Model(x, keras_gated.LSTM(3, go_backwards=True, name="told")(x)), "'told' cannot"),
        (keras.Model([x, h], keras_gated.GRU(3, name="told")(x, initial_state=h)), "'told' has an"),
        (keras.Model(x, twice(twice(x))), "'told' has a second call"),
        (keras.Model([x, h], [keras_gated.GRU(3, name="two")(x), h]), "inputs.*'two_hidden'"),
        (keras.Model(fixed, keras_gated.GRU(3)(fixed)), "unknown number of steps"),
        (keras.Model(x, layers.Dense(2)(x)), "holds no recurrent layer"),
        (
            keras.Model(x, keras_gated.GRU(3)(layers.Conv1D(4, 3, padding="causal")(x))),
            r"step by step.*cannot be read window by window.*check=False",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            to_onnx(set_random(model), tmp_path / "model.onnx", states=True)
    assert not [*tmp_path.iterdir()]
