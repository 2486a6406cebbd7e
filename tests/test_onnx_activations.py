"""Every activation of Keras, in recurrent nodes and around them: onnxruntime judges."""

import keras
import numpy as np
import pytest
from families import set_random
from keras import layers
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_onnx, to_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_graphs import X, ask_onnxruntime, nodes_of, recurrent  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

NAMES = sorted(
    name
    for name in vars(keras.activations)
    if callable(getattr(keras.activations, name))
    and name not in ("deserialize", "get", "serialize")
)
IN_A_STEP = [
    "elu", "hard_sigmoid", "leaky_relu", "linear", "relu", "sigmoid", "softplus", "softsign",
    "tanh",
]  # fmt: skip
AROUND = [
    *IN_A_STEP, "exponential", "gelu", "hard_silu", "hard_swish", "log_softmax", "mish", "relu6",
    "selu", "silu", "softmax", "swish",
]  # fmt: skip
SEQUENCES = np.swapaxes(X, 0, 1)


def built(*stack):
    return set_random(keras.Sequential([keras.Input((None, 3), name="x"), *stack]), 0.3)


def check_both_ways(model, path):
    """The file answers in onnxruntime as the model does, and what is read of it as onnxruntime."""
    to_onnx(model, path, check=False)
    [expected] = ask_onnxruntime(str(path), {"x": SEQUENCES})
    assert_allclose(model(SEQUENCES), expected, atol=1e-5)
    assert_allclose(from_onnx(path)(SEQUENCES), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_around_is_written_exactly_or_refused_by_name(name, tmp_path):
    path = tmp_path / "model.onnx"
    try:
        model = built(layers.Dense(4, activation=name))
    except (TypeError, ValueError):  # `threshold` has no defaults
        pytest.skip("no activation by its name alone")
    if name in AROUND:
        check_both_ways(model, path)
        return
    with pytest.raises(ValueError, match=f"activation '{model.layers[0].activation.__name__}'"):
        to_onnx(model, path)
    assert not path.exists()


@pytest.mark.sampled
@pytest.mark.parametrize("make", [
    lambda name: keras_gated.SimpleRNN(3, activation=name),
    lambda name: keras_gated.LSTM(3, activation=name),
    lambda name: keras_gated.LSTM(3, activation="elu", recurrent_activation=name),
    lambda name: keras_gated.GRU(3, activation=name, recurrent_activation="hard_sigmoid"),
    lambda name: keras_gated.Bidirectional(keras_gated.SimpleRNN(3, activation=name)),
    lambda name: keras_gated.Bidirectional(
        keras_gated.LSTM(3, activation="tanh", recurrent_activation=name, return_sequences=True)
    ),
    lambda name: keras_gated.Bidirectional(keras_gated.GRU(3, activation=name, reset_after=False)),
], ids=["rnn", "lstm", "lstm gates", "gru", "both rnn", "both lstm gates", "both gru"])  # fmt: skip
@pytest.mark.parametrize("name", IN_A_STEP)
def test_an_activation_in_a_step_is_written_as_onnxruntime_reads_it(name, make, tmp_path):
    check_both_ways(built(make(name)), tmp_path / "model.onnx")


@pytest.mark.parametrize("name", sorted({*NAMES} - {*IN_A_STEP} - {"threshold", "glu"}))
def test_an_activation_that_no_step_has_is_refused_by_name(name, tmp_path):
    path, told = tmp_path / "model.onnx", keras.activations.get(name).__name__
    with pytest.raises(ValueError, match=f"'odd' has the activation '{told}'.*Known"):
        to_onnx(built(keras_gated.SimpleRNN(3, activation=name, name="odd")), path)
    assert not path.exists()


def relu(x):
    """Not Keras's, whatever its name."""
    return keras.ops.relu(x) / 2


def test_a_function_of_ones_own_is_no_activation_of_keras_by_its_name(tmp_path):
    for layer in (layers.Dense(3, activation=relu), keras_gated.LSTM(3, activation=relu)):
        with pytest.raises(ValueError, match="activation 'relu'"):
            to_onnx(built(layer), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="LeakyReLU"):
        to_onnx(built(layers.Dense(3, activation=layers.LeakyReLU())), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_one_value_stands_for_each_function_that_takes_one(tmp_path):
    gates = keras_gated.LSTM(3, recurrent_activation="hard_sigmoid", activation="elu")
    to_onnx(built(keras_gated.Bidirectional(gates)), tmp_path / "m.onnx")
    [node] = nodes_of(tmp_path / "m.onnx")
    values = {a.name: list(a.floats) for a in node.attribute if a.floats}
    assert_allclose(values["activation_alpha"], [1 / 6, 1, 1] * 2)
    assert_allclose(values["activation_beta"], [0.5] * 2)


# The values of a node, both directions one after the other, and whether Keras has such functions.
HARD, SIXTH = "HardSigmoid", 1 / 6
READ = [
    ("LSTM", [HARD, "Tanh", "Tanh"], [SIXTH], [0.5], True),
    ("LSTM", ["Sigmoid", HARD, HARD], [SIXTH, SIXTH], [0.5, 0.5], True),
    ("LSTM", [HARD, "LeakyRelu", "LeakyRelu"], [SIXTH, 0.2, 0.2], [0.5], True),
    ("LSTM", [HARD, "Elu", "Elu"], [SIXTH], None, True),  # the rest: 0.5, 1.0, 1.0
    ("GRU", [HARD, "Affine"], [SIXTH, 1.0], [0.5, 0.0], True),
    ("RNN", ["ScaledTanh"], [1.0], [1.0], True),
    ("RNN", ["ThresholdedRelu"], [0.0], None, True),
    ("RNN", ["LeakyRelu"], [0.0], None, True),
    ("LSTM", [HARD, "Tanh", "Tanh"], [SIXTH], [0.4], True),
    ("LSTM", [HARD, "Tanh", "Tanh"], None, None, True),  # 0.2 and 0.5
    ("LSTM", ["Sigmoid", HARD, HARD], [0.3, 0.3], [0.1, 0.1], True),
    ("GRU", [HARD, HARD], [0.3, 0.7], [0.5, 0.1], True),
    ("RNN", [HARD], [-0.4], [0.9], True),
    ("LSTM", [HARD, "LeakyRelu", "LeakyRelu"], [SIXTH], [0.5], False),  # 0.01, not 0.2
    ("GRU", ["Sigmoid", "Elu"], [0.5], None, False),
    ("RNN", ["Affine"], None, None, False),  # runtimes disagree about the default
    ("RNN", ["ThresholdedRelu"], [1.0], None, False),
    ("RNN", ["ScaledTanh"], [1.7159], [0.6667], False),
]


@pytest.mark.sampled
@pytest.mark.parametrize("kind, functions, alpha, beta, known", READ, ids=str)
def test_values_of_functions_are_read_in_order_with_the_defaults_of_onnx(
    kind, functions, alpha, beta, known
):
    given = {"activations": functions, "activation_alpha": alpha, "activation_beta": beta}
    graph = recurrent(kind, **{n: v for n, v in given.items() if v is not None})
    [expected] = ask_onnxruntime(graph, {"x": X})
    if known:
        assert_allclose(from_onnx(graph)(X), expected, atol=1e-5)
    else:
        with pytest.raises(ValueError, match=rf"{kind} node 'told' has the activation .*Known: "):
            from_onnx(graph)


def test_names_of_functions_may_be_in_lower_case():
    graph = recurrent("LSTM", activations=["hardsigmoid", "tanh", "TANH"], activation_alpha=[SIXTH])
    [expected] = ask_onnxruntime(graph, {"x": X})
    assert_allclose(from_onnx(graph)(X), expected, atol=1e-5)


@pytest.mark.parametrize("second, known", [(0.2, True), (0.3, False)])
def test_the_second_direction_has_values_of_its_own(second, known):
    functions = ["HardSigmoid", "Tanh", "Tanh"] * 2
    graph = recurrent(
        "LSTM", "bidirectional", activations=functions,
        activation_alpha=[0.2, second], activation_beta=[0.4, 0.4],
    )  # fmt: skip
    if known:
        [expected] = ask_onnxruntime(graph, {"x": X})
        assert_allclose(from_onnx(graph)(X), expected, atol=1e-5)
        return
    with pytest.raises(ValueError, match=r"'told' has activations that differ.*slope=0\.3"):
        from_onnx(graph)


def test_the_two_functions_of_a_memory_are_one():
    graph = recurrent(
        "LSTM", activations=["Sigmoid", HARD, HARD],
        activation_alpha=[0.0, SIXTH], activation_beta=[0.0, 0.5],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"'told' has the activations.*must be one"):
        from_onnx(graph)


@pytest.mark.sampled
@pytest.mark.parametrize("slope, offset", [(0.2, 0.5), (1 / 6, 0.5), (0.31, 0.4), (1e-3, 0.0)])
def test_a_hard_sigmoid_of_any_values_goes_both_ways(slope, offset, tmp_path):
    own = keras_gated.hard_sigmoid(slope, offset)
    both = keras_gated.Bidirectional(
        keras_gated.LSTM(3, recurrent_activation=own, return_sequences=True)
    )
    stack = [layers.Dense(4, activation=own), both, layers.Activation(own)]
    if offset == 0.5:
        stack.append(keras_gated.GRU(3, recurrent_activation=own, activation=own))
    check_both_ways(built(*stack), tmp_path / "m.onnx")


def test_a_node_of_its_own_and_a_gate_get_the_same_function():
    given = {"activations": [HARD, "Tanh"], "activation_alpha": [0.3], "activation_beta": [0.5]}
    model = recurrent("GRU", **given)
    hard = onnx.helper.make_node("HardSigmoid", ["y"], ["z"], alpha=0.3, beta=0.5)
    model.graph.node.append(hard)
    model.graph.output[0].name = "z"
    read = from_onnx(model)
    own = keras_gated.hard_sigmoid(0.3, 0.5)
    assert read.get_layer("told").recurrent_activation == read.layers[-1].activation == own
    assert_allclose(read(X), ask_onnxruntime(model, {"x": X})[0], atol=1e-5)


def test_the_gates_of_a_gru_need_a_function_that_is_its_own_complement(tmp_path):
    own = keras_gated.hard_sigmoid(0.2, 0.4)
    with pytest.raises(ValueError, match=r"offset=0\.4.*offset=0\.5"):
        to_onnx(built(keras_gated.GRU(3, recurrent_activation=own)), tmp_path / "m.onnx")
    given = {"activations": [HARD, "Tanh"], "activation_alpha": [0.2], "activation_beta": [0.4]}
    with pytest.raises(ValueError, match=r"'told' has the gates' activation.*offset of 0\.5"):
        from_onnx(recurrent("GRU", **given))


def test_directions_with_different_functions_are_refused():
    functions = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Relu"]
    with pytest.raises(ValueError, match="differ between directions"):
        from_onnx(recurrent("LSTM", "bidirectional", activations=functions))
    with pytest.raises(ValueError, match="where 6 are expected"):
        from_onnx(recurrent("LSTM", "bidirectional", activations=functions[:3]))


def test_the_reference_of_onnx_agrees_around_the_nodes(tmp_path):
    stack = [layers.Dense(4, activation=name) for name in AROUND]
    path = to_onnx(built(*stack), tmp_path / "model.onnx")
    [expected] = ReferenceEvaluator(path).run(None, {"x": SEQUENCES})
    assert_allclose(from_onnx(path)(SEQUENCES), expected, atol=1e-5)
