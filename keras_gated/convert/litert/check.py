"""Compares the answers of a file in LiteRT's interpreter with those of the model."""

import time

import numpy as np

from keras_gated.convert.examples import difference
from keras_gated.convert.windows import answers

_CALLS = 10  # the fastest counts


class Asked:
    """A file in LiteRT's interpreter, on one thread. Converts floats to 8 bits and back."""

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


def of_calls(asked, model, examples, reset):
    """Returns the largest difference over several calls in a row, with different inputs.

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
