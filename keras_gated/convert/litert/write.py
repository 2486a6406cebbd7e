"""Models for LiteRT (TensorFlow Lite), of its built-in operations alone: an LSTM is one of them."""

import os
import re
import tempfile
import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_gated import keras_private
from keras_gated.cells.arguments import boolean, tensorflow_for
from keras_gated.convert import files
from keras_gated.convert.examples import TOLERANCE, random_inputs, typical_inputs
from keras_gated.convert.keras_layers import from_keras, has_keras_layers
from keras_gated.convert.litert import check, operations, typical
from keras_gated.convert.windows import MIXED, of_windows, stepper_of, timed_of
from keras_gated.layers.base import RNN

_STEPS = 5  # of the batch that a written model is asked, where the number of steps is free
_WINDOWS = 3  # of a streaming file, compared with the whole sequence
_ASKED = 8  # inputs that a file is asked, at most


class LiteRT(NamedTuple):
    """What was written.

    path: Where, a string.
    size: Bytes.
    milliseconds: Of a call, the fastest of ten, on one thread.
    difference: The largest from the model's answers, in parts of the largest one, at least 1.
    operations: How often each operation of LiteRT stands in the file, by name.
    fused: The names of the recurrent layers that are one operation, UNIDIRECTIONAL_SEQUENCE_LSTM.
    not_fused: The name of each other recurrent layer, and why it is not.
    not_on_microcontrollers: The operations that LiteRT for Microcontrollers does not have (see
        `operations.MICROCONTROLLERS`).
    """

    path: str
    size: int
    milliseconds: float
    difference: float
    operations: dict
    fused: tuple
    not_fused: dict
    not_on_microcontrollers: tuple


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    batch_size: int = 1,
    steps: int | None = None,
    quantize: str | None = None,
    representative=None,
    states: bool = False,
    fused: bool = True,
    int8=None,
) -> LiteRT:
    """Writes a functional or sequential model for LiteRT, and asks it there.

    Every LSTM is one operation where it can be (`fused` of what is returned), with the same
    equations: `tanh`, `sigmoid`, no mask, and nothing reads its final memory. Layers of
    `keras.layers` are, too. Any other recurrent layer is a loop, or with `quantize="int8"` or
    `states=True` written out step by step, with the same masks. Text stays outside.

    The batch is of a fixed size, as an interpreter without TensorFlow's own kernels needs it. The
    number of steps stays free, from one on: `interpreter.resize_tensor_input` sets it. With
    `quantize="int8"` or `states=True` it is fixed. Inputs and outputs stand in the model's order.

    `quantize="int8"` is for microcontrollers: numbers of 8 bits go in and come out, with the scale
    and zero of `interpreter.get_input_details()`; ids stay whole numbers. A fused LSTM keeps its
    state there: **call `interpreter.reset_all_variables()` (`MicroInterpreter::Reset()`) before
    each sequence**, or the LSTM goes on from the last one. What is written out needs no reset, and
    some 8 kB a step: for long sequences write a file of single steps, `states=True`.

    `states=True` writes a file for streaming: it reads a window of `steps` steps, takes the states
    of the recurrent layers as further inputs, `<layer>_hidden` and `<layer>_memory` as in
    `export_model`, `(batch, units)`, zeros to begin with, and returns the new ones after the
    model's outputs. Nothing is kept between calls. In 8 bits a state goes in as it came out: both
    have the same scale and zero, and it begins with that zero.

    Args:
        model: The Keras model.
        path: Where to write the file. It is replaced as a whole, once everything else is done.
        batch_size: Rows of a batch.
        steps: Steps of the batch that it is asked and timed with, default 5; with
            `quantize="int8"` those of the file, default: as in `representative`; with
            `states=True` those of a window, default 1.
        quantize: "dynamic" stores weights in 8 bits (dynamic-range quantisation), where a matrix
            has 1,024 numbers or more, and an LSTM of one operation that many features times units:
            a quarter of the size. "int8" computes in 8 bits, too. Answers then differ a little;
            the caller judges by how much.
        representative: For `quantize="int8"`: an iterable of a hundred or so typical inputs, each
            as the model is called with, of `batch_size` rows, whole sequences with `states=True`.
            Of what they reach in the model the scales are made.
        states: Whether the states are inputs and outputs.
        fused: Whether an LSTM may be one operation. It is what microcontrollers run, and the
            faster of the two for few units. Where XNNPACK runs the products of a loop (the
            default of LiteRT's interpreter on a processor), loops are faster from about 64 units
            on, and in 8 bits more so: False writes loops.
        int8: What `quantize="dynamic"` was called before; it is refused.

    Returns:
        A `LiteRT`.

    Raises:
        ValueError: If the model needs more than built-in operations, keeps its states itself,
            answers the same inputs differently at another time, or (without `quantize`) answers
            differently by more than 1e-4 of the largest answer, or of 1. Then a file that stood at
            `path` is as it was.
        ImportError: If ai-edge-litert is not installed.
    """
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "to_litert: ai-edge-litert is not installed. Install it: pip install "
            "'keras_gated[litert]'."
        ) from error
    target = files.target(path, "to_litert")
    _check_arguments(batch_size, steps, quantize, representative, int8)
    states, fused = boolean("to_litert", "states", states), boolean("to_litert", "fused", fused)
    model, unconverted = _of_our_layers(model)
    functional = getattr(model, "_functional", model)  # what a sequential model is once it is built
    if any(t.shape[:1] not in ((None,), (batch_size,), ()) for t in functional.inputs):
        raise ValueError(
            "to_litert: `batch_size` must be the model's, where that is fixed: "
            f"{[(t.name, t.shape) for t in functional.inputs]}. Received: batch_size={batch_size}."
        )
    timed = timed_of(functional)
    examples = None
    if quantize == "int8":
        examples = typical_inputs(functional, representative, "to_litert", batch_size)
        examples = examples if len(examples) > 1 else 2 * examples
        if not states:
            steps = steps or typical.steps_of(examples[0], timed)
        typical.check_steps(examples, timed, steps or 1, states)
    steps = steps or (1 if states else _STEPS)
    stepper = stepper_of(model, "to_litert") if states else None
    specs = _specs(functional, stepper, batch_size, steps if states or examples else None)
    from keras_gated.convert.litert.graph import Graph  # needs TensorFlow

    graph = Graph(model, specs, stepper, quantize == "int8", fused)
    samples = typical.samples(examples, specs, stepper, model, steps, timed) if examples else None
    content = _converted(graph, quantize, samples)
    content = operations.in_order(content, [spec.name for spec in specs], graph.outputs)
    found = operations.operations_of(content)
    if found.get(operations.LSTM, 0) != graph.calls:
        raise ValueError(
            f"to_litert: LiteRT's converter made {found.get(operations.LSTM, 0)} operations of "
            f"{graph.calls} calls of an LSTM. Nothing was written. Please report it."
        )
    if not examples:
        length = _WINDOWS * steps if states else steps
        # A window that begins with masked steps answers zeros there, as a sequence does.
        valid = np.ones((batch_size, length), bool) if states else None
        examples = [random_inputs(functional, batch_size, length, n, valid) for n in (0, 1)]
    asked = check.Asked(content, [[steps if n is None else n for n in s.shape] for s in specs])
    if states:
        differs = of_windows(asked, functional, stepper, examples[:_ASKED], steps, timed)
    else:
        differs = check.of_calls(asked, functional, examples[:_ASKED], quantize == "int8")
    if not quantize and not differs <= TOLERANCE:
        raise ValueError(
            f"to_litert: {model.name!r} answers differently in LiteRT, by {differs:.2g} of its "
            f"largest answer (accepted: {TOLERANCE:.0e}). Nothing was written. "
            + (MIXED if states else "Please report it.")
        )
    files.write_whole(target, content)
    return LiteRT(
        path=str(path),
        size=len(content),
        milliseconds=asked.milliseconds(),
        difference=differs,
        operations=found,
        fused=tuple(graph.fused),
        not_fused={**graph.not_fused, **unconverted},
        not_on_microcontrollers=tuple(sorted(set(found) - operations.MICROCONTROLLERS)),
    )


def _specs(model, stepper, batch_size, steps):
    """Returns a named specification for each input, and for each state.

    Args:
        model: The functional model.
        stepper: Its `Stepper`, or None.
        batch_size: Rows of all.
        steps: What stands for an unknown number of steps, or None: it stays free.
    """
    tf = tensorflow_for("to_litert")
    specs = [
        tf.TensorSpec(
            [batch_size, *(n or steps for n in t.shape[1:2]), *t.shape[2:]],
            t.dtype,
            re.sub(r"[^\w.]", "_", t.name),  # as a signature's names must be
        )
        for t in model.inputs
    ]
    for name, spec in (stepper.states if stepper else {}).items():
        specs.append(tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype, name))
    return specs


def _check_arguments(batch_size, steps, quantize, representative, int8):
    if int8 is not None:
        raise ValueError(
            "to_litert: `int8` is now called `quantize`: 'dynamic' for weights of 8 bits, as "
            f"`int8=True` wrote them; 'int8' for 8 bits throughout. Received: int8={int8!r}."
        )
    for name, value in (("batch_size", batch_size), ("steps", steps or _STEPS)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"to_litert: `{name}` must be a whole number above 0. Received: {name}={value!r}."
            )
    if quantize not in (None, "dynamic", "int8"):
        raise ValueError(
            f"to_litert: `quantize` must be None, 'dynamic' or 'int8'. Received: {quantize!r}."
        )
    if (quantize == "int8") != (representative is not None):
        raise ValueError(
            "to_litert: `representative` must be given with `quantize='int8'`, and with nothing "
            f"else: typical inputs, of which the scales are made. Received: quantize={quantize!r}, "
            f"representative={'None' if representative is None else 'something'}."
        )


def _of_our_layers(model):
    """Returns a model of our layers, and its recurrent layers that stay as they are, with why."""
    functional = getattr(model, "_functional", model)
    if not isinstance(functional, keras_private.Functional):
        raise ValueError(
            "to_litert: `model` must be a functional model, or a sequential one that knows its "
            f"input. Received: {model!r}."
        )
    stateful = [x.name for x in keras_private.parts_of(model) if getattr(x, "stateful", False)]
    if stateful:
        raise ValueError(
            f"to_litert: a file cannot keep states of the layers {stateful} as they do. Build the "
            "model with `stateful=False`, load the same weights, and write it with `states=True`: "
            "the states are then inputs and outputs."
        )
    reason = "it is neither a layer of keras_gated nor one that `from_keras` converts"
    if has_keras_layers(model):
        try:
            model = from_keras(model)
        except ValueError as error:
            reason = str(error)
    others = [
        x.name
        for x in keras_private.parts_of(model)
        if isinstance(x, keras.layers.RNN) and not isinstance(x, RNN)
    ]
    return model, dict.fromkeys(others, reason)


def _converted(graph, quantize, samples):
    """Returns the file's bytes.

    It goes through a SavedModel, as the converter drops from anything else what marks an LSTM.
    """
    tf = tensorflow_for("to_litert")
    module = tf.Module()
    module.function = graph.function
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
        try:
            tf.saved_model.save(module, folder, signatures=graph.function)
        except tf.errors.OpError as error:  # a full disk, which is no OSError to TensorFlow
            raise OSError(
                f"to_litert: the converter reads the model from {folder}, where it cannot be "
                f"written: {error.message}. The environment variable TMPDIR names another folder."
            ) from error
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "int8":
            converter.representative_dataset = lambda: iter(samples)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        try:
            return converter.convert()
        except Exception as error:  # of the converter's own kinds, with pages of places
            needed = [
                line for line in str(error).splitlines() if line.startswith(("TF Select", "\ttf."))
            ]
            raise ValueError(
                "to_litert: the model needs more than LiteRT's built-in operations"
                f"{' of 8 bits' if quantize == 'int8' else ''}. "
                f"{' '.join(needed) or str(error)[-300:]} Leave the layers that need them outside."
            ) from error
