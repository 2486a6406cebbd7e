"""The fused path of the layers: when it is valid, and how a batch goes through it."""

import weakref

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from keras_gated import bptt, packing


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
    if _owner(cell, "step") is not _owner(cell, "step_gradient"):
        return f"{type(cell).__name__} has a `step` of its own without its `step_gradient`"
    if not getattr(cell, "reset_after", True):
        return "`reset_after=False` has a second recurrent product at every step"
    return None


def _owner(cell, method):
    return next(c for c in type(cell).__mro__ if method in vars(c))


def inside_xla():
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def run(layer, sequences, states, mask, training):
    """Runs a layer over sequences: outputs, states and gradients equal those of its cell's loop.

    Args:
        layer: A built layer for which `why_not` returns None.
        sequences: `(batch, time, features)`, after dropout.
        states: The states before the first step, each `(batch, units)`.
        mask: Optional bool, `(batch, time)`.
        training: Whether to compile the loops and to back-propagate by hand.

    Returns:
        The last output `(batch, units)`, all outputs `(batch, time, units)` (None unless the
        layer returns sequences) and the final states.
    """
    if tf.executing_eagerly():
        return _traced(layer)(sequences, states, mask, bool(training))
    return _run(layer, sequences, states, mask, training)


# Not an attribute of the layer: a SavedModel would hold every function that hangs on a layer.
_TRACED = weakref.WeakKeyDictionary()


def _traced(layer):
    """Returns `_run` as a function for eager calls, traced once for all batches and lengths."""
    if layer not in _TRACED:
        reference = weakref.ref(layer)

        def traced(x, states, mask, training):
            return _run(reference(), x, states, mask, training)

        _TRACED[layer] = tf.function(traced, autograph=False, reduce_retracing=True)
    return _TRACED[layer]


def _run(layer, x, states, mask, training):
    cell, zero_masked = layer.cell, layer.zero_output_for_mask
    x = tf.cast(x, cell.state_dtype)
    if mask is None:
        batch = packing.pack(x, states, layer.go_backwards, training)
    else:
        batch = packing.pack_masked(x, mask, states, layer.go_backwards, zero_masked, training)
    outputs, finals = [], []
    for group in batch.groups:
        if training:
            output, final = bptt.run_compiled(cell, group)
        else:
            output, final = bptt.run_plain(cell, group, layer.return_sequences)
        outputs.append(output)
        finals.append(final)
    final_states = [batch.unpack_states(parts) for parts in zip(*finals, strict=True)]
    outputs = batch.unpack_outputs(outputs) if layer.return_sequences else None
    return last_output(layer, x, mask, final_states), outputs, final_states


def last_output(layer, x, mask, final_states):
    """Returns the output after the last step: zeros where there is none, or it is to be zero."""
    if mask is None:
        some = tf.fill([tf.shape(x)[0]], tf.shape(x)[1] > 0)
    else:
        last = mask[:, :1] if layer.go_backwards else mask[:, -1:]
        some = tf.reduce_any(last if layer.zero_output_for_mask else mask, axis=1)
    return tf.where(some[:, None], final_states[0], 0)
