"""Models as ONNX, with a native `RNN`, `LSTM` or `GRU` node for every recurrent layer.

A functional model is a graph of calls already; every call is written as the nodes of its layer
(`nodes.py`, `recurrent.py`). Text stays outside: a model takes ids or vectors, and
`assets.extra` of an export holds the vocabulary.
"""

import dataclasses
import os
from typing import Any

import keras
from keras import tree

from keras_gated import keras_private
from keras_gated.convert import files
from keras_gated.convert.keras_layers import from_keras, has_keras_layers
from keras_gated.convert.onnx import around, nodes, recurrent  # noqa: F401 (they register)
from keras_gated.convert.onnx.check import check_answers, wanted
from keras_gated.convert.onnx.graph import Graph, Wire, element_type

OPSET = 17  # the oldest with LayerNormalization; onnxruntime 1.12 and newer run it
_IR = 8  # of the same age, so that those versions read the file


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    lengths: bool = False,
    check: bool | None = None,
) -> str:
    """Writes a functional or sequential model as an ONNX file, and asks onnxruntime about it.

    Every recurrent layer becomes one `RNN`, `LSTM` or `GRU` node (both directions of a
    `Bidirectional` one together), not a loop. Layers of `keras.layers` are written, too, as
    `from_keras` converts them. Batch and time stay as free as they are in the model.

    `PeepholeLSTM` and `CoupledLSTM` are `LSTM` nodes with `P` and with `input_forget`, as
    onnxruntime reads them. OpenVINO (2026.4) leaves both out without a word, and so answers
    otherwise.

    Masked steps may stand anywhere: those that count move to the start of their rows, the node's
    `sequence_lens` tells how many they are, and its outputs move back.

    Args:
        model: A functional or sequential Keras model of what `nodes.WRITERS` knows, in
            float32.
        path: Where to write the file. It is replaced as a whole, once everything else is done.
        lengths: Whether there is a further input `lengths`, int32 `(batch,)`, that tells the number
            of steps of each row to layers without a mask.
        check: Whether onnxruntime must answer as the model does, to random batches with masks,
            states and lengths of all kinds: within 1e-4 of the largest answer (or of 1, if that is
            more). Default: where onnxruntime is installed.

    Returns:
        The path, a string.

    Raises:
        ValueError: If a layer or one of its options cannot be written (the message names it), or
            onnxruntime answers otherwise. Then a file that stood at `path` is as it was.
        ImportError: If onnx is not installed; with `check=True`, if onnxruntime is not.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "to_onnx: onnx is not installed. Install it: pip install 'keras_gated[onnx]'."
        ) from error
    check, target = wanted(check, "to_onnx"), files.target(path, "to_onnx")
    if isinstance(model, keras.Sequential):
        model = getattr(model, "_functional", None) or model
    if not isinstance(model, keras_private.Functional):
        raise ValueError(
            "to_onnx: `model` must be a functional model, or a sequential one that knows its input "
            f"(`keras.Input` first, or called once). Received: {model!r}."
        )
    if has_keras_layers(model):
        model = from_keras(model)
    result, backwards = _graph(model, lengths)
    onnx.checker.check_model(result, full_check=True)
    content = result.SerializeToString()
    if check:
        check_answers(content, model, backwards, lengths)
    files.write_whole(target, content)
    return str(path)


def _graph(model, lengths):
    """Returns a model as `onnx.ModelProto`, and for each output whether its steps are reversed."""
    from onnx import helper

    names = [tensor.name for tensor in model.inputs]
    if lengths and "lengths" in names:
        raise ValueError("to_onnx: the model has an input `lengths` of its own: leave lengths out.")
    output_names = _output_names(model)
    graph = Graph([*names, *output_names, "lengths"])
    inputs = [Wire(n, tuple(t.shape), t.dtype) for n, t in zip(names, model.inputs, strict=True)]
    for wire in inputs:
        _check_dtype(f"the input {wire.name!r}", wire.dtype)
    given = list(inputs)
    if lengths:
        graph.lengths = Wire("lengths", (None,), "int32")
        given.append(graph.lengths)
    outputs = []
    for name, wire in zip(output_names, written(graph, model, inputs), strict=True):
        node = helper.make_node("Identity", [wire.name], [name], name=f"output_{name}")
        graph.nodes.append(node)
        outputs.append(dataclasses.replace(wire, name=name))
    result = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.name,
            [_declared(wire) for wire in given],
            [_declared(wire) for wire in outputs],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR,
        producer_name="keras_gated",
    )
    return result, [wire.backwards for wire in outputs]


def written(graph, model, inputs):
    """Writes all calls of a functional model. Returns the wires of its outputs, flat."""
    wires = {id(tensor): wire for tensor, wire in zip(model.inputs, inputs, strict=True)}

    def wire_of(tensor):
        if id(tensor) not in wires:  # part of a mask that no call of the model asked for
            made_by, place, _ = tensor._keras_history
            write(made_by._inbound_nodes[place])
        return wires[id(tensor)]

    def write(node):
        for tensor in node.input_tensors:
            wire_of(tensor)
        args, kwargs = node.arguments.fill_in(wires)
        mask = _mask_given(node)
        if mask is not None and kwargs.get("mask") is None:
            kwargs["mask"] = (
                [None if m is None else wire_of(m) for m in mask]
                if isinstance(mask, list)
                else wire_of(mask)
            )
        for tensor in node.outputs:
            _check_dtype(repr(node.operation.name), tensor.dtype)
        made = _call(graph, node.operation, args, kwargs)
        backwards = _backwards(graph, node.operation, [wire_of(t) for t in node.input_tensors])
        for tensor, name in zip(node.outputs, tree.flatten(made), strict=True):
            if not isinstance(name, Wire):
                name = Wire(name, (), "", backwards)
            made_here = dataclasses.replace(name, shape=tuple(tensor.shape), dtype=tensor.dtype)
            wires[id(tensor)] = made_here

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                write(node)
    return [wires[id(tensor)] for tensor in model.outputs]


def _check_dtype(what, dtype):
    if dtype in ("float64", "float16", "bfloat16"):
        raise ValueError(
            f"to_onnx: {what} is of {dtype}, and files are of float32. Received: a model with "
            f"{dtype}. Build it with `dtype='float32'` (`keras.config.set_floatx`), and give it "
            "the weights: new.set_weights(old.get_weights())."
        )


def _backwards(graph, operation, inputs):
    """Returns whether what an operation returns has its last step first, as far as it matters."""
    if graph.lengths is None:
        return False
    if isinstance(operation, recurrent.LAYERS):
        turns = getattr(operation, "go_backwards", False) and operation.return_sequences
        return inputs[0].backwards != bool(turns)
    given = {wire.backwards for wire in inputs if len(wire.shape) > 2}
    if len(given) > 1:
        nodes.refuse(
            operation,
            "inputs of which one has its last step first (`go_backwards=True`), and `lengths`",
            "Use a Bidirectional layer, or give the steps a mask in the place of `lengths`.",
        )
    return any(given)


def _mask_given(node):
    """Returns the mask that a call finds at its input, for a call that reads it there, or None.

    Attention finds a list of them, one for each input.

    Keras gives no mask to a layer that has an initial state, too; ours look for it themselves. A
    model inside the model would find its masks only when it runs.
    """
    masks = [keras_private.mask_of(tensor) for tensor in node.input_tensors]
    if isinstance(node.operation, keras.Model):
        if any(mask is not None for mask in masks):
            raise ValueError(
                f"to_onnx: {node.operation.name!r}, a model inside the model, is given a mask, "
                "which cannot be written. Call its layers one by one instead."
            )
    elif isinstance(node.operation, recurrent.LAYERS):
        return masks[0]
    elif isinstance(node.operation, keras.layers.Attention):
        masks = [keras_private.mask_of(tensor) for tensor in node.arguments.args[0]]
        return masks if any(mask is not None for mask in masks) else None
    return None


def _call(graph, operation, args, kwargs) -> Any:
    """Writes one call of a layer or operation. Returns the names of its outputs."""
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    if isinstance(operation, keras_private.Functional):
        return written(graph, operation, tree.flatten(args))
    write = nodes.WRITERS.get(type(operation))
    if write is None:
        known = sorted({kind.__name__ for kind in nodes.WRITERS})
        raise ValueError(
            f"to_onnx: {operation.name!r} is a {type(operation).__name__}, which cannot be "
            f"written. Known: {', '.join(known)}, and functional and sequential models of them."
        )
    return write(graph, operation, *args, **kwargs)


def _output_names(model):
    named = isinstance(model.output, dict) and len(model.output) == len(model.outputs)
    names = sorted(model.output) if named else [str(name) for name in model.output_names]
    taken = {tensor.name for tensor in model.inputs}
    unique = []
    for name in names:
        while name in taken:
            name += "_1"
        taken.add(name)
        unique.append(name)
    return unique


def _declared(wire):
    from onnx import helper

    free = ["batch", "time"] + [f"{wire.name}_{n}" for n in range(2, len(wire.shape))]
    shape = [n if n is not None else name for n, name in zip(wire.shape, free, strict=False)]
    return helper.make_tensor_value_info(wire.name, element_type(wire.dtype), shape)
