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

from keras_gated.convert import onnx_nodes, onnx_recurrent  # noqa: F401 (registers its writers)
from keras_gated.convert.keras_layers import from_keras, has_keras_layers

OPSET = 17  # the oldest with LayerNormalization; onnxruntime 1.12 and newer run it
_IR = 8  # of the same age, so that those versions read the file


@dataclasses.dataclass(frozen=True)
class Wire:
    """A tensor of the graph that is being written."""

    name: str
    shape: tuple  # with None for what is not known
    dtype: str


class Graph:
    """Collects the nodes and constants of a graph.

    Attributes:
        lengths: Optional wire, `(batch,)`, the number of steps of each row: the mask of layers that
            have none.
    """

    def __init__(self):
        self.nodes, self.constants = [], {}
        self.lengths, self._of_lengths = None, set()

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
        names = [f"{op.lower()}_{number}"]
        names += [f"{names[0]}_{n}" for n in range(1, outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"node_{number}", **attributes))
        return names[0] if outputs == 1 else names

    def _name_of(self, value):
        if isinstance(value, str):
            return value
        if isinstance(value, Wire):
            return value.name
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def mask_of(self, mask, sequences):
        """Returns a layer's mask, `(batch, time)`, or None: its own, or that of the lengths."""
        if mask is not None or self.lengths is None:
            return mask
        time = self.add("Gather", [self.add("Shape", [sequences]), np.array(1)], axis=0)
        steps = self.add("Range", [np.array(0), time, np.array(1)])
        lengths = self.add("Unsqueeze", [self.lengths, np.array([1])])
        lengths = self.add("Cast", [lengths], to=_type("int64"))
        mask = Wire(self.add("Less", [steps, lengths]), (None, None), "bool")
        self._of_lengths.add(mask)
        return mask

    def lengths_of(self, mask):
        """Returns the number of steps that a mask leaves of each row, int32 `(batch,)`."""
        if mask in self._of_lengths:
            return self.lengths
        ones = self.add("Cast", [mask], to=_type("int32"))
        return self.add("ReduceSum", [ones, np.array([1])], keepdims=0)


def to_onnx(model, path, *, lengths=False):
    """Writes a functional or sequential model as an ONNX file.

    Every recurrent layer becomes one `RNN`, `LSTM` or `GRU` node (both directions of a
    `Bidirectional` one together), not a loop. Layers of `keras.layers` are written, too, as
    `from_keras` converts them. Batch and time stay as free as they are in the model.

    A mask becomes the node's `sequence_lens`, so padding must stand at the end of a row; steps
    masked elsewhere would be read, which a graph cannot find out by itself.

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
    graph = Graph()
    inputs = [Wire(n, tuple(t.shape), t.dtype) for n, t in zip(names, model.inputs, strict=True)]
    given = list(inputs)
    if lengths:
        graph.lengths = Wire("lengths", (None,), "int32")
        given.append(graph.lengths)
    outputs = []
    for name, wire in zip(_output_names(model), written(graph, model, inputs), strict=True):
        graph.nodes.append(onnx.helper.make_node("Identity", [wire.name], [name], name=name))
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
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            args, kwargs = node.arguments.fill_in(wires)
            made = _call(graph, node.operation, args, kwargs)
            for tensor, name in zip(node.outputs, tree.flatten(made), strict=True):
                name = name.name if isinstance(name, Wire) else name
                wires[id(tensor)] = Wire(name, tuple(tensor.shape), tensor.dtype)
    return [wires[id(tensor)] for tensor in model.outputs]


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


def _type(dtype):
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
