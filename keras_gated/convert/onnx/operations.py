"""What stands around the recurrent nodes of a graph of ONNX, as layers and operations of Keras."""

import functools

import keras
import numpy as np
from keras import ops

from keras_gated.convert.onnx.activations import hard_sigmoid_of
from keras_gated.convert.onnx.values import (
    Directions,
    constant,
    fold,
    in_order,
    name_of,
    plain,
    refuse,
    steps_at,
)


def operation(node, given, attributes):
    """Returns what a node makes of values (`onnx_values.py`), a list if there are several."""
    folded = fold(node, given, attributes)
    if folded is not NotImplemented:
        return folded
    kind = node.op_type
    if isinstance(given[0], Directions):
        return given[0].apply(node, given[1:], attributes)
    if kind == "Transpose":
        return in_order(given[0], attributes["perm"], lazily=True)
    if kind == "Gather" and isinstance(given[0], np.ndarray) and given[0].ndim == 2:
        table = given[0]
        layer = keras.layers.Embedding(*table.shape, dtype=str(table.dtype), name=name_of(node))
        embedded = layer(plain(given[1]))
        layer.set_weights([table])
        return embedded
    if kind == "MatMul" and isinstance(given[1], np.ndarray) and given[1].ndim == 2:
        return _dense(node, plain(given[0]), given[1], None)
    if kind == "LayerNormalization":
        return _normalized(node, plain(given[0]), given[1:], attributes)
    if kind == "TopK":
        return _ordered(node, *given, attributes)
    if kind == "Gemm":
        return _gemm(node, given, attributes)
    if kind == "Add":
        grown = _with_bias(given)
        if grown is not None:
            return grown
    if kind not in _OPERATIONS:
        refuse(
            node,
            "has no counterpart",
            f"Known: {', '.join(sorted({*_OTHERS, *_OPERATIONS}))}.",
        )
    return _OPERATIONS[kind](node, [plain(value) for value in given], attributes)


def _dense(node, x, kernel, bias):
    layer = keras.layers.Dense(
        kernel.shape[1], use_bias=bias is not None, dtype=str(kernel.dtype), name=name_of(node)
    )
    y = layer(x)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return y


def _gemm(node, given, attributes):
    x, kernel, *bias = given
    kernel = constant(kernel)
    scaled = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0)) != (1.0, 1.0)
    if kernel is None or scaled or attributes.get("transA") or (bias and constant(*bias) is None):
        refuse(node, "is no Dense layer", "Its matrix must be constant, alpha and beta 1.")
    kernel = kernel.T if attributes.get("transB") else kernel
    return _dense(
        node, plain(x), kernel, np.broadcast_to(bias[0], kernel.shape[1:]) if bias else None
    )


def _with_bias(given):
    """Returns what a product and the constant added to it are together, or None."""
    for bias, product in (given, given[::-1]):
        if not isinstance(bias, np.ndarray) or bias.ndim != 1 or isinstance(product, np.ndarray):
            continue
        made_by = getattr(plain(product), "_keras_history", (None,))[0]
        if type(made_by) is keras.layers.Dense and not made_by.use_bias:
            [x] = made_by._inbound_nodes[0].input_tensors
            layer = keras.layers.Dense(
                bias.size, dtype=made_by.dtype_policy, name=f"{made_by.name}_with_bias"
            )
            y = layer(x)
            layer.set_weights([*made_by.get_weights(), bias])
            return y
    return None


def _normalized(node, x, weights, attributes):
    axis = attributes.get("axis", -1)
    scale, shift = (*map(constant, weights), None)[:2]
    if (
        axis % len(x.shape) != len(x.shape) - 1
        or scale is None
        or (len(weights) > 1 and shift is None)
    ):
        refuse(node, f"has axis={axis}", "Known: the last axis, scale and shift constant.")
    layer = keras.layers.LayerNormalization(
        epsilon=attributes.get("epsilon", 1e-5),
        center=shift is not None,
        dtype=str(scale.dtype),
        name=name_of(node),
    )
    y = layer(x)
    layer.set_weights([w for w in (scale, shift) if w is not None])
    return y


def _ordered(node, x, number, attributes):
    x, axis = plain(x), attributes.get("axis", -1)
    sizes = getattr(number, "sizes", number)
    if tuple(sizes) != (x.shape[axis],):
        refuse(node, f"takes {sizes} of an axis of {x.shape[axis]}", "Known: to order all.")
    order = ops.argsort(-x if attributes.get("largest", 1) else x, axis=axis)
    return [ops.take_along_axis(x, order, axis=axis), order]


def _summed(node, given, attributes):
    x, axis = given[0], int(given[1].item())
    turned = ops.flip(x, axis=axis) if attributes.get("reverse") else x
    total = ops.cumsum(turned, axis=axis)
    total = total - turned if attributes.get("exclusive") else total
    return ops.flip(total, axis=axis) if attributes.get("reverse") else total


def _axes(node, given, attributes):
    axes = attributes.get("axes", given[1] if len(given) > 1 else None)
    return None if axes is None else tuple(int(a) for a in np.ravel(axes))


def _reduced(function):
    def reduce(node, given, attributes):
        options = {"axis": _axes(node, given, attributes)}
        return function(given[0], keepdims=bool(attributes.get("keepdims", 1)), **options)

    return reduce


def _unsqueezed(node, given, attributes):
    x = given[0]
    for axis in sorted(_axes(node, given, attributes)):
        x = ops.expand_dims(x, axis)
    return x


def _cast(node, given, attributes):
    from onnx import helper

    return ops.cast(given[0], str(helper.tensor_dtype_to_np_dtype(attributes["to"])))


def _sliced(node, given, attributes):
    x, starts, ends, *rest = given
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    places = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        backwards = step < 0 and end <= -(2**31)
        places[axis] = slice(int(start), None if backwards else min(int(end), 2**31 - 1), int(step))
        if step == -1:
            if start != -1 or not backwards:
                refuse(node, "reads a part backwards", "Known: a whole axis.")
            places[axis], x = slice(None), ops.flip(x, axis=int(axis))
    return x[tuple(places)]


def _reshaped(node, given, attributes):
    x, shape = given
    if not isinstance(shape, np.ndarray):
        refuse(node, "reshapes to a size that is computed")
    shape = [x.shape[n] if size == 0 else int(size) for n, size in enumerate(shape)]
    if shape.count(None) + shape.count(-1) > 1:
        refuse(node, f"reshapes {x.shape} to {shape}", "More than one size is not known.")
    return ops.reshape(x, [-1 if size is None else size for size in shape])


def _padded(node, given, attributes):
    x, pads, *rest = given
    if attributes.get("mode", "constant") != "constant" or len(rest) > 1:
        refuse(node, f"pads by {attributes.get('mode', 'axes')!r}", "Known: constants, all axes.")
    value = rest[0].item() if rest and rest[0] is not None else 0
    return ops.pad(x, np.reshape(pads, (2, -1)).T.tolist(), constant_values=value)


def _remainder(node, given, attributes):
    if attributes.get("fmod"):
        refuse(node, "has fmod=1", "Known: the sign of the divisor (fmod=0).")
    return ops.mod(*given)


def _hard_sigmoid(node, given, attributes):
    function = hard_sigmoid_of(attributes.get("alpha", 0.2), attributes.get("beta", 0.5))
    return keras.layers.Activation(function, name=name_of(node))(given[0])


def _selu(node, given, attributes):
    if attributes:
        refuse(node, f"has {attributes}", "Known: the values of the paper, which are the default.")
    return ops.selu(given[0])


def _of_any_number(function):
    return lambda node, given, attributes: functools.reduce(function, given)


def _elementwise(function):
    return lambda node, given, attributes: function(*given)


def _over_axis(function):
    return lambda node, given, attributes: function(given[0], axis=attributes.get("axis", -1))


_OPERATIONS = {
    **{
        name: _elementwise(getattr(ops, function))
        for name, function in {
            "Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Relu": "relu",
            "Sigmoid": "sigmoid", "Tanh": "tanh", "Exp": "exp", "Sqrt": "sqrt", "Neg": "negative",
            "Softplus": "softplus", "Softsign": "softsign", "Equal": "equal", "Less": "less",
            "LessOrEqual": "less_equal", "Greater": "greater", "Not": "logical_not",
            "And": "logical_and", "Where": "where", "MatMul": "matmul",
        }.items()
    },
    "Sum": _of_any_number(ops.add),
    "Max": _of_any_number(ops.maximum),
    "Min": _of_any_number(ops.minimum),
    "Mean": lambda node, given, attributes: functools.reduce(ops.add, given) / len(given),
    "Elu": lambda node, given, attributes: ops.elu(given[0], attributes.get("alpha", 1.0)),
    "LeakyRelu": lambda node, given, attributes: ops.leaky_relu(
        given[0], attributes.get("alpha", 0.01)
    ),
    "HardSigmoid": _hard_sigmoid,
    "Selu": _selu,
    "Mod": _remainder,
    "Pad": _padded,
    "CumSum": _summed,
    "GatherND": lambda node, given, attributes: steps_at(node, *given, attributes),
    "Identity": lambda node, given, attributes: given[0],
    "Dropout": lambda node, given, attributes: given[0],
    "Softmax": _over_axis(ops.softmax),
    "LogSoftmax": _over_axis(ops.log_softmax),
    "Concat": lambda node, given, attributes: ops.concatenate(given, axis=attributes["axis"]),
    "Gather": lambda node, given, attributes: ops.take(
        given[0], given[1], axis=attributes.get("axis", 0)
    ),
    "Squeeze": lambda node, given, attributes: ops.squeeze(
        given[0], _axes(node, given, attributes)
    ),
    "Unsqueeze": _unsqueezed,
    "Cast": _cast,
    "Slice": _sliced,
    "Reshape": _reshaped,
    "ReduceSum": _reduced(ops.sum),
    "ReduceMean": _reduced(ops.mean),
    "ReduceMax": _reduced(ops.max),
    "ReduceProd": _reduced(ops.prod),
}  # fmt: skip
# Read by functions of their own, here and in other files.
_OTHERS = {"RNN", "LSTM", "GRU", "Constant", "ConstantOfShape", "Expand", "Shape", "Transpose"}
_OTHERS |= {"Gemm", "LayerNormalization", "TopK"}
