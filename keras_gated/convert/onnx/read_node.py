"""Reads one recurrent node of a graph of ONNX as a layer, whatever stands around it."""

from typing import Any, NamedTuple

import numpy as np

from keras_gated.convert.onnx import load
from keras_gated.convert.onnx.check_read import check_layer, checked
from keras_gated.convert.onnx.fold import fold
from keras_gated.convert.onnx.read_recurrent import OPERATORS, layer_of
from keras_gated.convert.onnx.refusals import RefusedError, UnreadableError, first_line, refuse
from keras_gated.convert.onnx.scopes import Scope

_WEIGHTS = {"W": 1, "R": 2, "B": 3, "P": 7}  # the places of a node's inputs
_MOST_LISTED = 50


class _Found(NamedTuple):
    node: Any
    scope: Any


class _Variable:
    """Stands for a value that depends on inputs of a graph."""


def layer_of_node(model, source, wanted, check, insisted):
    """Returns the built layer of one recurrent node.

    Args:
        model: An `onnx.ModelProto`.
        source: Its name in messages.
        wanted: The name of the node or of one of its outputs, or its place.
        check: Whether to compare the layer's answers with those of onnxruntime.
        insisted: Whether the caller asked for the comparison: see `checked`.
    """
    scope = Scope(model.graph, source, load.opset_of(model), _run, _variables(model.graph))
    found = list(_recurrent_nodes(model.graph, scope))
    node, scope = _chosen(found, wanted, source)
    if node.domain not in ("", "ai.onnx"):
        refuse(
            node,
            f"is of the domain {node.domain!r}, not of ONNX itself",
            "Its weights were rounded: read the model as it was before a runtime quantised it.",
        )
    attributes = load.attributes_of(node)
    given = _given(node, scope)
    used = {name for one in model.graph.node for name in load.read_by(one)}
    used |= {output.name for output in model.graph.output}
    y, y_h, y_c = (n < len(node.output) and node.output[n] in used for n in range(3))
    try:
        layer, weights = layer_of(node, given, attributes, y or not y_h, y_c or (y and y_h))
        layer.build((None, None, given[1].shape[-1]))
        layer.set_weights(weights)
    except RefusedError:
        raise
    except Exception as error:  # an error of Keras or NumPy: the node is not valid
        refuse(
            node,
            f"cannot be read: {first_line(error)} Received: attributes {attributes}",
            "Is the graph valid (onnx.checker.check_model)? Export it again.",
            error,
        )
    if check:
        checked(lambda: check_layer(node, given, attributes, layer, scope.opset), insisted)
    return layer


def _variables(graph):
    return {i.name: _Variable() for i in graph.input if i.name not in _constant_names(graph)}


def _constant_names(graph):
    return {tensor.name for tensor in graph.initializer}


def _recurrent_nodes(graph, scope):
    """Yields all recurrent nodes in the order of the file, with those of branches and loops."""
    for node in graph.node:
        of_onnx = node.domain in ("", "ai.onnx") and node.op_type in OPERATORS
        if of_onnx or node.op_type == "DynamicQuantizeLSTM":
            yield _Found(node, scope)
        for inner in load.graphs_in(node):
            yield from _recurrent_nodes(inner, scope.inside(inner, _variables(inner)))


def _chosen(found, wanted, source):
    what = f"has no recurrent node {wanted!r}"
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        if 0 <= wanted < len(found):
            return found[wanted]
    elif isinstance(wanted, str) and wanted:
        named = [one for one in found if wanted == one.node.name or wanted in one.node.output]
        if len(named) == 1:
            return named[0]
        if named:
            what = f"has {len(named)} recurrent nodes {wanted!r}"
    else:
        raise ValueError(
            "from_onnx: `node` must be the name of a recurrent node or of one of its outputs, or "
            f"its place among them. Received: {wanted!r}."
        )
    listed = [f"{place}: {_told(one)}" for place, one in enumerate(found[:_MOST_LISTED])]
    more = [f"and {len(found) - _MOST_LISTED} more"] if len(found) > _MOST_LISTED else []
    raise ValueError(
        f"from_onnx: {source} {what}. Received: node={wanted!r}. Give the name or the "
        "number of one of its recurrent nodes: "
        f"{'; '.join([*listed, *more]) or 'none'}."
    )


def _told(found):
    """Returns the description of a recurrent node in a list."""
    node, shapes = found.node, []
    for name in ("W", "R"):
        try:
            value = found.scope.value(node.input[_WEIGHTS[name]])
        except (ValueError, IndexError):
            value = None
        known = isinstance(value, np.ndarray)
        shapes.append(f"{name}.shape={value.shape if known else 'unknown'}")
    name = node.name or next(filter(None, node.output), "")
    kind = node.op_type if not node.domain else f"{node.domain}.{node.op_type}"
    return f"{kind} {name!r} ({', '.join(shapes)})"


def _given(node, scope):
    """Returns a node's inputs: weights as arrays, lengths and states as a `_Variable` or None."""
    given = [_Variable() if name else None for name in node.input]
    given += [None] * (8 - len(given))
    for name, place in _WEIGHTS.items():
        if given[place] is None:
            continue
        given[place] = scope.value(node.input[place])
        if isinstance(given[place], _Variable):
            refuse(
                node,
                f"has weights `{name}` that depend on inputs of the graph, or on a node that is "
                "not worked out before the model runs",
                "Fold the constants of the graph, or export it with constant weights.",
            )
    given[0] = None
    return given


def _run(node, given, scope):
    """Returns what a node computes from constants. Results that depend on inputs stay unknown."""
    unknown = [_Variable() for _ in node.output]
    if any(isinstance(value, _Variable) for value in given) or load.graphs_in(node):
        return unknown
    try:
        results = fold(node, given, load.attributes_of(node), scope.opset)
    except RefusedError:
        raise
    except UnreadableError as error:
        refuse(node, str(error))
    except Exception as error:  # of NumPy, ONNX, or a list that is too short
        refuse(node, f"cannot be worked out: {first_line(error)}", "Export it again.", error)
    if results is NotImplemented:
        return unknown
    return results if isinstance(results, list) else [results]
