"""Computes, while a graph is read, everything that depends on constants and sizes alone."""

import numpy as np

from keras_gated.convert.onnx.refusals import UnreadableError, refuse
from keras_gated.convert.onnx.sizes import are_equal, sizes_of
from keras_gated.convert.onnx.values import Dims, Directions, Turned, Zeros, numbers

MOST = 2**28  # the most numbers in a constant that is computed: 1 GB of float32
# Operators that ONNX's reference computes if all inputs are constants. Left out: random numbers,
# operators with graphs inside, and slow ones.
_OF_CONSTANTS = {
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos",
    "CumSum", "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten",
    "Floor", "Gather", "GatherElements", "GatherND", "Gemm", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg",
    "Not", "OneHot", "Or", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL2",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Reshape", "Round", "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin",
    "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose",
    "Trilu", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
# Operators that make zeros of zeros.
_KEEP_ZEROS = {"Slice", "Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Transpose"}


def fold(node, given, attributes, opset):
    """Returns a node's result if it is known without running the model, or NotImplemented.

    Args:
        node: The node.
        given: Its inputs: constants, None for those that are left out, and the values of
            `values.py`.
        attributes: Its attributes by name.
        opset: The version of ONNX's operators that the node is of.
    """
    kind = node.op_type
    if node.domain not in ("", "ai.onnx"):
        return NotImplemented
    if kind == "Constant":
        return _constant_of(node, attributes)
    if kind in ("Shape", "Size"):
        return _shape(given[0], attributes) if kind == "Shape" else _count(given[0])
    if kind in ("ConstantOfShape", "Expand"):
        value = given[0] if kind == "Expand" else _filling(attributes)
        sizes = given[1] if kind == "Expand" else given[0]
        is_zero = isinstance(value, np.ndarray) and value.size == 1 and not value.any()
        if is_zero and isinstance(sizes, Dims):
            return Zeros(tuple(sizes.sizes), str(value.dtype))
    if kind in _KEEP_ZEROS and isinstance(given[0], Zeros):
        return given[0] if kind in ("Identity", "Cast") else Zeros(None, given[0].dtype)
    if kind == "Concat" and all(isinstance(value, Zeros) for value in given):
        return Zeros(None, given[0].dtype)
    if given and all(value is None or isinstance(value, np.ndarray) for value in given):
        return _of_constants(node, given, opset) if kind in _OF_CONSTANTS else NotImplemented
    if any(isinstance(value, Dims) for value in given):
        return _of_dims(node, given, attributes)
    return NotImplemented


def _constant_of(node, attributes):
    from onnx import numpy_helper

    [(name, value)] = attributes.items()
    if name == "value":
        return numpy_helper.to_array(value)
    kinds = {"value_int": "int64", "value_float": "float32"}
    if name.removesuffix("s") not in kinds:
        refuse(node, f"has {name!r}", "Known: numbers and dense tensors.")
    return np.array(value, kinds[name.removesuffix("s")])


def _filling(attributes):
    from onnx import numpy_helper

    given = attributes.get("value")
    return np.zeros(1, "float32") if given is None else numpy_helper.to_array(given)


def _of_constants(node, given, opset):
    """Returns what ONNX's reference computes from constants, a list."""
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    named = {n: v for n, v in zip(node.input, given, strict=True) if v is not None}
    few = [n for n, v in named.items() if v.size <= 1024 and v.dtype == np.int64]
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in named.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "constants",
        declared,
        outputs,
        [onnx.numpy_helper.from_array(named[n], n) for n in few],
    )
    if node.op_type == "DequantizeLinear":
        opset = max(opset, 19)  # the reference begins here; older versions mean the same
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    for output in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output:
        sizes = [d.dim_value for d in output.type.tensor_type.shape.dim]
        if np.prod(np.array(sizes, object), initial=1) > MOST:
            refuse(node, f"makes a constant of the shape {sizes}", f"Known: up to {MOST} numbers.")
    return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, named)]


def _shape(value, attributes):
    sizes = _sizes(value)
    return numbers(sizes[attributes.get("start", 0) : attributes.get("end", len(sizes))])


def _count(value):
    return numbers(np.prod(np.array(_sizes(value), object), initial=1))


def _sizes(value):
    if isinstance(value, Zeros) and value.sizes is not None:
        return list(value.sizes)
    if isinstance(value, (Dims, np.ndarray)):
        return list(getattr(value, "sizes", value).shape)
    if isinstance(value, Directions):
        return value.sizes()
    if isinstance(value, Turned):
        return sizes_of(value.tensor, value.order)
    return sizes_of(value)


def _of_dims(node, given, attributes):
    """Computes with sizes. Knows the operators that exporters use for this."""
    kind = node.op_type
    parts = [v.sizes if isinstance(v, Dims) else v for v in given]
    if not all(part is None or isinstance(part, np.ndarray) for part in parts):
        return NotImplemented
    first, *others = parts
    axis = attributes.get("axis", 0)
    axes = attributes.get("axes", others[0] if others else None)
    if kind == "Identity" or (kind == "Cast" and attributes.get("to") in _WHOLE):
        return given[0]
    if kind == "Gather":
        return numbers(np.take(first, others[0].astype("int64"), axis=axis))
    if kind == "Slice" and len(others) > 1:
        step = int(others[3][0]) if len(others) > 3 else 1
        return numbers(first[int(others[0][0]) : int(others[1][0]) : step])
    if kind == "Concat":
        return numbers(np.concatenate([np.array(part, object) for part in parts]))
    if kind == "Unsqueeze":
        return numbers(np.expand_dims(first, tuple(int(a) for a in axes)))
    if kind == "Squeeze":
        return numbers(np.squeeze(first, None if axes is None else tuple(int(a) for a in axes)))
    if kind == "Reshape" and isinstance(given[0], Dims):
        return numbers(first.reshape([int(n) for n in others[0]]))
    if kind in _ARITHMETIC and all(part.dtype.kind in "iuO" for part in parts):
        return numbers(_ARITHMETIC[kind](*(np.array(part, object) for part in parts)))
    if kind == "ReduceProd" and axes is None:
        return numbers(np.prod(first, keepdims=bool(attributes.get("keepdims", 1))))
    if kind == "Split":
        sizes, parts = others[0] if others else attributes.get("split"), len(node.output)
        sizes = [-(-len(first) // parts)] * parts if sizes is None else sizes
        return [numbers(p) for p in np.split(first, np.cumsum(sizes)[:-1])]
    if kind == "Equal":
        pairs = np.broadcast_arrays(*(np.array(part, object) for part in parts))
        flat = [are_equal(a, b) for a, b in zip(*(p.ravel() for p in pairs), strict=True)]
        return np.array(flat, bool).reshape(pairs[0].shape)
    if kind == "Where" and isinstance(given[0], np.ndarray):
        return numbers(np.where(first, *(np.array(part, object) for part in others)))
    return NotImplemented


_WHOLE = (6, 7)  # ONNX's int32 and int64
_ARITHMETIC = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
}


def whole(values, what):
    """Returns the whole numbers of a constant or an attribute.

    Raises:
        UnreadableError: If they are known only when the model runs, or are not whole numbers.
    """
    if not isinstance(values, (np.ndarray, list, int)):
        raise UnreadableError(
            f"has {what} that are known only when the model runs. Give them as constants"
        )
    values = np.ravel(values)
    if not all(isinstance(n, (int, np.integer)) for n in values):
        raise UnreadableError(f"has {what} that are no whole numbers: {values.tolist()}")
    return [int(n) for n in values]
