"""Graphs of ONNX with `RNN`, `LSTM` and `GRU` nodes as functional Keras models.

A graph is run once over symbolic tensors. Results that depend on constants and shapes alone, such
as the zeros of exporters' initial states, are computed on the way (`fold.py`).
"""

import os
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_gated.convert.onnx import load
from keras_gated.convert.onnx.check import wanted
from keras_gated.convert.onnx.check_read import check_model, checked
from keras_gated.convert.onnx.fold import MOST
from keras_gated.convert.onnx.operations import operation
from keras_gated.convert.onnx.read_node import layer_of_node
from keras_gated.convert.onnx.read_recurrent import OPERATORS, recurrent
from keras_gated.convert.onnx.refusals import RefusedError, UnreadableError, first_line, refuse
from keras_gated.convert.onnx.scopes import Scope
from keras_gated.convert.onnx.values import plain

if TYPE_CHECKING:
    import onnx


def from_onnx(
    path_or_model: "str | os.PathLike | onnx.ModelProto",
    *,
    node: str | int | None = None,
    check: bool | None = None,
) -> keras.Model | keras.layers.Layer:
    """Returns a functional Keras model of an ONNX graph, or a layer of one of its recurrent nodes.

    `RNN`, `LSTM` and `GRU` nodes become our layers, in a `Bidirectional` if they have both
    directions. `Gather` from a constant table becomes an `Embedding`; a product with a constant
    matrix (and the sum after it) becomes a `Dense`; `Conv` and `BatchNormalization` become the
    layers of these names. The operators that PyTorch's exporters and `to_onnx` write around them
    are read, too. Inputs and outputs keep their axes and names. Steps after `sequence_lens` are
    masked, and a node's outputs at them are zeros, as in ONNX. Of an `If` whose condition is known,
    the branch that it takes is read.

    With `node`, the rest of the graph need not be readable: the node may stand in a branch or a
    loop, among operators of any kind. It becomes a built layer with its weights, which reads
    sequences `(batch, time, features)`, whatever the layout in the graph. `return_sequences` is
    True if the graph reads the outputs of all steps (`Y`), and `return_state` if it reads final
    states that the layer's output does not hold: `Y_c`, or `Y_h` besides `Y`. A node of
    direction="reverse" has `go_backwards=True`: its steps come out in reverse order, as in Keras.
    Lengths (`sequence_lens`) become a mask, `(batch, time)`, and outputs at masked steps are zeros
    if the node has lengths. Give the mask and the initial states when you call the layer.

    Args:
        path_or_model: A path, or an `onnx.ModelProto`.
        node: The name of a recurrent node or of one of its outputs, or its place among the
            recurrent nodes of the file, from 0 on. Default: the whole graph.
        check: Whether to compare the answers with those of onnxruntime, for random inputs (of
            unequal lengths if there are lengths). They must agree within 1e-4 of the largest answer
            (or of 1, if that is more), or within 2e-2 with weights of float16. A graph that
            onnxruntime does not run, such as one of float64, is then refused. Default: True if
            onnxruntime is installed.

    Returns:
        A `keras.Model`; a dict of outputs by name if there are several. With `node`, a layer.

    Raises:
        ValueError: If the file is damaged or not a valid graph, a node or one of its options has no
            counterpart, there is no such recurrent node (the message lists the existing nodes), or
            onnxruntime answers otherwise; the message names the file or the node.
        FileNotFoundError: If there is no such file.
        ImportError: If onnx is not installed; with `check=True`, if onnxruntime is not.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "from_onnx: onnx is not installed. Install it: pip install 'keras_gated[onnx]'."
        ) from error
    insisted = check is True
    check = wanted(check, "from_onnx")
    loaded, source = load.load(path_or_model)
    if node is not None:
        return layer_of_node(loaded, source, node, check, insisted)
    model = _whole(loaded, source)
    if check:
        is_large = loaded.ByteSize() >= 2**31  # more than protobuf writes
        content = os.fspath(path_or_model) if is_large else loaded.SerializeToString()
        checked(lambda: check_model(content, loaded.graph, model, source), insisted)
    return model


def _whole(loaded, source):
    graph = loaded.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {i.name: _input(i, source) for i in graph.input if i.name not in constants}
    used = {name for node in graph.node for name in load.read_by(node)}
    used |= {output.name for output in graph.output}

    def run(node, given, scope):
        return _results(node, given, scope, used)

    scope = Scope(graph, source, load.opset_of(loaded), run, inputs)
    try:
        outputs = {output.name: scope.value(output.name) for output in graph.output}
    except RecursionError as error:
        raise ValueError(
            f"from_onnx: the branches of {source} wait for too many others to be read. Take the "
            "`If`s with known conditions out (onnxsim does so)."
        ) from error
    return _model([*inputs.values()], outputs, source)


def _results(node, given, scope, used):
    """Returns what a node computes, a list, or raises an error that names the node."""
    attributes = load.attributes_of(node)
    if node.domain not in ("", "ai.onnx"):
        refuse(
            node,
            f"is of the domain {node.domain!r}, not of ONNX itself",
            "Read the model as it was before a runtime quantised or optimised it, or one recurrent "
            "node of it alone: from_onnx(..., node=...).",
        )
    try:
        if node.op_type in OPERATORS:
            wanted = [bool(name) and name in used for name in node.output]
            results = recurrent(node, given, attributes, wanted + [False] * (3 - len(wanted)))
        elif node.op_type == "If":
            results = _branch(node, given, attributes, scope)
        else:
            results = operation(node, given, attributes, scope.opset)
            results = results if isinstance(results, list) else [results]
        _check_sizes(node, results)
    except RefusedError:
        raise
    except UnreadableError as error:
        refuse(node, str(error))
    except RecursionError:
        raise
    except Exception as error:  # of Keras, NumPy, or a list that is too short
        told = ", ".join(load.shape_of(value) for value in given) or "nothing"
        refuse(
            node,
            f"cannot be read. Received: {told}; attributes {attributes}",
            "Is the graph valid (onnx.checker.check_model)? Export it again.",
            error,
        )
    return results


def _branch(node, given, attributes, scope):
    """Returns the outputs of the branch that the condition of an `If` chooses."""
    condition = given[0]
    if not isinstance(condition, np.ndarray) or condition.size != 1:
        refuse(
            node,
            "has a condition that depends on inputs of the graph",
            "Make that input a constant (model.graph.initializer.append(onnx.numpy_helper."
            "from_array(value, name)), or read one recurrent node alone: from_onnx(..., node=...).",
        )
    branch = attributes["then_branch" if condition.item() else "else_branch"]
    inside = scope.inside(branch)
    return [inside.value(output.name) for output in branch.output]


def _check_sizes(node, results):
    """Raises if a node makes more numbers than any model needs, as a damaged node may."""
    for result in results:
        shape = getattr(getattr(result, "tensor", result), "shape", ())
        known = np.prod(np.array([n for n in shape if n is not None], object), initial=1)
        if known > MOST:
            refuse(
                node,
                f"makes a tensor of the shape {tuple(shape)}",
                f"Known: up to {MOST} numbers. Is it damaged?",
            )


def _input(declared, source):
    from onnx import helper

    tensor = declared.type.tensor_type
    try:
        if not tensor.HasField("shape"):
            raise ValueError("no shape")
        shape = [d.dim_value or None for d in tensor.shape.dim]
        if np.prod(np.array([n for n in shape if n], object), initial=1) > MOST:
            raise ValueError("too large")
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        name = declared.name.strip("/").replace("/", "_")
        return keras.Input(batch_shape=shape, dtype=str(dtype), name=name)
    except Exception as error:
        received = " ".join(str(declared.type).split()) or "no type"
        raise ValueError(
            f"from_onnx: the input {declared.name!r} of {source} must be a tensor of numbers with "
            f"a known number of axes, and of at most {MOST} numbers. Received: {received}. "
            "Export it with its shape."
        ) from error


def _model(inputs, outputs, source):
    for name, value in outputs.items():
        try:
            outputs[name] = plain(value)
        except UnreadableError as error:
            raise ValueError(f"from_onnx: the output {name!r} of {source} {error}.") from error
        if not isinstance(outputs[name], keras.KerasTensor):
            raise ValueError(
                f"from_onnx: the output {name!r} of {source} does not depend on the inputs. Take "
                "it out of the graph's outputs."
            )
    try:
        results = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], results)
    except ValueError as error:
        raise ValueError(
            f"from_onnx: what was read of {source} is no model of Keras: {first_line(error)}"
        ) from error
