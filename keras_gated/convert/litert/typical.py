"""Typical inputs, from which LiteRT's converter computes the scales of 8 bits."""

import keras
import numpy as np

from keras_gated.cells.coupled_lstm import CoupledLSTMCell
from keras_gated.cells.lstm import LSTMCell
from keras_gated.convert.windows import windows

_MEMORY = 4.0  # tanh of more is 1 in 8 bits


def steps_of(values, timed):
    return next((v.shape[1] for v, t in zip(values, timed, strict=True) if t), None)


def check_steps(examples, timed, steps, states):
    for values in examples:
        for value, t in zip(values, timed, strict=True):
            if t and (value.shape[1] < steps if states else value.shape[1] != steps):
                raise ValueError(
                    "to_litert: `representative` must be of as many steps as the file"
                    f"{' reads, or more' if states else ''}, {steps}. Received: {value.shape[1]}."
                )


def samples(examples, specs, stepper, model, steps, timed):
    """Returns the inputs by name from which the converter computes scales, with the states.

    A state gets one scale as an input and one as an output. Both are the same if its extremes
    occur in both places, so the sequences are continued until they do.

    Raises:
        ValueError: If there are still new extremes after the most tries.
    """
    names = [spec.name for spec in specs]
    if stepper is None:
        return [dict(zip(names, values, strict=True)) for values in examples]
    from keras_gated.serve.inputs import packed

    found, fed = [], _Extremes(stepper.states)

    def feed(window, states):
        given = [*window, *(np.asarray(state) for state in states.values())]
        found.append(dict(zip(names, given, strict=True)))
        fed.add(states)
        return stepper(packed(model, window), states)[1]

    last = []
    for values in examples:
        states = stepper.zeros(len(values[0]))
        for window in windows(values, steps, timed):
            states = feed(window, states)
        last.append(states)
    for window in (w for values in examples for w in windows(values, steps, timed)):
        last = [states for states in last if not fed.hold(states)]
        if not last:
            return found
        last = [feed(window, states) for states in last]
    raise ValueError(
        "to_litert: the states go on growing where `representative` ends, so they have no scale in "
        f"8 bits. Received: {len(examples)} inputs. Give more of them, or longer ones."
    )


class InEightBits:
    """A `Stepper` that cuts the memory of an LSTM where its `tanh` is 1 in 8 bits.

    A few units may count far beyond. The scale that holds them would leave all others a few of the
    256 numbers: the memory of a language model was seen to reach 30, and nine of ten numbers to
    stay below 2.
    """

    def __init__(self, stepper):
        self._stepper, self.model = stepper, stepper.model
        self.states, self.zeros = stepper.states, stepper.zeros
        cut = {layer.name for layer in stepper.layers if _cuts(layer.cell)}
        self._cut = {n for n in self.states if n.endswith("_memory") and stepper.layer_of[n] in cut}

    def __call__(self, inputs, states):
        answers, after = self._stepper(inputs, states)
        cut = {n: keras.ops.clip(after[n], -_MEMORY, _MEMORY) for n in self._cut}
        return answers, {**after, **cut}


def _cuts(cell):
    return type(cell) in (LSTMCell, CoupledLSTMCell) and cell.activation is keras.activations.tanh


class _Extremes:
    """The smallest and the largest number of each state. Every scale includes zero, too."""

    def __init__(self, names):
        self._limits = {name: (0.0, 0.0) for name in names}

    def add(self, states):
        for name, state in states.items():
            low, high = self._limits[name]
            state = np.asarray(state)
            self._limits[name] = min(low, state.min()), max(high, state.max())

    def hold(self, states):
        """Whether no number of the states is beyond these extremes."""
        return all(
            low <= np.min(states[name]) and np.max(states[name]) <= high
            for name, (low, high) in self._limits.items()
        )
