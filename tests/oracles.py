"""The equations in NumPy, written from the specification and not from the package.

One row at a time, and masked steps are cut out of the row: that is what a mask means. All
functions also take complex arguments, so that a complex step gives exact derivatives.
"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def simple_rnn(x, states, W, U, b):
    [h] = states
    return [np.tanh(x @ W + h @ U + b)]


def lstm(x, states, W, U, b):
    h, c = states
    W_i, W_f, W_g, W_o = np.split(W, 4, axis=1)
    U_i, U_f, U_g, U_o = np.split(U, 4, axis=1)
    b_i, b_f, b_g, b_o = np.split(b, 4)
    f = sigmoid(x @ W_f + h @ U_f + b_f)
    i = sigmoid(x @ W_i + h @ U_i + b_i)
    g = np.tanh(x @ W_g + h @ U_g + b_g)
    c = f * c + i * g
    o = sigmoid(x @ W_o + h @ U_o + b_o)
    return [o * np.tanh(c), c]


def gru(x, states, W, U, b):
    [h] = states
    W_z, W_r, W_h = np.split(W, 3, axis=1)
    U_z, U_r, U_h = np.split(U, 3, axis=1)
    (b_z, b_r, b_h), (c_z, c_r, c_h) = np.split(b[0], 3), np.split(b[1], 3)
    z = sigmoid(x @ W_z + b_z + h @ U_z + c_z)
    r = sigmoid(x @ W_r + b_r + h @ U_r + c_r)
    n = np.tanh(x @ W_h + b_h + r * (h @ U_h + c_h))
    return [z * n + (1 - z) * h]


def gru_reset_before(x, states, W, U, b):
    [h] = states
    W_z, W_r, W_h = np.split(W, 3, axis=1)
    U_z, U_r, U_h = np.split(U, 3, axis=1)
    b_z, b_r, b_h = np.split(b, 3)
    z = sigmoid(x @ W_z + h @ U_z + b_z)
    r = sigmoid(x @ W_r + h @ U_r + b_r)
    n = np.tanh(x @ W_h + (r * h) @ U_h + b_h)
    return [z * n + (1 - z) * h]


def sequence(step, x, mask, states, weights, go_backwards=False, zero_output_for_mask=False):
    """Runs `step` over sequences: returns outputs `(batch, time, units)` and final states."""
    batch, time, _ = x.shape
    kind = np.result_type(x, *states, *weights)
    outputs = np.zeros((batch, time, states[0].shape[1]), kind)
    finals = [np.array(s, kind) for s in states]
    order = range(time)[::-1] if go_backwards else range(time)
    for row in range(batch):
        state, output = [s[row] for s in finals], outputs[row, 0] * 0 if time else None
        for place, t in enumerate(order):
            if mask is None or mask[row, t]:
                state = step(x[row, t], state, *weights)
                output = state[0]
                outputs[row, place] = output
            elif not zero_output_for_mask:
                outputs[row, place] = output
        for final, s in zip(finals, state, strict=True):
            final[row] = s
    return outputs, finals


def gradients(scalar, arrays, step=1e-200):
    """Returns the derivative of `scalar(*arrays)` by every entry, exact by the complex step."""
    results = []
    for index, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            moved = [a.astype(complex) if j == index else a for j, a in enumerate(arrays)]
            moved[index][place] += 1j * step
            gradient[place] = scalar(*moved).imag / step
        results.append(gradient)
    return results
