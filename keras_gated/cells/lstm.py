"""Long short-term memory: forget, store, update, output."""

import keras
from keras import ops

from keras_gated.cells.arguments import arguments_of, boolean, positive_integer
from keras_gated.cells.base import GatedCell
from keras_gated.cells.gates import LSTM_GATES, LSTMStep
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class LSTMCell(GatedCell):
    """One step of long short-term memory, with a cell state apart from the output.

        f_t = sigmoid(W_f x_t + U_f h_{t-1} + b_f)   1. forget what is irrelevant
        i_t = sigmoid(W_i x_t + U_i h_{t-1} + b_i)   2. store what matters:
        g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)         how much, and what
        c_t = f_t * c_{t-1} + i_t * g_t              3. update the cell state
        o_t = sigmoid(W_o x_t + U_o h_{t-1} + b_o)   4. output
        h_t = o_t * tanh(c_t)

    These are the standard equations, with a forget gate and without peepholes.

    {arguments}
        units: Positive integer, the size of the hidden state and of the cell state.
        activation: The function of `g_t` and of `c_t` in `h_t`. Default: `tanh`.
        unit_forget_bias: Whether `b_f` starts at one (Jozefowicz et al. 2015).
        projection: Optional positive integer, the size of the hidden state and of the output if it
            differs from `units`: `h_t = P (o_t * tanh(c_t))` (Sak, Senior and Beaufays 2014,
            arXiv:1402.1128, section 2).

    Call arguments:
        inputs: `(batch, features)`, one step.
        states: `[h_{t-1}, c_{t-1}]`, each `(batch, units)`; `h` is `(batch, projection)` with a
            projection.
        training: Whether dropout is applied.

    Returns:
        `h_t` and `[h_t, c_t]`, of the shapes of the states.

    Raises:
        ValueError: For an argument that is not accepted; the message names it.

    Weights: `kernel (features, 4 * units)`, `recurrent_kernel (units, 4 * units)`,
    `bias (4 * units,)`, as `keras.layers.LSTMCell`; with a projection, `recurrent_kernel` has
    `projection` rows, and `projection_kernel (units, projection)` comes last.

    Reference: Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber and Cummins 2000;
    as in Jozefowicz, Zaremba and Sutskever 2015, section 2.
    """

    gates = LSTM_GATES
    step_type = LSTMStep
    reads = ("activation", "recurrent_activation", "projection")
    cudnn_mode = "lstm"
    state_names = ("hidden", "memory")

    def __init__(
        self,
        units: int,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias: bool = True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias: bool = True,
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
        projection: int | None = None,
        **kwargs,
    ):
        arguments = arguments_of(locals())
        del arguments["unit_forget_bias"], arguments["projection"]
        super().__init__(**arguments)
        self.unit_forget_bias = boolean(self.owner, "unit_forget_bias", unit_forget_bias)
        self.projection = projection
        if projection is not None:
            self.projection = positive_integer(self.owner, "projection", projection)

    def state_widths(self):
        return [self.projection or self.units, self.units]

    def weight_shapes(self, features):
        shapes = super().weight_shapes(features)
        if self.projection:
            shapes["projection_kernel"] = (self.units, self.projection)
        return shapes

    def step(self, x, states, weights):
        h, c = states
        U, *P = weights
        a_i, a_f, a_g, a_o = ops.split(x + product(h, U), 4, axis=-1)
        f = self.recurrent_activation(a_f)
        i = self.recurrent_activation(a_i)
        g = self.activation(a_g)
        c = f * c + i * g
        o = self.recurrent_activation(a_o)
        h = o * self.activation(c)
        if self.projection:
            h = product(h, *P, recurrent=False)
        return LSTMStep(input=i, forget=f, candidate=g, output=o, memory=c, hidden=h)

    def step_gradient(self, step, states, d_states, U_T):
        i, f, g, o, c, _ = step
        _, c_before = states
        dh, dc = d_states
        tanh_c = ops.tanh(c)
        do = dh * tanh_c
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        di, df, dg = dc * g, dc * c_before, dc * i
        da = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)]
        da = ops.concatenate(da, axis=-1)
        return da, da, [ops.matmul(da, U_T), dc * f]

    def step_gradient_holds(self):
        return not self.projection and super().step_gradient_holds()

    def carried(self, step):
        return step.forget

    def initializer_of(self, weight):
        initializer = super().initializer_of(weight)
        if weight != "bias" or not self.unit_forget_bias:
            return initializer

        def with_open_forget_gate(shape, dtype=None):
            # The same shapes in the same order as in Keras: random numbers depend on them.
            before = initializer((self.units,), dtype=dtype)
            forget = ops.ones((self.units,), dtype=dtype)
            return ops.concatenate([before, forget, initializer((2 * self.units,), dtype=dtype)])

        return with_open_forget_gate
