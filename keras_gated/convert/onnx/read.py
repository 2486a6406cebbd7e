"""Graphs of ONNX with `RNN`, `LSTM` and `GRU` nodes as functional Keras models.

A graph is run once over symbolic tensors. What is computed from constants and shapes alone, as the
zeros that exporters make initial states of, is worked out on the way (`onnx_values.py`).
"""

import keras

from keras_gated.convert.onnx import load
from keras_gated.convert.onnx.operations import operation
from keras_gated.convert.onnx.read_recurrent import OPERATORS, recurrent
from keras_gated.convert.onnx.values import RefusedError, UnreadableError, plain, refuse


def from_onnx(path_or_model) -> keras.Model:
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
        ValueError: If the file is damaged or no valid graph, or a node or one of its options has no
            counterpart; the message names the file or the node.
        FileNotFoundError: If there is no such file.
        ImportError: If onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "from_onnx: onnx is not installed. Install it: pip install 'keras_gated[onnx]'."
        ) from error
    graph, source = load.load(path_or_model)
    values = {"": None, **load.constants(graph, source)}
    inputs = []
    for declared in graph.input:
        if declared.name not in values:
            inputs.append(_input(declared, source))
            values[declared.name] = inputs[-1]
    if not inputs:
        raise ValueError(f"from_onnx: {source} has no inputs. Export a model that has.")
    nodes = load.in_order(graph, values, source)
    used = {name for node in nodes for name in node.input} | {o.name for o in graph.output}
    for node in nodes:
        given = [values[name] for name in node.input]
        results = _results(node, given, used)
        values.update((n, r) for n, r in zip(node.output, results, strict=False) if n)
    return _model(inputs, {o.name: values[o.name] for o in graph.output}, source)


def _results(node, given, used):
    """Returns what a node makes, a list, or raises an error that names the node."""
    attributes = load.attributes_of(node)
    try:
        if node.op_type in OPERATORS:
            wanted = [bool(name) and name in used for name in node.output]
            return recurrent(node, given, attributes, wanted + [False] * (3 - len(wanted)))
        results = operation(node, given, attributes)
        return results if isinstance(results, list) else [results]
    except RefusedError:
        raise
    except UnreadableError as error:
        refuse(node, str(error))
    except Exception as error:  # of Keras, NumPy, or a list that is too short
        told = ", ".join(load.shape_of(value) for value in given) or "nothing"
        refuse(
            node,
            f"cannot be read. Received: {told}; attributes {attributes}",
            "Is the graph valid (onnx.checker.check_model)? Export it again.",
            error,
        )


def _input(declared, source):
    from onnx import helper

    tensor = declared.type.tensor_type
    try:
        if not tensor.HasField("shape"):
            raise ValueError("no shape")
        shape = [d.dim_value or None for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        name = declared.name.strip("/").replace("/", "_")
        return keras.Input(batch_shape=shape, dtype=str(dtype), name=name)
    except Exception as error:
        received = " ".join(str(declared.type).split()) or "no type"
        raise ValueError(
            f"from_onnx: the input {declared.name!r} of {source} must be a tensor of numbers with "
            f"a known number of axes. Received: {received}. "
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
            f"from_onnx: what was read of {source} is no model of Keras: {load.first_line(error)}"
        ) from error
