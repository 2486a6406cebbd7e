"""Models as ONNX, with a native `RNN`, `LSTM` or `GRU` node for every recurrent layer.

A functional model is a graph of calls already; every call is written as the nodes of its layer
(`onnx_nodes.py`, `onnx_recurrent.py`). Text stays outside: a model takes ids or vectors, and
`assets.extra` of an export holds the vocabulary.
"""

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_gated.convert import onnx_nodes, onnx_recurrent
from keras_gated.convert.keras_layers import from_keras, has_keras_layers

OPSET = 17  # the oldest with LayerNormalization; onnxruntime 1.12 and newer run it
_IR = 8  # of the same age, so that those versions read the file


@dataclasses.dataclass(frozen=True)
class Wire:
    """A tensor of the graph that is being written."""

    name: str
    shape: tuple  # with None for what is not known
    dtype: str


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where the valid steps of rows stand once they are moved to the start; all are names.

    A recurrent node writes zeros after a row's end. So a place of -1, the last one, is a zero: a
    row in which a step is masked does not fill all places.
    """

    order: str  # (batch, time): where each place takes its step from
    lengths: str  # int32 (batch,)
    through: str  # (batch, time): the place of the last valid step up to this one, -1: none
    before: str  # (batch, time): the place of the first valid step from this one on, or a zero


class Graph:
    """Collects the nodes and constants of a graph.

    Attributes:
        lengths: Optional wire, `(batch,)`, the number of steps of each row: the mask of layers that
            have none.
    """

    def __init__(self, taken=()):
        self.nodes, self.constants = [], {}
        self._taken = set(taken)  # names of inputs and outputs
        self.lengths, self._packings = None, {}

    def add(self, op, inputs, outputs=1, **attributes):
        """Adds a node. Returns the names of its outputs, or the one name.

        Args:
            op: The operator's name.
            inputs: Names, wires, or arrays, which become constants; None is left out.
            outputs: How many there are.
        """
        from onnx import helper

        inputs = ["" if i is None else self._name_of(i) for i in inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        number = len(self.nodes)
        names = [f"{op.lower()}_{number}.{n}" for n in range(outputs)]
        while self._taken & {*names}:
            names = [f"_{name}" for name in names]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"node_{number}", **attributes))
        return names[0] if outputs == 1 else names

    def _name_of(self, value):
        if isinstance(value, str):
            return value
        if isinstance(value, Wire):
            return value.name
        name = f"constant_{len(self.constants)}"
        while name in self._taken:
            name = f"_{name}"
        self.constants[name] = _tensor(np.array(value, order="C"), name)
        return name

    def mask_of(self, mask, sequences):
        """Returns a layer's mask, `(batch, time)`, or None: its own, or that of the lengths."""
        if mask is not None or self.lengths is None:
            return mask
        shape = self.add("Shape", [sequences], start=0, end=2)
        ones = self.add("ConstantOfShape", [shape], value=_tensor(np.ones(1, "int32")))
        steps = self.add("CumSum", [ones, np.array(1)])
        lengths = self.add("Unsqueeze", [self.lengths, np.array([1])])
        return Wire(self.add("LessOrEqual", [steps, lengths]), (None, None), "bool")

    def packing_of(self, mask):
        """Returns how the steps that a mask leaves are moved to the start of their rows."""
        if mask not in self._packings:
            ones = self.add("Cast", [mask], to=_type("int64"))
            read = self.add("CumSum", [ones, np.array(1)])
            masked = self.add("CumSum", [self.add("Sub", [np.array(1), ones]), np.array(1)])
            later = self.add("Add", [masked, np.array(2**31)])
            key = self.add("Where", [mask, read, later])
            time = self.add("Shape", [key], start=1, end=2)
            _, order = self.add("TopK", [key, time], outputs=2, axis=1, largest=0, sorted=1)
            steps = self.add("Cast", [mask], to=_type("int32"))
            lengths = self.add("ReduceSum", [steps, np.array([1])], keepdims=0)
            before = self.add("Sub", [read, ones])
            through = self.add("Sub", [read, np.array(1)])
            self._packings[mask] = Packing(order, lengths, through, before)
        return self._packings[mask]

    def steps_at(self, x, places):
        """Returns the steps of each row at places of that row, both `(batch, time, ...)`."""
        places = self.add("Unsqueeze", [places, np.array([2])])
        return self.add("GatherND", [x, places], batch_dims=1)


def to_onnx(model, path, *, lengths=False):
    """Writes a functional or sequential model as an ONNX file.

    Every recurrent layer becomes one `RNN`, `LSTM` or `GRU` node (both directions of a
    `Bidirectional` one together), not a loop. Layers of `keras.layers` are written, too, as
    `from_keras` converts them. Batch and time stay as free as they are in the model.

    Masked steps may stand anywhere: those that count move to the start of their rows, the node's
    `sequence_lens` tells how many they are, and its outputs move back.

    Args:
        model: A functional or sequential Keras model of what `onnx_nodes.WRITERS` knows.
        path: Where to write the file.
        lengths: Whether there is a further input `lengths`, int32 `(batch,)`, that tells the number
            of steps of each row to layers without a mask.

    Returns:
        The path, a string.

    Raises:
        ValueError: If a layer or one of its options cannot be written; the message names it. Then
            no file is left.
        ImportError: If onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "to_onnx: onnx is not installed. Install it: pip install 'keras_gated[onnx]'."
        ) from error
    if isinstance(model, keras.Sequential):
        model = getattr(model, "_functional", None)
    if not isinstance(model, keras.src.models.Functional):
        raise ValueError(
            "to_onnx: `model` must be a functional model, or a sequential one that knows its input "
            f"(`keras.Input` first, or called once). Received: {model!r}."
        )
    names = [tensor.name for tensor in model.inputs]
    if has_keras_layers(model):
        model = from_keras(model)
    if lengths and "lengths" in names:
        raise ValueError("to_onnx: the model has an input `lengths` of its own: leave lengths out.")
    output_names = _output_names(model)
    graph = Graph([*names, *output_names, "lengths"])
    inputs = [Wire(n, tuple(t.shape), t.dtype) for n, t in zip(names, model.inputs, strict=True)]
    given = list(inputs)
    if lengths:
        graph.lengths = Wire("lengths", (None,), "int32")
        given.append(graph.lengths)
    outputs = []
    for name, wire in zip(output_names, written(graph, model, inputs), strict=True):
        node = onnx.helper.make_node("Identity", [wire.name], [name], name=f"output_{name}")
        graph.nodes.append(node)
        outputs.append(dataclasses.replace(wire, name=name))
    result = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            model.name,
            [_declared(wire) for wire in given],
            [_declared(wire) for wire in outputs],
            list(graph.constants.values()),
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR,
        producer_name="keras_gated",
    )
    onnx.checker.check_model(result, full_check=True)
    pathlib.Path(path).write_bytes(result.SerializeToString())
    return str(path)


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
            kwargs["mask"] = wire_of(mask)
        made = _call(graph, node.operation, args, kwargs)
        for tensor, name in zip(node.outputs, tree.flatten(made), strict=True):
            name = name.name if isinstance(name, Wire) else name
            wires[id(tensor)] = Wire(name, tuple(tensor.shape), tensor.dtype)

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                write(node)
    return [wires[id(tensor)] for tensor in model.outputs]


def _mask_given(node):
    """Returns the mask that a call finds at its input, for a call that reads it there, or None.

    Keras gives no mask to a layer that has an initial state, too; ours look for it themselves. A
    model inside the model would find its masks only when it runs.
    """
    masks = [getattr(tensor, "_keras_mask", None) for tensor in node.input_tensors]
    if isinstance(node.operation, keras.Model):
        if any(mask is not None for mask in masks):
            raise ValueError(
                f"to_onnx: {node.operation.name!r}, a model inside the model, is given a mask, "
                "which cannot be written. Call its layers one by one instead."
            )
    elif isinstance(node.operation, onnx_recurrent.LAYERS):
        return masks[0]
    return None


def _call(graph, operation, args, kwargs) -> Any:
    """Writes one call of a layer or operation. Returns the names of its outputs."""
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    if isinstance(operation, keras.src.models.Functional):
        return written(graph, operation, tree.flatten(args))
    write = onnx_nodes.WRITERS.get(type(operation))
    if write is None:
        known = sorted({kind.__name__ for kind in onnx_nodes.WRITERS})
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
    return helper.make_tensor_value_info(wire.name, _type(wire.dtype), shape)


def _tensor(array, name=None):
    from onnx import numpy_helper

    return numpy_helper.from_array(array, name)


def _type(dtype):
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
