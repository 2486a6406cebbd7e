"""Dropout masks of a call in training, drawn once for all steps of a sequence."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gated.cells.gates import apart
from keras_gated.keras_private import DropoutRNNCell, is_inference_call


class Masks(NamedTuple):
    """The dropout masks of a call. None: nothing is dropped."""

    inputs: Any = None  # of the inputs of every step, (batch, features)
    kernel: Any = None  # of the recurrent kernel, with its shape
    hidden: Any = None  # of the hidden state in recurrent products, (batch, width)
    # 1 where zoneout leaves a unit of a state unchanged, else 0: (batch, time, sum of the widths of
    # all states), or for one step (batch, sum of the widths of all states).
    zones: Any = None


def dropped(tensor, mask):
    """Returns `tensor` with a dropout mask applied, where there is one."""
    return tensor if mask is None else tensor * ops.cast(mask, tensor.dtype)


def with_zones(step, before, names, rates, zones):
    """Returns a step with zoneout: some units of its states keep the value from before the step.

    At inference, each unit is the expected value: the mean of old and new value, weighted by the
    rate.

    Args:
        step: The named tuple of a step.
        before: The states before it, each `(batch, width)`.
        names: The names of the states.
        rates: The fraction of each state that stays.
        zones: As in `Masks`, of one step; None at inference.

    Reference: Krueger et al. 2016, arXiv:1606.01305, section 3.
    """
    if not any(rates):
        return step
    stays = rates
    if zones is not None:
        stays = apart(zones, [state.shape[-1] for state in before])
    mixed = {
        name: stay * old + (1 - stay) * getattr(step, name)
        for name, old, stay in zip(names, before, stays, strict=True)
    }
    return step._replace(**mixed)


class DropsInTraining(DropoutRNNCell):
    """Draws the dropout masks of a cell.

    The base is Keras's class, since Keras draws masks once for a sequence only for its subclasses.
    Our layers draw masks as values (`draw_masks`). Keras's layers ask the cell for masks
    (`get_...`). The cell keeps them until the layer says that the call is over (`reset_...`).
    """

    _kernel_mask = None

    def draw_masks(self, rows, features, steps):
        """Returns the `Masks` of a call with inputs `(rows, steps, features)`."""
        inputs = kernel = hidden = zones = None
        if self.dropout:
            inputs = self._drawn((rows, features), self.dropout)
        if self.recurrent_weight_dropout:
            kernel = self._drawn(self.recurrent_kernel.shape, self.recurrent_weight_dropout)
        if self.recurrent_dropout:
            hidden = self._drawn((rows, self.output_size), self.recurrent_dropout)
        if any(self.zoneout_rates()):
            zones = self._zones((rows, steps))
        return Masks(inputs, kernel, hidden, zones)

    def masks_of_a_step(self, inputs, hidden):
        """Returns the `Masks` of one step. All but the zones are kept until the call is over."""
        inputs = super().get_dropout_mask(inputs) if self.dropout else None
        kernel = self._kernel_mask_of_a_call()
        rows = ops.shape(hidden)[0]
        hidden = super().get_recurrent_dropout_mask(hidden) if self.recurrent_dropout else None
        zones = self._zones((rows,)) if any(self.zoneout_rates()) else None
        return Masks(inputs, kernel, hidden, zones)

    def get_dropout_mask(self, step_input):
        """As in Keras. None at inference: a graph that draws random numbers cannot be served."""
        if is_inference_call():
            return None
        # Keras scales the mask, so its dtype must not be an integer.
        return super().get_dropout_mask(ops.cast(step_input, self.state_dtype))

    def get_recurrent_dropout_mask(self, step_input):
        """As in Keras. The mask of the recurrent kernel is drawn, too, before Keras's loop."""
        if is_inference_call():
            return None
        self._kernel_mask_of_a_call()
        return super().get_recurrent_dropout_mask(step_input)

    def reset_recurrent_dropout_mask(self):
        super().reset_recurrent_dropout_mask()
        self._kernel_mask = None

    def _kernel_mask_of_a_call(self):
        if self.recurrent_weight_dropout and self._kernel_mask is None:
            shape = self.recurrent_kernel.shape
            self._kernel_mask = self._drawn(shape, self.recurrent_weight_dropout)
        return self._kernel_mask

    def _drawn(self, shape, rate):
        return self._create_dropout_mask(ops.ones(shape, self.state_dtype), rate)

    def _create_dropout_mask(self, step_input, dropout_rate):
        if dropout_rate == 1:  # Keras 3.12 refuses to drop everything
            return ops.zeros_like(step_input)
        return super()._create_dropout_mask(step_input, dropout_rate)

    def _zones(self, shape):
        drawn = [
            keras.random.uniform((*shape, width), seed=self.seed_generator) < rate
            for width, rate in zip(self.state_widths(), self.zoneout_rates(), strict=True)
        ]
        return ops.cast(ops.concatenate(drawn, axis=-1), self.state_dtype)
