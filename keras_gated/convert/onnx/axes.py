"""Operators of ONNX that move numbers: parts of tensors, axes, sizes and order."""

import numpy as np
from keras import ops

from keras_gated.convert.onnx.fold import whole
from keras_gated.convert.onnx.refusals import refuse
from keras_gated.convert.onnx.sizes import Size, broadcast, filled, reshaped, sizes_of
from keras_gated.convert.onnx.values import Dims, constant, numbers, plain, steps_at

_ALL = 2**31 - 1  # beyond the end of any axis


def listed(given, attributes, name, place):
    """Returns whole numbers that newer versions have as an input and older ones as an attribute."""
    value = given[place] if len(given) > place else None
    value = attributes.get(name) if value is None else value
    return None if value is None else whole(value, f"`{name}`")


def sliced(node, given, attributes):
    x = plain(given[0])
    sizes = sizes_of(x)
    starts, axes, steps = (
        listed(given, attributes, name, place)
        for name, place in (("starts", 1), ("axes", 3), ("steps", 4))
    )
    axes = list(range(len(starts))) if axes is None else axes
    ends = given[2].sizes if len(given) > 2 and isinstance(given[2], Dims) else None
    ends = listed(given, attributes, "ends", 2) if ends is None else list(ends)
    places = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        if isinstance(end, Size):
            if end != sizes[axis]:
                refuse(node, "ends at a size that is known only when the model runs")
            end = _ALL
        if step < 0:
            x = ops.flip(x, axis=axis)
            if x.shape[axis] is not None:
                start = max(start, -x.shape[axis])
            start, end, step = -1 - start, -1 - end, -step
        if start == -1 and end >= _ALL and x.shape[axis] is None:  # a size of 1, which is known
            x = ops.take(x, np.array([-1]), axis=axis)
            continue
        places[axis] = slice(_place(start), None if abs(end) >= _ALL else end, step)
        if end <= -_ALL:
            places[axis] = slice(0, 0)
    return x[tuple(places)]


def _place(start):
    """Returns a start that Keras accepts, also if it lies beyond an end."""
    return max(min(start, _ALL), -_ALL)


def split(node, given, attributes):
    x, axis = plain(given[0]), attributes.get("axis", 0)
    sizes, parts = listed(given, attributes, "split", 1), len(node.output)
    if sizes is None:
        if x.shape[axis] is None:
            refuse(node, "splits an axis of unknown size", "Export it with sizes.")
        of_each = -(-x.shape[axis] // parts)
        sizes = [of_each] * (parts - 1)
    ends = [int(n) for n in np.cumsum(sizes)][: parts - 1]
    places = [slice(None)] * len(x.shape)
    results = []
    for low, high in zip([0, *ends], [*ends, None], strict=True):
        places[axis] = slice(low, high)
        results.append(x[tuple(places)])
    return results


def concatenated(node, given, attributes):
    return ops.concatenate([plain(value) for value in given], axis=attributes["axis"])


def reshape(node, given, attributes):
    x = plain(given[0])
    shape = given[1] if len(given) > 1 else np.array(attributes["shape"])
    shape = shape.sizes if isinstance(shape, Dims) else constant(shape)
    if shape is None:
        refuse(node, "reshapes to sizes that are computed from numbers", "Give them as constants.")
    own, sizes = sizes_of(x), list(shape)
    if not attributes.get("allowzero"):
        sizes = [own[n] if isinstance(s, int | np.integer) and s == 0 else s
                 for n, s in enumerate(sizes)]  # fmt: skip
    return reshaped(x, sizes)


def flattened(node, given, attributes):
    x, axis = plain(given[0]), attributes.get("axis", 1)
    own = np.array(sizes_of(x), object)
    axis = axis + len(own) if axis < 0 else axis
    sizes = [np.prod(part, initial=1) for part in (own[:axis], own[axis:])]
    if isinstance(sizes[0], Size) and isinstance(sizes[1], Size):
        sizes[1] = -1
    return reshaped(x, sizes)


def squeezed(node, given, attributes):
    axes = listed(given, attributes, "axes", 1)
    return ops.squeeze(plain(given[0]), None if axes is None else tuple(axes))


def unsqueezed(node, given, attributes):
    x, axes = plain(given[0]), listed(given, attributes, "axes", 1)
    rank = len(x.shape) + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = ops.expand_dims(x, axis)
    return x


def expanded(node, given, attributes):
    sizes = given[1].sizes if isinstance(given[1], Dims) else constant(given[1])
    if sizes is None:
        refuse(node, "expands to sizes that are computed from numbers", "Give them as constants.")
    x = given[0]
    if isinstance(x, np.ndarray) and x.size == 1:
        return filled(sizes, x.reshape(()))
    return broadcast(ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else plain(x), sizes)


def constant_of_shape(node, given, attributes):
    from onnx import numpy_helper

    if not isinstance(given[0], Dims):
        refuse(node, "has a shape that is computed from numbers", "Give it as a constant.")
    return filled(given[0].sizes, numpy_helper.to_array(attributes["value"]).reshape(()))


def tiled(node, given, attributes):
    return ops.tile(plain(given[0]), whole(given[1], "repeats"))


def counted(node, given, attributes):
    """Returns a `Range` that ends with a size."""
    values = [v.sizes if isinstance(v, Dims) else constant(v) for v in given]
    if any(v is None for v in values) or values[2].item() != 1:
        refuse(node, "counts to a number that is computed", "Known: sizes, in steps of 1.")
    start, end = (v.item() for v in values[:2])
    return ops.cumsum(filled([end - start], np.array(1)), axis=0) + (start - 1)


def padded(node, given, attributes):
    x, mode = plain(given[0]), attributes.get("mode", "constant")
    pads = listed(given, attributes, "pads", 1)
    value = given[2] if len(given) > 2 else None
    value = attributes.get("value", 0) if value is None else value
    if isinstance(value, np.ndarray):
        value = value.item()
    axes = listed(given, {}, "axes", 3)
    axes = range(len(x.shape)) if axes is None else axes
    if mode not in ("constant", "reflect", "edge") or not isinstance(value, int | float):
        refuse(node, f"pads by {mode!r}", "Known: constant (a number), reflect, edge.")
    around = [(0, 0)] * len(x.shape)
    for n, axis in enumerate(axes):
        around[axis] = (pads[n], pads[n + len(pads) // 2])
    cut = [slice(max(-low, 0), min(high, 0) or None) for low, high in around]
    if any(part != slice(0, None) for part in cut):
        x = x[tuple(cut)]
    around = [(max(low, 0), max(high, 0)) for low, high in around]
    if mode == "edge":
        return _with_edges(x, around)
    options = {"constant_values": value} if mode == "constant" else {}
    return ops.pad(x, around, mode=mode, **options) if any(map(any, around)) else x


def _with_edges(x, around):
    for axis, (low, high) in enumerate(around):
        first, last = (ops.take(x, np.array([n]), axis=axis) for n in (0, -1))
        parts = [ops.repeat(first, low, axis=axis)] * bool(low)
        parts += [x, *([ops.repeat(last, high, axis=axis)] * bool(high))]
        x = ops.concatenate(parts, axis=axis) if len(parts) > 1 else x
    return x


def ordered(node, given, attributes):
    x, axis = plain(given[0]), attributes.get("axis", -1)
    number = given[1] if len(given) > 1 else numbers([attributes["k"]])
    [number] = number.sizes if isinstance(number, Dims) else whole(number, "k")
    order = ops.argsort(-x if attributes.get("largest", 1) else x, axis=axis)
    if isinstance(number, Size):
        if number != sizes_of(given[0])[axis]:
            refuse(node, "takes a number that is known only when the model runs", "Known: all.")
    elif number != x.shape[axis]:
        places = [slice(None)] * len(x.shape)
        places[axis] = slice(0, number)
        order = order[tuple(places)]
    return [ops.take_along_axis(x, order, axis=axis), ops.cast(order, "int64")]


def gathered(node, given, attributes):
    x, places = (plain(value) for value in given)
    return ops.take(x, places, axis=attributes.get("axis", 0))


def gathered_along(node, given, attributes):
    (x, places), axis = (plain(value) for value in given), attributes.get("axis", 0)
    others = [list(t.shape) for t in (x, places)]
    for shape in others:
        shape.pop(axis)
    if others[0] != others[1]:
        refuse(node, "takes numbers of a part of its other axes", "Known: of all.")
    return ops.take_along_axis(x, places, axis=axis)


def scattered(node, given, attributes):
    data, places, updates = (plain(value) for value in given)
    reduction = attributes.get("reduction", "none")
    if len(data.shape) != 1 or reduction != "none":
        refuse(
            node,
            f"scatters over {len(data.shape)} axes by reduction={reduction!r}",
            "Known: one axis, without a reduction.",
        )
    return ops.scatter_update(data, ops.expand_dims(places, 1), updates)


def summed_up(node, given, attributes):
    x, [axis] = plain(given[0]), whole(given[1], "axis")
    other = ops.flip(x, axis=axis) if attributes.get("reverse") else x
    total = ops.cumsum(other, axis=axis)
    total = total - other if attributes.get("exclusive") else total
    return ops.flip(total, axis=axis) if attributes.get("reverse") else total


OPERATIONS = {
    "Slice": sliced,
    "Split": split,
    "Concat": concatenated,
    "Reshape": reshape,
    "Flatten": flattened,
    "Squeeze": squeezed,
    "Unsqueeze": unsqueezed,
    "Expand": expanded,
    "ConstantOfShape": constant_of_shape,
    "Tile": tiled,
    "Range": counted,
    "Pad": padded,
    "TopK": ordered,
    "Gather": gathered,
    "GatherElements": gathered_along,
    "GatherND": lambda node, given, attributes: steps_at(
        node, *(plain(value) for value in given), attributes
    ),
    "ScatterElements": scattered,
    "CumSum": summed_up,
}
