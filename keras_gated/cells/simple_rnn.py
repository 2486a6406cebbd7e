"""The vanilla recurrent network: one equation."""

import keras
from keras import ops

from keras_gated.cells.arguments import arguments_of
from keras_gated.cells.base import GatedCell
from keras_gated.cells.gates import SIMPLE_RNN_GATES
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class SimpleRNNCell(GatedCell):
    """One step of the vanilla recurrent network, with the same parameters at every step.

        h_t = tanh(W x_t + U h_{t-1} + b)

    {arguments}
        activation: The function of the sum. Default: `tanh`.

    {call}

    Weights: `kernel (features, units)`, `recurrent_kernel (units, units)`, `bias (units,)`, as
    `keras.layers.SimpleRNNCell`.

    Reference: Elman 1990, Finding structure in time.
    """

    gates = SIMPLE_RNN_GATES
    reads = ("activation",)
    without = ("recurrent_activation",)
    seed_before_weights = True

    def __init__(
        self,
        units: int,
        activation="tanh",
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
        seed: int | None = None,
        recurrent_weight_dropout: float = 0.0,
        zoneout: float | list[float] = 0.0,
        **kwargs,
    ):
        super().__init__(**arguments_of(locals()))

    def step(self, x, states, weights):
        [h] = states
        [U] = weights
        # Not that of a subclass, which may have gates besides.
        return SimpleRNNCell.step_type(hidden=self.activation(x + product(h, U)))

    def step_gradient(self, step, states, d_states, U_T):
        [dh] = d_states
        da = dh * (1 - step.hidden * step.hidden)
        return da, da, [ops.matmul(da, U_T)]
