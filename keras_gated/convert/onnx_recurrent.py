"""How recurrent layers are written as nodes of ONNX: a native node each, no loop."""

import numpy as np

from keras_gated.bidirectional import Bidirectional
from keras_gated.convert.onnx_nodes import FUNCTIONS, array, refuse, writes
from keras_gated.gates import GRU_GATES, to_library
from keras_gated.layers import GRU, LSTM, SimpleRNN

_OPERATORS = {SimpleRNN: "RNN", LSTM: "LSTM", GRU: "GRU"}
_IN_A_STEP = ("relu", "sigmoid", "tanh", "softsign", "softplus", "hard_sigmoid")


@writes(SimpleRNN, LSTM, GRU)
def recurrent(graph, layer, sequences, initial_state=None, mask=None, training=None):
    mask = graph.mask_of(mask, sequences)
    direction = "reverse" if layer.go_backwards else "forward"
    _check(layer, mask)
    states = _listed(initial_state)
    y, *finals = _node(graph, [layer], direction, sequences, states, mask)
    finals = [graph.add("Squeeze", [f, np.array([0])]) for f in finals]
    output = finals[0]
    if layer.return_sequences:
        output = graph.add("Squeeze", [y, np.array([1])])  # (time, batch, units)
        if mask is not None and not layer.go_backwards and not layer.zero_output_for_mask:
            # The node writes zeros after a row's end; the layer repeats its last output.
            valid = graph.add("Transpose", [mask], perm=[1, 0])
            valid = graph.add("Unsqueeze", [valid, np.array([2])])
            output = graph.add("Where", [valid, output, finals[0]])
        output = graph.add("Transpose", [output], perm=[1, 0, 2])
        if layer.go_backwards:  # in the order computed
            ends = [np.array([n]) for n in (-1, np.iinfo(np.int64).min, 1, -1)]
            output = graph.add("Slice", [output, *ends])
    return [output, *(finals if layer.return_state else ())]


@writes(Bidirectional)
def both_directions(graph, layer, sequences, initial_state=None, mask=None, training=None):
    mask = graph.mask_of(mask, sequences)
    pair = [layer.forward_layer, layer.backward_layer]
    if any(type(one) not in _OPERATORS for one in pair):
        refuse(layer, f"{pair[0]!r}", "Known: SimpleRNN, LSTM and GRU inside.")
    same = [(type(o), o.units, o.use_bias, _functions(o), _resets_after(o)) for o in pair]
    if same[0] != same[1] or pair[0].go_backwards or not pair[1].go_backwards:
        refuse(layer, "two different directions", "Use the same layer for both.")
    for one in pair:
        _check(one, None)
    y, *finals = _node(graph, pair, "bidirectional", sequences, _listed(initial_state), mask)
    width = 2 * pair[0].units
    merge = {"sum": "ReduceSum", "ave": "ReduceMean", "mul": "ReduceProd"}.get(layer.merge_mode)
    if layer.return_sequences:  # masked steps are zeros here and there
        both, place = graph.add("Transpose", [y], perm=[2, 0, 1, 3]), 2
        joined = [0, 0, width]
    else:
        both, place = graph.add("Transpose", [finals[0]], perm=[1, 0, 2]), 1
        joined = [0, width]
    if layer.merge_mode == "concat":
        outputs = [graph.add("Reshape", [both, np.array(joined)])]
    elif layer.merge_mode is None:
        outputs = [graph.add("Gather", [both, np.array(d)], axis=place) for d in (0, 1)]
    elif merge == "ReduceSum":
        outputs = [graph.add(merge, [both, np.array([place])], keepdims=0)]
    else:
        outputs = [graph.add(merge, [both], axes=[place], keepdims=0)]
    if layer.return_state:
        outputs += [graph.add("Gather", [f, np.array(d)], axis=0) for d in (0, 1) for f in finals]
    return outputs


def _node(graph, directions, direction, sequences, states, mask):
    """Adds the node. Returns `Y`, `(time, directions, batch, units)`, and the final states."""
    first = directions[0]
    lengths = None
    if mask is not None:
        lengths = graph.lengths_of(mask)
    weights = [_weights(one.cell) for one in directions]
    W, R, B = (None if w[0] is None else np.stack(w) for w in zip(*weights, strict=True))
    number, attributes = len(first.cell.state_names), {}
    initial = [None] * number
    if states:  # those of the first direction, then those of the second
        parts = [graph.add("Unsqueeze", [s, np.array([0])]) for s in states]
        own = [parts[n::number] for n in range(number)]
        initial = [p[0] if len(p) == 1 else graph.add("Concat", p, axis=0) for p in own]
    functions = [FUNCTIONS[name] for _ in directions for name in _functions(first)]
    attributes["activations"] = [name for name, _ in functions]
    if any(values for _, values in functions):
        attributes["activation_alpha"] = [values.get("alpha", 0.0) for _, values in functions]
        attributes["activation_beta"] = [values.get("beta", 0.0) for _, values in functions]
    if isinstance(first, GRU):
        attributes["linear_before_reset"] = int(_resets_after(first))
    steps = graph.add("Transpose", [sequences], perm=[1, 0, 2])
    return graph.add(
        _OPERATORS[type(first)],
        [steps, W, R, B, lengths, *initial],
        outputs=1 + number,
        hidden_size=first.units,
        direction=direction,
        **attributes,
    )


def _weights(cell):
    """Returns `W`, `R` and `B` of one direction; ONNX keeps two biases, one after the other."""

    def theirs(weight):
        blocks = np.split(array(weight), len(cell.gates), axis=-1)
        return np.concatenate(to_library("onnx", cell.gates, blocks), axis=-1)

    bias = None
    if cell.use_bias:
        bias = theirs(cell.bias)
        bias = np.concatenate([bias, np.zeros_like(bias)]) if bias.ndim == 1 else bias.ravel()
    return theirs(cell.kernel).T, theirs(cell.recurrent_kernel).T, bias


def _functions(layer):
    """Returns the names of a layer's activations in the node's order: f, g and h."""
    names = [layer.activation.__name__]
    if not isinstance(layer, SimpleRNN):
        names = [layer.recurrent_activation.__name__, *names]
    return names + names[-1:] if isinstance(layer, LSTM) else names


def _resets_after(layer):
    return getattr(layer, "reset_after", True)


def _check(layer, mask):
    for name in _functions(layer):
        if name not in _IN_A_STEP:
            refuse(layer, f"the activation {name!r}", f"Known: {', '.join(_IN_A_STEP)}.")
    if layer.cell.gates == GRU_GATES and _functions(layer)[0] not in ("sigmoid", "hard_sigmoid"):
        refuse(
            layer,
            f"recurrent_activation={_functions(layer)[0]!r}",
            "The update gate there is the complement of ours: use sigmoid or hard_sigmoid.",
        )
    if layer.compute_dtype not in ("float32", "float64"):
        refuse(layer, f"dtype {layer.compute_dtype}", "Build it with dtype='float32'.")
    for option in ("stateful", "return_gates"):
        if getattr(layer, option):
            refuse(layer, f"`{option}=True`", "Make the states inputs, or build it without.")
    if mask is not None and layer.zero_output_for_mask and not layer.return_sequences:
        refuse(
            layer, "a mask and `zero_output_for_mask=True`", "Return sequences, or leave it out."
        )


def _listed(states):
    if states is None:
        return []
    return list(states) if type(states) in (list, tuple) else [states]
