"""`Conv`, pooling and `BatchNormalization` of ONNX, whose channels stand on the second axis.

Our channels stand on the last axis. A tensor is transposed before, and its result is read in ONNX's
order (`values.Turned`), so that nothing is moved between two such nodes.
"""

import keras
import numpy as np
from keras import ops

from keras_gated.convert.onnx.refusals import name_of, refuse
from keras_gated.convert.onnx.values import Turned, constant, in_order, turned

_CONVOLUTIONS = {1: "Conv1D", 2: "Conv2D", 3: "Conv3D"}
_BY_CHANNEL = {1: "DepthwiseConv1D", 2: "DepthwiseConv2D"}


def channels_last(value):
    """Returns a tensor with its second axis last."""
    rank = len(value.order) if isinstance(value, Turned) else len(value.shape)
    return in_order(value, (0, *range(2, rank), 1))


def channels_second(x):
    """Returns a tensor to be read with its last axis second. Nothing is moved."""
    rank = len(x.shape)
    return turned(x, (0, rank - 1, *range(1, rank - 1)))


class _Windows:
    """The windows over the axes between batch and channels: sizes, strides, padding."""

    def __init__(self, node, x, attributes, size):
        self.node, number = node, len(x.shape) - 2
        if number not in _CONVOLUTIONS or len(size) != number:
            refuse(node, f"has kernel_shape={list(size)} over {number} axes", "Known: 1 to 3 axes.")
        self.size = tuple(int(n) for n in size)
        self.strides = tuple(attributes.get("strides") or [1] * number)
        self.dilations = tuple(attributes.get("dilations") or [1] * number)
        pads = list(attributes.get("pads") or [0] * 2 * number)
        listed = {"strides": self.strides, "dilations": self.dilations, "pads": pads}
        for name, values in listed.items():
            few = len(values) != (2 * number if name == "pads" else number)
            if few or min(values) < (0 if name == "pads" else 1):
                refuse(node, f"has {name}={list(values)}", f"Known: whole numbers, {number} axes.")
        self.reach = [(k - 1) * d + 1 for k, d in zip(self.size, self.dilations, strict=True)]
        self.pads = list(zip(pads[:number], pads[number:], strict=True))
        self.same = False
        auto = attributes.get("auto_pad", "NOTSET")
        pairs = zip(x.shape[1:-1], self.strides, strict=True)
        is_free = any(n is None and s > 1 for n, s in pairs)
        if auto == "SAME_UPPER" and is_free and max(self.dilations) == 1:
            self.same = True  # Keras pads in the same way
            self.pads = [(0, 0)] * number
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            self.pads = self._like_same(x, lower=auto == "SAME_LOWER")
        elif auto == "VALID":
            self.pads = [(0, 0)] * number
        elif auto != "NOTSET":
            refuse(node, f"has auto_pad={auto!r}", "Known: NOTSET, VALID, SAME_UPPER, SAME_LOWER.")

    def _like_same(self, x, lower):
        pads = []
        for n, s, reach in zip(x.shape[1:-1], self.strides, self.reach, strict=True):
            if n is None and s > 1:
                refuse(
                    self.node,
                    "has auto_pad=SAME_..., strides above 1 and an axis of unknown size",
                    "Export it with `pads`, or with sizes.",
                )
            total = reach - 1 if s == 1 else max((-(-n // s) - 1) * s + reach - n, 0)
            pads.append((total - total // 2, total // 2) if lower else (total // 2, -(-total // 2)))
        return pads

    def beyond(self, x):
        """Returns for each axis by how much `ceil_mode`'s last window exceeds the padded input."""
        further = []
        for n, s, reach, (low, high) in zip(
            x.shape[1:-1], self.strides, self.reach, self.pads, strict=True
        ):
            if n is None:
                if high + s > reach:  # the last window may begin in the padding
                    refuse(
                        self.node,
                        f"has ceil_mode=1, pads={self.pads} and an axis of unknown size",
                        "Export it with ceil_mode=0, or with sizes.",
                    )
                further.append(s - 1)
                continue
            count = -(-(n + low + high - reach) // s) + 1
            count -= (count - 1) * s >= n + low  # a window must begin before the padding at the end
            further.append(max((count - 1) * s + reach - n - low - high, 0))
        return further

    def around(self, x, value, pads=None):
        pads = self.pads if pads is None else pads
        if not any(map(any, pads)):
            return x
        return ops.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)


def convolution(node, given, attributes):
    """Returns a `Conv` of constant weights as a layer."""
    value, kernel, *bias = given
    kernel = constant(kernel)
    bias = bias[0] if bias else None
    if kernel is None or kernel.ndim < 3 or (bias is not None and constant(bias) is None):
        refuse(node, "has weights that are no constant", "Fold the constants of the graph before.")
    x = channels_last(value)
    windows = _Windows(node, x, attributes, kernel.shape[2:])
    groups, channels = attributes.get("group", 1), x.shape[-1]
    if groups < 1 or channels != kernel.shape[1] * groups or kernel.shape[0] % groups:
        refuse(
            node,
            f"has W of the shape {kernel.shape}, group={groups} and an input of {channels} "
            "channels",
            "They do not fit: export it again.",
        )
    x = windows.around(x, 0)
    strides, dilations = windows.strides, windows.dilations
    later = strides if max(strides) > 1 and max(dilations) > 1 else None  # Keras refuses both
    strides = (1,) * len(strides) if later else strides
    options = {
        "strides": strides,
        "dilation_rate": dilations,
        "padding": "same" if windows.same else "valid",
        "use_bias": bias is not None,
        "dtype": str(kernel.dtype),
        "name": name_of(node),
    }
    number = len(strides)
    weight = np.moveaxis(kernel, (0, 1), (-1, -2))  # sizes, channels in, filters
    by_channel = groups > 1 and groups == channels and len(set(strides)) == 1
    if by_channel and number in _BY_CHANNEL:
        times = kernel.shape[0] // groups
        weight = weight.reshape(*weight.shape[:-2], groups, times)
        make = getattr(keras.layers, _BY_CHANNEL[number])
        layer = make(windows.size, depth_multiplier=times, **options)
    else:
        make = getattr(keras.layers, _CONVOLUTIONS[number])
        layer = make(kernel.shape[0], windows.size, groups=groups, **options)
    y = layer(x)
    layer.set_weights([weight] if bias is None else [weight, bias])
    if later:
        y = y[(slice(None), *(slice(None, None, s) for s in later))]
    return channels_second(y)


def pooling(node, given, attributes):
    """Returns `MaxPool` or `AveragePool`."""
    x = channels_last(given[0])
    windows = _Windows(node, x, attributes, attributes.get("kernel_shape", ()))
    if max(windows.dilations) > 1:
        refuse(node, f"has dilations={list(windows.dilations)}", "Known: 1 (none).")
    beyond = attributes.get("ceil_mode") and not windows.same
    further = windows.beyond(x) if beyond else [0] * len(windows.size)
    ends = [(0, n) for n in further]
    padding = "same" if windows.same else "valid"
    options = {"strides": windows.strides, "padding": padding, "data_format": "channels_last"}
    if windows.same and attributes.get("count_include_pad"):  # Keras does not count padding
        refuse(
            node,
            "has auto_pad=SAME_UPPER, count_include_pad=1 and an axis of unknown size",
            "Export it with `pads`, or with sizes.",
        )
    if node.op_type == "MaxPool":
        lowest = -np.inf if "float" in x.dtype else np.iinfo(x.dtype).min
        x = windows.around(windows.around(x, lowest), lowest, ends)
        return channels_second(ops.max_pool(x, windows.size, **options))
    padded = windows.around(windows.around(x, 0), 0, ends)
    y = ops.average_pool(padded, windows.size, **options)
    counted = int(bool(attributes.get("count_include_pad", 0)))
    if any(further) or (any(map(any, windows.pads)) and not counted):
        one = windows.around(windows.around(ops.ones_like(x[..., :1]), counted), 0, ends)
        y = y / ops.average_pool(one, windows.size, **options)
    return channels_second(y)


def pooling_of_all(node, given, attributes):
    """Returns `GlobalAveragePool` or `GlobalMaxPool`, which keep axes of size 1."""
    x = channels_last(given[0])
    function = ops.mean if node.op_type == "GlobalAveragePool" else ops.max
    y = function(x, axis=tuple(range(1, len(x.shape) - 1)), keepdims=True)
    return channels_second(y)


def batch_normalization(node, given, attributes):
    """Returns a `BatchNormalization` with its means and variances, as a layer."""
    value, *weights = given
    if attributes.get("training_mode") or attributes.get("spatial", 1) != 1:
        refuse(node, f"has {attributes}", "Export the model for inference (model.eval()).")
    if len(weights) != 4 or any(constant(w) is None for w in weights):
        refuse(node, "has weights that are no constant", "Fold the constants of the graph before.")
    layer = keras.layers.BatchNormalization(
        epsilon=attributes.get("epsilon", 1e-5),
        momentum=attributes.get("momentum", 0.9),
        dtype=str(weights[0].dtype),
        name=name_of(node),
    )
    y = layer(channels_last(value))
    layer.set_weights(weights)
    return channels_second(y)


OPERATIONS = {
    "Conv": convolution,
    "MaxPool": pooling,
    "AveragePool": pooling,
    "GlobalAveragePool": pooling_of_all,
    "GlobalMaxPool": pooling_of_all,
    "BatchNormalization": batch_normalization,
}
