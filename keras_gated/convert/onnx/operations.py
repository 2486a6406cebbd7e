"""Reads the nodes around recurrent nodes of ONNX as layers and operations of Keras."""

import functools

import keras
import numpy as np
from keras import ops

from keras_gated.convert.onnx import axes, convolutions
from keras_gated.convert.onnx.activations import hard_sigmoid_of
from keras_gated.convert.onnx.fold import fold
from keras_gated.convert.onnx.refusals import name_of, refuse
from keras_gated.convert.onnx.values import (
    Directions,
    Turned,
    added,
    constant,
    in_order,
    plain,
    turned,
)


def operation(node, given, attributes, opset):
    """Returns what a node computes from values (`values.py`), a list if there are several."""
    folded = fold(node, given, attributes, opset)
    if folded is not NotImplemented:
        return folded
    kind = node.op_type
    if given and isinstance(given[0], Directions):
        of_directions = given[0].apply(node, given[1:], attributes)
        if of_directions is not NotImplemented:
            return of_directions
    if kind in _BY_VALUE:
        return _BY_VALUE[kind](node, given, attributes)
    if kind not in _OPERATIONS:
        _refuse(node)
    if kind in ("Softmax", "LogSoftmax") and opset < 13:
        attributes = _of_last_axis(node, given[0], attributes)
    if kind in _OF_ONE and isinstance(given[0], Turned):  # the order of axes does not matter
        others = [plain(value) for value in given[1:]]
        if not any(len(value.shape) for value in others if value is not None):
            y = _OPERATIONS[kind](node, [given[0].tensor, *others], attributes)
            return turned(y, given[0].order)
    return _OPERATIONS[kind](node, [plain(value) for value in given], attributes)


def _refuse(node):
    if "quant" in node.op_type.lower() or node.op_type.endswith("Integer"):
        way_out = "Of a quantised model, read the one before"
    else:
        way_out = f"Known: {', '.join(sorted({*_OTHERS, *_OPERATIONS, *_BY_VALUE}))}"
    refuse(
        node,
        "has no counterpart",
        f"{way_out}; or read one recurrent node alone: from_onnx(..., node=...).",
    )


def _transposed(node, given, attributes):
    rank = len(given[0].order) if isinstance(given[0], Turned) else len(given[0].shape)
    return in_order(given[0], attributes.get("perm") or range(rank)[::-1], lazily=True)


def _looked_up(node, given, attributes):
    """Returns rows of a constant table as an `Embedding`; of other tensors, the part itself."""
    table = given[0]
    is_table = isinstance(table, np.ndarray) and table.ndim == 2 and table.dtype.kind == "f"
    if not is_table or attributes.get("axis", 0):
        return axes.gathered(node, given, attributes)
    layer = keras.layers.Embedding(*table.shape, dtype=str(table.dtype), name=name_of(node))
    embedded = layer(plain(given[1]))
    layer.set_weights([table])
    return embedded


def _product(node, given, attributes):
    if isinstance(given[1], np.ndarray) and given[1].ndim == 2:
        return _dense(node, plain(given[0]), given[1], None)
    return ops.matmul(*(plain(value) for value in given))


def _dense(node, x, kernel, bias):
    layer = keras.layers.Dense(
        kernel.shape[1], use_bias=bias is not None, dtype=str(kernel.dtype), name=name_of(node)
    )
    y = layer(x)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return y


def _gemm(node, given, attributes):
    x, kernel, *bias = given
    bias = bias[0] if bias else None
    kernel = constant(kernel)
    if kernel is None or attributes.get("transA") or (bias is not None and constant(bias) is None):
        refuse(node, "is no Dense layer", "Its matrix must be constant.")
    kernel = kernel.T if attributes.get("transB") else kernel
    kernel = kernel * np.asarray(attributes.get("alpha", 1.0), kernel.dtype)
    if bias is not None:
        if bias.ndim > 1 and max(bias.shape[:-1]) > 1:
            refuse(node, f"adds an array of the shape {bias.shape}", "Known: one number a column.")
        bias = np.broadcast_to(bias.ravel(), kernel.shape[1:])
        bias = bias * np.asarray(attributes.get("beta", 1.0), kernel.dtype)
    return _dense(node, plain(x), kernel, bias)


def _added(node, given, attributes):
    """Returns a sum. A product and a constant added to it become one layer."""
    for bias, product in (given, given[::-1]):
        if not isinstance(bias, np.ndarray) or bias.ndim != 1 or isinstance(product, np.ndarray):
            continue
        made_by = getattr(plain(product), "_keras_history", (None,))[0]
        is_product = type(made_by) is keras.layers.Dense and not made_by.use_bias
        if is_product and bias.size == made_by.units:
            [x] = made_by._inbound_nodes[0].input_tensors
            layer = keras.layers.Dense(
                bias.size, dtype=made_by.dtype_policy, name=f"{made_by.name}_with_bias"
            )
            y = layer(x)
            layer.set_weights([*made_by.get_weights(), bias])
            return y
    return added(*(plain(value) for value in given))


def _normalized(node, given, attributes):
    x, axis = plain(given[0]), attributes.get("axis", -1)
    scale, shift = (*map(constant, given[1:]), None)[:2]
    if (
        axis % len(x.shape) != len(x.shape) - 1
        or scale is None
        or (len(given) > 2 and given[2] is not None and shift is None)
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


def _of_last_axis(node, value, attributes):
    """Returns the attributes of a softmax before opset 13: over all axes from one on."""
    axis = attributes.get("axis", 1)
    rank = len(value.order if isinstance(value, Turned) else plain(value).shape)
    if axis % rank != rank - 1:
        refuse(
            node,
            f"has axis={axis} of {rank} in an opset before 13: it is over all axes from there on",
            "Export the model with opset 13 or newer.",
        )
    return {**attributes, "axis": axis}


def _reduced(function):
    def reduce(node, given, attributes):
        over = axes.listed(given, attributes, "axes", 1)
        if not over:
            if attributes.get("noop_with_empty_axes"):
                return given[0]
            over = range(len(given[0].shape))
        return function(given[0], axis=tuple(over), keepdims=bool(attributes.get("keepdims", 1)))

    return reduce


def _length(x, axis, keepdims):
    return ops.sqrt(ops.sum(ops.square(x), axis=axis, keepdims=keepdims))


def _cast(node, given, attributes):
    from onnx import helper

    return ops.cast(given[0], str(helper.tensor_dtype_to_np_dtype(attributes["to"])))


def _clipped(node, given, attributes):
    x = given[0]
    low, high = [
        attributes.get(name) if len(given) <= place or given[place] is None else given[place]
        for place, name in ((1, "min"), (2, "max"))
    ]
    x = x if low is None else ops.maximum(x, ops.cast(low, x.dtype))
    return x if high is None else ops.minimum(x, ops.cast(high, x.dtype))


def _power(node, given, attributes):
    base, exponent = given
    if "int" in str(base.dtype) and "float" in str(exponent.dtype):  # the result is cut, not 2.5
        power = ops.power(ops.cast(base, exponent.dtype), exponent)
        return ops.cast(power, base.dtype)
    number = exponent.item() if isinstance(exponent, np.ndarray) and exponent.size == 1 else None
    if number == 2:
        return ops.square(base)
    if number == 0.5:
        return ops.sqrt(base)
    return ops.power(base, ops.cast(exponent, base.dtype))


def _remainder(node, given, attributes):
    if attributes.get("fmod"):
        refuse(node, "has fmod=1", "Known: the sign of the divisor (fmod=0).")
    return ops.mod(*given)


def _quotient(node, given, attributes):
    first, second = given
    if "int" not in str(first.dtype):
        return ops.divide(first, second)
    quotient = ops.floor_divide(ops.abs(first), ops.abs(second))  # ONNX rounds towards zero
    return quotient * ops.sign(first) * ops.sign(second)


def _hard_sigmoid(node, given, attributes):
    function = hard_sigmoid_of(attributes.get("alpha", 0.2), attributes.get("beta", 0.5))
    return keras.layers.Activation(function, name=name_of(node))(given[0])


def _hard_swish(node, given, attributes):
    return given[0] * ops.hard_sigmoid(given[0])


def _sloped(node, given, attributes):
    x, slope = given
    return ops.where(x < 0, ops.multiply(x, slope), x)


def _gelu(node, given, attributes):
    approximate = attributes.get("approximate", "none")
    if approximate not in ("none", "tanh"):
        refuse(node, f"has approximate={approximate!r}", "Known: none, tanh.")
    return ops.gelu(given[0], approximate=approximate == "tanh")


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


# Operators on one tensor that treat every number by itself.
_OF_ONE = {
    **{
        name: _elementwise(getattr(ops, function))
        for name, function in {
            "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Exp": "exp", "Sqrt": "sqrt",
            "Neg": "negative", "Softplus": "softplus", "Softsign": "softsign", "Not": "logical_not",
            "Abs": "abs", "Log": "log", "Erf": "erf", "Floor": "floor", "Ceil": "ceil",
            "Sign": "sign", "Sin": "sin", "Cos": "cos", "Reciprocal": "reciprocal",
        }.items()
    },
    "Elu": lambda node, given, attributes: ops.elu(given[0], attributes.get("alpha", 1.0)),
    "LeakyRelu": lambda node, given, attributes: ops.leaky_relu(
        given[0], attributes.get("alpha", 0.01)
    ),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "Selu": _selu,
    "Clip": _clipped,
    "Pow": _power,
    "Identity": lambda node, given, attributes: given[0],
    "Dropout": lambda node, given, attributes: given[0],
    "Cast": _cast,
}  # fmt: skip
_OPERATIONS = {
    **_OF_ONE,
    **{
        name: _elementwise(getattr(ops, function))
        for name, function in {
            "Sub": "subtract", "Mul": "multiply", "Equal": "equal", "Less": "less",
            "LessOrEqual": "less_equal", "Greater": "greater", "GreaterOrEqual": "greater_equal",
            "And": "logical_and", "Or": "logical_or", "Where": "where",
        }.items()
    },
    "Div": _quotient,
    "Mod": _remainder,
    "PRelu": _sloped,
    "Sum": _of_any_number(added),
    "Max": _of_any_number(ops.maximum),
    "Min": _of_any_number(ops.minimum),
    "Mean": lambda node, given, attributes: functools.reduce(added, given) / len(given),
    "Softmax": _over_axis(ops.softmax),
    "LogSoftmax": _over_axis(ops.log_softmax),
    "ReduceSum": _reduced(ops.sum),
    "ReduceMean": _reduced(ops.mean),
    "ReduceMax": _reduced(ops.max),
    "ReduceMin": _reduced(ops.min),
    "ReduceProd": _reduced(ops.prod),
    "ReduceL2": _reduced(_length),
}  # fmt: skip
# Operators that take a value of `values.py` before it becomes a tensor.
_BY_VALUE = {
    **axes.OPERATIONS,
    **convolutions.OPERATIONS,
    "Transpose": _transposed,
    "Gather": _looked_up,
    "MatMul": _product,
    "Gemm": _gemm,
    "Add": _added,
    "LayerNormalization": _normalized,
}
# Operators that functions in other files read.
_OTHERS = {"RNN", "LSTM", "GRU", "If", "Constant", "Shape", "Size"}
