"""Recurrent layers over whole sequences: `SimpleRNN`, `LSTM` and `GRU`.

They stand where `keras.layers.SimpleRNN`, `LSTM` and `GRU` stand, with the same arguments.
"""

import keras

from keras_gated.cells.arguments import arguments_of
from keras_gated.cells.gru import GRUCell
from keras_gated.cells.lstm import LSTMCell
from keras_gated.cells.simple_rnn import SimpleRNNCell
from keras_gated.layers.base import GatedLayer


@keras.saving.register_keras_serializable(package="keras_gated")
class SimpleRNN(GatedLayer):
    """The vanilla recurrent network over a sequence: see `SimpleRNNCell` for the equation.

    Args:
        units: Positive integer, the size of the hidden state and of the output.
        activation, use_bias, kernel_*, recurrent_*, bias_*, dropout, recurrent_dropout, seed,
            recurrent_weight_dropout: As for `SimpleRNNCell`.
        {sequence}
    """

    cell_class = SimpleRNNCell

    def __init__(
        self,
        units,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        seed=None,
        recurrent_weight_dropout=0.0,
        return_gates=False,
        fused="auto",
        **kwargs,
    ):
        super().__init__(**arguments_of(locals()))


@keras.saving.register_keras_serializable(package="keras_gated")
class LSTM(GatedLayer):
    """Long short-term memory over a sequence: see `LSTMCell` for the equations.

    Args:
        units: Positive integer, the size of the hidden state, the cell state and the output.
        activation, recurrent_activation, use_bias, kernel_*, recurrent_*, bias_*,
            unit_forget_bias, dropout, recurrent_dropout, seed, recurrent_weight_dropout: As for
            `LSTMCell`.
        use_cudnn: "auto" runs cuDNN on a GPU wherever `fused` would be valid (and in float16);
            True raises with the reason where it does not run; False never runs it.
        {sequence}
    """

    cell_class = LSTMCell

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias=True,
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        use_cudnn="auto",
        recurrent_weight_dropout=0.0,
        return_gates=False,
        fused="auto",
        **kwargs,
    ):
        super().__init__(**arguments_of(locals()))


@keras.saving.register_keras_serializable(package="keras_gated")
class GRU(GatedLayer):
    """The gated recurrent unit over a sequence: see `GRUCell` for the equations.

    Its update gate is the complement of that of `keras.layers.GRU`: 1 writes the new memory.

    Args:
        units: Positive integer, the size of the hidden state and of the output.
        activation, recurrent_activation, use_bias, kernel_*, recurrent_*, bias_*, reset_after,
            dropout, recurrent_dropout, seed, recurrent_weight_dropout: As for `GRUCell`.
        use_cudnn: "auto" runs cuDNN on a GPU wherever `fused` would be valid (and in float16);
            True raises with the reason where it does not run; False never runs it.
        {sequence}
    """

    cell_class = GRUCell

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        reset_after=True,
        use_cudnn="auto",
        recurrent_weight_dropout=0.0,
        return_gates=False,
        fused="auto",
        **kwargs,
    ):
        super().__init__(**arguments_of(locals()))

    def set_weights(self, weights):
        """Sets the weights, a list of arrays as `get_weights` returns them.

        Those of `keras.layers.GRU` have the same shapes and another update gate, so they load
        here without an error and answer otherwise: `keras_gated.from_keras` converts them.
        """
        super().set_weights(weights)
