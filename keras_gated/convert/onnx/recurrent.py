"""Writes recurrent layers as nodes of ONNX: each as one native node, without a loop."""

import numpy as np

from keras_gated.cells.gates import GRU_GATES, to_library
from keras_gated.convert.onnx.activations import (
    IN_A_STEP,
    NO_CLIP,
    attributes_of,
    is_complement,
)
from keras_gated.convert.onnx.nodes import activation_of, array, refuse, turned, writes
from keras_gated.layers.base import RNN
from keras_gated.layers.bidirectional import Bidirectional
from keras_gated.layers.families import GRU, LSTM, CoupledLSTM, PeepholeLSTM, SimpleRNN

LAYERS = (RNN, Bidirectional)
_FAMILIES = {
    SimpleRNN: "RNN",
    LSTM: "LSTM",
    PeepholeLSTM: "LSTM",
    CoupledLSTM: "LSTM",
    GRU: "GRU",
}
_OPERATORS = {layer.cell_class: operator for layer, operator in _FAMILIES.items()}
PEEPHOLES = ("input", "output", "forget")  # the order of the gates in the node's `P`


def is_written(layer):
    """Whether a layer is that of a known family, or an `RNN` around its cell."""
    return type(layer) in (RNN, *_FAMILIES) and type(layer.cell) in _OPERATORS


@writes(*_FAMILIES, RNN)
def recurrent(graph, layer, sequences, initial_state=None, mask=None, training=None):
    mask = graph.mask_of(mask, sequences)
    direction = "reverse" if layer.go_backwards else "forward"
    _check(layer)
    states = _listed(initial_state)
    if layer.name in graph.before:
        if states or layer.name in graph.after:
            told = "an initial state" if states else "a second call"
            refuse(layer, f"{told}, and `states=True`", "Its states come from outside then.")
        states = graph.before[layer.name]
    y, *finals = _node(graph, [layer], direction, sequences, states, mask)
    finals = [graph.add("Squeeze", [f, np.array([0])]) for f in finals]
    if layer.name in graph.before:
        graph.after[layer.name] = finals
    if layer.return_sequences:
        output = _output_of_steps(graph, layer, y, mask)
    else:
        output = _last_output(graph, layer, finals[0], states, mask)
    return [output, *(finals if layer.return_state else ())]


def _output_of_steps(graph, layer, y, mask):
    """Returns the output of every step, `(batch, time, units)`, in the order of computation."""
    outputs = graph.add("Transpose", [graph.add("Squeeze", [y, np.array([1])])], perm=[1, 0, 2])
    if mask is None:
        return turned(graph, outputs, [1]) if layer.go_backwards else outputs
    packing = graph.packing_of(mask)
    places = packing.before if layer.go_backwards else packing.through
    if layer.zero_output_for_mask:
        places = graph.add("Where", [mask, places, np.array(-1)])
    return graph.steps_at(outputs, turned(graph, places, [1]) if layer.go_backwards else places)


def _last_output(graph, layer, final, states, mask):
    """Returns the last output. It is zero for a row without valid steps.

    With `zero_output_for_mask` it is also zero if the last step read is masked.
    """
    if mask is None or not (states or layer.zero_output_for_mask):
        return final
    if layer.zero_output_for_mask:
        last = 0 if layer.go_backwards else -1
        some = graph.add("Gather", [mask, np.array([last])], axis=1)
    else:
        some = _some(graph, mask)
    return graph.add("Where", [some, final, np.zeros(1, layer.compute_dtype)])


@writes(Bidirectional)
def both_directions(graph, layer, sequences, initial_state=None, mask=None, training=None):
    mask = graph.mask_of(mask, sequences)
    pair = [layer.forward_layer, layer.backward_layer]
    if not all(map(is_written, pair)):
        known = ", ".join(kind.__name__ for kind in _FAMILIES)
        refuse(layer, f"{pair[0]!r}", f"Known inside: {known}.")
    same = [
        (type(o.cell), o.cell.units, o.cell.use_bias, _functions(o), _resets_after(o.cell))
        for o in pair
    ]
    if same[0] != same[1] or pair[0].go_backwards or not pair[1].go_backwards:
        refuse(layer, "two different directions", "Use the same layer for both.")
    for one in pair:
        _check(one)
    y, *finals = _node(graph, pair, "bidirectional", sequences, _listed(initial_state), mask)
    width = 2 * pair[0].cell.units
    merge = {"sum": "ReduceSum", "ave": "ReduceMean", "mul": "ReduceProd"}.get(layer.merge_mode)
    if layer.return_sequences:
        both, place = graph.add("Transpose", [y], perm=[2, 0, 1, 3]), 2
        if mask is not None:
            places = graph.add("Where", [mask, graph.packing_of(mask).through, np.array(-1)])
            both = graph.steps_at(both, places)
        joined = [0, 0, width]
    else:
        if mask is not None and pair[0].zero_output_for_mask:
            refuse(layer, "`zero_output_for_mask=True` without sequences", "Leave it out.")
        last = _last_output(graph, pair[0], finals[0], initial_state, mask)
        both, place = graph.add("Transpose", [last], perm=[1, 0, 2]), 1
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
    first, lengths = directions[0].cell, None
    states = [_of_every_row(graph, state, sequences) for state in states]
    if mask is not None:
        lengths = graph.packing_of(mask).lengths
        sequences = graph.steps_at(sequences, graph.packing_of(mask).order)
    weights = [_weights(one.cell) for one in directions]
    W, R, B = (None if w[0] is None else np.stack(w) for w in zip(*weights, strict=True))
    number, attributes = len(first.state_names), {}
    initial = [None] * number
    if states:  # those of the first direction, then those of the second
        parts = [graph.add("Unsqueeze", [s, np.array([0])]) for s in states]
        own = [parts[n::number] for n in range(number)]
        initial = [p[0] if len(p) == 1 else graph.add("Concat", p, axis=0) for p in own]
    attributes.update(attributes_of([name for one in directions for name in _functions(one)]))
    if lengths is not None:
        # If sizes are free and OpenVINO (2026.4) has a kernel for the node, it ignores the lengths
        # and reads to the end of every row. It has no kernel for a node with `clip`.
        attributes["clip"] = NO_CLIP
    if isinstance(first, GRU.cell_class):
        attributes["linear_before_reset"] = int(_resets_after(first))
    if isinstance(first, CoupledLSTM.cell_class):
        attributes["input_forget"] = 1
    peepholes = []
    if isinstance(first, PeepholeLSTM.cell_class):
        own = [one.cell for one in directions]
        peepholes = [np.stack([np.concatenate([
            array(getattr(cell, f"{gate}_gate_peephole_weights"))
            for gate in PEEPHOLES
        ]) for cell in own])]  # fmt: skip
    steps = graph.add("Transpose", [sequences], perm=[1, 0, 2])
    y, *finals = graph.add(
        _OPERATORS[type(first)],
        [steps, W, R, B, lengths, *initial, *peepholes],
        outputs=1 + number,
        hidden_size=first.units,
        direction=direction,
        **attributes,
    )
    if mask is not None and states:  # for a row without valid steps the node returns zeros
        some = _some(graph, mask)
        finals = [graph.add("Where", [some, f, i]) for f, i in zip(finals, initial, strict=True)]
    return [y, *finals]


def _of_every_row(graph, state, sequences):
    """Returns a state `(batch, units)`. A layer broadcasts that of one row; a node does not."""
    if state.shape[0] != 1 or sequences.shape[0] == 1:
        return state
    batch = graph.add("Shape", [sequences], start=0, end=1)
    return graph.add("Expand", [state, graph.add("Concat", [batch, np.array([1])], axis=0)])


def _some(graph, mask):
    """Returns whether rows have a valid step, `(batch, 1)`."""
    some = graph.add("Greater", [graph.packing_of(mask).lengths, np.array(0, "int32")])
    return graph.add("Unsqueeze", [some, np.array([1])])


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
    cell = layer.cell
    functions = [cell.activation]
    if not isinstance(cell, SimpleRNN.cell_class):
        functions = [cell.recurrent_activation, *functions]
    names = [activation_of(layer, function, IN_A_STEP) for function in functions]
    return names + names[-1:] if _OPERATORS[type(cell)] == "LSTM" else names


def _resets_after(cell):
    return getattr(cell, "reset_after", True)


def _check(layer):
    gates = _functions(layer)[0]
    if layer.cell.gates == GRU_GATES and not is_complement(gates):
        refuse(
            layer,
            f"recurrent_activation={gates!r}",
            "The update gate there is the complement of ours: use sigmoid or hard_sigmoid with "
            "offset=0.5.",
        )
    for option in ("zoneout", "projection"):
        if np.any(getattr(layer.cell, option, None)):
            received = f"{option}={getattr(layer.cell, option)}"
            refuse(layer, f"`{received}`", "The nodes of ONNX have none.")
    for option in ("stateful", "return_gates"):
        if getattr(layer, option):
            refuse(layer, f"`{option}=True`", "Make the states inputs, or build it without.")


def _listed(states):
    if states is None:
        return []
    return list(states) if type(states) in (list, tuple) else [states]
