"""Sizes that are known only when a model runs, as expressions, and the layer that computes them."""

import functools
import operator

import keras
import numpy as np
from keras import ops

from keras_gated.convert.onnx.refusals import UnreadableError

_OPERATIONS = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.floordiv,
    "maximum": ops.maximum,
}


class Size:
    """A whole number computed from the sizes of tensors.

    Attributes:
        operation: `"size"`, or a key of `_OPERATIONS`.
        parts: The tensor and the axis, or the two operands: whole numbers or sizes.
    """

    def __init__(self, operation, *parts):
        self.operation, self.parts = operation, parts

    def __add__(self, other):
        return self if other == 0 else Size("add", self, other)

    def __sub__(self, other):
        return self if other == 0 else Size("subtract", self, other)

    def __rsub__(self, other):
        return Size("subtract", other, self)

    def __mul__(self, other):
        return self if other == 1 else Size("multiply", self, other)

    def __floordiv__(self, other):
        return self if other == 1 else Size("divide", self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other):
        """Whether two sizes are known to be the same."""
        if not isinstance(other, Size):
            return False
        if self.operation != other.operation:
            return False
        both = zip(self.parts, other.parts, strict=True)
        return all(a is b if hasattr(a, "shape") else a == b for a, b in both)

    __hash__ = None

    def leaves(self):
        """Yields the tensors that it depends on."""
        if self.operation == "size":
            yield self.parts[0]
            return
        for part in self.parts:
            if isinstance(part, Size):
                yield from part.leaves()

    def config(self, tensors):
        """Returns the size as nested lists, with the index of each tensor in its place."""
        if self.operation == "size":
            tensor, axis = self.parts
            return ["size", next(n for n, t in enumerate(tensors) if t is tensor), axis]
        parts = [p.config(tensors) if isinstance(p, Size) else int(p) for p in self.parts]
        return [self.operation, *parts]


def sizes_of(tensor, order=None):
    """Returns the sizes of a tensor's axes, in an order: whole numbers and `Size`s."""
    order = range(len(tensor.shape)) if order is None else order
    known = (tensor.shape[axis] for axis in order)
    return [Size("size", tensor, a) if n is None else n for a, n in zip(order, known, strict=True)]


def are_equal(first, second):
    """Returns whether two sizes are equal.

    Raises:
        UnreadableError: If that is known only when the model runs.
    """
    if not isinstance(first, Size) and not isinstance(second, Size):
        return first == second
    one, other = (first, second) if isinstance(first, Size) else (second, first)
    if one == other:
        return True
    if isinstance(other, (int, np.integer)) and other < 0 and one.operation != "subtract":
        return False
    raise UnreadableError(
        "compares sizes that are known only when the model runs. Give the inputs of the graph "
        "fixed sizes (onnx.tools.update_model_dims), or read one recurrent node alone: "
        "from_onnx(..., node=...)"
    )


def reshaped(x, sizes):
    """Returns a tensor reshaped; one size may be -1."""
    free = [n for n in sizes if isinstance(n, Size) or n == -1]
    if len(free) <= 1:
        return ops.reshape(x, [-1 if isinstance(n, Size) else int(n) for n in sizes])
    return _sized(sizes, "reshape", [x])


def filled(sizes, value):
    """Returns a tensor filled with one number, a NumPy scalar."""
    if any(isinstance(n, Size) for n in sizes):
        return _sized(sizes, "fill", [], value=value.item(), of_dtype=str(value.dtype))
    return np.broadcast_to(value, [int(n) for n in sizes])


def as_numbers(sizes):
    """Returns an array of sizes as a tensor of the same shape."""
    flat = _sized(sizes.ravel(), "numbers", [], of_dtype="int64")
    return ops.reshape(flat, sizes.shape)


def broadcast(x, sizes):
    """Returns a tensor repeated along axes of size 1, and along new first axes."""
    own = [1] * (len(sizes) - len(x.shape)) + sizes_of(x)
    sizes = [1] * (len(own) - len(sizes)) + list(sizes)
    both = [_larger(a, b) for a, b in zip(own, sizes, strict=True)]
    if any(isinstance(n, Size) for n in both):
        return _sized(both, "broadcast", [x])
    return ops.broadcast_to(x, [int(n) for n in both])


def _larger(own, other):
    if isinstance(own, Size) or isinstance(other, Size):
        if own == 1 or own == other:
            return other
        return own if other == 1 else Size("maximum", own, other)
    return max(own, other)


def _sized(sizes, how, given, **options):
    tensors = list(given)
    for size in sizes:
        for tensor in size.leaves() if isinstance(size, Size) else ():
            if not any(tensor is t for t in tensors):
                tensors.append(tensor)
    config = [n.config(tensors) if isinstance(n, Size) else int(n) for n in sizes]
    return Sized(config, how, **options)(*tensors)


@keras.saving.register_keras_serializable(package="keras_gated")
class Sized(keras.layers.Layer):
    """A tensor whose sizes are computed from the sizes of the inputs.

    Args:
        sizes: Whole numbers and expressions: `["size", input, axis]`, or an operation and its
            parts, such as `["multiply", ["size", 0, 1], 2]`. -1: the size that is left.
        how: `"reshape"` or `"broadcast"` the first input, `"fill"` with a value, or return the
            sizes themselves as `"numbers"`.
        value: For `"fill"`.
        of_dtype: The dtype for `"fill"` or `"numbers"`.
    """

    def __init__(self, sizes, how, value=None, of_dtype=None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.sizes, self.how, self.value, self.of_dtype = sizes, how, value, of_dtype
        self.supports_masking = True  # it accepts masks of its inputs and passes none on

    def call(self, *tensors):
        sizes = [_computed(size, tensors) for size in self.sizes]
        if self.how == "numbers":
            return ops.stack([ops.cast(n, self.of_dtype) for n in sizes])
        if self.how == "reshape":
            return ops.reshape(tensors[0], sizes)
        x = tensors[0] if self.how == "broadcast" else ops.cast(self.value, self.of_dtype)
        return ops.broadcast_to(x, sizes)

    def compute_output_spec(self, *tensors):
        known = [n if isinstance(n, int) and n != -1 else None for n in self.sizes]
        known = [len(known)] if self.how == "numbers" else known
        return keras.KerasTensor(known, self.of_dtype or tensors[0].dtype)

    def compute_mask(self, *args, **kwargs):
        return None

    def get_config(self):
        own = {name: getattr(self, name) for name in ("sizes", "how", "value", "of_dtype")}
        return {**super().get_config(), **own}


def _computed(size, tensors):
    if isinstance(size, int):
        return size
    operation, *parts = size
    if operation == "size":
        return ops.shape(tensors[parts[0]])[parts[1]]
    return functools.reduce(_OPERATIONS[operation], [_computed(part, tensors) for part in parts])
