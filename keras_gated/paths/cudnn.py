"""The layers on a GPU: cuDNN's LSTM and GRU, with masks that mean what they mean on a CPU.

cuDNN reads rows from their first step and wants at least one step of each. So the valid steps of
every row are moved to its start, a row without any is given one step of zeros whose result nothing
reads, and outputs are put back where the steps stood.
"""

import contextlib
import contextvars

import tensorflow as tf

from keras_gated.cells.base import GatedCell
from keras_gated.cells.dropout import dropped
from keras_gated.cells.equations import owner, why_not_written
from keras_gated.cells.gates import to_library
from keras_gated.paths.fused import equations_differ, inside_xla, last_output

_OFF = contextvars.ContextVar("keras_gated_cudnn_off", default=False)


@contextlib.contextmanager
def off():
    """Keeps cuDNN out of the graphs that are traced inside: they may run without a GPU."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def why_not(layer, training):
    """Returns why cuDNN cannot run a layer, as a clause, or None where it can."""
    if _OFF.get():
        return "what is exported must run without a GPU"
    if training and layer.recurrent_weight_dropout:
        return "`recurrent_weight_dropout` changes the weights in training"
    if not _gpu():
        return "TensorFlow sees no GPU that CUDA runs on"
    if layer.compute_dtype not in ("float16", "float32", "float64"):
        return f"it computes in float16, float32 or float64, not in {layer.compute_dtype}"
    if inside_xla():
        return "XLA does not compile it"
    family = owner(layer.cell, "cudnn_mode")
    for method, standard in (
        ("step", family),
        ("project", GatedCell),
        ("input_weights", GatedCell),
        ("recurrent_weights", (family, GatedCell)),
    ):
        if owner(layer.cell, method) not in (standard if type(standard) is tuple else (standard,)):
            return f"{type(layer.cell).__name__} has a `{method}` of its own"
    return why_not_written(layer.cell) or equations_differ(layer, training)


def _gpu():
    return tf.sysconfig.get_build_info()["is_cuda_build"] and bool(
        tf.config.list_logical_devices("GPU")
    )


def run(layer, x, states, mask, training, fields, outputs_reversed):
    """As `keras_loop.run`, for a layer for which `why_not` returns None, without its gates."""
    if training and layer.dropout:
        x = dropped(x, layer.cell.dropout_mask(None)[:, None])
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
    if outputs_reversed if mask is not None else layer.go_backwards and not outputs_reversed:
        outputs = tf.reverse(outputs, [1])
    outputs = tf.ensure_shape(outputs, [*x.shape[:2], layer.units])
    last = last_output(x, mask, layer.go_backwards, layer.zero_output_for_mask, finals)
    return last, [outputs] * len(fields), finals


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
