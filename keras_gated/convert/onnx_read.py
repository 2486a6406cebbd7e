"""Graphs of ONNX with `RNN`, `LSTM` and `GRU` nodes as functional Keras models.

A graph is run once over symbolic tensors. What is computed from constants and shapes alone, as the
zeros that exporters make initial states of, is worked out on the way (`onnx_values.py`).
"""

import keras
import numpy as np
from keras import ops

from keras_gated.bidirectional import Bidirectional
from keras_gated.convert.onnx_operations import operation
from keras_gated.convert.onnx_values import Directions, Zeros, in_order, name_of, plain, refuse
from keras_gated.gates import from_library
from keras_gated.layers import GRU, LSTM, SimpleRNN

_LAYERS = {"RNN": SimpleRNN, "LSTM": LSTM, "GRU": GRU}
_DEFAULTS = {
    "RNN": ["Tanh"],
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
}
_FUNCTIONS = {
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Softsign": "softsign",
    "Softplus": "softplus",
    "HardSigmoid": "hard_sigmoid",
}


def from_onnx(path_or_model):
    """Returns a functional Keras model of an ONNX graph with recurrent nodes.

    `RNN`, `LSTM` and `GRU` nodes become our layers, in a `Bidirectional` where they have both
    directions; `Gather` from a constant table becomes an `Embedding`, a product with a constant
    matrix (and the sum after it) a `Dense`. What PyTorch's exporters write around them is
    understood, and what `to_onnx` writes. Inputs and outputs keep their axes and names. Steps after
    `sequence_lens` are masked, and zeros in what a node puts out, as ONNX has it.

    Args:
        path_or_model: A path, or an `onnx.ModelProto`.

    Returns:
        A `keras.Model`; a dict of outputs by name if there are several.

    Raises:
        ValueError: If a node or one of its options has no counterpart; the message names it.
        ImportError: If onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ImportError(
            "from_onnx: onnx is not installed. Install it: pip install 'keras_gated[onnx]'."
        ) from error
    source = path_or_model
    if not isinstance(source, onnx.ModelProto):
        source = onnx.load(source)
    graph = source.graph
    values = {"": None}
    values.update((i.name, numpy_helper.to_array(i)) for i in graph.initializer)
    inputs = []
    for declared in graph.input:
        if declared.name not in values:
            inputs.append(_input(declared))
            values[declared.name] = inputs[-1]
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for node in graph.node:
        given = [values[name] for name in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in _LAYERS:
            wanted = [bool(name) and name in used for name in node.output]
            results = _recurrent(node, given, attributes, wanted + [False] * (3 - len(wanted)))
        else:
            results = operation(node, given, attributes)
            results = results if isinstance(results, list) else [results]
        values.update((n, r) for n, r in zip(node.output, results, strict=False) if n)
    outputs = {o.name: plain(values[o.name]) for o in graph.output}
    results = outputs if len(outputs) > 1 else next(iter(outputs.values()))
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], results)


def _input(declared):
    from onnx import helper

    shape = [d.dim_value or None for d in declared.type.tensor_type.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
    return keras.Input(batch_shape=shape, dtype=str(dtype), name=declared.name)


def _recurrent(node, given, attributes, wanted):
    """Returns `Y`, `Y_h` and `Y_c`, as far as they are wanted."""
    sequences, W, R, B, lengths, *states = given + [None] * (8 - len(given))
    kind, direction = node.op_type, attributes.get("direction", b"forward").decode()
    functions = _functions(node, attributes, 1 + (direction == "bidirectional"))
    for name, refused in (("clip", 0.0), ("input_forget", 0), ("layout", 0)):
        if attributes.get(name, refused) != refused:
            refuse(node, f"has {name}={attributes[name]}", "Export the model without.")
    if states[2] is not None:
        refuse(node, "has peepholes (`P`)", "No layer here has them.")
    if not all(isinstance(weight, np.ndarray) for weight in (W, R)):
        refuse(node, "has weights that are computed", "Fold constants before.")
    options = {"activation": functions[-1], "use_bias": B is not None}
    if kind != "RNN":
        options["recurrent_activation"] = functions[0]
    if kind == "GRU":
        options["reset_after"] = bool(attributes.get("linear_before_reset", 0))
    sequences = in_order(sequences, (1, 0, 2))
    options.update(
        return_sequences=wanted[0],
        return_state=wanted[1] or wanted[2],
        dtype=str(W.dtype),
        name=name_of(node),
    )
    units, both = R.shape[-1], direction == "bidirectional"
    if lengths is not None and wanted[0]:
        options["zero_output_for_mask"] = True
    if both:
        name = options.pop("name")
        layer = Bidirectional(_LAYERS[kind](units, **options), name=name, dtype=options["dtype"])
    else:
        layer = _LAYERS[kind](units, go_backwards=direction == "reverse", **options)
    call = {}
    initial = [_state(node, state) for state in states[: 2 if kind == "LSTM" else 1]]
    if any(state is not None for state in initial):
        if any(state is None for state in initial):
            refuse(node, "has one initial state and not the other", "Give both.")
        call["initial_state"] = [state[d] for d in range(1 + both) for state in initial]
    if lengths is not None:
        steps = ops.cumsum(ops.ones_like(sequences[:, :, 0], dtype="int32"), axis=1)
        call["mask"] = steps <= ops.expand_dims(ops.cast(plain(lengths), "int32"), 1)
    results = layer(sequences, **call)
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    gates = _LAYERS[kind].cell_class.gates
    layer.set_weights(
        [
            weight
            for d in range(1 + both)
            for weight in _weights(gates, W[d], R[d], None if B is None else B[d], options)
        ]
    )
    y = results[0]
    if wanted[0] and direction == "reverse":  # ONNX keeps the order of the inputs
        y = ops.flip(y, axis=1)
    number = 2 if kind == "LSTM" else 1
    finals = [results[1:][n::number] for n in range(number)] if options["return_state"] else []
    finals = [ops.stack(parts, axis=0) for parts in finals]
    return [Directions.of(y, 1 + both) if wanted[0] else None, *finals]


def _functions(node, attributes, directions):
    own = _DEFAULTS[node.op_type]
    names = [name.decode() for name in attributes.get("activations", [])] or own * directions
    if names != names[: len(own)] * directions:
        refuse(node, f"has activations {names} that differ between directions")
    if node.op_type == "LSTM" and names[1] != names[2]:
        refuse(node, f"has activations {names}", "The candidate's and the memory's must be one.")
    scales = attributes.get("activation_alpha", [])
    for place, name in enumerate(names[: len(own)]):
        hard = name == "HardSigmoid"
        # Keras's is x/6 + 1/2; ONNX's default is x/5 + 1/2.
        fits = not hard or (place < len(scales) and abs(scales[place] - 1 / 6) < 1e-6)
        if name not in _FUNCTIONS or not fits:
            refuse(node, f"has the activation {name}", f"Known: {', '.join(_FUNCTIONS)} (x/6).")
    if node.op_type == "GRU" and names[0] not in ("Sigmoid", "HardSigmoid"):
        refuse(node, f"has the gates' activation {names[0]}", "Known: Sigmoid, HardSigmoid.")
    return [_FUNCTIONS[name] for name in names[: len(own)]]


def _weights(gates, W, R, B, options):
    def ours(weight):
        return np.concatenate(from_library("onnx", gates, np.split(weight, len(gates))))

    weights = [ours(W).T, ours(R).T]
    if B is None:
        return weights
    b, c = (ours(part) for part in np.split(B, 2))
    return [*weights, np.stack([b, c]) if options.get("reset_after") else b + c]


def _state(node, state):
    """Returns an initial state, `(directions, batch, units)`, or None where it is zero."""
    if state is None or isinstance(state, Zeros):
        return None
    if isinstance(state, np.ndarray):
        if state.any():
            refuse(node, "begins with a constant state", "Make the initial state an input.")
        return None
    return plain(state)
