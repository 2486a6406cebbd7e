"""Compares the answers of a model or layer that was read with onnxruntime's to its graph."""

import warnings

import keras
import numpy as np

from keras_gated.convert.examples import TOLERANCE, difference
from keras_gated.convert.onnx import load
from keras_gated.convert.onnx.check import session_of
from keras_gated.convert.onnx.refusals import first_line, told
from keras_gated.keras_private import parts_of
from keras_gated.serve.inputs import ids_below

# Sizes of the first axis and of the other axes, where a graph leaves them free. The first two
# pairs that onnxruntime accepts are compared. Convolutions before a recurrent layer need many
# steps. States beside sequences may need the same size for both.
_SIZES = [(3, 7), (1, 12), (4, 4), (2, 96), (1, 700), (1, 1)]
_COMPARED = 2
_HALF = 2e-2  # accepted for float16, in the place of `TOLERANCE`


def check_model(content, graph, model, source):
    """Returns the largest difference of a model's answers from onnxruntime's to its graph.

    Args:
        content: The bytes of the file, or its path.
        graph: The graph in it.
        model: The model that was read from it.
        source: What to call the file.
    """
    try:
        # Not optimised: an optimiser of onnxruntime 1.32 ends the process on float16.
        session = session_of(content, optimised=False)
    except Exception as error:  # of onnxruntime's own kinds
        raise _cannot_compare(source, f"cannot load it: {first_line(error)}") from error
    constants = {tensor.name for tensor in graph.initializer}
    declared = [i for i in graph.input if i.name not in constants]
    names = [output.name for output in graph.output]
    half = any(w.dtype == "float16" for part in parts_of(model) for w in part.weights)
    lengths, compared, reason, largest = _lengths_among(graph), 0, "", 0.0
    for rows, others in _SIZES:
        # Steps may stand on the first axis, or be fewer where lengths are read.
        longest_of_rows = (others, rows, -(-others // 2), -(-others // 4)) if lengths else (1,)
        for longest in longest_of_rows:
            given = _inputs(declared, model, lengths, rows, others, longest)
            try:
                expected = session.run(None, given)
                break
            except Exception as error:  # of onnxruntime's own kinds
                reason = f"does not run it on random inputs: {first_line(error)}"
        else:
            continue
        received = _answers(model, given, declared, names, source)
        tolerance = _HALF if half else TOLERANCE
        largest = max(largest, _compare(received, expected, source, given, tolerance))
        compared += 1
        if compared == _COMPARED:
            break
    if not compared:
        raise _cannot_compare(source, reason)
    return largest


class NotComparedError(ValueError):
    """onnxruntime cannot answer, so nothing could be compared."""


def checked(compare, insisted):
    """Compares, and reports the result.

    Args:
        compare: Returns the largest difference, or raises.
        insisted: Whether the caller asked for the comparison. If so, the difference is printed,
            and if nothing can be compared, that is an error. Otherwise it is a warning.
    """
    try:
        differs = compare()
    except NotComparedError as error:
        if insisted:
            raise
        warnings.warn(str(error), UserWarning, stacklevel=4)
        return
    if insisted:
        print(f"from_onnx: the largest difference from onnxruntime is {differs:.1e}")


def _cannot_compare(what, reason):
    return NotComparedError(
        f"from_onnx: onnxruntime {reason[:300].rstrip('.')}. So {what} was not compared with what "
        "was read of it. Read it unchecked: check=False."
    )


def _compare(received, expected, what, given, tolerance):
    """Returns the largest difference, or raises if it is not rounding."""
    differs = difference(received, expected)
    if not differs <= tolerance:
        shapes = {name: array.shape for name, array in given.items()}
        raise ValueError(
            f"from_onnx: what was read of {what} answers otherwise than onnxruntime does to it, by "
            f"{differs:.2g} of its largest answer (accepted: {tolerance:.0e}), to random inputs of "
            f"the shapes {shapes}. Please report it; check=False reads it all the same."
        )
    return differs


def _answers(model, given, declared, names, source):
    values = [given[i.name] for i in declared]
    try:
        answers = model(values if len(values) > 1 else values[0], training=False)
    except Exception as error:
        shapes = {name: array.shape for name, array in given.items()}
        raise ValueError(
            f"from_onnx: what was read of {source} does not answer random inputs of the shapes "
            f"{shapes}, which onnxruntime answers: {first_line(error)} Please report it; "
            "check=False reads it all the same."
        ) from error
    answers = [answers[name] for name in names] if isinstance(answers, dict) else [answers]
    return [keras.ops.convert_to_numpy(y) for y in answers]


def _inputs(declared, model, lengths, rows, others, longest):
    """Returns random arrays for the inputs of a graph by name.

    Free axes of the same name get the same size. So do free axes without a name at the same place.
    """
    rng = np.random.default_rng(rows * others)
    sizes, given = {}, {}
    for value, tensor in zip(declared, model.inputs, strict=True):
        shape = []
        for place, axis in enumerate(value.type.tensor_type.shape.dim):
            free = rows if place == 0 else others
            shape.append(axis.dim_value or sizes.setdefault(axis.dim_param or place, free))
        below = ids_below(model, tensor)
        if tensor.dtype == "bool":
            array = rng.random(shape) < 0.5
        elif below is None or "int" not in tensor.dtype:
            array = rng.normal(size=shape)
        elif value.name in lengths and len(shape) < 2:
            array = rng.integers(1, longest + 1, shape)
            array[..., -1:] = longest
        else:
            array = rng.integers(0, below, shape)
        given[value.name] = np.asarray(array, tensor.dtype)
    return given


def _lengths_among(graph):
    """Returns the names of inputs from which the lengths of recurrent nodes are computed."""
    nodes = list(_all_nodes(graph))
    made_by = {name: node for node in nodes for name in node.output}
    recurrent = [n for n in nodes if n.op_type in ("RNN", "LSTM", "GRU") and len(n.input) > 4]
    waiting, seen = [node.input[4] for node in recurrent], set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name in made_by:
            waiting += made_by[name].input
        seen.add(name)
    return {i.name for i in graph.input} & seen


def _all_nodes(graph):
    for node in graph.node:
        yield node
        for inner in load.graphs_in(node):
            yield from _all_nodes(inner)


def check_layer(node, given, attributes, layer, opset):
    """Returns the largest difference of a layer's answers from onnxruntime's to its node alone.

    Args:
        node: The node.
        given: Its inputs: weights as arrays; of the others only whether they are None counts.
        attributes: Its attributes by name.
        layer: The layer that was read from it.
        opset: The version of ONNX's operators that the node is of.
    """
    _, W, R, B, lengths, _, _, P = given
    what, rows, steps = told(node), 3, 7
    directions, units, features = W.shape[0], R.shape[-1], W.shape[-1]
    names = ["h", "c"] if node.op_type == "LSTM" else ["h"]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, rows, features)).astype("float32")
    feeds = {n: rng.normal(size=(directions, rows, units)).astype("float32") for n in names}
    feeds = {"x": x, **feeds}
    if lengths is not None:
        feeds["lengths"] = np.array([steps, 1, 4], "int32")
    arrays = {"W": W, "R": R, "B": B, "P": P}
    arrays = {n: a.astype("float32") for n, a in arrays.items() if a is not None}
    try:
        session = session_of(_alone(node, feeds, arrays, opset), optimised=False)
        y, *finals = session.run(None, feeds)
    except Exception as error:  # of onnxruntime's own kinds
        raise _cannot_compare(what, f"does not run it alone: {first_line(error)}") from error
    states = [feeds[n][d] for d in range(directions) for n in names]
    mask = None
    if lengths is not None:
        mask = np.arange(steps) < feeds["lengths"][:, None]
    results = layer(np.swapaxes(x, 0, 1), initial_state=states, mask=mask, training=False)
    received = [keras.ops.convert_to_numpy(r) for r in keras.tree.flatten(results)]
    y = y.transpose(2, 0, 1, 3).reshape(rows, steps, directions * units)
    if attributes.get("direction") == "reverse":
        y = y[:, ::-1]
    last = np.concatenate(list(finals[0]), axis=-1)
    states = [part[d] for d in range(directions) for part in finals]
    expected = [y if layer.return_sequences else last, *(states if layer.return_state else ())]
    half = W.dtype == "float16"
    return _compare(received, expected, what, feeds, _HALF if half else TOLERANCE)


def _alone(node, feeds, arrays, opset):
    """Returns the bytes of a graph of one recurrent node, without its layout."""
    from onnx import helper, numpy_helper

    names = ["x", "W", "R", "B", "lengths", "h", "c", "P"]
    alone = type(node)()
    alone.CopyFrom(node)
    del alone.input[:], alone.output[:], alone.attribute[:]
    alone.attribute.extend(a for a in node.attribute if a.name != "layout")
    names = names if node.op_type == "LSTM" else names[:6]
    alone.input.extend(n if n in feeds or n in arrays else "" for n in names)
    alone.output.extend(["y", "y_h", "y_c"][: 3 if node.op_type == "LSTM" else 2])
    graph = helper.make_graph(
        [alone],
        "node",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ],
        [helper.make_tensor_value_info(name, 1, None) for name in alone.output],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", max(opset, 7))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
