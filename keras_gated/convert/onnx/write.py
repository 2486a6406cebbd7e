"""Models as ONNX, with a native `RNN`, `LSTM` or `GRU` node for every recurrent layer.

A functional model is already a graph of calls. Every call is written as the nodes of its layer
(`nodes.py`, `recurrent.py`). Text stays outside: a model takes ids or vectors, and
`assets.extra` of an export holds the vocabulary.
"""

import dataclasses
import importlib.util
import os
from typing import Any

import keras
from keras import tree

from keras_gated import keras_private
from keras_gated.cells.arguments import boolean
from keras_gated.convert import files
from keras_gated.convert.examples import typical_inputs
from keras_gated.convert.keras_classes import check_own_call
from keras_gated.convert.keras_layers import from_keras, has_keras_layers
from keras_gated.convert.onnx import around, nodes, recurrent  # noqa: F401 (they register)
from keras_gated.convert.onnx.check import (
    Asked,
    check_answers,
    check_windows,
    differs_by,
    examples_of,
    may_shorten,
    wanted,
)
from keras_gated.convert.onnx.graph import Graph, Wire, element_type
from keras_gated.convert.onnx.quantize import QuantizedONNX, quantized
from keras_gated.convert.windows import stepper_of, timed_of

OPSET = 17  # the oldest with LayerNormalization; onnxruntime 1.12 and newer run it
_IR = 8  # of the same age as the opset, so that those versions read the file


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    lengths: bool = False,
    check: bool | None = None,
    quantize: str | None = None,
    representative=None,
    states: bool = False,
) -> str | QuantizedONNX:
    """Writes a functional or sequential model as an ONNX file, and checks it with onnxruntime.

    Every recurrent layer, also a `keras_gated.RNN` around the cell of a family, becomes one `RNN`,
    `LSTM` or `GRU` node (both directions of a `Bidirectional` become one node together), not a
    loop. Layers of `keras.layers` are written, too, as `from_keras` converts them. Sizes of batch
    and time that are free in the model stay free.

    `PeepholeLSTM` and `CoupledLSTM` are `LSTM` nodes with `P` and with `input_forget`, as
    onnxruntime reads them. OpenVINO (2026.4) ignores both without a warning, so its answers
    differ.

    Masked steps may stand anywhere. Valid steps are moved to the start of their rows, the node's
    `sequence_lens` gives their number, and the node's outputs are moved back.

    `quantize="int8"` stores the weights of LSTMs, Dense layers and embeddings in 8 bits, about a
    quarter of the size. It computes the products of LSTMs and Dense layers in 8 bits, too
    (onnxruntime's dynamic quantisation: `DynamicQuantizeLSTM`, which onnxruntime alone runs). GRU,
    SimpleRNN and Conv1D stay as they are, and `not_quantized` of the result names them. Answers
    then differ a little, also from one number of threads to another; the caller judges by how
    much.

    `states=True` writes a file for streaming. The states of the recurrent layers are further
    inputs, `<layer>_hidden` and `<layer>_memory` as in `export_model`, `(batch, units)`. They begin
    as zeros. The new states follow after the model's outputs, in the same order, as
    `new_<layer>_hidden` and `new_<layer>_memory`: in ONNX no two tensors have the same name. Masked
    steps keep the states; their outputs at the start of a window are zeros.

    Args:
        model: A functional or sequential Keras model in float32, with the layers that
            `nodes.WRITERS` knows.
        path: Where to write the file. It is replaced as a whole, once everything else is done.
        lengths: Whether the file has a further input `lengths`, int32 `(batch,)`: the number of
            steps of each row, for layers without a mask.
        check: Whether to compare the answers of onnxruntime with those of the model, for random
            batches with masks, states and lengths of all kinds. They must agree within 1e-4 of the
            largest answer (or of 1, if that is more). With `states=True` the file is read step by
            step. Default: True if onnxruntime is installed.
        quantize: None, or "int8" for weights of 8 bits. The check is of the file before it
            is quantised.
        representative: For `quantize="int8"`, optional: an iterable of typical inputs, each as the
            model is called with. The difference of 8 bits is measured with them, by default with
            random inputs.
        states: Whether the states are inputs and outputs.

    Returns:
        The path, a string. With `quantize`, a `QuantizedONNX`.

    Raises:
        ValueError: If a layer or one of its options cannot be written (the message names it), or
            onnxruntime answers otherwise, or no weights can be of 8 bits. A file that stood at
            `path` then stays as it was.
        ImportError: If onnx is not installed; with `check=True` or `quantize`, if onnxruntime is
            not.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "to_onnx: onnx is not installed. Install it: pip install 'keras_gated[onnx]'."
        ) from error
    check, target = wanted(check, "to_onnx"), files.target(path, "to_onnx")
    _check_quantize(quantize, representative)
    states = boolean("to_onnx", "states", states)
    check_own_call(model, "to_onnx")
    if isinstance(model, keras.Sequential):
        model = getattr(model, "_functional", None) or model
    if not isinstance(model, keras_private.Functional):
        raise ValueError(
            "to_onnx: `model` must be a functional model, or a sequential one that knows its input "
            f"(`keras.Input` first, or called once). Received: {model!r}."
        )
    _check_unquantized(model)
    if has_keras_layers(model):
        model = from_keras(model)
    stepper = stepper_of(model, "to_onnx") if states else None
    examples = None
    if representative is not None:
        examples = typical_inputs(model, representative, "to_onnx")
    result, backwards = _graph(model, lengths, stepper)
    onnx.checker.check_model(result, full_check=True)
    content, given = result.SerializeToString(), list(stepper.states) if stepper else []
    if check and stepper:
        check_windows(Asked(content, model, lengths, given), model, stepper)
    elif check:
        check_answers(content, model, backwards, lengths)
    if not quantize:
        files.write_whole(target, content)
        return str(path)
    content, operations, stays = quantized(result, model)
    asked = Asked(content, model, lengths, given)
    differs = differs_by(asked, model, stepper, examples or examples_of(model, bool(stepper)))
    files.write_whole(target, content)
    return QuantizedONNX(str(path), len(content), differs, operations, stays)


def _check_quantize(quantize, representative):
    if quantize not in (None, "int8"):
        raise ValueError(f"to_onnx: `quantize` must be None or 'int8'. Received: {quantize!r}.")
    if representative is not None and not quantize:
        raise ValueError(
            "to_onnx: `representative` is for `quantize='int8'`: typical inputs, with which the "
            "difference of 8 bits is measured. Received: quantize=None."
        )
    if quantize and importlib.util.find_spec("onnxruntime") is None:
        raise ImportError(
            "to_onnx: `quantize='int8'` needs onnxruntime, which is not installed. Install it: pip "
            "install 'keras_gated[onnx]'."
        )


def _graph(model, lengths, stepper=None):
    """Returns a model as `onnx.ModelProto`, and for each output whether its steps are reversed."""
    from onnx import helper

    names = [tensor.name for tensor in model.inputs]
    of_states = list(stepper.states) if stepper else []
    taken = {*names, "lengths"} & {*of_states}
    if taken:
        raise ValueError(
            f"to_onnx: the model has inputs {sorted(taken)}, which is what its states are called. "
            "Give the layer, or the input, another name."
        )
    if lengths and "lengths" in names:
        raise ValueError("to_onnx: the model has an input `lengths` of its own: leave lengths out.")
    output_names = _output_names(model, [*of_states, *(f"new_{name}" for name in of_states)])
    output_names += [f"new_{name}" for name in of_states]
    graph = Graph([*names, *output_names, *of_states, "lengths"])
    inputs = [Wire(n, tuple(t.shape), t.dtype) for n, t in zip(names, model.inputs, strict=True)]
    for wire in inputs:
        _check_dtype(f"the input {wire.name!r}", wire.dtype)
    given = list(inputs)
    if lengths:
        graph.lengths = Wire("lengths", (None,), "int32")
        given.append(graph.lengths)
    for name, spec in stepper.states.items() if stepper else ():
        given.append(Wire(name, tuple(spec.shape), spec.dtype.name))
        graph.before.setdefault(stepper.layer_of[name], []).append(given[-1])
    outputs, made = [], written(graph, model, inputs)
    for layer, wires in graph.before.items():
        made += [
            dataclasses.replace(old, name=new)
            for old, new in zip(wires, graph.after[layer], strict=True)
        ]
    for name, wire in zip(output_names, made, strict=True):
        node = helper.make_node("Identity", [wire.name], [name], name=f"output_{name}")
        graph.nodes.append(node)
        outputs.append(dataclasses.replace(wire, name=name))
    several = sum(timed_of(model)) > 1  # inputs may then have different numbers of steps
    result = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.name,
            [_declared(wire, several) for wire in given],
            [_declared(wire, several or may_shorten(model)) for wire in outputs],
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
        if id(tensor) not in wires:  # part of a mask: it is not among the calls of the model
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


def _check_unquantized(model):
    modes = {x.name: x.quantization_mode for x in keras_private.parts_of(model)}
    if modes := {name: mode for name, mode in modes.items() if mode}:
        raise ValueError(
            "to_onnx: the weights must be those that were trained. Received: layers that "
            f"`model.quantize` of Keras has changed, {modes}. Write the model as it was before: "
            "`to_onnx(..., quantize='int8')` writes 8 bits."
        )


def _check_dtype(what, dtype):
    if dtype in ("float64", "float16", "bfloat16"):
        raise ValueError(
            f"to_onnx: {what} is of {dtype}, and files are of float32. Received: a model with "
            f"{dtype}. Build it with `dtype='float32'` (`keras.config.set_floatx`), and give it "
            "the weights: new.set_weights(old.get_weights())."
        )


def _backwards(graph, operation, inputs):
    """Returns whether the steps of an operation's output are in reverse order.

    It is always False without `lengths`, because the order then does not matter.
    """
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
    """Returns the mask that a call reads from its input, or None. For attention, a list of masks.

    Keras gives no mask to a layer that has an initial state; our layers read it themselves. A
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
    write, is_rnn = nodes.WRITERS.get(type(operation)), isinstance(operation, keras.layers.RNN)
    if write is None or (is_rnn and not recurrent.is_written(operation)):
        known = sorted({kind.__name__ for kind in nodes.WRITERS} - {"RNN"})
        what = type(operation).__name__
        if is_rnn:
            what += f" around a {type(operation.cell).__name__}"
        raise ValueError(
            f"to_onnx: {operation.name!r} is a {what}, which cannot be written. Known: "
            f"{', '.join(known)}, keras_gated.RNN around one of their cells, and functional and "
            "sequential models of them."
        )
    if isinstance(operation, keras.Layer):
        for part in keras_private.parts_of(operation):  # its output may be of another type
            _check_dtype(repr(part.name), part.compute_dtype)
    return write(graph, operation, *args, **kwargs)


def _output_names(model, others=()):
    named = isinstance(model.output, dict) and len(model.output) == len(model.outputs)
    names = sorted(model.output) if named else [str(name) for name in model.output_names]
    taken = {*others, *(tensor.name for tensor in model.inputs)}
    unique = []
    for name in names:
        while name in taken:
            name += "_1"
        taken.add(name)
        unique.append(name)
    return unique


def _declared(wire, own_time):
    from onnx import helper

    # Axes of the same name have the same size: a runtime uses the memory of one for another.
    free = ["batch", f"{wire.name}_time" if own_time else "time"]
    free += [f"{wire.name}_{n}" for n in range(2, len(wire.shape))]
    shape = [n if n is not None else name for n, name in zip(wire.shape, free, strict=False)]
    return helper.make_tensor_value_info(wire.name, element_type(wire.dtype), shape)
