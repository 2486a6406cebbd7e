"""Activations of Keras as operators of ONNX, around recurrent nodes and inside them.

A recurrent node names its functions in `activations`. The values of its functions stand in
`activation_alpha` and `activation_beta`, in the order of the functions. A function that takes no
value has none there. onnxruntime reads them so, and the specification says so ("the values are
consumed in the order of activation functions").
"""

import keras
import numpy as np

from keras_gated.cells.activations import HardSigmoid

# Activations around recurrent nodes. Keras's name: the operator, and its attributes.
OPERATORS = {
    "linear": ("Identity", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "sigmoid": ("Sigmoid", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "exponential": ("Exp", {}),
}


def _gelu(graph, x):
    half = graph.add("Mul", [x, np.array(0.5, "float32")])
    erf = graph.add("Erf", [graph.add("Mul", [x, np.array(0.5**0.5, "float32")])])
    return graph.add("Mul", [half, graph.add("Add", [erf, np.array(1, "float32")])])


def _silu(graph, x):
    return graph.add("Mul", [x, graph.add("Sigmoid", [x])])


def _relu6(graph, x):
    return graph.add("Min", [graph.add("Relu", [x]), np.array(6, "float32")])


def _mish(graph, x):
    return graph.add("Mul", [x, graph.add("Tanh", [graph.add("Softplus", [x])])])


# Activations around recurrent nodes that need several operators.
COMPOSED = {
    "gelu": _gelu,
    "hard_silu": lambda graph, x: graph.add("HardSwish", [x]),
    "mish": _mish,
    "relu6": _relu6,
    "silu": _silu,
}
# Activations inside recurrent nodes.
IN_A_STEP = {
    name: OPERATORS[name]
    for name in (
        "relu", "leaky_relu", "sigmoid", "hard_sigmoid", "tanh", "softplus", "softsign", "elu"
    )
} | {"linear": ("Affine", {"alpha": 1.0, "beta": 0.0})}  # fmt: skip
# The functions that take values, with the values that a file may leave out. None: runtimes
# disagree on the value (onnxruntime takes 0), so a file must give it.
_TAKES = {
    "Affine": {"alpha": None, "beta": None},
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": None},
    "ScaledTanh": {"alpha": None, "beta": None},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Elu": {"alpha": 1.0},
}
# The `clip` of a recurrent node that cuts nothing off: onnxruntime's default.
NO_CLIP = float(np.finfo("float32").max)
# Functions of ONNX that Keras has under another name.
_ALSO = [
    ("relu", "LeakyRelu", {"alpha": 0.0}),
    ("relu", "ThresholdedRelu", {"alpha": 0.0}),
    ("linear", "LeakyRelu", {"alpha": 1.0}),
    ("tanh", "ScaledTanh", {"alpha": 1.0, "beta": 1.0}),
]

_IN_LOWER_CASE = {
    name.lower(): name for name in (*_TAKES, *(operator for operator, _ in IN_A_STEP.values()))
}


def name_of(function):
    """Returns the name of an activation of Keras itself.

    A `HardSigmoid` is returned as it is, and None for any other function.
    """
    if isinstance(function, HardSigmoid):
        return function
    for name in (*OPERATORS, *COMPOSED):
        own = (getattr(keras.activations, name, None), getattr(keras.ops, name, None))
        if function is not None and function in own:
            return name
    return None


def operator(name):
    """Returns the operator of what `name_of` returns, and the operator's attributes."""
    if isinstance(name, HardSigmoid):
        return "HardSigmoid", {"alpha": name.slope, "beta": name.offset}
    return OPERATORS[name]


def hard_sigmoid_of(alpha, beta):
    """Returns Keras's name of a hard sigmoid, or our `HardSigmoid` with the values of float32."""
    slope, offset = (float(str(np.float32(value))) for value in (alpha, beta))
    own = OPERATORS["hard_sigmoid"][1]
    is_keras = abs(slope - own["alpha"]) < 1e-6 and abs(offset - own["beta"]) < 1e-6
    return "hard_sigmoid" if is_keras else HardSigmoid(slope, offset)


def is_complement(name):
    """Whether `f(-x) = 1 - f(x)`: a GRU needs this, as ONNX's update gate is our complement."""
    if isinstance(name, HardSigmoid):
        return name.offset == 0.5
    return name in ("sigmoid", "hard_sigmoid")


def attributes_of(names):
    """Returns a recurrent node's attributes for its functions.

    Args:
        names: What `name_of` returns: f, g and h of the first direction, then of the second.
    """
    functions = [IN_A_STEP[n] if n in IN_A_STEP else operator(n) for n in names]
    attributes = {"activations": [function for function, _ in functions]}
    for value in ("alpha", "beta"):
        given = [values[value] for _, values in functions if value in values]
        if given:
            attributes[f"activation_{value}"] = given
    return attributes


def names_in(attributes, defaults, directions):
    """Returns Keras's names of the functions of each direction, or a `HardSigmoid`.

    Args:
        attributes: The node's.
        defaults: ONNX's names of one direction, where the node has none.
        directions: 1 or 2.

    Raises:
        ValueError: If the node has another number of functions or values, or a function that
            Keras does not have; the message is the end of a sentence about the node.
    """
    received = attributes.get("activations") or defaults * directions
    functions = [f.decode() if isinstance(f, bytes) else f for f in received]
    functions = [_IN_LOWER_CASE.get(f.lower(), f) for f in functions]  # as onnxruntime reads them
    if len(functions) != len(defaults) * directions:
        raise ValueError(
            f"has activations {functions}, where {len(defaults) * directions} are expected, "
            f"{len(defaults)} for each direction"
        )
    left = {v: list(attributes.get(f"activation_{v}", [])) for v in ("alpha", "beta")}
    read = []
    for function in functions:
        taken = _TAKES.get(function, {})
        values = {v: left[v].pop(0) if left[v] else default for v, default in taken.items()}
        read.append(_name_in_keras(function, values))
    return [tuple(read[n : n + len(defaults)]) for n in range(0, len(read), len(defaults))]


def _name_in_keras(function, values):
    if function == "HardSigmoid":
        return hard_sigmoid_of(**values)
    known = [(name, *operator) for name, operator in IN_A_STEP.items()]
    for name, operator, own in [*known, *_ALSO]:
        if operator == function and all(
            values[v] is not None and abs(values[v] - number) < 1e-6 for v, number in own.items()
        ):
            return name
    told = ", ".join(f"{v} {'missing' if n is None else f'{n:.6g}'}" for v, n in values.items())
    options = ", ".join(
        operator + "".join(f" {v}={number:.6g}" for v, number in own.items())
        for _, operator, own in [*known, *_ALSO]
    )
    raise ValueError(
        f"has the activation {function}{f' ({told})' if told else ''}, which no activation of "
        f"Keras is equal to. Known: {options}"
    )
