"""Cells as a user writes them in a file of their own: equations, and nothing else."""

import keras
from keras import ops

from keras_gated import GatedCell, product

serializable = keras.saving.register_keras_serializable(package="own")


@serializable
class Peephole(GatedCell):
    gates = ("input", "forget", "candidate", "output")
    state_names = ("hidden", "memory")

    def weight_shapes(self, features):
        peepholes = dict.fromkeys(["see_input", "see_forget", "see_output"], (self.units,))
        return {**super().weight_shapes(features), **peepholes}

    def step(self, x, states, weights):
        h, c = states
        U, p_i, p_f, p_o = weights
        i, f, g, o = ops.split(x + product(h, U), 4, axis=-1)
        i, f, g = ops.sigmoid(i + p_i * c), ops.sigmoid(f + p_f * c), ops.tanh(g)
        c = f * c + i * g
        o = ops.sigmoid(o + p_o * c)
        return {
            "input": i, "forget": f, "candidate": g, "output": o,
            "hidden": o * ops.tanh(c), "memory": c,
        }  # fmt: skip


@serializable
class Projected(GatedCell):
    gates = ("input", "forget", "candidate", "output")
    state_names = ("hidden", "memory")

    def __init__(self, units, narrow=2, **kwargs):
        super().__init__(units, **kwargs)
        self.narrow = narrow

    def state_widths(self):
        return [self.narrow, self.units]

    def weight_shapes(self, features):
        return {**super().weight_shapes(features), "down": (self.units, self.narrow)}

    def step(self, x, states, weights):
        h, c = states
        U, P = weights
        i, f, g, o = ops.split(x + product(h, U), 4, axis=-1)
        i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
        c = f * c + i * g
        h = product(o * ops.tanh(c), P, recurrent=False)
        return dict(input=i, forget=f, candidate=g, output=o, hidden=h, memory=c)


@serializable
class Coupled(GatedCell):
    gates = ("input", "candidate", "output")
    state_names = ("hidden", "memory")

    def step(self, x, states, weights):
        h, c = states
        i, g, o = ops.split(x + ops.matmul(h, weights[0]), 3, axis=-1)  # as right, and slower
        i, g, o = ops.sigmoid(i), ops.tanh(g), ops.sigmoid(o)
        c = (1 - i) * c + i * g
        return dict(input=i, candidate=g, output=o, hidden=o * ops.tanh(c), memory=c)


def norm(sums, gamma, beta):
    mean = ops.mean(sums, axis=-1, keepdims=True)
    variance = ops.var(sums, axis=-1, keepdims=True)
    return (sums - mean) / ops.sqrt(variance + 1e-3) * gamma + beta


@serializable
class NormLSTM(GatedCell):
    gates = ("input", "forget", "candidate", "output")
    state_names = ("hidden", "memory")

    def build(self, input_shape):  # as one does in Keras, in place of `weight_shapes`
        super().build(input_shape)
        four, one = (4 * self.units,), (self.units,)
        self.norms = [self.add_weight(shape=s, name=f"norm_{n}")
                      for n, s in enumerate([four, four, four, four, one, one])]  # fmt: skip

    def input_weights(self):
        return (*super().input_weights(), *self.tensors(*self.norms[:2]))

    def recurrent_weights(self, mask=None):
        return (*super().recurrent_weights(mask), *self.tensors(*self.norms[2:]))

    def project(self, inputs, weights):
        W, b, *of_inputs = weights
        return norm(ops.matmul(inputs, W), *of_inputs) + b

    def step(self, x, states, weights):
        h, c = states
        U, *norms = weights
        i, f, g, o = ops.split(x + norm(product(h, U), *norms[:2]), 4, axis=-1)
        i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
        c = norm(f * c + i * g, *norms[2:])
        return dict(input=i, forget=f, candidate=g, output=o, hidden=o * ops.tanh(c), memory=c)


@serializable
class NormGRU(GatedCell):
    gates = ("update", "reset", "candidate")

    def weight_shapes(self, features):
        names = ["kernel_gain", "kernel_shift", "gain", "shift"]
        return {**super().weight_shapes(features), **dict.fromkeys(names, (3 * self.units,))}

    def parts(self, sums, gain, shift):
        two = 2 * self.units
        both = norm(sums[..., :two], gain[:two], shift[:two])
        return ops.concatenate([both, norm(sums[..., two:], gain[two:], shift[two:])], -1)

    def project(self, inputs, weights):
        W, b, *norms = weights
        return self.parts(ops.matmul(inputs, W), *norms) + b

    def step(self, x, states, weights):
        [h] = states
        U, *norms = weights
        x_z, x_r, x_h = ops.split(x, 3, axis=-1)
        u_z, u_r, u_h = ops.split(self.parts(product(h, U), *norms), 3, axis=-1)
        z, r = ops.sigmoid(x_z + u_z), ops.sigmoid(x_r + u_r)
        n = ops.tanh(x_h + r * u_h)
        return dict(update=z, reset=r, candidate=n, hidden=z * n + (1 - z) * h)


@serializable
class Minimal(GatedCell):
    gates = ("update", "candidate")

    def step(self, x, states, weights):
        [h] = states
        [U] = weights
        x_z, x_h = ops.split(x, 2, axis=-1)
        u = self.units
        z = self.recurrent_activation(x_z + product(h, U[:, :u]))  # parts: as right, and slower
        n = self.activation(x_h + product(z * h, U[:, u:]))
        return dict(update=z, candidate=n, hidden=z * n + (1 - z) * h)


class WithoutRecurrentKernel(GatedCell):
    def weight_shapes(self, features):
        shapes = super().weight_shapes(features)
        del shapes["recurrent_kernel"]
        return shapes


@serializable
class InputGated(WithoutRecurrentKernel):
    gates = ("update", "candidate")

    def step(self, x, states, weights):
        [h] = states
        z, n = ops.split(x, 2, axis=-1)
        z = ops.sigmoid(z)
        return dict(update=z, candidate=n, hidden=z * n + (1 - z) * h)


@serializable
class InputGatedLSTM(WithoutRecurrentKernel):
    gates = ("input", "forget", "candidate")

    def step(self, x, states, weights):
        [h] = states
        i, f, n = ops.split(x, 3, axis=-1)
        i, f = ops.sigmoid(i), ops.sigmoid(f)
        i, f = i / (i + f), f / (i + f)
        return dict(input=i, forget=f, candidate=n, hidden=f * h + i * n)
