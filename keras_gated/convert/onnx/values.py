"""What stands for a tensor while a graph of ONNX is read, besides Keras's symbolic tensors.

Constants are NumPy arrays. `Dims` are numbers made of shapes, `Zeros` tensors of zeros of such a
shape, `Turned` a tensor whose axes are in another order, and `Directions` what a recurrent node
puts out before its directions are put together.
"""

from typing import Any, NamedTuple, NoReturn

import numpy as np
from keras import ops

_MERGED = {
    "ReduceSum": ops.add,
    "ReduceProd": ops.multiply,
    "ReduceMean": lambda first, second: (first + second) / 2,
}


class Zeros:
    """Zeros, of whatever shape."""


class Dims(NamedTuple):
    """Whole numbers, those that are not known yet as None."""

    sizes: tuple
    of: Any = None  # the tensor whose first axes have these sizes, if there is one


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
        """Returns what a node makes of it."""
        kind, axes = node.op_type, self.axes
        if kind == "Transpose":
            return self._replace(axes="".join(axes[n] for n in attributes["perm"]))._done()
        if kind == "Reshape" and axes.endswith("DH") and self._are_joined_by(*others):
            return self._replace(axes=axes[:-2] + "X")._done()
        if kind == "Squeeze" and self.number == 1:
            return self._replace(axes=axes.replace("D", "").replace("H", "X"))._done()
        if kind in _MERGED and axes[int(_axis(others, attributes))] == "D":
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
        if kind != "GatherND" or axes[:2] != "BT":
            refuse(
                node,
                "does something to the directions of a recurrent node that is not known",
                "Known: Squeeze, Gather one, or Transpose and Reshape them side by side.",
            )
        return self._replace(tensor=steps_at(node, self.tensor, others[0], attributes))

    def _are_joined_by(self, sizes=()):
        """Whether a shape puts the directions side by side: one axis for the last two."""
        return len(sizes) == len(self.axes) - 1 and sizes[-1] in (-1, None, self.tensor.shape[-1])

    def _done(self):
        """Returns a tensor with its axes in another order, as soon as no direction is apart."""
        if "D" in self.axes:
            return self
        return _turned(self.tensor, tuple("BTX".index(letter) for letter in self.axes))


def _axis(others, attributes):
    """Returns the one axis of a reduction."""
    [axis] = attributes.get("axes", others[0] if others else None)
    return axis


def _turned(tensor, order):
    return tensor if order == tuple(range(len(order))) else Turned(tensor, order)


def in_order(value, perm, lazily=False):
    """Returns a value with its axes permuted: what is permuted back is the tensor itself."""
    tensor, order = value if isinstance(value, Turned) else (value, tuple(range(len(perm))))
    turned = _turned(tensor, tuple(order[n] for n in perm))
    return turned if lazily else plain(turned)


_APART = {
    Directions: (
        "takes the directions of a recurrent node apart from each other. Put them side by side "
        "first (Squeeze, or Transpose and Reshape)"
    ),
    Zeros: (
        "takes zeros of a size that is known only when the model runs. Use them as initial states "
        "alone, or give their size as a constant"
    ),
    Dims: (
        "takes sizes that are known only when the model runs. Give shapes as constants, except for "
        "the batch and the time"
    ),
}


def plain(value):
    """Returns a tensor, or a constant, for any value."""
    if isinstance(value, Turned):
        return ops.transpose(value.tensor, value.order)
    if isinstance(value, (Directions, Zeros, Dims)):
        raise UnreadableError(_APART[type(value)])
    return value


def constant(value):
    return value if isinstance(value, np.ndarray) else None


def fold(node, given, attributes):
    """Returns what can be told without running the model, or NotImplemented."""
    kind = node.op_type
    if kind == "Constant":
        return _constant_of(node, attributes)
    if kind == "Shape":
        return _shape(given[0], attributes)
    if kind in ("ConstantOfShape", "Expand"):
        value = given[0] if kind == "Expand" else _filling(attributes)
        if isinstance(value, np.ndarray) and not np.any(value):
            return Zeros()
        of = getattr(given[0], "of", None)
        if kind == "ConstantOfShape" and of is not None:
            axes = len(given[0].sizes)
            like = of[(slice(None),) * axes + (0,) * (len(of.shape) - axes)]
            return ops.full_like(like, value.item(), dtype=str(value.dtype))
    if kind in ("Slice", "Identity", "Cast", "Unsqueeze", "Reshape") and isinstance(
        given[0], Zeros
    ):
        return given[0]
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

    return numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1)


def _shape(value, attributes):
    if isinstance(value, Directions):
        sizes = dict(zip("BTX", value.tensor.shape, strict=True))
        sizes.update(D=value.number, H=sizes["X"] // value.number)
        shape = tuple(sizes[letter] for letter in value.axes)
    elif isinstance(value, Turned):
        shape = tuple(value.tensor.shape[n] for n in value.order)
    else:
        shape = tuple(value.shape)
    start = attributes.get("start", 0)
    whole = not start and not isinstance(value, (Directions, Turned))
    return Dims(shape[start : attributes.get("end", len(shape))], value if whole else None)


def _of_dims(node, given, attributes):
    """Computes with shapes: the few operations that exporters need for it."""
    kind = node.op_type
    parts = [v.sizes if isinstance(v, Dims) else v for v in given]
    if kind == "Reshape" and not isinstance(given[0], Dims):
        return _reshape(given[0], parts[1], node, attributes)
    if kind == "Gather":
        return Dims(tuple(parts[0][int(n)] for n in np.ravel(parts[1])))
    if kind == "Slice":
        return Dims(parts[0][int(np.ravel(parts[1])[0]) : int(np.ravel(parts[2])[0])])
    if kind == "Concat":
        return Dims(tuple(size for part in parts for size in np.ravel(np.array(part, object))))
    if kind == "Mul":
        pairs = zip(*(np.ravel(np.array(part, object)) for part in parts), strict=True)
        return Dims(tuple(None if None in pair else pair[0] * pair[1] for pair in pairs))
    if kind in ("Unsqueeze", "Squeeze", "Cast", "Reshape", "Identity"):
        return given[0]
    return NotImplemented


def _reshape(value, sizes, node, attributes):
    if isinstance(value, Directions):
        return value.apply(node, [sizes], attributes)
    tensor = plain(value)
    if sum(size is None or size == -1 for size in sizes) > 1:
        refuse(
            node,
            f"makes {tuple(tensor.shape)} of a shape with more than one unknown size, {sizes}",
            "Give all sizes but one as constants.",
        )
    return ops.reshape(tensor, [-1 if size is None else int(size) for size in sizes])


def steps_at(node, x, places, attributes):
    """Returns the steps of each row, `(batch, time, ...)`, at places of that row."""
    if attributes.get("batch_dims", 0) != 1 or len(places.shape) != 3 or places.shape[2] != 1:
        refuse(node, "gathers something else than steps of rows", "Known: batch_dims=1.")
    places = places[(..., *(None,) * (len(x.shape) - 3))]
    return ops.take_along_axis(x, places, axis=1)


def name_of(node):
    """Returns a layer's name after the node: without what Keras does not allow in it."""
    name = (node.name or node.output[0]).strip("/").replace("/", "_").replace("::", "_")
    return name or None


class RefusedError(ValueError):
    """A node that is not read, told by name."""


class UnreadableError(Exception):
    """Why a value cannot be read; whoever knows the node or the output names it."""


def told(node):
    """Returns how messages call a node."""
    return f"the {node.op_type} node {node.name or list(node.output)!r}"


def refuse(node, what, way_out="", cause=None) -> NoReturn:
    raise RefusedError(f"from_onnx: {told(node)} {what}. {way_out}".strip()) from cause
