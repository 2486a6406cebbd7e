"""What every family has that is not in Keras, and every cell of a user's own.

The equations, masks and states of all of them are held against NumPy in `test_equations.py` and
`test_contract.py`.
"""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from families import ALL, FAMILIES, NEW, OWN, mask_array, set_random
from grids import in_full_for, product
from keras import ops
from numpy.testing import assert_allclose

import keras_gated
from keras_gated.serve.streaming import Stepper

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow tapes")

FEATURES, UNITS = 3, 4
FURTHER = {**NEW, **OWN}


def data(rows=3, steps=5):
    return np.random.default_rng(0).normal(size=(rows, steps, FEATURES)).astype("float32")


def model_of(name, **options):
    inputs = keras.Input((None, FEATURES))
    x = ALL[name].make(UNITS, return_sequences=True, **options)(inputs)
    return set_random(keras.Model(inputs, keras.layers.Dense(1)(x)))


# TensorFlow Addons


def test_peepholes_give_the_numbers_of_tensorflow_addons():
    """Of its test of `tfa.rnn.PeepholeLSTMCell`."""
    cell = keras_gated.PeepholeLSTMCell(5, kernel_initializer="ones")
    inputs = tf.one_hot([1, 2, 3, 4], 4)
    output, _ = cell(inputs, cell.get_initial_state(4))
    assert_allclose(output, np.repeat([[0.417551]] * 3 + [[0.0]], 5, axis=1), atol=1e-6)
    assert [w.name for w in cell.weights[3:]] == [
        f"{gate}_gate_peephole_weights" for gate in ("input", "forget", "output")
    ]


def test_layer_normalization_gives_the_numbers_of_tensorflow_addons():
    """Of its test of `tfa.rnn.LayerNormLSTMCell`, two of them stacked."""
    half = keras.initializers.Constant(0.5)
    names = ("kernel_initializer", "recurrent_initializer", "bias_initializer")
    cells = [
        keras_gated.LayerNormLSTMCell(2, norm_epsilon=1e-12, **dict.fromkeys(names, half))
        for _ in range(2)
    ]
    states = [[[2, 3], [0, 1]], [[6, 7], [4, 5]]]
    states = [[tf.constant([s], "float32") * 0.1 for s in of_cell] for of_cell in states]
    output, after = keras.layers.StackedRNNCells(cells)(tf.ones((1, 2)), states)
    for h, c in after:
        assert_allclose(h, [[-0.47406167, 0.47406143]], rtol=1e-5)
        assert_allclose(c, [[-1.0, 1.0]], rtol=1e-5)
    assert_allclose(output, after[1][0])
    assert [w.name for w in cells[0].weights[3:]] == [
        f"{part}_norm_{name}" for part in ("kernel", "recurrent", "state")
        for name in ("gamma", "beta")
    ]  # fmt: skip


# The Mogrifier


def test_a_mogrifier_of_low_rank_has_the_products_of_its_factors_for_gates():
    cell = keras_gated.MogrifierLSTMCell(UNITS, rank=2, dtype="float64")  # 5 rounds
    cell.build((None, FEATURES))
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=w.shape) for w in cell.get_weights()]
    cell.set_weights(weights)
    gates = [down @ up for down, up in zip(weights[3::2], weights[4::2], strict=True)]
    assert [g.shape for g in gates] == 2 * [(UNITS, FEATURES), (FEATURES, UNITS)] + [(4, 3)]
    x, h, c = (rng.normal(size=n) for n in (FEATURES, UNITS, UNITS))
    expected = oracles.mogrifier_lstm(x, [h, c], *weights[:3], *gates)
    _, after = cell(x[None], [h[None], c[None]])
    assert_allclose(after[0][0], expected["hidden"], rtol=0, atol=1e-10)
    assert_allclose(after[1][0], expected["memory"], rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"rank": 2, "recurrent_dropout": 0.4}, {}])
def test_a_mogrifier_without_biases_is_the_same_on_both_paths(options):
    x, found = tf.constant(data(), "float64"), []
    for fused in (True, False):
        layer = keras_gated.MogrifierLSTM(
            UNITS, rounds=2, use_bias=False, dtype="float64", seed=3, fused=fused, **options
        )
        layer.build(x.shape)
        set_random(layer)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(layer(x, mask=mask_array("gaps"), training=True)))
        weights = [v.value for v in layer.trainable_variables]
        found.append([loss, *tape.gradient(loss, [x, *weights])])
    for a, b in zip(*found, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-10)


# Training


@pytest.mark.sampled
@pytest.mark.parametrize("name", FURTHER)
def test_a_family_trains_on_the_fused_path(name):
    x = data(16, 7)
    y = np.cumsum(x[..., :1], axis=1)
    model = model_of(name, fused=True)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    ids = np.arange(7) < np.random.default_rng(2).integers(1, 8, (16, 1))
    losses = model.fit(x, y, epochs=8, verbose=0, sample_weight=ids.astype("float32"))
    assert losses.history["loss"][-1] < 0.97 * losses.history["loss"][0]


DROPS = {
    "recurrent_dropout": {"recurrent_dropout": 0.4, "dropout": 0.3},
    "zoneout": {"zoneout": 0.3},
    "all": {"zoneout": 0.2, "recurrent_dropout": 0.3, "recurrent_weight_dropout": 0.2},
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name, drops, mask_name",
    in_full_for(
        ("lstm", "gru"),
        product(ALL, DROPS, ("no mask", "gaps", "a row without a valid step")),
    ),
)
def test_what_is_dropped_is_the_same_on_both_paths_and_so_are_its_gradients(name, drops, mask_name):
    options = DROPS[drops]
    family, found = ALL[name], []
    missing = {*family.cell.without, *without_recurrent_kernel(family)}
    options = {k: v for k, v in options.items() if k not in missing and k not in family.options}
    x, mask = tf.constant(data(), "float64"), mask_array(mask_name)
    for fused in (True, False):
        layer = family.make(
            UNITS, dtype="float64", seed=3, fused=fused, return_sequences=True, **options
        )
        layer.build(x.shape)
        layer.set_weights(family.random_weights(FEATURES, UNITS))
        results = []
        for _ in range(2):  # other masks in the second call
            with tf.GradientTape() as tape:
                tape.watch(x)
                output = layer(x, mask=mask, training=True)
                loss = tf.reduce_sum(tf.sin(output))
            weights = [v.value for v in layer.trainable_variables]
            results += [output, *tape.gradient(loss, [x, *weights])]
        found.append(results)
        if options:
            assert np.abs(results[0] - results[len(results) // 2]).max() > 1e-6
    for a, b in zip(*found, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-11)


def without_recurrent_kernel(family):
    names = family.make_cell(UNITS).weight_shapes(FEATURES)
    return () if "recurrent_kernel" in names else ("recurrent_weight_dropout",)


def test_zoneout_leaves_a_unit_as_it_was_or_lets_it_change_at_each_step():
    x = np.random.default_rng(0).normal(size=(64, 20, FEATURES)).astype("float32")
    layer = keras_gated.LSTM(50, zoneout=[0.25, 0.0], return_sequences=True, seed=1)
    hidden = layer(x, training=True).numpy()
    stayed = hidden[:, 1:] == hidden[:, :-1]
    assert abs(stayed.mean() - 0.25) < 0.01  # 60,800 draws
    assert stayed.mean(axis=(0, 1)).min() > 0
    assert not (stayed[:, 1:] == stayed[:, :-1]).all()  # drawn anew at each step
    assert not (layer(x)[:, 1:] == layer(x)[:, :-1]).numpy().any()  # the expectation


# What a user does with a layer


@pytest.mark.slow
def test_models_are_saved_and_loaded_in_a_new_process(tmp_path):
    np.save(tmp_path / "x.npy", data())
    expected = {}
    for name in FURTHER:
        model = model_of(name, fused=False)  # of files, nothing of loops: they take long to compile
        model.save(tmp_path / f"{name}.keras")
        expected[name] = model(data())
    script = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[2])\n"
        "import numpy as np, keras, keras_gated, own_cells\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "for path in folder.glob('*.keras'):\n"
        "    model = keras.models.load_model(path)\n"
        "    np.save(folder / f'{path.stem}.npy', model(np.load(folder / 'x.npy')))\n"
    )
    tests = str(pathlib.Path(__file__).parent)
    subprocess.run([sys.executable, "-c", script, str(tmp_path), tests], check=True)
    for name, answer in expected.items():
        assert_allclose(np.load(tmp_path / f"{name}.npy"), answer, atol=1e-6, err_msg=name)


@pytest.mark.sampled
@pytest.mark.parametrize("name", FURTHER)
def test_a_layer_stands_where_a_layer_of_keras_stands(name):
    x, family = data(), ALL[name]
    layer = family.make(UNITS, return_sequences=True)
    twin = type(layer).from_config(layer.get_config())
    expected = layer(x)
    twin.build(x.shape)
    twin.set_weights(layer.get_weights())
    assert_allclose(twin(x), expected)
    width = layer.cell.output_size
    both = keras_gated.Bidirectional(family.make(UNITS, return_sequences=True))
    assert both(x).shape == (3, 5, 2 * width)
    outer = np.stack([x, -x], axis=1)
    distributed = keras.layers.TimeDistributed(layer)(outer)
    assert_allclose(distributed[:, 1], layer(-x), atol=1e-6)
    around = keras.layers.RNN(layer.cell, return_sequences=True)
    assert_allclose(around(x), expected, atol=1e-6)
    stacked = keras.layers.RNN([family.make_cell(UNITS), family.make_cell(UNITS)])
    assert stacked(x).shape == (3, width)
    half = family.make(UNITS, dtype="mixed_float16")
    assert half(x).dtype == "float16" and half.cell.kernel.dtype == "float32"


@pytest.mark.sampled
@pytest.mark.parametrize("name", FURTHER)
def test_gates_are_traced_and_the_gradient_flow_sums_to_the_gradient(name):
    family, mask = ALL[name], mask_array("gaps")
    x = np.where(mask[..., None], data(), 0).astype("float64")
    inputs = keras.Input((None, FEATURES), dtype="float64")
    masked = keras.layers.Masking(dtype="float64")(inputs)
    layer = family.make(UNITS, dtype="float64", return_sequences=True)
    model = keras.Model(inputs, layer(masked))
    weights = family.random_weights(FEATURES, UNITS)
    layer.set_weights(weights)
    states = [np.zeros((3, w)) for w in layer.cell.state_widths()]
    expected, _ = oracles.trace(family.oracle, x, mask, states, weights)
    traced = keras_gated.trace_gates(layer, x, mask=mask)
    assert set(traced) == set(layer.cell.fields())
    for gate, values in traced.items():
        assert_allclose(values, np.where(mask[..., None], expected[gate], values), atol=1e-10)
    model.compile(loss="mse")
    y = np.zeros((*x.shape[:2], states[0].shape[1]))
    flow = keras_gated.gradient_flow(model, x, y, layer=layer, contributions=True)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=x, y=y, y_pred=model(x))
    gradients = tape.gradient(loss, [v.value for v in layer.weights])
    for received, gradient in zip(flow.gradients.values(), gradients, strict=True):
        assert_allclose(received, gradient, atol=1e-10)


@pytest.mark.sampled
@pytest.mark.parametrize("name", FURTHER)
def test_a_sequence_may_come_in_pieces(name):
    model, x = model_of(name), data()
    stepper = Stepper(model)
    first, states = stepper(tf.constant(x[:, :2]), stepper.zeros(3))
    second, _ = stepper(tf.constant(x[:, 2:]), states)
    assert_allclose(np.concatenate([first, second], 1), model(x), atol=1e-6)


@pytest.mark.sampled
@pytest.mark.parametrize("name", NEW)
def test_a_model_runs_on_litert(name, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    model, x = model_of(name), data(1)
    written = keras_gated.to_litert(model, tmp_path / "model.tflite", steps=5)
    lite = interpreter.Interpreter(written.path)
    [given], [answer] = lite.get_input_details(), lite.get_output_details()
    lite.resize_tensor_input(given["index"], x.shape)
    lite.allocate_tensors()
    lite.set_tensor(given["index"], x)
    lite.invoke()
    assert_allclose(lite.get_tensor(answer["index"]), model(x), atol=1e-5)


# What is not to be


class Bare(keras_gated.GatedCell):
    gates = ("update",)


def with_step(step, **stated):
    return type("Bare", (Bare,), {"step": step, **stated})


def other_fields(self, x, states, weights):
    return {"hidden": x}


def not_by_name(self, x, states, weights):
    return x


def other_width(self, x, states, weights):
    return {"update": x, "hidden": ops.concatenate([x, x], -1)}


def reads_a_weight(self, x, states, weights):
    return {"update": x, "hidden": x + ops.matmul(states[0], self.recurrent_kernel)}


def reads_an_attribute(self, x, states, weights):
    return {"update": x, "hidden": self.activation(x)}


@pytest.mark.parametrize("cell, words", [
    (type("Bare", (keras_gated.GatedCell,), {}), r"names its gates.*gates = \('update', 'cand"),
    (type("Bare", (Bare,), {"state_names": ("memory",)}), "first state .* is called 'hidden'"),
    (Bare, "has no equations. Write its `step`"),
    (with_step(other_fields), r"a dict of \['update', 'hidden'\]. Received: \['hidden'\]"),
    (with_step(not_by_name), "must return every gate and state by name.*Received: "),
    (with_step(other_width), r"'hidden' of shape \(batch, 4\). Received: shape \(1, 8\).*widths"),
    (with_step(reads_a_weight), r"reads the weights \['recurrent_kernel'\].*`weights`"),
    (with_step(reads_an_attribute, reads=()), "no attribute 'activation'.*`Bare.reads` must name"),
])  # fmt: skip
def test_a_cell_that_does_not_keep_the_contract_is_an_error_at_build(cell, words):
    with pytest.raises(ValueError, match=words):
        keras_gated.RNN(cell(UNITS))(data())


def test_a_subclass_that_does_not_say_what_it_reads_may_read_anything_of_itself():
    class Narrow(keras_gated.MGUCell):  # its base says what it reads
        def __init__(self, units, mine=0, **kwargs):
            super().__init__(units, **kwargs)
            self.mine = mine

        def state_widths(self):
            return [self.units + self.mine]

    x = data()
    assert keras_gated.RNN(Narrow(UNITS))(x).shape == (3, UNITS)

    class Mistaken(keras_gated.LSTMCell):
        def step(self, x, states, weights):
            return super().step(x * self.scale, states, weights)

    with pytest.raises(AttributeError, match="'Mistaken' object has no attribute 'scale'"):
        keras_gated.RNN(Mistaken(UNITS))(x)


def test_arguments_that_do_not_fit_are_errors_that_name_them():
    for make, words in (
        (lambda: keras_gated.RNN(keras.layers.LSTMCell(4)), "`cell` must be a keras_gated.GatedC"),
        (lambda: keras_gated.LSTM(4, zoneout=[0.1]), r"one for each of the 2 state.*\[0\.1\]"),
        (lambda: keras_gated.GRU(4, zoneout=2), "`zoneout` must be a number from 0 to 1"),
        (lambda: keras_gated.LSTM(4, projection=0), "`projection` must be a positive integer"),
        (lambda: keras_gated.MinGRU(4, recurrent_dropout=0.1), "MinGRU.*'recurrent_dropout'"),
        (lambda: keras_gated.SimpleRNNCell(4, recurrent_activation="relu"), "no argument"),
        (lambda: keras_gated.PeepholeLSTM(4, projection=2), "PeepholeLSTM.*'projection'"),
        (lambda: keras_gated.MogrifierLSTM(4, rounds=0), "`rounds` must be a positive integer"),
        (lambda: keras_gated.MogrifierLSTM(4, rank=0), "`rank` must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_a_constructor_names_only_what_it_adds():
    cell = OWN["own_Projected"].cell(6, narrow=3, dropout=0.1, kernel_regularizer="l2")
    config = cell.get_config()
    assert config["narrow"] == 3 and config["dropout"] == 0.1 and config["zoneout"] == 0.0
    assert keras_gated.GatedCell.argument_names()[:3] == [
        "units", "activation", "recurrent_activation",
    ]  # fmt: skip
    assert type(cell).from_config(config).get_config() == config


@pytest.mark.parametrize("name", FURTHER)
def test_what_no_other_library_has_is_refused_by_name(name, tmp_path):
    model = model_of(name)
    layer = model.layers[1]
    known = {"to_torch": ("projected_lstm",), "to_onnx": ("peephole_lstm", "coupled_lstm")}
    for convert, given in (("to_keras", model), ("to_torch", layer), ("to_onnx", model)):
        if name not in known.get(convert, ()):
            path = [tmp_path / "model.onnx"] if convert == "to_onnx" else []
            with pytest.raises(ValueError, match=f"{convert}: "):
                getattr(keras_gated, convert)(given, *path)


def test_equations_that_say_what_they_read_share_what_is_compiled():
    from keras_gated.cells.equations import equations_of

    for family in (*FAMILIES.values(), *NEW.values()):
        cells = [family.make_cell(UNITS) for _ in range(2)]
        for cell in cells:
            cell.build((None, FEATURES))
        assert equations_of(cells[0]) is equations_of(cells[1])
