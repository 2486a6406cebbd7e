"""The layers on a GPU: cuDNN's LSTM and GRU, with masks that mean what they mean on a CPU.

cuDNN reads rows from their first step and wants at least one step of each. So the valid steps of
every row are moved to its start, a row without any is given one step of zeros whose result nothing
reads, and outputs are put back where the steps stood.
"""

import contextlib
import contextvars

import tensorflow as tf

from keras_gated.cells.base import GatedCell
from keras_gated.cells.equations import owner
from keras_gated.cells.gates import to_library
from keras_gated.paths.fused import equations_differ, inside_xla, last_output
from keras_gated.paths.path import Results

_OFF = contextvars.ContextVar("keras_gated_cudnn_off", default=False)


@contextlib.contextmanager
def off():
    """Keeps cuDNN out of the graphs that are traced inside: they may run without a GPU."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


ARGUMENT = "use_cudnn"


def why_not(call):
    """As in `Path`."""
    layer, cell, training = call.layer, call.cell, call.training
    name = type(cell).__name__
    if _OFF.get():
        return "what is exported must run without a GPU"
    if not hasattr(cell, "cudnn_mode"):
        return f"it does not know {name}"
    if call.looked_at:
        return "cuDNN keeps its gates to itself"
    if training and cell.recurrent_weight_dropout:
        return "`recurrent_weight_dropout` changes the weights in training"
    if training and cell.recurrent_dropout:
        return "`recurrent_dropout` changes the recurrent product in training"
    if any(cell.zoneout_rates()):
        return "`zoneout` changes every step"
    if not _gpu():
        return "TensorFlow sees no GPU that CUDA runs on"
    if layer.compute_dtype not in ("float16", "float32", "float64"):
        return f"it computes in float16, float32 or float64, not in {layer.compute_dtype}"
    if inside_xla():
        return "XLA does not compile it"
    family = owner(cell, "cudnn_mode")
    for method in ("step", "project", "input_weights", "recurrent_weights"):
        if owner(cell, method) not in (family, GatedCell):
            return f"{name} has a `{method}` of its own"
    if not cell.step_gradient_holds():
        return (
            "its equations have `activation='tanh'`, `recurrent_activation='sigmoid'`, "
            "`reset_after=True` and no projection"
        )
    return equations_differ(call)


def _gpu():
    return tf.sysconfig.get_build_info()["is_cuda_build"] and bool(
        tf.config.list_logical_devices("GPU")
    )


def run(call):
    """As in `Path`."""
    layer, x, states, mask = call.layer, call.sequences, call.states, call.mask
    batch, time = tf.shape(x)[0], tf.shape(x)[1]
    if mask is None:
        lengths = tf.fill([batch], time)
        steps = tf.reverse(x, [1]) if layer.go_backwards else x
    else:
        lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
        # How many valid steps have been read when a step has been.
        read = tf.cumsum(tf.cast(mask, tf.int32), axis=1, reverse=layer.go_backwards)
        place = tf.broadcast_to(tf.range(time), tf.shape(mask))
        turn = time - 1 - place if layer.go_backwards else place
        order = tf.argsort(tf.where(mask, turn, turn + time), axis=1)
        counts = place < lengths[:, None]
        steps = tf.where(counts[..., None], tf.gather(x, order, batch_dims=1), 0)
        # No step after the longest row's last one is computed.
        steps = steps[:, : tf.reduce_max(tf.concat([lengths, [0]], 0))]
    hidden, finals = _run(layer.cell, steps, states, lengths)
    finals = [tf.where(lengths[:, None] > 0, f, s) for f, s in zip(finals, states, strict=True)]
    outputs = hidden[:batch, : tf.shape(steps)[1]]
    if mask is not None:
        outputs = tf.pad(outputs, [[0, 0], [1, 0], [0, 0]])  # before the first step: zeros
        shown = tf.where(mask, read, 0) if layer.zero_output_for_mask else read
        outputs = tf.gather(outputs, shown, batch_dims=1)
    reversed_ = call.outputs_reversed
    if reversed_ if mask is not None else layer.go_backwards and not reversed_:
        outputs = tf.reverse(outputs, [1])
    outputs = tf.ensure_shape(outputs, [*x.shape[:2], layer.cell.units])
    last = last_output(x, mask, layer.go_backwards, layer.zero_output_for_mask, finals)
    return Results(last, [outputs] * len(call.fields), finals)


def _run(cell, steps, states, lengths):
    """Calls cuDNN; a batch without rows or steps, which it refuses, is given one of zeros."""
    rows = tf.cast(tf.shape(steps)[0] == 0, tf.int32)
    time = tf.cast(tf.shape(steps)[1] == 0, tf.int32)
    steps = tf.pad(steps, [[0, rows], [0, time], [0, 0]])
    states = [tf.pad(tf.cast(s, steps.dtype), [[0, rows], [0, 0]])[:, None] for s in states]
    hidden, *finals, _, _ = tf.raw_ops.CudnnRNNV3(
        input=steps,
        input_h=states[0],
        input_c=states[1] if len(states) == 2 else tf.zeros([], steps.dtype),
        params=_parameters(cell),
        sequence_lengths=tf.maximum(tf.pad(lengths, [[0, rows]]), 1),
        rnn_mode=cell.cudnn_mode,
        time_major=False,
        is_training=True,  # else there is no gradient; nothing is dropped
    )
    number = tf.shape(lengths)[0]
    return hidden, [tf.cast(f[:number, 0], cell.state_dtype) for f in finals[: len(states)]]


def _parameters(cell):
    """Returns a cell's weights as cuDNN's one vector: all W, all U, all b, all c, gate by gate."""
    (W, *b), (U, *c) = cell.input_weights(), cell.recurrent_weights()
    zeros = tf.zeros([W.shape[1]], W.dtype)
    weights = [tf.transpose(W), tf.transpose(U), b[0] if b else zeros, c[0] if c else zeros]
    parts = []
    for weight in weights:
        blocks = to_library("cudnn", cell.gates, tf.split(weight, len(cell.gates)))
        parts += [tf.reshape(block, [-1]) for block in blocks]
    return tf.cast(tf.concat(parts, 0), cell.compute_dtype)
