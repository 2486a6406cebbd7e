"""Writes layers as nodes of ONNX, with one function for each kind of layer, in `WRITERS`.

A writer takes the graph, the layer and the call's arguments, with wires in the place of tensors,
and returns the names of the call's results.
"""

import keras
import numpy as np
from keras import layers

from keras_gated import keras_private
from keras_gated.cells.activations import HardSigmoid
from keras_gated.convert.onnx.activations import COMPOSED, OPERATORS, name_of, operator
from keras_gated.recipes.ids import PADDING, UNKNOWN
from keras_gated.recipes.ngrams import ANY, CHECK, NGrams

WRITERS = {}


def writes(*kinds):
    def register(function):
        WRITERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def refuse(layer, what, way_out):
    raise ValueError(f"to_onnx: {layer.name!r} has {what}, which cannot be written. {way_out}")


def array(weight):
    return keras.ops.convert_to_numpy(weight)


def activation_of(layer, function, known):
    """Returns the name of an activation that is among the known ones, or a `HardSigmoid`."""
    name = name_of(function)
    if name not in known and not isinstance(name, HardSigmoid):
        told = getattr(function, "__name__", None) or repr(function)
        known = ", ".join(known)
        refuse(
            layer,
            f"the activation {told!r}",
            f"Known, of Keras: {known}; and keras_gated.hard_sigmoid.",
        )
    return name


def activated(graph, layer, x):
    name = activation_of(layer, layer.activation, (*OPERATORS, *COMPOSED))
    if not isinstance(name, HardSigmoid) and name in COMPOSED:
        return COMPOSED[name](graph, x)
    op, attributes = operator(name)
    return x if op == "Identity" else graph.add(op, [x], **attributes)


@writes(layers.Embedding)
def embedding(graph, layer, ids):
    return graph.add("Gather", [array(layer.embeddings), graph.add("Cast", [ids], to=7)], axis=0)


@writes(layers.Dense)
def dense(graph, layer, x):
    y = graph.add("MatMul", [x, array(layer.kernel)])
    y = graph.add("Add", [y, array(layer.bias)]) if layer.use_bias else y
    return activated(graph, layer, y)


@writes(layers.TimeDistributed)
def time_distributed(graph, layer, x, training=None, mask=None):
    if type(layer.layer) is not layers.Dense:
        refuse(layer, f"{layer.layer!r} inside", "Known: Dense.")
    return dense(graph, layer.layer, x)


@writes(layers.Activation)
def activation(graph, layer, x):
    return activated(graph, layer, x)


@writes(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    layers.Identity,
)
def nothing_at_inference(graph, layer, x, training=None, **kwargs):
    return graph.add("Identity", [x])


@writes(layers.Masking)
def masking(graph, layer, x):
    differs = _not_equal(graph, x, np.asarray(layer.mask_value, x.dtype))
    kept = graph.add("ReduceMax", [graph.add("Cast", [differs], to=1)], axes=[-1], keepdims=1)
    return graph.add("Mul", [x, kept])


@writes(layers.GlobalAveragePooling1D)
def average_over_steps(graph, layer, x, mask=None):
    _plain_pooling(layer)
    mask = graph.mask_of(mask, x)
    if mask is None:
        return graph.add("ReduceMean", [x], axes=[1], keepdims=int(layer.keepdims))
    weight = graph.add("Cast", [mask], to=1)
    weight = graph.add("Unsqueeze", [weight, np.array([2])])
    total = graph.add("ReduceSum", [graph.add("Mul", [x, weight]), np.array([1])])
    mean = graph.add("Div", [total, graph.add("ReduceSum", [weight, np.array([1])])])
    return mean if layer.keepdims else graph.add("Squeeze", [mean, np.array([1])])


@writes(layers.GlobalMaxPooling1D)
def largest_over_steps(graph, layer, x):
    """In Keras the largest value includes masked steps, but `lengths` leaves out later steps."""
    _plain_pooling(layer)
    mask = graph.mask_of(None, x)
    if mask is not None:
        mask = graph.add("Unsqueeze", [mask, np.array([2])])
        x = graph.add("Where", [mask, x, np.array(-np.inf, x.dtype)])
    return graph.add("ReduceMax", [x], axes=[1], keepdims=int(layer.keepdims))


def _plain_pooling(layer):
    if layer.data_format != "channels_last":
        refuse(layer, "data_format='channels_first'", "Use channels_last.")


@writes(layers.LayerNormalization)
def layer_normalization(graph, layer, x):
    if list(np.atleast_1d(layer.axis)) not in ([-1], [len(x.shape) - 1]):
        refuse(layer, f"axis={layer.axis}", "Normalise the last axis.")
    size = x.shape[-1]
    scale = np.ones(size, x.dtype) if layer.gamma is None else array(layer.gamma)
    shift = np.zeros(size, x.dtype) if layer.beta is None else array(layer.beta)
    return graph.add("LayerNormalization", [x, scale, shift], axis=-1, epsilon=layer.epsilon)


@writes(layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply)
def merged(graph, layer, inputs, **kwargs):
    ops = {"Add": "Sum", "Average": "Mean", "Maximum": "Max", "Minimum": "Min"}
    if isinstance(layer, layers.Multiply):
        product, *others = inputs
        for one in others:
            product = graph.add("Mul", [product, one])
        return product
    return graph.add(ops[type(layer).__name__], inputs)


@writes(layers.Concatenate)
def concatenated(graph, layer, inputs, **kwargs):
    rank = len(inputs[0].shape)
    if graph.lengths is not None and layer.axis % rank == 1 and rank > 2:
        refuse(layer, "more steps than the inputs", "Leave `lengths` out.")
    return graph.add("Concat", inputs, axis=layer.axis)


@writes(NGrams)
def n_grams(graph, layer, ids):
    """The layer's `places` and `call`, node by node."""
    mask = graph.mask_of(None, ids)
    ids = graph.add("Cast", [ids], to=7)
    if mask is not None:
        ids = graph.add("Where", [mask, ids, np.array(PADDING)])
    known = of_word = graph.add("Greater", [ids, np.array(UNKNOWN)])
    places = [graph.add("Where", [known, ids, np.array(PADDING)])]
    bucket = check = ids  # two remainders of the number of the n-gram that ends at a step
    owners = array(layer.check).astype("int64")
    for _ in range(1, layer.longest):
        bucket, check = (
            _modulo(
                graph, graph.add("Add", [_product_modulo(graph, before, layer.words, m), ids]), m
            )
            for before, m in (
                (_one_later(graph, bucket), layer.buckets),
                (_one_later(graph, check), CHECK),
            )
        )
        flag = _one_later(graph, graph.add("Cast", [known], to=7))
        known = graph.add("And", [graph.add("Cast", [flag], to=9), of_word])
        owner = graph.add("Gather", [owners, bucket], axis=0)
        owned = graph.add(
            "Or", [graph.add("Equal", [owner, check]), graph.add("Equal", [owner, np.array(ANY)])]
        )
        place = graph.add("Add", [bucket, np.array(layer.words)])
        counted = graph.add("And", [known, owned])
        places.append(graph.add("Where", [counted, place, np.array(PADDING)]))
    joined = graph.add("Concat", places, axis=1)
    number = graph.add("Slice", [graph.add("Shape", [joined]), np.array([1]), np.array([2])])
    ordered, _ = graph.add("TopK", [joined, number], outputs=2, axis=1, largest=0, sorted=1)
    repeated = graph.add("Equal", [ordered, _one_later(graph, ordered)])
    runs = graph.add("Where", [repeated, np.array(PADDING), ordered])
    weight = array(layer.kernel) * array(layer.ratio)
    weight[PADDING] = 0
    weights = graph.add("Gather", [weight, runs], axis=0)
    return graph.add("ReduceSum", [weights, np.array([1])], keepdims=1)


def _modulo(graph, x, modulus):
    return graph.add("Mod", [x, np.array(modulus)])


def _product_modulo(graph, x, factor, modulus):
    """Returns `x * factor % modulus`, computed digit by digit of the factor.

    This way no number exceeds 24 bits, as long as the modulus leaves room. OpenVINO computes
    remainders in float32.
    """
    x = _modulo(graph, x, modulus)
    base, digits = 2 ** max(24 - modulus.bit_length(), 1), []
    while factor:
        factor, digit = divmod(factor, base)
        digits.insert(0, digit)
    product = None
    for digit in digits:
        part = _modulo(graph, graph.add("Mul", [x, np.array(digit)]), modulus)
        if product is not None:
            shifted = _modulo(graph, graph.add("Mul", [product, np.array(base)]), modulus)
            part = _modulo(graph, graph.add("Add", [shifted, part]), modulus)
        product = part
    return product


def _one_later(graph, x):
    """Returns whole numbers, `(batch, time)`, one step later, with a zero first."""
    longer = graph.add("Pad", [x, np.array([0, 1, 0, 0])])
    return graph.add("Slice", [longer, np.array([0]), np.array([-1]), np.array([1])])


# Operations that masks are made of


@writes(keras_private.NotEqual)
def not_equal(graph, operation, x1, x2):
    return _not_equal(graph, x1, np.asarray(x2, x1.dtype))


def _not_equal(graph, x, value):
    return graph.add("Not", [graph.add("Equal", [x, value])])


@writes(keras_private.Any)
def any_of(graph, operation, x):
    number = graph.add("Cast", [x], to=1)
    axes = [operation.axis] if isinstance(operation.axis, int) else list(operation.axis)
    largest = graph.add("ReduceMax", [number], axes=axes, keepdims=int(operation.keepdims))
    return graph.add("Cast", [largest], to=9)


@writes(keras_private.Flip)
def flipped(graph, operation, x):
    axes = range(len(x.shape)) if operation.axis is None else np.atleast_1d(operation.axis)
    return turned(graph, x, [int(axis) for axis in axes])


def turned(graph, x, axes):
    """Returns a tensor with some axes reversed."""
    # The end is the least number of 32 bits: OpenVINO has no more bits.
    ends = [np.full(len(axes), n) for n in (-1, np.iinfo(np.int32).min)]
    return graph.add("Slice", [x, *ends, np.array(axes), np.full(len(axes), -1)])
