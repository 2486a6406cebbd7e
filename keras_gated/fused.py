"""The fused path of the layers: when it is valid, and how a batch goes through it."""

import functools
import weakref

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from keras_gated import bptt, packing, plain
from keras_gated.dropout import dropped
from keras_gated.recorder import is_recording, weights_given


def why_not(layer, training, mask):
    """Returns why the fused path cannot run, as a clause, or None where it can."""
    if mask is not None and inside_xla():
        return "a mask cannot be packed inside a function that XLA compiles"
    return equations_differ(layer, training)


def equations_differ(layer, training):
    """Returns what a layer computes other than its family's equations, or None."""
    cell = layer.cell
    if layer.unroll:
        return "`unroll=True` asks for the cell's own loop"
    if cell.recurrent_dropout and training:
        return "`recurrent_dropout` changes the recurrent product in training"
    for name in ("activation", "recurrent_activation"):
        default = {"activation": "tanh", "recurrent_activation": "sigmoid"}[name]
        function = getattr(cell, name, None)
        if function is not None and function is not getattr(keras.activations, default):
            return f"its derivative is that of `{name}={default!r}`"
    for method in ("step", "step_gradient"):
        if not _owner(cell, method).__module__.startswith("keras_gated."):
            return f"{type(cell).__name__} has a `{method}` of its own"
    if not getattr(cell, "reset_after", True):
        return "`reset_after=False` has a second recurrent product at every step"
    return None


def _owner(cell, method):
    return next(c for c in type(cell).__mro__ if method in vars(c))


def inside_xla():
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def run(layer, sequences, states, mask, training, fields, flipped):
    """Runs a layer over sequences as `cell_loop.run`, for a layer for which `why_not` is None.

    Outputs, states and gradients are the same. In training, or where a derivative is going to be
    taken, the loops are compiled and back-propagation is written by hand, unless other fields
    than the output are wanted.
    """
    if training and layer.dropout:
        drop = layer.cell.get_dropout_mask()  # drawn in the layer's call, once for all steps
        sequences = dropped(sequences, drop[:, None])
    drop_weights = layer.cell.get_recurrent_weight_mask() if training else None
    differentiated = training or is_recording("gradient")
    compiled = bool(differentiated) and set(fields) <= {"hidden"}
    options = {"compiled": compiled, "fields": fields, "flipped": flipped}
    return _run(layer, sequences, states, mask, weights_given(layer), drop_weights, **options)


def traced_per_layer(function):
    """Makes a function of a layer and tensors one that is traced once for all batches and lengths.

    Options, which are no tensors, come by name. Inside a function that is being traced it runs as
    it is.
    """
    # Not an attribute of the layer: a SavedModel would hold every function that hangs on a layer.
    traced = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def call(layer, *tensors, **options):
        if not tf.executing_eagerly():
            return function(layer, *tensors, **options)
        own, key = traced.setdefault(layer, {}), tuple(options.items())
        if key not in own:
            reference = weakref.ref(layer)

            def of_layer(*tensors):
                return function(reference(), *tensors, **options)

            own[key] = tf.function(of_layer, autograph=False, reduce_retracing=True)
        return own[key](*tensors)

    return call


@traced_per_layer
def _run(layer, x, states, mask, weights, drop_weights, *, compiled, fields, flipped):
    cell, order = layer.cell, (layer.go_backwards, flipped)
    x = tf.cast(x, cell.state_dtype)
    if (
        x.shape[1] == 1 and not compiled and drop_weights is None
    ):  # there is nothing to loop over, and nothing to pack
        finals, steps = plain.one_step(cell, x, states, mask, weights, fields)
        return last_output(layer, x, mask, finals), steps, finals
    if mask is None:
        batch = packing.pack(x, states, *order, compiled)
    else:
        zero_masked = layer.zero_output_for_mask
        batch = packing.pack_masked(x, mask, states, *order, zero_masked, compiled)
    run_group = (bptt if compiled else plain).run
    recur = cell.recurrent_weights(drop_weights)
    results = [run_group(cell, group, fields, recur) for group in batch.groups]
    steps, finals = zip(*results, strict=True)
    steps = [batch.unpack_outputs(parts) for parts in zip(*steps, strict=True)]
    finals = [batch.unpack_states(parts) for parts in zip(*finals, strict=True)]
    return last_output(layer, x, mask, finals), steps, finals


def last_output(layer, x, mask, final_states):
    """Returns the output after the last step: zeros where there is none, or it is to be zero."""
    if mask is None:
        some = tf.fill([tf.shape(x)[0]], tf.shape(x)[1] > 0)
    else:
        last = mask[:, :1] if layer.go_backwards else mask[:, -1:]
        some = tf.reduce_any(last if layer.zero_output_for_mask else mask, axis=1)
    return tf.where(some[:, None], final_states[0], 0)
