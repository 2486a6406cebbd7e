"""`from_onnx` asks onnxruntime whether it answers as what was read."""

import importlib.util

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_onnx
from keras_gated.convert.onnx import check_read, convolutions, read_recurrent

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper  # noqa: E402
from onnx_graphs import FEATURES, UNITS, X, constants, model_of, recurrent  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

RNG = np.random.default_rng(0)


@pytest.fixture
def swapped_gates(monkeypatch):
    own = read_recurrent._weights
    monkeypatch.setattr(read_recurrent, "_weights", lambda *args: [
        np.roll(w, UNITS, axis=-1) for w in own(*args)
    ])  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("options", [{}, {"node": "told"}, {"node": 0, "check": True}], ids=str)
def test_what_answers_otherwise_is_refused(kind, options, swapped_gates):
    model = recurrent(kind)
    what = f"the {kind} node 'told'" if "node" in options else "the model"
    message = (
        rf"^from_onnx: what was read of {what} answers otherwise than onnxruntime .*"
        r"by \d\.\d+ of its largest answer \(accepted: 1e-04\).*shapes.*check=False"
    )
    with pytest.raises(ValueError, match=message):
        from_onnx(model, **options)
    from_onnx(model, **{**options, "check": False})  # at the caller's own risk


def with_lengths(time_first):
    """A graph whose lengths are computed from those that are given."""
    lstm = helper.make_node("LSTM", ["s", "W", "R", "B", "n"], ["y"], name="told", hidden_size=2)
    nodes = [
        helper.make_node("Transpose", ["x"], ["s"], perm=[0, 1, 2] if time_first else [1, 0, 2]),
        helper.make_node("Add", ["lengths", "one"], ["more"]),
        helper.make_node("Div", ["more", "two"], ["half"]),
        helper.make_node("Cast", ["half"], ["n"], to=6),
        lstm,
    ]
    axes = ["time", "batch"] if time_first else ["batch", "time"]
    arrays = {**constants("LSTM"), "one": np.array(1), "two": np.array(2)}
    inputs = [("x", 1, [*axes, FEATURES]), ("lengths", 7, ["batch"])]
    return model_of(nodes, arrays, inputs)


@pytest.fixture
def asked(monkeypatch):
    """What onnxruntime was asked and answered."""
    own, given = check_read.session_of, []

    class Session:
        def __init__(self, content, optimised):
            self.session = own(content, optimised)

        def run(self, names, feeds):
            answers = self.session.run(names, feeds)
            given.append(feeds)
            return answers

    monkeypatch.setattr(check_read, "session_of", Session)
    return given


@pytest.mark.parametrize("time_first", [False, True])
def test_lengths_are_unequal_and_sizes_differ(time_first, asked, monkeypatch):
    model = with_lengths(time_first)
    from_onnx(model)
    assert len({feeds["x"].shape for feeds in asked}) == len(asked) == 2
    assert any(len({*feeds["lengths"]}) > 1 for feeds in asked)
    own = read_recurrent.plain
    monkeypatch.setattr(read_recurrent, "plain", lambda value: own(value) - 1)
    with pytest.raises(ValueError, match="answers otherwise"):
        from_onnx(model)


def test_lengths_of_a_node_alone_are_unequal(asked):
    from_onnx(with_lengths(False), node="told")
    [feeds] = asked
    assert len({*feeds["lengths"]}) == 3


def test_ids_are_in_the_range_of_their_table(asked):
    table = RNG.normal(size=(5, FEATURES)).astype("float32")
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axis"], ["apart"]),
        helper.make_node("Squeeze", ["apart", "axis"], ["again"]),
        helper.make_node("Gather", ["table", "again"], ["rows"]),
        helper.make_node("LSTM", ["rows", "W", "R", "B"], ["y"], hidden_size=UNITS),
    ]
    arrays = {**constants("LSTM"), "table": table, "axis": np.array([0])}
    from_onnx(model_of(nodes, arrays, [("ids", 7, ["t", "b"])]), check=True)
    drawn = np.concatenate([feeds["ids"].ravel() for feeds in asked])
    assert set(drawn) == {0, 1, 2, 3, 4}


def test_states_and_sequences_that_want_one_size_get_it(asked):
    """Their axes have no names, and stand at different places."""
    arrays = constants("LSTM")
    nodes = [
        helper.make_node("Transpose", ["x"], ["s"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["s", *"WRB", "", "h", "c"], ["y", "y_h"], hidden_size=UNITS),
    ]
    state = [1, None, UNITS]
    inputs = [("x", 1, [None, None, FEATURES]), ("h", 1, state), ("c", 1, state)]
    from_onnx(model_of(nodes, arrays, inputs, ("y_h",)))
    assert asked and all(f["x"].shape[0] == f["h"].shape[1] for f in asked)


def test_a_front_end_gets_as_many_steps_as_it_needs(asked):
    kernel = RNG.normal(size=(FEATURES, 1, 40)).astype("float32")
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["f"], strides=[20]),
        helper.make_node("Transpose", ["f"], ["s"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["s", "W", "R", "B"], ["y"], hidden_size=UNITS),
    ]
    from_onnx(model_of(nodes, {**constants("LSTM"), "k": kernel}, [("x", 1, ["b", 1, "t"])]))
    assert {feeds["x"].shape[2] for feeds in asked} == {96, 700}


def test_a_front_end_that_pads_otherwise_is_refused(monkeypatch):
    kernel = RNG.normal(size=(FEATURES, 2, 3)).astype("float32")
    node = helper.make_node("Conv", ["x", "k"], ["y"], pads=[2, 0])
    model = model_of([node], {"k": kernel}, [("x", 1, ["b", 2, "t"])])
    own = convolutions._Windows.around

    def other(self, x, value, pads=None):
        self.pads = [pair[::-1] for pair in self.pads]
        return own(self, x, value, pads)

    monkeypatch.setattr(convolutions._Windows, "around", other)
    with pytest.raises(ValueError, match=r"the model answers otherwise.*'x': \(3, 2, 7\)"):
        from_onnx(model)


def of_halves():
    arrays = {n: a.astype("float16") for n, a in constants("LSTM").items()}
    model = recurrent("LSTM", arrays=arrays)
    model.graph.input[0].type.tensor_type.elem_type = 10
    return model


def test_halves_are_compared_as_far_as_they_go(asked, monkeypatch):
    from_onnx(of_halves())
    assert [feeds["x"].dtype for feeds in asked] == ["float16"] * 2
    own = read_recurrent._weights
    monkeypatch.setattr(
        read_recurrent, "_weights", lambda *args: [np.roll(w, 2, axis=-1) for w in own(*args)]
    )
    with pytest.raises(ValueError, match=r"accepted: 2e-02"):
        from_onnx(of_halves())


def test_a_check_that_was_asked_for_prints_the_largest_difference(capsys):
    for given in ({}, {"node": 0}):
        from_onnx(recurrent("LSTM"), **given)
        assert not capsys.readouterr().out
        from_onnx(recurrent("LSTM"), check=True, **given)
        told = capsys.readouterr().out
        assert told.startswith("from_onnx: the largest difference from onnxruntime is ")
        assert float(told.split()[7]) < 1e-5


def test_a_graph_that_onnxruntime_does_not_run_is_read_with_a_warning():
    model = recurrent("LSTM")
    model.opset_import[0].version = 99
    message = r"onnxruntime cannot load it: .*the model was not compared.*check=False"
    with pytest.raises(ValueError, match=message):
        from_onnx(model, check=True)
    with pytest.warns(UserWarning, match=message):
        unchecked = from_onnx(model)
    assert_allclose(unchecked(X), from_onnx(recurrent("LSTM"))(X))
    lstm = helper.make_node("LSTM", ["s", "W", "R", "B", "n"], ["y_apart"], hidden_size=UNITS)
    never = model_of(
        [
            helper.make_node("Conv", ["x", "k"], ["c"]),
            helper.make_node("Transpose", ["c"], ["s"], perm=[2, 0, 1]),
            lstm,
            helper.make_node("Squeeze", ["y_apart", "one"], ["y"]),
        ],
        {**constants("LSTM"), "k": np.ones((3, 1, 2000), "float32"), "one": np.array([1])},
        [("x", 1, ["b", 1, "t"]), ("n", 6, ["b"])],
    )
    with pytest.raises(ValueError, match=r"does not run it on random inputs: .*check=False"):
        from_onnx(never, check=True)
    given = [np.ones((1, 1, 2001), "float32"), np.array([2], "int32")]
    assert from_onnx(never, check=False)(given).shape == (2, 1, UNITS)


def test_without_onnxruntime_a_graph_is_read_unchecked_unless_a_check_is_asked_for(
    monkeypatch, swapped_gates
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    for options in ({}, {"node": "told"}):
        with pytest.raises(ImportError, match=r"^from_onnx.*not installed.*read the file unch"):
            from_onnx(recurrent("LSTM"), check=True, **options)
        assert isinstance(from_onnx(recurrent("LSTM"), **options), keras.layers.Layer)
    with pytest.raises(ValueError, match="from_onnx: `check` must be True, False or None"):
        from_onnx(recurrent("LSTM"), check="yes")


def test_answers_of_a_file_with_data_beside_it_are_compared(tmp_path, asked):
    path = tmp_path / "model.onnx"
    onnx.save(recurrent("LSTM"), path, save_as_external_data=True, size_threshold=0, location="w")
    assert type(from_onnx(path, node=0)) is keras_gated.LSTM
    from_onnx(path)
    assert len(asked) == 3
