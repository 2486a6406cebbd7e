"""A graph of ONNX as it comes: loaded, found to be sound, its nodes in an order that can be run."""

import graphlib
import os

import numpy as np

from keras_gated.convert.onnx.values import refuse, told


def load(path_or_model):
    """Returns a graph, and what to call it in messages.

    Raises:
        ValueError: If it is no path and no model, or the file is none of ONNX.
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
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            refuse(
                node,
                f"is of the domain {node.domain!r}, not of ONNX itself",
                "Read the model as it was before a runtime quantised or optimised it.",
            )
    return model.graph, source


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


def constants(graph, source):
    """Returns the arrays of a graph's initializers by name."""
    from onnx import numpy_helper

    if graph.sparse_initializer:
        raise ValueError(
            f"from_onnx: {source} holds sparse constants. Export them as dense tensors."
        )
    arrays = {}
    for tensor in graph.initializer:
        try:
            arrays[tensor.name] = numpy_helper.to_array(tensor)
        except Exception as error:  # NumPy's, of a size that does not fit, a file that is missing
            raise ValueError(
                f"from_onnx: the constant {tensor.name!r} of {source} is damaged: its data do not "
                f"make an array of the shape {tuple(tensor.dims)}. Export it again."
            ) from error
    return arrays


def in_order(graph, known, source):
    """Returns the nodes of a graph so that each comes after those whose outputs it reads.

    Args:
        graph: The graph. Some writers, onnxruntime's float16 converter among them, append nodes.
        known: The names of inputs and constants.
        source: What to call it.

    Raises:
        ValueError: If a tensor is made twice or by no node, or nodes wait for each other.
    """
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
        before[place] = [made_by[name] for name in node.input if name in made_by]
    for output in graph.output:
        if output.name not in made_by and output.name not in known:
            raise ValueError(
                f"from_onnx: no node makes {output.name!r}, an output of {source}. Export it "
                "again, whole."
            )
    try:
        return [graph.node[place] for place in graphlib.TopologicalSorter(before).static_order()]
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
    """Returns how a message tells a value."""
    if value is None:
        return "nothing"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} constant of the shape {value.shape}"
    shape = getattr(getattr(value, "tensor", value), "shape", None)
    return type(value).__name__ if shape is None else f"{tuple(shape)}"


def first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
