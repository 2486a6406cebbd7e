"""Always-on inference in Python: a model reads what comes, and keeps its states in between."""

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_gated import keras_private
from keras_gated.serve.streaming import Stepper, check_pieces


def stream(model: keras.Model) -> "Stream":
    """Returns a `Stream`: one sequence after the other, read piece by piece as it comes.

        stream = keras_gated.stream(model)
        for window in sensor:  # (1, steps, features), one step or more
            answer = stream.step(window)
        stream.flush()

    What the pieces give, one after the other, is what the whole sequence gives. In other runtimes
    `export_model`, `to_onnx` and `to_litert` do the same with `states=True`: the states are then
    inputs and outputs.

    Args:
        model: A functional or sequential model with a free number of steps, whose recurrent layers
            are of keras_gated (`from_keras` converts others), read forwards and are called once.

    Raises:
        ValueError: If a recurrent layer has no state that could be carried on, or pieces give
            something else than the whole sequence, as a layer besides the recurrent ones looks at
            more than one step.
    """
    return Stream(model)


class Stream:
    """See `stream`. Rows are independent sequences; their number is that of the first step.

    Attributes:
        states: The states after the last step, name to array, `(batch, width)`, by the names of
            `export_model`; None before the first one. They may be set, to go on from there.
    """

    def __init__(self, model):
        functional = getattr(model, "_functional", model)
        if not isinstance(functional, keras_private.Functional):
            raise ValueError(
                "stream: `model` must be a functional model, or a sequential one that knows its "
                f"input. Received: {model!r}."
            )
        self._stepper, self._last = Stepper(model), None
        timed = [len(x.shape) > 1 and x.shape[1] is None for x in functional.inputs]
        if not any(timed):
            raise ValueError(
                "stream: an input must have an unknown number of steps, (batch, None, ...). "
                f"Received: {[(x.name, x.shape) for x in functional.inputs]}."
            )
        self._call = tf.function(self._stepper, autograph=False, reduce_retracing=True)
        self._shapes = [tuple(x.shape) for x in functional.inputs]
        self.states = None
        check_pieces(self._stepper, "stream")

    def step(self, inputs):
        """Returns what the model answers to the next steps, as arrays.

        Args:
            inputs: As the model is called with: a window of one step or more, `(batch, steps,
                ...)`. Masked steps (of a `Masking` layer, for example) change no state; a piece
                that begins with some answers them with zeros, as a sequence does.

        Raises:
            ValueError: If there are other rows than before, or inputs lack the axis of steps.
        """
        inputs = tree.map_structure(tf.convert_to_tensor, inputs)
        received = [tuple(x.shape) for x in tree.flatten(inputs)]
        if [len(shape) for shape in received] != [len(shape) for shape in self._shapes]:
            raise ValueError(
                f"stream: a step must be a window of steps, of the shapes {self._shapes}. "
                f"Received: shapes {received}. One step has the length 1 on the axis of steps."
            )
        rows = tree.flatten(inputs)[0].shape[0]
        states = self._stepper.zeros(rows) if self.states is None else self.states
        kept = len(next(iter(states.values())))
        if rows != kept:
            raise ValueError(
                f"stream: each step must be of as many rows as the states, {kept}. Received: "
                f"{rows} rows. `reset()` begins anew, with any number."
            )
        answers, states = self._call(inputs, tree.map_structure(tf.convert_to_tensor, states))
        self.states = tree.map_structure(np.asarray, states)
        self._last = tree.map_structure(np.asarray, answers)
        return self._last

    def flush(self):
        """Ends the sequence: the next step begins another.

        Returns:
            The answer to the last step, or None if there was none: nothing is held back, as every
            step is answered when it is read.
        """
        last = self._last
        self.reset()
        return last

    def reset(self, rows=None):
        """Forgets what was read.

        Args:
            rows: Optional bool, `(batch,)`: the rows that begin anew. Default: all.

        Raises:
            ValueError: If `rows` are not as many as the states'.
        """
        if rows is None:
            self.states = self._last = None
        elif self.states is not None:
            rows, kept = np.asarray(rows, bool), len(next(iter(self.states.values())))
            if rows.shape != (kept,):
                raise ValueError(
                    f"stream: `rows` must be bool, one a row of the batch, ({kept},). Received: "
                    f"rows.shape={rows.shape}."
                )
            self.states = {n: np.where(rows[:, None], 0, s) for n, s in self.states.items()}
