"""Values that stand for tensors while a graph of ONNX is read, besides Keras's symbolic tensors.

Constants are NumPy arrays. `Dims` are numbers, some of which are known only when the model runs.
`Zeros` are zeros that an initial state may be made of. `Turned` is a tensor whose axes are to be
read in another order. `Directions` is the output of a recurrent node before its directions are
joined.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gated.convert.onnx.refusals import UnreadableError, refuse
from keras_gated.convert.onnx.sizes import Size, as_numbers, filled, reshaped, sizes_of


def added(first, second):
    """Returns the sum of two values, broadcast by ONNX's rule, which is NumPy's.

    Keras's `add` on TensorFlow takes numbers that fit the second axis of `first` for a bias of that
    axis, whatever their shape is.
    """
    shapes = [tuple(value.shape) for value in (first, second)]
    is_bias = len(shapes[1]) == 1 and shapes[0][-1:] == shapes[1]
    if shapes[0] == shapes[1] or is_bias or str(second.dtype).startswith("uint"):
        return ops.add(first, second)
    return ops.subtract(first, ops.negative(second))


_MERGED = {
    "ReduceSum": added,
    "ReduceProd": ops.multiply,
    "ReduceMean": lambda first, second: (first + second) / 2,
}


class Zeros(NamedTuple):
    """Zeros. `sizes` is None once the sizes are not tracked any more."""

    sizes: Any
    dtype: str


class Dims(NamedTuple):
    """Whole numbers and `Size`s, in an array of objects."""

    sizes: Any


def numbers(values):
    """Returns whole numbers as a constant, or as `Dims` if some are not known yet."""
    values = np.array(values, object)
    if any(isinstance(value, Size) for value in values.ravel()):
        return Dims(values)
    return values.astype("int64")


class Turned(NamedTuple):
    """A tensor that is to be read with its axes in another order."""

    tensor: Any
    order: tuple


class Directions(NamedTuple):
    """The outputs of a recurrent node, with axes named by letters.

    T is time, D the directions, B the batch, H the units of one direction, and X those of both,
    side by side, as our layers have them.
    """

    tensor: Any  # (batch, time, directions * units)
    number: int
    axes: str

    @classmethod
    def of(cls, tensor, number):
        return cls(tensor, number, "TDBH")

    def apply(self, node, others, attributes):
        """Returns a node's result, or NotImplemented if the node needs the tensor itself."""
        kind, axes = node.op_type, self.axes
        if kind == "Transpose":
            perm = attributes.get("perm", range(len(axes))[::-1])
            return self._replace(axes="".join(axes[n] for n in perm))._done()
        if kind == "Reshape" and axes.endswith("DH") and self._are_joined_by(node, *others):
            return self._replace(axes=axes[:-2] + "X")._done()
        if kind == "Squeeze" and self.number == 1 and self._is_axis("D", others, attributes):
            return self._replace(axes=axes.replace("D", "").replace("H", "X"))._done()
        if kind in _MERGED and self.number == 2 and self._is_axis("D", others, attributes):
            if attributes.get("keepdims", 1):
                return NotImplemented
            units = self.tensor.shape[-1] // self.number
            first, second = self.tensor[:, :, :units], self.tensor[:, :, units:]
            merged = _MERGED[kind](first, second)
            return Directions(merged, 1, axes.replace("D", "").replace("H", "X"))._done()
        if kind == "Gather" and axes[attributes.get("axis", 0)] == "D" and np.ndim(others[0]) == 0:
            units = self.tensor.shape[-1] // self.number
            first = int(others[0]) % self.number * units
            part = self.tensor[:, :, first : first + units]
            return Directions(part, 1, axes.replace("D", "").replace("H", "X"))._done()
        if kind == "Identity":
            return self
        if kind == "GatherND" and axes[:2] == "BT":
            return self._replace(tensor=steps_at(node, self.tensor, others[0], attributes))
        return NotImplemented

    def sizes(self):
        """Returns the sizes of the axes, as ONNX has them."""
        of_axes = dict(zip("BTX", sizes_of(self.tensor), strict=True))
        of_axes.update(D=self.number, H=of_axes["X"] // self.number)
        return [of_axes[letter] for letter in self.axes]

    def whole(self):
        """Returns the tensor itself, with the directions on a separate axis."""
        batch, time, both = sizes_of(self.tensor)
        apart = reshaped(self.tensor, [batch, time, self.number, both // self.number])
        return ops.transpose(apart, ["BTDH".index(letter) for letter in self.axes])

    def _are_joined_by(self, node, sizes=()):
        """Whether a shape puts the directions side by side: one axis for the last two."""
        sizes = list(sizes.sizes if isinstance(sizes, Dims) else sizes)
        if len(sizes) != len(self.axes) - 1 or sizes[-1] not in (-1, self.tensor.shape[-1]):
            return False
        for own, size in zip(self.sizes(), sizes[:-1], strict=False):
            if isinstance(own, Size) and not isinstance(size, Size) and size > 0:
                refuse(
                    node,
                    f"makes an axis of unknown size one of {size}: it fits the example of the "
                    "export alone",
                    "Export it with dynamo=False, or with sizes for all inputs.",
                )
        return True

    def _is_axis(self, letter, others, attributes):
        """Whether a node names only this axis. (A Squeeze without axes takes those of size 1.)"""
        axes = attributes.get("axes", others[0] if others else None)
        if axes is None or len(axes) != 1:
            return False
        return self.axes[int(axes[0])] == letter

    def _done(self):
        """Returns a tensor, its axes in another order, once the directions have no own axis."""
        if "D" in self.axes:
            return self
        return turned(self.tensor, tuple("BTX".index(letter) for letter in self.axes))


def turned(tensor, order):
    return tensor if order == tuple(range(len(order))) else Turned(tensor, order)


def in_order(value, perm, lazily=False):
    """Returns a value with its axes permuted. Two permutations that cancel move nothing."""
    if isinstance(value, (Directions, Zeros, Dims)):
        value = plain(value)
    tensor, order = value if isinstance(value, Turned) else (value, tuple(range(len(perm))))
    if len(perm) != len(order):
        raise UnreadableError(f"has perm={list(perm)}, where {len(order)} axes are given")
    other = turned(tensor, tuple(order[n] for n in perm))
    return other if lazily else plain(other)


def plain(value):
    """Returns a tensor, or a constant, for any value."""
    if isinstance(value, Turned):
        return ops.transpose(value.tensor, value.order)
    if isinstance(value, Directions):
        return value.whole()
    if isinstance(value, Zeros) and value.sizes is not None:
        return filled(value.sizes, np.zeros((), value.dtype))
    if isinstance(value, Zeros):
        raise UnreadableError(
            "takes zeros of a size that is known only when the model runs. Use them as initial "
            "states alone, or give their size as a constant"
        )
    if isinstance(value, Dims):
        return as_numbers(value.sizes)
    return value


def constant(value):
    return value if isinstance(value, np.ndarray) else None


def steps_at(node, x, places, attributes):
    """Returns the steps of each row, `(batch, time, ...)`, at the given places of that row."""
    if attributes.get("batch_dims", 0) != 1 or len(places.shape) != 3 or places.shape[2] != 1:
        refuse(node, "gathers something else than steps of rows", "Known: batch_dims=1.")
    places = places[(..., *(None,) * (len(x.shape) - 3))]
    return ops.take_along_axis(x, places, axis=1)
