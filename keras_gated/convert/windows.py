"""Compares answers to a sequence read window by window with answers to the whole sequence."""

import keras
import numpy as np
from keras import tree

from keras_gated.convert.examples import difference


def timed_of(model):
    """Returns for every input of a functional model whether it has a free number of steps."""
    return [len(t.shape) > 1 and t.shape[1] is None for t in model.inputs]


def stepper_of(model, owner):
    """Returns a model's `Stepper`, or raises if no input has a free number of steps."""
    from keras_gated.serve.streaming import Stepper  # needs TensorFlow

    if not any(timed_of(model)):
        raise ValueError(
            f"{owner}: `states=True` needs an input with an unknown number of steps, (batch, "
            f"None, ...). Received: {[(t.name, t.shape) for t in model.inputs]}."
        )
    return Stepper(model)


def answers(model, values):
    """Returns what a functional model answers, as a list of arrays."""
    given = tree.pack_sequence_as(model.input, list(values))
    return [keras.ops.convert_to_numpy(y) for y in tree.flatten(model(given, training=False))]


def of_windows(asked, model, stepper, examples, steps, timed):
    """Returns the largest difference of answers to windows from answers to whole sequences.

    Args:
        asked: Takes a list of inputs and returns a list of outputs; both end with the states.
        model: The functional model.
        stepper: Its `Stepper`.
        examples: Lists of inputs, each of a multiple of `steps` steps.
        steps: The steps of a window.
        timed: For every input, whether it has steps.
    """
    differences = []
    for values in examples:
        rows = len(values[0])
        states = [np.zeros((rows, spec.shape[1]), "float32") for spec in stepper.states.values()]
        received = []
        for window in windows(values, steps, timed):
            made = asked([*window, *states])
            received.append(made[: len(made) - len(states)])
            states = made[len(made) - len(states) :]
        expected = answers(model, values)
        parts = zip(*received, strict=True)
        found = [_joined(p, e) for p, e in zip(parts, expected, strict=True)]
        differences.append(difference(found, expected))
    return max(differences)


def windows(values, steps, timed):
    """Yields the inputs of one window after the other."""
    length = next(v.shape[1] for v, t in zip(values, timed, strict=True) if t)
    for start in range(0, length - steps + 1, steps):
        yield [v[:, start : start + steps] if t else v for v, t in zip(values, timed, strict=True)]


def _joined(parts, expected):
    """Returns the outputs of windows as one: all steps joined, or the output of the last window."""
    return parts[-1] if parts[-1].shape == expected.shape else np.concatenate(parts, axis=1)
