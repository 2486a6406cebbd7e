"""Layers around recurrent layers, as nodes: convolutions, pooling, parts, axes, attention.

Convolutions and pooling of ONNX have their channels on the second axis, ours on the last. A tensor
is transposed before and after. Between two such layers runtimes leave the transposes out.
"""

import numpy as np
from keras import layers

from keras_gated import keras_private
from keras_gated.convert.onnx.nodes import activated, array, refuse, writes

_END = np.iinfo(np.int32).max  # beyond the end of any axis


def _no_lengths(graph, layer):
    if graph.lengths is not None:
        refuse(layer, "other steps than its input, and `lengths`", "Leave `lengths` out.")


@writes(layers.Conv1D)
def convolution(graph, layer, x):
    reach = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
    at_both_ends = {"pads": [reach // 2, reach - reach // 2]}
    if layer.strides[0] > 1:  # the padding then depends on the number of steps
        at_both_ends = {"auto_pad": "SAME_UPPER"}
    if layer.strides[0] > 1 or layer.padding == "valid" or layer.data_format != "channels_last":
        _no_lengths(graph, layer)
    mask = graph.mask_of(None, x)
    if mask is not None:  # zeros follow after a row's length
        mask = graph.add("Unsqueeze", [mask, np.array([2])])
        x = graph.add("Where", [mask, x, np.array(0, x.dtype)])
    padding = {
        "valid": {},
        "same": at_both_ends,
        "causal": {"pads": [reach, 0]},
    }[layer.padding]
    inputs = [_channels_second(graph, layer, x), array(layer.kernel).transpose(2, 1, 0)]
    y = graph.add(
        "Conv",
        [*inputs, array(layer.bias)] if layer.use_bias else inputs,
        kernel_shape=layer.kernel_size,
        strides=layer.strides,
        dilations=layer.dilation_rate,
        group=layer.groups,
        **padding,
    )
    return activated(graph, layer, _channels_back(graph, layer, y))


@writes(layers.MaxPooling1D, layers.AveragePooling1D)
def pooling(graph, layer, x):
    _no_lengths(graph, layer)
    y = graph.add(
        "MaxPool" if layer.pool_mode == "max" else "AveragePool",
        [_channels_second(graph, layer, x)],
        kernel_shape=layer.pool_size,
        strides=layer.strides,
        auto_pad="SAME_UPPER" if layer.padding == "same" else "VALID",
    )
    return _channels_back(graph, layer, y)


def _channels_second(graph, layer, x):
    if layer.data_format == "channels_first":
        return x
    return graph.add("Transpose", [x], perm=[0, 2, 1])


def _channels_back(graph, layer, y):
    return _channels_second(graph, layer, y)  # swaps the same two axes


@writes(layers.BatchNormalization)
def batch_normalization(graph, layer, x, training=None, mask=None):
    """Its weights become a factor and a summand for each channel."""
    mean, variance = (array(w).astype("float64") for w in (
        layer.moving_mean, layer.moving_variance
    ))  # fmt: skip
    factor = 1 / np.sqrt(variance + layer.epsilon)
    factor = factor if layer.gamma is None else factor * array(layer.gamma)
    summand = -mean * factor
    summand = summand if layer.beta is None else summand + array(layer.beta)
    axes = np.ones(len(x.shape), int)
    axes[layer.axis] = -1
    factor, summand = (w.astype(x.dtype).reshape(axes[1:]) for w in (factor, summand))
    return graph.add("Add", [graph.add("Mul", [x, factor]), summand])


@writes(layers.Subtract)
def difference(graph, layer, inputs, **kwargs):
    return graph.add("Sub", inputs)


# Activations that are layers


@writes(layers.ReLU)
def relu(graph, layer, x):
    def number(value):
        return np.array(value, x.dtype)

    y = graph.add("Relu", [x])
    if layer.threshold:
        above = graph.add("Greater", [x, number(layer.threshold)])
        y = graph.add("Where", [above, x, number(0)])
    if layer.max_value is not None:
        y = graph.add("Min", [y, number(layer.max_value)])
    if layer.negative_slope:
        below = graph.add("Relu", [graph.add("Sub", [number(layer.threshold), x])])
        y = graph.add("Sub", [y, graph.add("Mul", [below, number(layer.negative_slope)])])
    return y


@writes(layers.LeakyReLU)
def leaky_relu(graph, layer, x):
    return graph.add("LeakyRelu", [x], alpha=float(layer.negative_slope))


@writes(layers.ELU)
def elu(graph, layer, x):
    return graph.add("Elu", [x], alpha=float(layer.alpha))


@writes(layers.PReLU)
def prelu(graph, layer, x):
    return graph.add("PRelu", [x, array(layer.alpha)])


@writes(layers.Softmax)
def softmax(graph, layer, x, mask=None):
    axes = np.atleast_1d(layer.axis)
    if len(axes) != 1:
        refuse(layer, f"axis={layer.axis}", "Known: one axis.")
    axis, rank, dtype = int(axes[0]), len(x.shape), x.dtype
    if axis % rank != rank - 1 or rank == 2:
        _no_lengths(graph, layer)
    if mask is not None:
        x = graph.add("Where", [mask, x, np.array(-1e9, dtype)])
    y = graph.add("Softmax", [x], axis=axis)
    return y if mask is None else graph.add("Where", [mask, y, np.array(0, dtype)])


# Axes and parts


@writes(layers.Reshape)
def reshaped(graph, layer, x):
    _no_lengths(graph, layer)
    return _with_sizes(graph, layer, x)


def _with_sizes(graph, layer, x):
    sizes = layer.compute_output_shape(x.shape)[1:]
    return graph.add("Reshape", [x, np.array([0, *(-1 if n is None else n for n in sizes)])])


@writes(layers.Flatten)
def flattened(graph, layer, x):
    if len(x.shape) > 2:
        _no_lengths(graph, layer)
        if layer.data_format != "channels_last":
            refuse(layer, "data_format='channels_first'", "Use channels_last.")
    return _with_sizes(graph, layer, x)


@writes(layers.RepeatVector)
def repeated(graph, layer, x):
    _no_lengths(graph, layer)
    return graph.add(
        "Tile", [graph.add("Unsqueeze", [x, np.array([1])]), np.array([1, layer.n, 1])]
    )


@writes(layers.Permute)
def permuted(graph, layer, x):
    _no_lengths(graph, layer)
    return graph.add("Transpose", [x], perm=[0, *layer.dims])


@writes(keras_private.GetItem)
def part(graph, operation, x, key):
    """A part of a tensor as Python writes it, such as `h[:, -1]`: numbers, slices, `...`, None."""
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    if not all(k is None or k is Ellipsis or isinstance(k, (int, slice)) for k in keys):
        refuse(operation, f"the key {key!r}", "Known: whole numbers, slices, `...` and None.")
    rank = len(x.shape)
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    place = keys.index(Ellipsis)
    missing = rank - sum(k is not None for k in keys) + 1
    keys[place : place + 1] = [slice(None)] * missing
    slices, numbers, new, axis, after = [], [], [], 0, 0  # axis counts in x, after in the result
    for k in keys:
        if k is None:
            new.append(after)
            after += 1
            continue
        if isinstance(k, slice):
            if k != slice(None):
                slices.append((axis, k))
            after += 1
        else:
            numbers.append((axis, int(k)))
        axis += 1
    if any(axis == 1 for axis, _ in [*slices, *numbers]) or any(a < 2 for a in new):
        _no_lengths(graph, operation)
    y = x
    if slices:
        axes = [axis for axis, _ in slices]
        steps = [1 if k.step is None else k.step for _, k in slices]
        given = [(k.start, k.stop, step) for (_, k), step in zip(slices, steps, strict=True)]
        starts = [(0 if step > 0 else _END) if n is None else n for n, _, step in given]
        ends = [(_END if step > 0 else -_END - 1) if n is None else n for _, n, step in given]
        y = graph.add("Slice", [y, *map(np.array, (starts, ends, axes, steps))])
    for axis, number in reversed(numbers):
        y = graph.add("Gather", [y, np.array(number)], axis=axis)
    return graph.add("Unsqueeze", [y, np.array(new)]) if new else graph.add("Identity", [y])


# Attention


@writes(layers.Attention)
def attention(
    graph, layer, inputs, mask=None, training=None, return_attention_scores=False,
    use_causal_mask=False,
):  # fmt: skip
    query, value = inputs[:2]
    key = inputs[-1]
    q_mask, v_mask = (mask or [None, None])[:2]
    v_mask = graph.mask_of(v_mask, value)
    scores = _scores(graph, layer, query, key)
    if v_mask is not None:
        v_mask = graph.add("Unsqueeze", [v_mask, np.array([1])])
    if use_causal_mask:
        from onnx import numpy_helper

        ones = numpy_helper.from_array(np.ones(1, "int32"))
        ones = graph.add("ConstantOfShape", [graph.add("Shape", [scores])], value=ones)
        row, column = (graph.add("CumSum", [ones, np.array(axis)]) for axis in (1, 2))
        earlier = graph.add("GreaterOrEqual", [row, column])
        v_mask = earlier if v_mask is None else graph.add("And", [v_mask, earlier])
    if v_mask is not None:
        low = graph.add("Sub", [scores, np.array(1e9, value.dtype)])
        scores = graph.add("Where", [v_mask, scores, low])
    weights = graph.add("Softmax", [scores], axis=-1)
    y = graph.add("MatMul", [weights, value])
    if q_mask is not None:
        q_mask = graph.add("Unsqueeze", [q_mask, np.array([2])])
        y = graph.add("Where", [q_mask, y, np.array(0, value.dtype)])
    return [y, weights] if return_attention_scores else y


def _scores(graph, layer, query, key):
    if layer.score_mode == "dot":
        scores = graph.add("MatMul", [query, graph.add("Transpose", [key], perm=[0, 2, 1])])
        return scores if layer.scale is None else graph.add("Mul", [scores, array(layer.scale)])
    both = [graph.add("Unsqueeze", [x, np.array([n])]) for x, n in ((query, 2), (key, 1))]
    total = graph.add("Add", both)
    total = total if layer.scale is None else graph.add("Mul", [total, array(layer.scale)])
    summed = graph.add("ReduceSum", [graph.add("Tanh", [total]), np.array([-1])], keepdims=0)
    return graph.add("Mul", [summed, array(layer.concat_score_weight)])


# Operations that masks of layers with several inputs are made of


@writes(keras_private.LogicalOr)
def either(graph, operation, x1, x2):
    return graph.add("Or", [x1, x2])


@writes(keras_private.ExpandDims)
def with_an_axis(graph, operation, x):
    return graph.add("Unsqueeze", [x, np.atleast_1d(operation.axis)])


@writes(keras_private.ConvertToTensor)
def the_same(graph, operation, x):
    return graph.add("Identity", [x])


@writes(keras_private.OnesLike, keras_private.ZerosLike)
def filled_like(graph, operation, x, dtype=None):
    from onnx import numpy_helper

    is_one = isinstance(operation, keras_private.OnesLike)
    value = numpy_helper.from_array(np.full(1, is_one, dtype or operation.dtype or x.dtype))
    return graph.add("ConstantOfShape", [graph.add("Shape", [x])], value=value)


@writes(keras_private.Concatenate)
def joined(graph, operation, xs):
    return graph.add("Concat", xs, axis=operation.axis)
