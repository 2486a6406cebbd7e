"""The equations in NumPy, written from the specification and not from the package.

One row at a time, and masked steps are cut out of the row: that is what a mask means. All
functions also take complex arguments, so that a complex step gives exact derivatives.
"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def simple_rnn(x, states, W, U, b):
    [h] = states
    return {"hidden": np.tanh(x @ W + h @ U + b)}


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
    gates = {"input": i, "forget": f, "candidate": g, "output": o}
    return {**gates, "hidden": o * np.tanh(c), "memory": c}


def gru(x, states, W, U, b):
    [h] = states
    W_z, W_r, W_h = np.split(W, 3, axis=1)
    U_z, U_r, U_h = np.split(U, 3, axis=1)
    (b_z, b_r, b_h), (c_z, c_r, c_h) = np.split(b[0], 3), np.split(b[1], 3)
    z = sigmoid(x @ W_z + b_z + h @ U_z + c_z)
    r = sigmoid(x @ W_r + b_r + h @ U_r + c_r)
    n = np.tanh(x @ W_h + b_h + r * (h @ U_h + c_h))
    return {"update": z, "reset": r, "candidate": n, "hidden": z * n + (1 - z) * h}


def gru_reset_before(x, states, W, U, b):
    [h] = states
    W_z, W_r, W_h = np.split(W, 3, axis=1)
    U_z, U_r, U_h = np.split(U, 3, axis=1)
    b_z, b_r, b_h = np.split(b, 3)
    z = sigmoid(x @ W_z + h @ U_z + b_z)
    r = sigmoid(x @ W_r + h @ U_r + b_r)
    n = np.tanh(x @ W_h + (r * h) @ U_h + b_h)
    return {"update": z, "reset": r, "candidate": n, "hidden": z * n + (1 - z) * h}


def sequence(step, x, mask, states, weights, go_backwards=False, zero_output_for_mask=False):
    """Runs `step` over sequences: returns outputs `(batch, time, units)` and final states.

    The outputs stand in the order in which they were computed.
    """
    fields, finals = trace(step, x, mask, states, weights, go_backwards, zero_output_for_mask)
    outputs = fields["hidden"]
    return outputs[:, ::-1] if go_backwards else outputs, finals


def trace(step, x, mask, states, weights, go_backwards=False, zero_output_for_mask=False):
    """Returns every gate and state by name, `(batch, time, units)`, and the final states."""
    batch, time, features = x.shape
    kind = np.result_type(x, *states, *weights)
    names = step(np.zeros(features), [np.zeros(s.shape[1]) for s in states], *weights)
    fields = {name: np.zeros((batch, time, states[0].shape[1]), kind) for name in names}
    finals = [np.array(s, kind) for s in states]
    order = range(time)[::-1] if go_backwards else range(time)
    for row in range(batch):
        state, shown = [s[row] for s in finals], {}
        for t in order:
            if mask is None or mask[row, t]:
                shown = step(x[row, t], state, *weights)
                state = [shown[name] for name in ("hidden", "memory") if name in shown]
            elif zero_output_for_mask:
                shown = {}
            for name, value in shown.items():
                fields[name][row, t] = value
        for final, s in zip(finals, state, strict=True):
            final[row] = s
    return fields, finals


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
