"""Loads a graph of ONNX, and checks it before anything of it is run."""

import graphlib
import os

import numpy as np

from keras_gated.convert.onnx.refusals import first_line, refuse, told


def load(path_or_model):
    """Returns an `onnx.ModelProto`, and its name for messages.

    Raises:
        ValueError: If it is neither a path nor a model, the file is not an ONNX file, or its graph
            is not valid.
        FileNotFoundError: If there is no such file.
    """
    import onnx

    if isinstance(path_or_model, onnx.ModelProto):
        source, model = "the model", path_or_model
    else:
        source, model = _from_file(path_or_model)
    if not model.graph.node or not model.graph.output:
        raise ValueError(
            f"from_onnx: {source} holds no graph with nodes and outputs. Received: "
            f"{len(model.graph.node)} nodes, {len(model.graph.output)} outputs. Export it again."
        )
    constants = {tensor.name for tensor in model.graph.initializer}
    if all(declared.name in constants for declared in model.graph.input):
        raise ValueError(f"from_onnx: {source} has no inputs. Export a model that has.")
    if model.functions:
        model = _without_functions(model, source)
    _check_graph(model.graph, set(), source)
    return model, source


def _from_file(path):
    import onnx

    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise ValueError(
            "from_onnx: `path_or_model` must be the path of an ONNX file or an onnx.ModelProto. "
            f"Received: {str(path)[:60]!r} (of type {type(path).__name__}). Bytes become a model "
            "by onnx.load_from_string."
        )
    source = repr(os.fspath(path))
    if os.path.isdir(path):
        raise ValueError(f"from_onnx: {source} is a folder. Pass the path of the .onnx file in it.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"from_onnx: there is no file {source}.")
    try:
        return source, onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # of protobuf's and onnx's own kinds
        raise ValueError(
            f"from_onnx: {source} cannot be read as an ONNX file: it is damaged, cut short or of "
            f"another format. Received: {os.path.getsize(path)} bytes. {first_line(error)} "
            "Export it again, or copy it anew with the files beside it."
        ) from error


def _without_functions(model, source):
    """Returns a model in which calls of its own functions are replaced by their nodes."""
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # of onnx's own kinds
        raise ValueError(
            f"from_onnx: the functions of {source} do not hold together: {first_line(error)} "
            "Export it again."
        ) from error


def opset_of(model):
    """Returns the version of ONNX's own operators that a model uses."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def array_of(tensor, source):
    """Returns a constant of a graph as an array."""
    from onnx import numpy_helper

    try:
        if min(tensor.dims, default=0) < 0:
            raise ValueError("a size below zero")
        return numpy_helper.to_array(tensor)
    except Exception as error:  # NumPy's own kinds: a size that does not fit, a missing file
        raise ValueError(
            f"from_onnx: the constant {tensor.name!r} of {source} is damaged: its data do not "
            f"make an array of the shape {tuple(tensor.dims)}. Export it again."
        ) from error


def graphs_in(node):
    """Returns the graphs in a node, of its branches or of its body, as one list."""
    import onnx

    kinds = onnx.AttributeProto
    inside = {a.name: [a.g] for a in node.attribute if a.type == kinds.GRAPH}
    inside.update({a.name: list(a.graphs) for a in node.attribute if a.type == kinds.GRAPHS})
    return [graph for graphs in inside.values() for graph in graphs]


def read_by(node):
    """Yields the names that a node reads, and the names that graphs inside it read or return."""
    yield from filter(None, node.input)
    for graph in graphs_in(node):
        for inner in graph.node:
            yield from read_by(inner)
        yield from (output.name for output in graph.output)


def _check_graph(graph, outer, source):
    """Raises unless every name is made once, and can be made before it is read.

    Args:
        graph: The graph. Some writers, onnxruntime's float16 converter among them, append nodes.
        outer: The names of the graphs around it.
        source: Its name in messages.
    """
    if graph.sparse_initializer:
        raise ValueError(
            f"from_onnx: {source} holds sparse constants. Export them as dense tensors."
        )
    known = outer | {t.name for t in graph.initializer} | {i.name for i in graph.input}
    made_by = {}
    for place, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in made_by or name in known:
                refuse(
                    node,
                    f"makes {name!r}, which is an input, a constant or another node's output as "
                    f"well: {source} is no valid graph",
                    "Export it again.",
                )
            made_by[name] = place
    before = {}
    for place, node in enumerate(graph.node):
        for name in filter(None, node.input):
            if name not in made_by and name not in known:
                refuse(
                    node,
                    f"reads {name!r}, which no node makes and which is no input or constant of "
                    f"{source}",
                    "Export it again, whole.",
                )
        before[place] = {made_by[name] for name in read_by(node) if name in made_by}
        for inner in graphs_in(node):
            _check_graph(inner, known | {*made_by}, source)
    for output in graph.output:
        if output.name not in made_by and output.name not in known:
            raise ValueError(
                f"from_onnx: no node makes {output.name!r}, an output of {source}. Export it "
                "again, whole."
            )
    try:
        graphlib.TopologicalSorter(before).prepare()
    except graphlib.CycleError as error:
        names = ", ".join(told(graph.node[place]) for place in error.args[1])
        raise ValueError(
            f"from_onnx: nodes of {source} wait for each other: {names}. Export it again."
        ) from error


def attributes_of(node):
    """Returns the attributes of a node by name, strings as text."""
    from onnx import helper

    try:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}
    except ValueError as error:
        what = f"has an attribute that cannot be read: {first_line(error)}"
        refuse(node, what, "Export it again.", error)


def shape_of(value):
    """Returns the description of a value in messages."""
    if value is None:
        return "nothing"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} constant of the shape {value.shape}"
    shape = getattr(getattr(value, "tensor", value), "shape", None)
    return type(value).__name__ if shape is None else f"{tuple(shape)}"
