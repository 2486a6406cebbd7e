"""What LiteRT's interpreter answers to a file, against what the model answers."""

import time

import numpy as np
from keras import tree

from keras_gated.convert.examples import difference

_CALLS = 10  # the fastest counts


class Asked:
    """A file in LiteRT's interpreter, on one thread. Numbers of 8 bits go in and out as floats."""

    def __init__(self, content, shapes):
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._inputs = self._interpreter.get_input_details()
        for detail, shape in zip(self._inputs, shapes, strict=True):
            if tuple(detail["shape"]) != tuple(shape):
                self._interpreter.resize_tensor_input(detail["index"], shape)
        self._interpreter.allocate_tensors()
        self._outputs = self._interpreter.get_output_details()

    def __call__(self, values):
        for detail, value in zip(self._inputs, values, strict=True):
            self._interpreter.set_tensor(detail["index"], _stored(np.asarray(value), detail))
        self._interpreter.invoke()
        return [_read(self._interpreter.get_tensor(d["index"]), d) for d in self._outputs]

    def reset(self):
        self._interpreter.reset_all_variables()

    def milliseconds(self):
        """Returns the time of a call."""
        seconds = []
        for _ in range(_CALLS):
            start = time.perf_counter()
            self._interpreter.invoke()
            seconds.append(time.perf_counter() - start)
        self.reset()
        return 1e3 * min(seconds)


def _stored(value, detail):
    scale, zero = detail["quantization"]
    if not scale:
        return value.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(value / scale + zero), limits.min, limits.max).astype(detail["dtype"])


def _read(value, detail):
    scale, zero = detail["quantization"]
    return (value.astype("float32") - zero) * np.float32(scale) if scale else value


def answers(model, values):
    """Returns what a functional model answers, as a list of arrays."""
    given = tree.pack_sequence_as(model.input, list(values))
    return [np.asarray(y) for y in tree.flatten(model(given, training=False))]


def of_calls(asked, model, examples, reset):
    """Returns the largest difference of several calls, with different inputs one after the other.

    Args:
        asked: An `Asked`.
        model: The functional model.
        examples: Two or more lists of inputs.
        reset: Whether the file's variables are set to zeros before each call.

    Raises:
        ValueError: If the same inputs are answered differently at another time.
    """
    differences, first = [], {}
    places = range(len(examples))
    for place in (*places, *reversed(places), "reset", 0):
        if reset or place == "reset":
            asked.reset()
        if place == "reset":
            continue
        received = asked(examples[place])
        differences.append(difference(received, answers(model, examples[place])))
        if not difference(received, first.setdefault(place, received)) < 1e-6:
            raise ValueError(
                f"to_litert: {model.name!r} in LiteRT answers the same inputs differently at "
                "another time. Nothing was written. Please report it."
            )
    return max(differences)


def of_windows(asked, model, stepper, examples, steps, timed):
    """Returns the largest difference of sequences in windows from the whole sequences.

    Args:
        asked: An `Asked`, whose inputs and outputs end with the states.
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
    """Returns an output of windows as the whole sequence's: of all steps, or after the last."""
    return parts[-1] if parts[-1].shape == expected.shape else np.concatenate(parts, axis=1)
