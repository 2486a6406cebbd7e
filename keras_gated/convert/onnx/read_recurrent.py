"""Reads a recurrent node of ONNX as one of our layers."""

import numpy as np
from keras import ops

from keras_gated import keras_private
from keras_gated.cells.activations import HardSigmoid
from keras_gated.cells.gates import from_library, order_in
from keras_gated.convert.onnx.activations import NO_CLIP, is_complement, names_in
from keras_gated.convert.onnx.load import shape_of
from keras_gated.convert.onnx.recurrent import PEEPHOLES
from keras_gated.convert.onnx.refusals import name_of, refuse
from keras_gated.convert.onnx.values import Directions, Zeros, in_order, plain
from keras_gated.layers.bidirectional import Bidirectional
from keras_gated.layers.families import GRU, LSTM, CoupledLSTM, PeepholeLSTM, SimpleRNN

OPERATORS = {"RNN": SimpleRNN, "LSTM": LSTM, "GRU": GRU}
_DEFAULTS = {
    "RNN": ["Tanh"],
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
}
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_FLAT_FROM = {"sigmoid": 20.0, "tanh": 20.0, "hard_sigmoid": 3.0}  # sigmoid: but for 3e-9


def recurrent(node, given, attributes, wanted):
    """Returns `Y`, `Y_h` and `Y_c` of a node in a graph, as far as they are wanted."""
    # The sequences stay as they are: they are wanted in another order of axes.
    given = [given[0], *(v if isinstance(v, Zeros) else plain(v) for v in given[1:])]
    sequences, _, _, _, lengths, *states = given + [None] * (8 - len(given))
    if attributes.get("layout", 0):
        refuse(node, f"has layout={attributes['layout']}", "Export the model without.")
    sequences = in_order(sequences, (1, 0, 2))
    state = wanted[1] or wanted[2]
    layer, weights = layer_of(node, [sequences, *given[1:]], attributes, wanted[0], state)
    number = _DIRECTIONS[attributes.get("direction", "forward")]
    call = {}
    initial = [_state(node, state) for state in states[: 2 if node.op_type == "LSTM" else 1]]
    known = next((state for state in initial if state is not None), None)
    if known is not None:
        both = [ops.zeros_like(known) if state is None else state for state in initial]
        call["initial_state"] = [state[d] for d in range(number) for state in both]
    if lengths is not None:
        steps = ops.cumsum(ops.ones_like(sequences[:, :, 0], dtype="int32"), axis=1)
        call["mask"] = steps <= ops.expand_dims(ops.cast(plain(lengths), "int32"), 1)
    elif keras_private.mask_of(sequences) is not None:
        sequences = ops.copy(sequences)  # drops the mask of the node before: ONNX has no masks
    results = layer(sequences, **call)
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    layer.set_weights(weights)
    y = results[0]
    if wanted[0] and attributes.get("direction") == "reverse":  # ONNX keeps the order of the inputs
        y = ops.flip(y, axis=1)
    parts = 2 if node.op_type == "LSTM" else 1
    finals = [results[1:][n::parts] for n in range(parts)] if state else []
    finals = [ops.stack(of_directions, axis=0) for of_directions in finals]
    if known is not None and lengths is not None:  # ONNX answers a row without a step with zeros
        some = ops.any(call["mask"], axis=1)[None, :, None]
        finals = [ops.where(some, final, ops.zeros_like(final)) for final in finals]
    return [Directions.of(y, number) if wanted[0] else None, *finals]


def layer_of(node, given, attributes, return_sequences, return_state):
    """Returns a layer that computes what a recurrent node does, and its weights in order.

    Args:
        node: The node.
        given: Its inputs. The sequences are not used and may be None.
        attributes: Its attributes by name.
        return_sequences: Whether the layer returns the outputs of all steps.
        return_state: Whether it returns its final states, too.
    """
    _, W, R, B, lengths, *states = given + [None] * (8 - len(given))
    kind, direction = node.op_type, attributes.get("direction", "forward")
    if direction not in _DIRECTIONS:
        refuse(node, f"has direction={direction!r}", f"Known: {', '.join(_DIRECTIONS)}.")
    number = _DIRECTIONS[direction]
    functions = _functions(node, attributes, number)
    _check_clip(node, attributes, functions)
    _check_shapes(node, attributes, number, given)
    options = {"activation": functions[-1], "use_bias": B is not None}
    if kind != "RNN":
        options["recurrent_activation"] = functions[0]
    if kind == "GRU":
        options["reset_after"] = bool(attributes.get("linear_before_reset", 0))
    options.update(
        return_sequences=return_sequences,
        return_state=return_state,
        dtype=str(W.dtype),
        name=name_of(node),
    )
    if lengths is not None and return_sequences:
        options["zero_output_for_mask"] = True
    P = states[2]
    family = _family(node, attributes, P)
    weights = []
    for d in range(number):
        bias = None if B is None else B[d]
        weights += _weights(family.cell_class.gates, W[d], R[d], bias, options)
        weights += [] if P is None else _peepholes(P[d])
    return _layer(family, R.shape[-1], direction, options), weights


def _family(node, attributes, P):
    """Returns the class of our layer that has the equations of a node."""
    if attributes.get("input_forget", 0):
        if P is not None:
            refuse(node, "has input_forget=1 and peepholes (`P`)", "No layer here has both.")
        return CoupledLSTM
    return OPERATORS[node.op_type] if P is None else PeepholeLSTM


def _peepholes(P):
    of_gate = dict(zip(PEEPHOLES, np.split(P, 3), strict=True))
    return [of_gate[gate] for gate in ("input", "forget", "output")]


def _layer(cls, units, direction, options):
    if direction == "bidirectional":
        name = options.pop("name")
        return Bidirectional(cls(units, **options), name=name, dtype=options["dtype"])
    return cls(units, go_backwards=direction == "reverse", **options)


def _functions(node, attributes, directions):
    """Returns Keras's names of a node's functions, the same in both directions."""
    try:
        names, *others = names_in(attributes, _DEFAULTS[node.op_type], directions)
    except ValueError as error:
        refuse(node, str(error))
    if others and others[0] != names:
        refuse(
            node,
            f"has activations that differ between directions, {names} and {others[0]}",
            "Use the same for both.",
        )
    if node.op_type == "LSTM" and names[1] != names[2]:
        refuse(
            node,
            f"has the activations {names}",
            "The candidate's and the memory's (the last two) must be one.",
        )
    if node.op_type == "GRU" and not is_complement(names[0]):
        refuse(
            node,
            f"has the gates' activation {names[0]}",
            "The update gate is the complement of ours. Known: sigmoid, hard_sigmoid with an "
            "offset of 0.5.",
        )
    return names


def _check_clip(node, attributes, functions):
    """Raises if `clip` changes an answer. It limits the inputs of functions to [-clip, clip]."""
    clip = abs(attributes.get("clip", 0.0))
    if clip and any(clip < _flat_from(function) for function in functions):
        refuse(
            node,
            f"has clip={float(f'{clip:.6g}')}, which changes what its functions {functions} make",
            "Export the model without.",
        )


def _flat_from(function):
    """Returns the distance from 0 beyond which a function is constant in float32."""
    if isinstance(function, HardSigmoid) and function.slope:
        return max(abs(function.offset), abs(1 - function.offset)) / abs(function.slope)
    return _FLAT_FROM.get(function, NO_CLIP)


def _check_shapes(node, attributes, directions, given):
    """Raises if the shapes of weights, states or lengths do not fit the node."""
    sequences, W, R, B, lengths, *states = given + [None] * (8 - len(given))
    P = states[2]
    for name, weight in (("W", W), ("R", R), ("B", B), ("P", P)):
        if weight is None and name in ("B", "P"):
            continue
        if not isinstance(weight, np.ndarray):
            refuse(
                node,
                f"has weights `{name}` that are no constant. Received: {shape_of(weight)}",
                "Fold constants before; of a quantised model, read the one before.",
            )
        if weight.dtype.name not in ("float16", "float32", "float64") or weight.dtype != W.dtype:
            refuse(
                node,
                f"has weights `{name}` of {weight.dtype}",
                "Known: floats, all of the same kind. Of a quantised model, read the one before.",
            )
    gates = len(OPERATORS[node.op_type].cell_class.gates)
    units = R.shape[-1] if R.ndim else 0
    features = W.shape[-1] if W.ndim else 0
    expected = {
        "W": (W, (directions, gates * units, features)),
        "R": (R, (directions, gates * units, units)),
        "B": (B, (directions, 2 * gates * units)),
        "P": (P, (directions, 3 * units)),
        "X": (sequences, (None, None, features)),
        "initial_h": (states[0], (directions, None, units)),
        "initial_c": (states[1], (directions, None, units)),
        "sequence_lens": (lengths, (None,)),
    }
    for name, (value, shape) in expected.items():
        received = getattr(getattr(value, "tensor", value), "shape", None)
        if received is None:
            continue
        if name == "X":  # read with the batch first; the message gives the order of the node
            received = (received[1], received[0], *received[2:]) if len(received) > 1 else received
        if len(received) != len(shape) or any(
            None not in (a, b) and a != b for a, b in zip(received, shape, strict=True)
        ):
            refuse(
                node,
                f"must have {name} of the shape {shape} (None: any size). Received: {name}.shape="
                f"{tuple(received)} with direction={attributes.get('direction', 'forward')!r}, "
                f"{units} units, {features} features",
                "Export the model again.",
            )
    if not units or attributes.get("hidden_size", units) != units:
        refuse(
            node,
            f"has hidden_size={attributes.get('hidden_size')} and R of the shape {R.shape}",
            "They must tell the same number of units, above 0.",
        )


def _weights(gates, W, R, B, options):
    def ours(weight):
        number = len(order_in("onnx", gates))
        return np.concatenate(from_library("onnx", gates, np.split(weight, number)))

    weights = [ours(W).T, ours(R).T]
    if B is None:
        return weights
    b, c = (ours(part) for part in np.split(B, 2))
    return [*weights, np.stack([b, c]) if options.get("reset_after") else b + c]


def _state(node, state):
    """Returns an initial state, `(directions, batch, units)`, or None if it is zero."""
    if state is None or isinstance(state, Zeros):
        return None
    if isinstance(state, np.ndarray):
        if state.any():
            refuse(node, "begins with a constant state", "Make the initial state an input.")
        return None
    return state
