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


def peephole_lstm(x, states, W, U, b, p_i, p_f, p_o):
    h, c = states
    a_i, a_f, a_g, a_o = np.split(x @ W + h @ U + b, 4)
    i, f, g = sigmoid(a_i + p_i * c), sigmoid(a_f + p_f * c), np.tanh(a_g)
    c = f * c + i * g
    o = sigmoid(a_o + p_o * c)
    gates = {"input": i, "forget": f, "candidate": g, "output": o}
    return {**gates, "hidden": o * np.tanh(c), "memory": c}


def projected_lstm(x, states, W, U, b, P):
    step = lstm(x, states, W, U, b)
    return {**step, "hidden": step["hidden"] @ P}


def mogrifier_lstm(x, states, W, U, b, *gates):
    h, c = states
    for i, gate in enumerate(gates, 1):
        if i % 2 == 1:
            x = 2 * sigmoid(h @ gate) * x
        else:
            h = 2 * sigmoid(x @ gate) * h
    return lstm(x, [h, c], W, U, b)


def coupled_lstm(x, states, W, U, b):
    h, c = states
    a_i, a_g, a_o = np.split(x @ W + h @ U + b, 3)
    i, g, o = sigmoid(a_i), np.tanh(a_g), sigmoid(a_o)
    c = c - i * c + i * g
    return {"input": i, "candidate": g, "output": o, "hidden": o * np.tanh(c), "memory": c}


def normalized(a, gamma, beta, epsilon=1e-3):
    return (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + epsilon) * gamma + beta


def layer_norm_lstm(x, states, W, U, b, g_x, s_x, g_h, s_h, g_c, s_c):
    h, c = states
    a = normalized(x @ W, g_x, s_x) + normalized(h @ U, g_h, s_h) + b
    a_i, a_f, a_g, a_o = np.split(a, 4)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c = normalized(f * c + i * g, g_c, s_c)
    gates = {"input": i, "forget": f, "candidate": g, "output": o}
    return {**gates, "hidden": o * np.tanh(c), "memory": c}


def layer_norm_gru(x, states, W, U, b, g_x, s_x, g_h, s_h):
    [h] = states
    two = 2 * len(h)
    gates = normalized((x @ W)[:two], g_x[:two], s_x[:two]) + b[:two]
    gates = gates + normalized((h @ U)[:two], g_h[:two], s_h[:two])
    z, r = np.split(sigmoid(gates), 2)
    recalled = normalized((h @ U)[two:], g_h[two:], s_h[two:])
    n = np.tanh(normalized((x @ W)[two:], g_x[two:], s_x[two:]) + b[two:] + r * recalled)
    return {"update": z, "reset": r, "candidate": n, "hidden": z * n + (1 - z) * h}


def mgu(x, states, W, U, b):
    [h] = states
    u = len(h)
    z = sigmoid(x @ W[:, :u] + h @ U[:, :u] + b[:u])
    n = np.tanh(x @ W[:, u:] + (z * h) @ U[:, u:] + b[u:])
    return {"update": z, "candidate": n, "hidden": z * n + (1 - z) * h}


def min_gru(x, states, W, b):
    [h] = states
    a_z, n = np.split(x @ W + b, 2)
    z = sigmoid(a_z)
    return {"update": z, "candidate": n, "hidden": z * n + (1 - z) * h}


def min_lstm(x, states, W, b):
    [h] = states
    a_i, a_f, n = np.split(x @ W + b, 3)
    i, f = sigmoid(a_i), sigmoid(a_f)
    i, f = i / (i + f), f / (i + f)
    return {"input": i, "forget": f, "candidate": n, "hidden": f * h + i * n}


def zoned(step, rates):
    """Returns a step with zoneout at inference: each state keeps its rate of what it was."""

    def zoned_step(x, states, *weights):
        new = step(x, states, *weights)
        names = [name for name in ("hidden", "memory") if name in new]
        for name, old, rate in zip(names, states, rates, strict=True):
            new[name] = rate * old + (1 - rate) * new[name]
        return new

    return zoned_step


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
    fields = {name: np.zeros((batch, time, len(v)), kind) for name, v in names.items()}
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
