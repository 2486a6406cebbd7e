"""Models that Keras 2 saved: the answers of `tf_keras`, which wrote them, or an error by name."""

import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import keras_gated
from keras_gated import from_keras, hard_sigmoid

k2 = pytest.importorskip("tf_keras")
L = k2.layers
pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

X = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
IDS = np.array([[3, 4, 5, 0, 0, 0], [1, 2, 0, 0, 0, 0], [5, 6, 1, 7, 2, 8], [4, 0, 0, 0, 0, 0]])
HARD = {"recurrent_activation": "hard_sigmoid"}
OF_ONE = {
    "SimpleRNN": lambda **k: L.SimpleRNN(4, **k),
    "LSTM": lambda **k: L.LSTM(4, **k),
    "LSTM, hard_sigmoid": lambda **k: L.LSTM(4, **HARD, **k),
    "LSTM, no bias": lambda **k: L.LSTM(4, use_bias=False, activation="relu", **k),
    "GRU, reset before": lambda **k: L.GRU(4, reset_after=False, **k),
    "GRU, reset after": lambda **k: L.GRU(4, reset_after=True, **k),
    "GRU, hard_sigmoid": lambda **k: L.GRU(4, reset_after=False, **HARD, **k),
    "backwards": lambda **k: L.GRU(4, go_backwards=True, **k),
    "Bidirectional LSTM": lambda **k: L.Bidirectional(L.LSTM(4, **HARD, **k)),
    "Bidirectional GRU": lambda **k: L.Bidirectional(L.GRU(4, **k), merge_mode="sum"),
    "both directions differ": lambda **k: L.Bidirectional(
        L.GRU(4, **k), backward_layer=L.LSTM(4, go_backwards=True, **k)
    ),
    "RNN of a cell": lambda **k: L.RNN(L.GRUCell(4, reset_after=False), **k),
    "RNN of cells": lambda **k: L.RNN([L.LSTMCell(4), L.GRUCell(3), L.SimpleRNNCell(2)], **k),
    "stacked cells": lambda **k: L.RNN(L.StackedRNNCells([L.GRUCell(4), L.LSTMCell(3)]), **k),
}


def saved(model, tmp_path, name="m.h5"):
    """Every weight differs, so a swapped gate or bias changes the answer."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0.1, 0.5, w.shape) ** 2 - 0.1 for w in model.get_weights()])
    path = tmp_path / name
    model.save(path)
    return path


def assert_same_answers(path, theirs, *inputs):
    ours = from_keras(path)
    given = list(inputs) if len(inputs) > 1 else inputs[0]
    expected, received = (
        keras.tree.flatten(model(given, training=False)) for model in (theirs, ours)
    )
    assert len(expected) == len(received)
    for one, other in zip(expected, received, strict=True):
        assert_allclose(other, one, atol=1e-5)
    return ours


@pytest.fixture(autouse=True)
def names_begin_anew():
    k2.backend.clear_session()
    keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LSTM", "GRU, reset after", "both directions differ"])
def test_a_layer_answers_as_keras_2_did(name, tmp_path):
    theirs = k2.Sequential([L.Input((None, 2)), OF_ONE[name](return_sequences=True), L.Dense(1)])
    assert_same_answers(saved(theirs, tmp_path), theirs, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ONE)
def test_masks_of_unequal_lengths_are_counted(name, tmp_path):
    ids = L.Input((None,), dtype="int32")
    x = L.Embedding(9, 2, mask_zero=True)(ids)
    theirs = k2.Model(ids, L.Dense(1)(OF_ONE[name]()(x)))
    ours = assert_same_answers(saved(theirs, tmp_path), theirs, IDS)
    assert_allclose(ours(IDS[:2, :3]), ours(IDS[:2]), atol=1e-6)


def test_the_recurrent_layers_are_ours_and_the_names_stay(tmp_path):
    theirs = k2.Sequential(
        [L.LSTM(4, return_sequences=True, input_shape=(None, 2), **HARD, name="a"),
         L.Bidirectional(L.GRU(3), name="b"), L.Dense(2, activation="hard_sigmoid", name="c")],
        name="whole",
    )  # fmt: skip
    ours = assert_same_answers(saved(theirs, tmp_path), theirs, X)
    lstm, both, dense = ours.layers
    assert [ours.name, *(layer.name for layer in ours.layers)] == ["whole", "a", "b", "c"]
    assert type(lstm) is keras_gated.LSTM and type(both) is keras_gated.Bidirectional
    assert type(both.forward_layer) is keras_gated.GRU
    assert lstm.recurrent_activation == dense.activation == hard_sigmoid()
    ours.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    assert_array_equal(loaded(X), ours(X))


def test_a_functional_model_with_two_inputs_and_initial_states(tmp_path):
    ids, start = L.Input((None,), name="ids"), L.Input((3,), name="start")
    x = L.Embedding(9, 2, mask_zero=True)(ids)
    x, *states = L.LSTM(3, return_sequences=True, return_state=True)(x, initial_state=[start] * 2)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True))(x, initial_state=states + [start] * 2)
    shared = L.Dense(2, activation="tanh")
    x = L.concatenate([shared(x), L.TimeDistributed(L.Dense(2))(x)])
    last = L.GRU(4, **HARD)(x)
    theirs = k2.Model([ids, start], [L.Dense(1)(last), shared(L.Dense(6)(start)), *states])
    starts = np.random.default_rng(2).normal(size=(4, 3)).astype("float32")
    assert_same_answers(saved(theirs, tmp_path), theirs, IDS, starts)


def test_an_encoder_and_a_decoder(tmp_path):
    source, target = L.Input((None,)), L.Input((None,))
    _, state = L.GRU(4, return_state=True)(L.Embedding(9, 2, mask_zero=True)(source))
    x = L.Embedding(9, 3, mask_zero=True)(target)
    x = L.GRU(4, return_sequences=True)(x, initial_state=state)
    theirs = k2.Model([source, target], L.Dense(9, activation="softmax")(x))
    assert_same_answers(saved(theirs, tmp_path), theirs, IDS, IDS[:, ::-1].copy()[:, :4])


def test_models_in_models_called_twice(tmp_path):
    inputs = L.Input((None, 2))
    x = L.BatchNormalization()(inputs)
    x = L.GRU(3, return_sequences=True)(x)
    inner = k2.Model(inputs, L.BatchNormalization()(x), name="inner")
    inner.layers[1].trainable = False
    tail = k2.Sequential([L.Input((3,)), L.Dense(4), L.BatchNormalization(), L.Dense(2)])
    a, b = L.Input((None, 2)), L.Input((None, 2))
    both = L.Subtract()([L.LSTM(3)(inner(a)), L.GRU(3)(inner(b))])
    theirs = k2.Model([a, b], tail(both))
    assert_same_answers(saved(theirs, tmp_path), theirs, X, X[:, ::-1].copy())


def test_a_model_over_the_steps_of_another(tmp_path):
    word = k2.Sequential([L.Input((4, 2)), L.BatchNormalization(), L.Bidirectional(L.LSTM(3))])
    theirs = k2.Sequential([L.Input((None, 4, 2)), L.TimeDistributed(word), L.GRU(3)])
    x = np.random.default_rng(3).normal(size=(2, 5, 4, 2)).astype("float32")
    assert_same_answers(saved(theirs, tmp_path), theirs, x)


def test_stateful_layers_go_on_where_they_were(tmp_path):
    theirs = k2.Sequential(
        [L.LSTM(4, stateful=True, return_sequences=True, batch_input_shape=(3, 5, 2)),
         L.GRU(3, stateful=True)]
    )  # fmt: skip
    path = saved(theirs, tmp_path)
    ours = from_keras(path)
    for part in (X, 2 * X):
        assert_allclose(ours.predict(part, verbose=0), theirs.predict(part, verbose=0), atol=1e-5)


def test_other_layers_of_old_models(tmp_path):
    theirs = k2.Sequential(
        [L.Masking(input_shape=(6, 2)), L.SpatialDropout1D(0.1), L.Conv1D(4, 3, padding="same"),
         L.LeakyReLU(0.2), L.BatchNormalization(), L.MaxPooling1D(2),
         L.SeparableConv1D(3, 2, padding="same"), L.LayerNormalization(),
         L.LSTM(3, kernel_initializer=k2.initializers.VarianceScaling(distribution="normal"),
                kernel_regularizer="l2", recurrent_constraint="max_norm"),
         L.Dropout(0.5), L.Activation("hard_sigmoid"), L.ReLU(max_value=0.9), L.Dense(2)]
    )  # fmt: skip
    x = np.random.default_rng(3).normal(size=(2, 6, 2)).astype("float32")
    ours = assert_same_answers(saved(theirs, tmp_path), theirs, x)
    [lstm] = [layer for layer in ours.layers if isinstance(layer, keras_gated.LSTM)]
    assert lstm.kernel_initializer.distribution == "truncated_normal"
    assert type(lstm.recurrent_constraint) is keras.constraints.MaxNorm


def test_half_precision_policies_stay(tmp_path):
    theirs = k2.Sequential([L.Input((None, 2)), L.LSTM(4, dtype="mixed_bfloat16"), L.Dense(2)])
    path = saved(theirs, tmp_path)
    ours = from_keras(path)
    assert ours.layers[0].dtype_policy.name == "mixed_bfloat16"
    assert_allclose(ours.predict(X), theirs.predict(X), atol=0.02)


def edited(path, change):
    """Rewrites the config of a file."""
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)
    return path


def lstm_of(config):
    [found] = [p for p in config["config"]["layers"] if p["class_name"] != "InputLayer"]
    return found


def of_one_lstm(tmp_path, layer=None):
    theirs = k2.Sequential([L.Input((None, 2)), layer or L.LSTM(4, name="mine")], name="m")
    return theirs, saved(theirs, tmp_path)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["CuDNNLSTM", "CuDNNGRU"])
def test_layers_of_cudnn_answer_as_keras_2_loads_them(name, bidirectional, tmp_path):
    from tf_keras.src.layers.rnn import cudnn_gru, cudnn_lstm

    old = {"CuDNNLSTM": cudnn_lstm.CuDNNLSTM, "CuDNNGRU": cudnn_gru.CuDNNGRU}[name](4)
    new = L.LSTM(4) if name == "CuDNNLSTM" else L.GRU(4, reset_after=True)
    if bidirectional:
        old, new = L.Bidirectional(old), L.Bidirectional(new)
    written = k2.Sequential([L.Input((None, 2)), old, L.Dense(2)])
    path = saved(written, tmp_path)
    assert name in h5py.File(path).attrs["model_config"]
    theirs = k2.Sequential([L.Input((None, 2)), new, L.Dense(2)])
    theirs.load_weights(path)  # converts them by itself
    assert_same_answers(path, theirs, X)


def test_arguments_that_an_older_keras_2_did_not_write(tmp_path):
    theirs = k2.Sequential([L.GRU(4, reset_after=False, batch_input_shape=(None, 5, 2), **HARD)])
    path = saved(theirs, tmp_path)

    def old(config):
        [_, gru] = config["config"]["layers"]
        for name in ("reset_after", "time_major", "implementation"):
            del gru["config"][name]
        gru["config"]["kernel_initializer"] = {
            "class_name": "VarianceScaling",
            "config": {
                "scale": 1.0, "mode": "fan_avg", "distribution": "normal", "seed": None,
                "dtype": "float32",
            },
        }  # fmt: skip
        config["config"] = [gru]  # the sequential model of Keras 2.0

    with h5py.File(edited(path, old), "a") as file:
        file.attrs["keras_version"] = np.bytes_("2.0.8")
        file.attrs["model_config"] = np.bytes_(file.attrs["model_config"])
    assert_same_answers(path, theirs, X)


def test_objects_of_tf_keras_are_converted(tmp_path):
    theirs = k2.Sequential([L.Input((None, 2)), L.Bidirectional(L.GRU(4, **HARD)), L.Dense(1)])
    saved(theirs, tmp_path)
    assert_allclose(from_keras(theirs)(X), theirs(X), atol=1e-5)
    with pytest.raises(ValueError, match=r"whole model is converted.*'alone'"):
        from_keras(L.GRU(4, name="alone"))


def model_in_model():
    inner = k2.Sequential([L.LSTM(4, return_sequences=True), L.LSTM(4, name="last")], name="inner")
    return k2.Sequential([k2.Input((5, 4)), inner, L.Dense(1)])


@pytest.mark.parametrize("make, part", [
    (lambda: k2.Sequential([k2.Input((5, 4)), L.Bidirectional(L.GRU(3))]),
     lambda model: model.layers[0].forward_layer),
    (lambda: k2.Sequential([k2.Input((5, 4)), L.Bidirectional(L.RNN(L.LSTMCell(3)))]),
     lambda model: model.layers[0].forward_layer.cell),
    (lambda: k2.Sequential([k2.Input((5, 4)), L.RNN([L.LSTMCell(4), L.LSTMCell(4)])]),
     lambda model: model.layers[0].cell.cells[0]),
    (model_in_model, lambda model: model.layers[0].layers[0].cell),
    (lambda: k2.Sequential([k2.Input((5, 4)), L.Reshape((5, 2, 2)), L.TimeDistributed(
        k2.Sequential([k2.Input((2, 2)), L.GRU(2, return_sequences=True), L.GRU(2)]))]),
     lambda model: model.layers[1].layer.layers[0].cell),
], ids=["direction", "its cell", "stacked", "model in a model", "at every step"])  # fmt: skip
@pytest.mark.parametrize("kind", ["object", "h5"])
def test_weights_of_a_part_that_was_frozen_go_to_that_part(make, part, kind, tmp_path):
    """Keras 2 stores them after the others, which have the same shapes here."""
    model = make()
    part(model).trainable = False
    file = saved(model, tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    assert_allclose(from_keras(model if kind == "object" else file)(x), model(x), atol=1e-5)


def test_layers_of_your_own_are_given_by_name(tmp_path):
    class Double(L.Layer):
        def call(self, x):
            return 2 * x

    class NewDouble(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    theirs = k2.Sequential([L.Input((None, 2)), L.GRU(3), Double(name="twice")])
    path = saved(theirs, tmp_path)
    ours = from_keras(path, custom_objects={"Double": NewDouble})
    assert_allclose(ours(X), theirs(X), atol=1e-5)
    with pytest.raises(ValueError, match=r"m\.h5.*'twice' is a Double.*custom_objects"):
        from_keras(path)


def test_neither_keras_2_nor_code_of_a_file_is_imported(tmp_path, uninstall):
    _, path = of_one_lstm(tmp_path)
    uninstall("tf_keras")
    from_keras(path)


def arguments(**given):
    return lambda config: lstm_of(config)["config"].update(given)


def of_class(name):
    return lambda config: lstm_of(config).update(class_name=name)


MARSHALLED = {"class_name": "Lambda", "config": {"name": "mine", "function": ["4wE=", None, None]}}
REFUSED = {
    "time_major": (arguments(time_major=True), r"'mine', a LSTM.*time_major=True"),
    "code": (lambda c: lstm_of(c).update(MARSHALLED), "'mine' is a Lambda.*never run"),
    "unknown layer": (of_class("TFOpLambda"), "'mine' is a TFOpLambda.*does not have"),
    "a layer that loads files": (of_class("TFSMLayer"), "'mine' is a TFSMLayer"),
    "Keras 1": (arguments(inner_init="orthogonal"), "'mine'.*inner_init"),
    "unknown activation": (arguments(activation="mine_too"), "'mine'.*mine_too"),
    "unknown initializer": (
        arguments(bias_initializer={"class_name": "Mine", "config": {}}), "`bias_initializer`.*Mine"
    ),
    "objects elsewhere": (
        lambda c: lstm_of(c).update(
            class_name="Wrapper", config={"name": "mine", "layer": MARSHALLED}
        ),
        "'mine', a Wrapper, has objects",
    ),
    "other units": (arguments(units=5), r"'mine', a LSTM, do not fit.*\(2, 20\).*\(2, 16\)"),
    "no class": (lambda c: lstm_of(c).pop("class_name"), "class_name"),
    "no layers": (lambda c: c["config"].pop("layers"), "KeyError"),
    "no activation": (
        lambda c: lstm_of(c)["config"].pop("recurrent_activation"), "recurrent_activation"
    ),
    "another name": (arguments(name="other"), "'mine'"),
    "another kind of model": (lambda c: c.update(class_name="Mine"), "Mine"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_converted_is_named_with_the_file(what, tmp_path):
    change, message = REFUSED[what]
    _, path = of_one_lstm(tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)from_keras: '.*m\.h5'.*{message}"):
        from_keras(edited(path, change))


def test_a_gru_whose_update_gate_is_no_complement_is_refused(tmp_path):
    layer = L.GRU(4, kernel_constraint="non_neg", name="mine")
    _, path = of_one_lstm(tmp_path, layer)
    with pytest.raises(ValueError, match=r"m\.h5.*`kernel_constraint` of the GRU 'mine'"):
        from_keras(path)


def test_directions_of_unequal_units_are_refused(tmp_path):
    layer = L.Bidirectional(L.GRU(4), backward_layer=L.LSTM(3, go_backwards=True), name="mine")
    _, path = of_one_lstm(tmp_path, layer)
    with pytest.raises(ValueError, match=r"m\.h5.*'mine'.*4 and 3 units"):
        from_keras(path)


def test_a_mask_that_keras_2_did_not_turn_around_is_refused(tmp_path):
    ids = L.Input((None,))
    x = L.Embedding(9, 2, mask_zero=True)(ids)
    x = L.LSTM(3, go_backwards=True, return_sequences=True, name="mine")(x)
    path = saved(k2.Model(ids, L.LSTM(3)(x)), tmp_path)
    with pytest.raises(ValueError, match=r"m\.h5.*'mine' reads backwards under a mask"):
        from_keras(path)


def test_the_wrong_file_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        from_keras(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="is a folder"):
        from_keras(str(tmp_path))
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.LSTM(2)])
    model.save(tmp_path / "three.h5")
    with pytest.raises(ValueError, match=r"three\.h5.*Keras 3.*load_model"):
        from_keras(tmp_path / "three.h5")
    theirs, _ = of_one_lstm(tmp_path)
    theirs.save_weights(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match=r"weights\.h5.*weights alone"):
        from_keras(tmp_path / "weights.h5")
    with h5py.File(edited(tmp_path / "m.h5", lambda config: None), "a") as file:
        file.attrs["keras_version"] = "1.2.2"
    with pytest.raises(ValueError, match=r"m\.h5.*Keras 1\.2\.2"):
        from_keras(tmp_path / "m.h5")


def test_a_keras_file_of_today_is_loaded_and_converted(tmp_path):
    theirs = keras.Sequential([keras.Input((None, 2)), keras.layers.GRU(2, name="mine")])
    theirs.save(tmp_path / "m.keras")
    ours = from_keras(str(tmp_path / "m.keras"))
    assert type(ours.get_layer("mine")) is keras_gated.GRU
    assert_allclose(ours(X), theirs(X), atol=1e-6)


def everything():
    """A model with everything that has weights at a place of its own."""
    ids = L.Input((None,), name="ids")
    x = L.Embedding(9, 3, mask_zero=True)(ids)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True), name="both")(x)
    x = L.BatchNormalization()(x)
    x = L.RNN([L.GRUCell(3), L.LSTMCell(2), L.GRUCell(2)], return_sequences=True)(x)
    x = L.GRU(3, return_sequences=True, reset_after=False, **HARD)(x)
    inner = k2.Sequential([L.Input((None, 3)), L.TimeDistributed(L.Dense(5)), L.LSTM(3)])
    return k2.Model(ids, L.Dense(1, name="end")(inner(x)))


SAVED = {
    "m.h5": lambda m, p: m.save(p),
    "m.keras": lambda m, p: m.save(p),
    # Without the functions, which take long to trace and are not read.
    "folder": lambda m, p: m.save(p, save_format="tf", save_traces=False),
}
WEIGHTS = {
    "w.h5": lambda m, p: m.save_weights(p),
    "w.weights.h5": lambda m, p: m.save_weights(p),
    "checkpoint": lambda m, p: m.save_weights(p),
}


@pytest.fixture(scope="module")
def everything_and_its_answers(tmp_path_factory):
    theirs = everything()
    saved(theirs, tmp_path_factory.mktemp("everything"))  # makes every weight another
    return theirs, theirs(IDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SAVED, *WEIGHTS])
def test_everything_that_keras_2_writes_is_read(name, everything_and_its_answers, tmp_path, capsys):
    theirs, expected = everything_and_its_answers
    {**SAVED, **WEIGHTS}[name](theirs, tmp_path / name)
    (tmp_path / "m.json").write_text(theirs.to_json())
    given = {} if name in SAVED else {"architecture": tmp_path / "m.json"}
    asked = name != "folder"  # of which tf_keras traces every function again
    ours = from_keras(tmp_path / name, check=asked, **given)
    if asked:
        told = capsys.readouterr().out
        assert told.startswith("from_keras: the largest difference from the original is ")
        assert float(told.split()[8]) < 1e-5
    assert_allclose(ours(IDS), expected, atol=1e-5)
    if name in WEIGHTS:
        with pytest.raises(ValueError, match=r"weights alone.*`architecture=`"):
            from_keras(tmp_path / name)


def test_weights_of_old_files_go_into_models_of_today(tmp_path):
    from tf_keras.src.layers.rnn import cudnn_lstm

    layers = L.Embedding(9, 4, name="words"), cudnn_lstm.CuDNNLSTM(3, name="rnn"), L.Dense(2)
    written = k2.Sequential([L.Input((None,)), *layers])
    saved(written, tmp_path)
    written.save_weights(tmp_path / "w.hdf5")
    answering = k2.Sequential([L.Input((None,)), L.Embedding(9, 4), L.LSTM(3), L.Dense(2)])
    answering.load_weights(tmp_path / "w.hdf5")
    for module in (keras.layers, keras_gated):  # of other names than the file's
        today = keras.Sequential(
            [keras.Input((None,)), keras.layers.Embedding(9, 4), module.LSTM(3),
             keras.layers.Dense(2)]
        )  # fmt: skip
        before = today.get_weights()
        ours = from_keras(tmp_path / "w.hdf5", architecture=today)
        assert_allclose(ours(IDS), answering(IDS), atol=1e-5)
        assert type(ours.layers[1]) is keras_gated.LSTM
        for one, other in zip(today.get_weights(), before, strict=True):
            assert_array_equal(one, other)
    today = keras.Sequential([keras.Input((None, 2)), keras.layers.LSTM(3)])
    with pytest.raises(ValueError, match=r"w\.hdf5'.*layers \['words', 'rnn', 'dense.*\['lstm"):
        from_keras(tmp_path / "w.hdf5", architecture=today)
    with pytest.raises(ValueError, match=r"JSON of Keras 3.*model_from_json"):
        from_keras(tmp_path / "w.hdf5", architecture=today.to_json())
    with pytest.raises(ValueError, match=r"`architecture` is the model of a file's weights"):
        from_keras(today, architecture=today)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        from_keras(tmp_path / "w.hdf5", architecture=tmp_path / "none.json")


def test_a_file_that_would_fill_the_memory_is_refused_before(tmp_path):
    _, path = of_one_lstm(tmp_path)
    with pytest.raises(ValueError, match=r"m\.h5.*has \d{18,} weights, and \d+ numbers"):
        from_keras(edited(path, arguments(units=10**9)))
    _, path = of_one_lstm(tmp_path)
    with h5py.File(path, "a") as file:
        file.create_dataset("more", (2**27,), "f4", chunks=(2**20,), compression="gzip")
    with pytest.raises(ValueError, match=r"m\.h5.*would unpack to \d+ bytes from \d+"):
        from_keras(path)


def test_folders_and_archives_of_other_kinds_are_told_apart(tmp_path):
    module = tf.Module()
    tf.saved_model.save(module, tmp_path / "module")
    with pytest.raises(ValueError, match=r"module'.*no config of Keras 2"):
        from_keras(tmp_path / "module")
    with zipfile.ZipFile(tmp_path / "z.keras", "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(ValueError, match=r"z\.keras'.*holds \['other'\]"):
        from_keras(tmp_path / "z.keras")

    class Own(k2.Model):
        def __init__(self):
            super().__init__()
            self.part = L.GRU(3)

        def call(self, x):
            return self.part(x)

    own = Own()
    own(X)
    own.save(tmp_path / "own", save_format="tf")
    with pytest.raises(ValueError, match=r"own'.*must be a functional or sequential model"):
        from_keras(tmp_path / "own")


@pytest.mark.slow
def test_words_that_a_layer_was_given_are_kept_and_those_it_learned_are_refused(tmp_path):
    texts = tf.constant(["b a", "c b"])
    for words in (["a", "b"], None):
        vectors = L.TextVectorization(vocabulary=words, name="words")
        if not words:
            vectors.adapt(["a b", "b b c"])
        theirs = k2.Sequential([L.Input((), dtype="string"), vectors, L.Embedding(9, 2), L.GRU(3)])
        for name in ("text.keras", "text"):
            theirs.save(tmp_path / name)
            if words:
                assert_allclose(from_keras(tmp_path / name)(texts), theirs(texts), atol=1e-6)
                continue
            with pytest.raises(ValueError, match=rf"{name}'.*'words', a TextV.*get_vocabulary"):
                from_keras(tmp_path / name)


@pytest.mark.parametrize("kind", ["m.keras", "folder"])
def test_damaged_archives_and_folders_are_told_by_name(kind, tmp_path):
    model = k2.Sequential([L.Input((None, 2)), L.GRU(3, name="mine"), L.Dense(1)])
    SAVED[kind](model, tmp_path / kind)
    files = [tmp_path / kind] if kind == "m.keras" else [
        tmp_path / kind / name
        for name in ("keras_metadata.pb", "saved_model.pb", "variables/variables.index")
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for _ in range(12):
            file.write_bytes(whole[: rng.integers(len(whole))])
            try:
                from_keras(tmp_path / kind)
            except ValueError as error:
                assert kind in str(error)
            else:
                assert file.name == "saved_model.pb"  # is not read: the config stands elsewhere
        file.write_bytes(whole)
    assert type(from_keras(tmp_path / kind).get_layer("mine")) is keras_gated.GRU


def test_damaged_files_are_told_by_name(tmp_path):
    _, path = of_one_lstm(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(40):
        data = bytearray(whole[: rng.integers(len(whole))] if number % 2 else whole)
        for place in rng.integers(len(data), size=0 if number % 2 else 40):
            data[place] = rng.integers(256)
        bad = tmp_path / "bad.h5"
        bad.write_bytes(data)
        try:
            from_keras(bad)
        except ValueError as error:
            assert "bad.h5" in str(error)
        else:
            assert not number % 2  # what is cut short is never read


def test_links_that_lead_out_of_a_file_are_not_followed(tmp_path):
    _, path = of_one_lstm(tmp_path)
    os.rename(path, tmp_path / "other.h5")
    _, path = of_one_lstm(tmp_path)
    with h5py.File(path, "a") as file:
        group = file["model_weights/mine/mine"]
        del group["lstm_cell" if "lstm_cell" in group else next(iter(group))]
        group["lstm_cell"] = h5py.ExternalLink("other.h5", "model_weights/mine/mine/lstm_cell")
    with pytest.raises(ValueError, match=r"m\.h5.*is a link"):
        from_keras(path)


def test_weights_that_lie_in_another_file_are_not_read(tmp_path):
    _, path = of_one_lstm(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(path, "a") as file:
        [name] = [n for n in file["model_weights/mine"].attrs["weight_names"] if "bias" in n]
        group = file["model_weights/mine"]
        del group[name]
        group.create_dataset(name, (16,), "f4", external=[(str(tmp_path / "secret"), 0, 64)])
    with pytest.raises(ValueError, match=r"m\.h5.*of the file itself"):
        from_keras(path)


@pytest.mark.parametrize("name", ["m.h5", "m.keras", "m", None])
def test_what_a_model_normalizes_by_is_read(name, tmp_path):
    normalize = L.Normalization()
    normalize.adapt(5 + 3 * X)
    model = k2.Sequential([k2.Input((None, 2)), normalize, L.GRU(3)])
    given = model
    if name:
        given = tmp_path / name
        model.save(given)
    assert_allclose(from_keras(given)(5 + X), model(5 + X), atol=1e-5)
