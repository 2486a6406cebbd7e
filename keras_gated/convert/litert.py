"""Models for LiteRT (TensorFlow Lite), of its built-in operations alone."""

import os
import time
from typing import NamedTuple

import keras
import numpy as np
from keras import tree

from keras_gated import keras_private
from keras_gated.cells.arguments import tensorflow_for
from keras_gated.convert import files
from keras_gated.convert.examples import TOLERANCE, difference, random_inputs
from keras_gated.layers import config

_STEPS = 5  # of the batch that a written model is asked, where the number of steps is free


class LiteRT(NamedTuple):
    """What was written."""

    path: str
    size: int  # bytes
    milliseconds: float  # the fastest of ten calls, on one thread
    difference: float  # the largest from the model's answers, in parts of the largest, at least 1


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    batch_size: int = 1,
    steps: int | None = None,
    int8: bool = False,
) -> LiteRT:
    """Writes a functional or sequential model for LiteRT, and asks it there.

    The batch is of a fixed size, as an interpreter without TensorFlow's own kernels needs it; the
    number of steps stays free: `interpreter.resize_tensor_input` sets it. Recurrent layers become
    loops as `keras.layers` runs them, with the same masks. Text stays outside.

    Args:
        model: The Keras model.
        path: Where to write the file. It is replaced as a whole, once everything else is done.
        batch_size: Rows of a batch.
        steps: Steps of the batch that it is asked and timed with; default: 5.
        int8: Whether weights are stored in 8 bits (dynamic-range quantisation): a quarter of the
            size, and answers that differ a little; the caller judges by how much.

    Returns:
        A `LiteRT`: the path, the size in bytes, the milliseconds of a call and the difference from
        the model.

    Raises:
        ValueError: If the model needs more than built-in operations, or (without `int8`) answers
            differently by more than 1e-4 of the largest answer, or of 1. Then a file that stood at
            `path` is as it was.
        ImportError: If ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "to_litert: ai-edge-litert is not installed. Install it: pip install "
            "'keras_gated[litert]'."
        ) from error
    target = files.target(path, "to_litert")
    for name, value in (("batch_size", batch_size), ("steps", steps or _STEPS)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"to_litert: `{name}` must be a whole number above 0. Received: {name}={value!r}."
            )
    functional = getattr(model, "_functional", model)  # what a sequential model is once it is built
    if not isinstance(functional, keras_private.Functional):
        raise ValueError(
            "to_litert: `model` must be a functional model, or a sequential one that knows its "
            f"input. Received: {model!r}."
        )
    tf = tensorflow_for("to_litert")
    specs = [tf.TensorSpec([batch_size, *t.shape[1:]], t.dtype, t.name) for t in functional.inputs]
    given = tree.pack_sequence_as(functional.input, specs)
    traced = tf.function(lambda given: model(given, training=False), autograph=False)
    with config.cells_loop():  # of the loops, LiteRT has operations for Keras's alone
        written = _converted(_frozen(traced.get_concrete_function(given)), int8)
    interpreter = Interpreter(model_content=written, num_threads=1)
    inputs = random_inputs(functional, batch_size, steps or _STEPS, seed=0)
    differs, milliseconds = _asked(interpreter, functional, inputs)
    if not int8 and not differs <= TOLERANCE:
        raise ValueError(
            f"to_litert: {model.name!r} answers differently in LiteRT, by {differs:.2g} of its "
            f"largest answer (accepted: {TOLERANCE:.0e}). Nothing was written. Please report it."
        )
    files.write_whole(target, written)
    return LiteRT(str(path), len(written), milliseconds, differs)


def _frozen(function):
    """Returns a function with constants for variables: a loop in LiteRT cannot read variables."""
    return keras_private.convert_variables_to_constants_v2(function)


def _converted(function, int8):
    tf = tensorflow_for("to_litert")
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    try:
        return converter.convert()
    except Exception as error:  # of the converter's own kinds, with pages of places
        needed = [
            line for line in str(error).splitlines() if line.startswith(("TF Select", "\ttf."))
        ]
        raise ValueError(
            "to_litert: the model needs more than LiteRT's built-in operations. "
            f"{' '.join(needed) or str(error)[-300:]} Leave the layers that need them outside."
        ) from error


def _asked(interpreter, model, inputs):
    """Returns the largest difference from the model's answers, and the milliseconds of a call."""
    details = interpreter.get_input_details()  # in the order of the function's, as the outputs are
    for detail, value in zip(details, inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], value.shape)
    interpreter.allocate_tensors()
    for detail, value in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    seconds = []
    for _ in range(11):
        start = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - start)
    received = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    expected = [
        np.asarray(e) for e in tree.flatten(model(tree.pack_sequence_as(model.input, inputs)))
    ]
    return difference(received, expected), 1e3 * min(seconds[1:])
