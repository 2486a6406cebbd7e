"""A stand-in for the one op of cuDNN, which needs a GPU.

It is written from cuDNN's documentation (`cudnnRNNMode_t`, `cudnnGetRNNWeightParams`) and refuses
what the real one refuses: rows without a step, batches without a row.
"""

import tensorflow as tf


def cudnn_stand_in(
    input, input_h, input_c, params, sequence_lengths, rnn_mode, time_major, is_training
):  # the op's own names
    assert is_training and not time_major
    rows, time, features = input.shape
    units = input_h.shape[-1]
    assert rows > 0 and time > 0 and input_h.shape == (rows, 1, units)
    lengths = sequence_lengths.numpy()
    assert lengths.shape == (rows,) and lengths.min() > 0 and lengths.max() <= time
    gates = {"lstm": 4, "gru": 3}[rnn_mode]
    assert params.shape == (gates * units * (features + units + 2),)
    W, R, b_W, b_R = tf.split(
        params, [gates * units * n for n in (features, units, 1, 1)]
    )  # matrices one after the other, each (units, inputs) row by row
    W, R = (tf.reshape(m, [gates, units, -1]) for m in (W, R))
    b_W, b_R = (tf.reshape(b, [gates, 1, units]) for b in (b_W, b_R))
    h = input_h[:, 0]
    c = input_c[:, 0] if rnn_mode == "lstm" else None
    outputs = []
    for t in range(time):
        a = tf.einsum("gui,bi->gbu", W, input[:, t]) + b_W
        u = tf.einsum("gui,bi->gbu", R, h) + b_R
        if rnn_mode == "lstm":
            i, f, g, o = a[0] + u[0], a[1] + u[1], a[2] + u[2], a[3] + u[3]
            new_c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            new_h = tf.sigmoid(o) * tf.tanh(new_c)
        else:
            r, z = tf.sigmoid(a[0] + u[0]), tf.sigmoid(a[1] + u[1])
            new_h = (1 - z) * tf.tanh(a[2] + r * u[2]) + z * h
        valid = (t < lengths)[:, None]
        h = tf.where(valid, new_h, h)
        c = tf.where(valid, new_c, c) if rnn_mode == "lstm" else None
        outputs.append(tf.where(valid, new_h, 0))
    last_c = tf.zeros([0]) if c is None else c[:, None]
    return tf.stack(outputs, 1), h[:, None], last_c, None, None
