"""The layers on a GPU: cuDNN's LSTM and GRU, with masks that mean the same as on a CPU."""

import tensorflow as tf

from keras_gated.cells.gates import to_library
from keras_gated.paths import kernels
from keras_gated.paths.fused import inside_xla
from keras_gated.paths.path import is_exporting


def why_not(call):
    """As in `Path`."""
    if is_exporting():
        return "what is exported must run without a GPU"
    reason = kernels.why_unknown(call, "cuDNN")
    if reason or not _gpu():
        return reason or "TensorFlow sees no GPU that CUDA runs on"
    dtype = call.layer.compute_dtype
    if dtype not in ("float16", "float32", "float64"):
        return f"it computes in float16, float32 or float64, not in {dtype}"
    return "XLA does not compile it" if inside_xla() else None


def _gpu():
    return tf.sysconfig.get_build_info()["is_cuda_build"] and bool(
        tf.config.list_logical_devices("GPU")
    )


def run(call):
    """As in `Path`."""
    results = kernels.run(call, _run)
    shape = [*call.sequences.shape[:2], call.cell.units]
    return results._replace(steps=[tf.ensure_shape(step, shape) for step in results.steps])


def _run(call, steps, lengths):
    """Calls cuDNN, which refuses a batch without rows or steps, and a row without a step.

    Such batches and rows get steps of zeros. Nothing reads the results of these steps.
    """
    cell, states = call.cell, call.states
    batch, time = tf.shape(steps)[0], tf.shape(steps)[1]
    lengths = tf.fill([batch], time) if lengths is None else lengths
    # Steps after the last step of the longest row are not computed.
    steps = steps[:, : tf.reduce_max(tf.concat([lengths, [0]], 0))]
    rows = tf.cast(batch == 0, tf.int32)
    none = tf.cast(tf.shape(steps)[1] == 0, tf.int32)
    steps = tf.pad(steps, [[0, rows], [0, none], [0, 0]])
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
    missing = time - tf.shape(hidden)[1] + none  # the number of steps that were not computed
    hidden = tf.pad(hidden[:batch, : tf.shape(hidden)[1] - none], [[0, 0], [0, missing], [0, 0]])
    return hidden, [tf.cast(f[:batch, 0], cell.state_dtype) for f in finals[: len(states)]]


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
