"""The gated recurrent unit: update gate, reset gate, new memory."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_gated.cells.arguments import arguments_of, boolean
from keras_gated.cells.base import UPDATE_WRITES, GatedCell
from keras_gated.cells.gates import GRU_GATES, GRUStep
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class GRUCell(GatedCell):
    """One step of the gated recurrent unit whose update gate lets the new memory in.

        z_t  = sigmoid(W_z x_t + b_z + U_z h_{t-1} + c_z)       update: 1 writes h'_t
        r_t  = sigmoid(W_r x_t + b_r + U_r h_{t-1} + c_r)       reset
        h'_t = tanh(W_h x_t + b_h + r_t * (U_h h_{t-1} + c_h))  current memory content
        h_t  = z_t * h'_t + (1 - z_t) * h_{t-1}                 final memory

    These are the equations of `reset_after=True`. With `reset_after=False`, the reset gate acts
    before the product, and there is one bias:

        h'_t = tanh(W_h x_t + U_h (r_t * h_{t-1}) + b_h)

    `z_t` is the complement of the update gate of `keras.layers.GRU`, which keeps the old state
    where ours writes the new state. To convert weights between the two, negate the columns of z in
    kernel, recurrent kernel and biases, since 1 - sigmoid(a) = sigmoid(-a). `set_weights` takes
    weights of `keras.layers.GRUCell` without an error, as they have the same shapes, and the
    outputs are then wrong. `keras_gated.from_keras` converts a model.

    {arguments}
        activation: The function of `h'_t`. Default: `tanh`.
        use_bias: Whether the equations have biases `b` and `c`.
        reset_after: Whether the reset gate acts after the product with `U_h`, or before it.

    {call}

    Weights: `kernel (features, 3 * units)`, `recurrent_kernel (units, 3 * units)`, and
    `bias (2, 3 * units)`, the `b`s above the `c`s, or `(3 * units,)` with `reset_after=False`:
    the shapes of `keras.layers.GRUCell`.

    Reference: Cho et al. 2014, arXiv:1406.1078v1 (reset after the product) and v3 (before it),
    with the update gate as in Chung et al. 2014, arXiv:1412.3555, equation 5.
    """

    gates = GRU_GATES
    step_type = GRUStep
    reads = ("activation", "recurrent_activation", "reset_after")
    cudnn_mode = "gru"
    inputs_and_state_are_summed = False

    def __init__(
        self,
        units: int,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias: bool = True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool = True,
        seed: int | None = None,
        recurrent_weight_dropout: float = 0.0,
        zoneout: float | list[float] = 0.0,
        **kwargs,
    ):
        arguments = arguments_of(locals())
        del arguments["reset_after"]
        super().__init__(**arguments)
        self.reset_after = boolean(self.owner, "reset_after", reset_after)

    def step(self, x, states, weights):
        [h] = states
        U, *c = weights
        x_z, x_r, x_h = ops.split(x, 3, axis=-1)
        if self.reset_after:
            u = product(h, U)
            u_z, u_r, u_h = ops.split(u + c[0] if c else u, 3, axis=-1)
        else:
            [U_h] = c
            u_z, u_r = ops.split(product(h, U), 2, axis=-1)
        z = self.recurrent_activation(x_z + u_z)
        r = self.recurrent_activation(x_r + u_r)
        if not self.reset_after:
            u_h = product(r * h, U_h)
        n = self.activation(x_h + (r * u_h if self.reset_after else u_h))
        h = z * n + (1 - z) * h
        return GRUStep(update=z, reset=r, candidate=n, recalled=u_h, hidden=h)

    def step_gradient(self, step, states, d_states, U_T):
        """As in `GatedCell`, for `reset_after=True`."""
        z, r, n, u_h, _ = step
        [h], [dh] = states, d_states
        dz = dh * (n - h) * z * (1 - z)
        dn = dh * z * (1 - n * n)
        dr = dn * u_h * r * (1 - r)
        dx = ops.concatenate([dz, dr, dn], axis=-1)
        du = ops.concatenate([dz, dr, dn * r], axis=-1)
        return dx, du, [dh * (1 - z) + ops.matmul(du, U_T)]

    def step_gradient_holds(self):
        return self.reset_after and super().step_gradient_holds()

    def carried(self, step):
        return 1 - step.update

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[UPDATE_WRITES] = np.ones((), "int8")  # `keras.layers.GRU` refuses a file with it

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if UPDATE_WRITES not in store:
            warnings.warn(
                f"{self.name!r}: this file does not say which GRU its weights belong to. If "
                "keras_gated wrote it before version 0.2, they are right. If `keras.layers.GRU` "
                "wrote it, its update gate is the complement of ours and the answers are wrong: "
                "load it into the model of `keras.layers` and convert that with "
                "`keras_gated.from_keras`.",
                UserWarning,
                stacklevel=2,
            )

    def bias_shape(self):
        [width] = super().bias_shape()
        return (2, width) if self.reset_after else (width,)

    def input_bias(self):
        return self.bias[0] if self.reset_after else self.bias

    def recurrent_weights(self, mask=None):
        weights = super().recurrent_weights(mask)
        if not self.reset_after:  # the reset gate acts between two products
            [U] = weights
            return U[:, : 2 * self.units], U[:, 2 * self.units :]
        if not self.use_bias:
            return weights
        return (*weights, *self.tensors(self.bias[1]))
