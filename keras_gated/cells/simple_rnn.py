"""The vanilla recurrent network: one equation."""

import keras
from keras import ops

from keras_gated.cells.arguments import arguments_of
from keras_gated.cells.base import GatedCell
from keras_gated.cells.gates import SIMPLE_RNN_GATES, SimpleRNNStep
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class SimpleRNNCell(GatedCell):
    """One step of the vanilla recurrent network, with the same parameters at every step.

        h_t = tanh(W x_t + U h_{t-1} + b)

    Args:
        units: Positive integer, the size of the hidden state.
        activation: The function of the sum. Default: `tanh`.
        use_bias: Whether the equation has a bias `b`.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of `W`, `U`, `b`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the same.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints of the same.
        dropout: Fraction of the inputs dropped in training, 0 to 1, the same at every step.
        recurrent_dropout: Fraction of `h_{t-1}` dropped in training in the product with `U`.
        seed: Integer seed of all dropouts.
        recurrent_weight_dropout: Fraction of the entries of the `U`s dropped in training, the
            same for all rows and steps of a call (DropConnect: Merity, Keskar and Socher 2017,
            arXiv:1708.02182, section 2).
        zoneout: Fraction of the units of a state that keep their value in a step. Training draws
            the units anew at every step; inference uses the expected value (Krueger et al. 2016,
            arXiv:1606.01305, section 3). A number, or a list of numbers, one for each state.

    Call arguments:
        inputs: `(batch, features)`, one step.
        states: `h_{t-1}`, `(batch, units)`, or a list of it.
        training: Whether dropout is applied.

    Returns:
        `h_t`, `(batch, units)`, and the new states in the form of `states`.

    Raises:
        ValueError: For an argument that is not accepted; the message names it.

    Weights: `kernel (features, units)`, `recurrent_kernel (units, units)`, `bias (units,)`, as
    `keras.layers.SimpleRNNCell`.

    Reference: Elman 1990, Finding structure in time.
    """

    gates = SIMPLE_RNN_GATES
    step_type = SimpleRNNStep
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
        h = self.activation(x + product(h, U))
        return SimpleRNNStep(hidden=h)

    def step_gradient(self, step, states, d_states, U_T):
        [dh] = d_states
        da = dh * (1 - step.hidden * step.hidden)
        return da, da, [ops.matmul(da, U_T)]
