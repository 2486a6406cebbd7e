"""Writes models for LiteRT (TensorFlow Lite) with its built-in operations alone.

An LSTM is one of these operations.
"""

import os
import re
import tempfile
import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_gated import keras_private
from keras_gated.cells.arguments import boolean, check_backend, tensorflow_for
from keras_gated.convert import files
from keras_gated.convert.examples import TOLERANCE, random_inputs, typical_inputs
from keras_gated.convert.keras_classes import check_own_call
from keras_gated.convert.keras_layers import from_keras, has_keras_layers
from keras_gated.convert.litert import check, operations, typical
from keras_gated.convert.windows import of_windows, stepper_of, timed_of
from keras_gated.layers.base import RNN

_STEPS = 5  # in the batch that tests a written model, if the number of steps is free
_WINDOWS = 3  # of a streaming file, compared with the whole sequence
_ASKED = 8  # the most inputs that a file is tested with


class LiteRT(NamedTuple):
    """What was written.

    path: The path of the file, a string.
    size: The size of the file in bytes.
    milliseconds: The time of a call on one thread, the fastest of ten.
    difference: The largest difference from the model's answers, divided by the largest answer (by
        1 if that is smaller).
    operations: How often each operation of LiteRT stands in the file, by name.
    fused: The names of the recurrent layers that are one operation, UNIDIRECTIONAL_SEQUENCE_LSTM.
    not_fused: The name of each other recurrent layer, and why it is not one operation.
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
    """Writes a functional or sequential model for LiteRT, and compares the file with the model.

    An LSTM becomes one operation with the same equations if it uses `tanh`, `sigmoid` and no mask,
    and if nothing reads its final memory. So does an LSTM of `keras.layers`. `fused` of the result
    names these layers. Any other recurrent layer becomes a loop. With `quantize="int8"` or
    `states=True` it is written out step by step instead. It keeps its masks. Text stays outside.

    The batch has a fixed size, because an interpreter without TensorFlow's own kernels needs it.
    The number of steps stays free, from one on: `interpreter.resize_tensor_input` sets it. With
    `quantize="int8"` or `states=True` it is fixed. Inputs and outputs stand in the model's order.

    `quantize="int8"` is for microcontrollers. Inputs and outputs are numbers of 8 bits, with the
    scale and zero point of `interpreter.get_input_details()`; ids stay whole numbers. A fused LSTM
    then keeps its state between calls: **call `interpreter.reset_all_variables()`
    (`MicroInterpreter::Reset()`) before each sequence**, or the LSTM continues the last sequence.
    A layer that is written out needs no reset, but some 8 kB a step: for long sequences write a
    file of single steps, `states=True`.

    `states=True` writes a file for streaming, which reads a window of `steps` steps. The states of
    the recurrent layers are further inputs, `<layer>_hidden` and `<layer>_memory` as in
    `export_model`, `(batch, units)`. They begin as zeros. The file returns the new states after
    the model's outputs, and keeps nothing between calls. In 8 bits pass a state in as it came out:
    both have the same scale and zero point. A state then begins with that zero point. The memory of
    an LSTM is cut at -4 and 4, where `tanh` is -1 and 1 in 8 bits.

    Args:
        model: The Keras model.
        path: Where to write the file. It is replaced as a whole, once everything else is done.
        batch_size: Rows of a batch.
        steps: The number of steps of the batch that tests and times the file, default 5. With
            `quantize="int8"` the number of steps of the file, by default that of
            `representative`. With `states=True` the number of steps of a window, default 1.
        quantize: "dynamic" stores weights in 8 bits (dynamic-range quantisation): a quarter of the
            size. It does so for matrices of 1,024 numbers or more, and for a fused LSTM if its
            features times its units are that many. "int8" computes in 8 bits, too. Answers then
            differ a little; the caller judges by how much.
        representative: For `quantize="int8"`: an iterable of a hundred or so typical inputs, each
            as the model is called with, of `batch_size` rows, whole sequences with `states=True`.
            The scales follow from the values that these inputs produce in the model.
        states: Whether the states are inputs and outputs.
        fused: Whether an LSTM may be one operation. Microcontrollers run the operation, and it is
            faster than a loop for few units. Where XNNPACK runs the products of a loop (the
            default of LiteRT's interpreter on a processor), loops are faster from about 64 units
            on, and in 8 bits more so: False writes loops.
        int8: What `quantize="dynamic"` was called before; it is refused.

    Returns:
        A `LiteRT`.

    Raises:
        ValueError: If Keras runs on another backend than TensorFlow, if the model needs more than
            built-in operations, runs `TimeDistributed` over a free number of steps, keeps its
            states itself, answers the same inputs differently at another time, if (with
            `states=True`) a layer is called with an `initial_state` or pieces of a sequence would
            be answered differently from the whole one, or (without `quantize`) if the file's
            answers differ by more than 1e-4 of the largest answer, or of 1. A file that stood at
            `path` then stays as it was.
        ImportError: If ai-edge-litert or TensorFlow is not installed.
    """
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "to_litert: ai-edge-litert is not installed. Install it: pip install "
            "'keras_gated[litert]'."
        ) from error
    tensorflow_for("to_litert")
    check_backend("to_litert")
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
    _check_maps(model, specs)
    from keras_gated.convert.litert.graph import Graph  # it needs TensorFlow

    if states:
        _check_windows(stepper, functional, timed)
        stepper = typical.InEightBits(stepper) if examples else stepper
    graph = Graph(model, specs, stepper, quantize == "int8", fused)
    samples = typical.samples(examples, specs, stepper, model, steps, timed) if examples else None
    content = _converted(graph, quantize, samples)
    content = operations.with_scales_of_the_kernel(content) if quantize == "int8" else content
    content = operations.in_order(content, [spec.name for spec in specs], graph.outputs)
    found = operations.operations_of(content)
    if found.get(operations.LSTM, 0) != graph.calls:
        raise ValueError(
            f"to_litert: LiteRT's converter made {found.get(operations.LSTM, 0)} operations of "
            f"{graph.calls} calls of an LSTM. Nothing was written. Please report it."
        )
    if not examples:
        length = _WINDOWS * steps if states else steps
        # Without masks: at masked steps a window begins with zeros, as a new sequence does.
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
            f"largest answer (accepted: {TOLERANCE:.0e}). Nothing was written. Please report it."
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
        batch_size: The rows of all inputs.
        steps: The number of steps where it is unknown, or None: it stays free.
    """
    tf = tensorflow_for("to_litert")
    specs = [
        tf.TensorSpec(
            [batch_size, *(n or steps for n in t.shape[1:2]), *t.shape[2:]],
            t.dtype,
            re.sub(r"[^\w.]", "_", t.name),  # a signature allows no other characters in names
        )
        for t in model.inputs
    ]
    for name, spec in (stepper.states if stepper else {}).items():
        specs.append(tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype, name))
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError(
            "to_litert: every input and state must have a name of its own. Received: "
            f"{[spec.name for spec in specs]}. Give inputs or recurrent layers other names."
        )
    return specs


def _check_maps(model, specs):
    """Raises if a layer runs another one at every step of a free number: by a map of TensorFlow."""
    if all(None not in spec.shape for spec in specs):
        return
    if free := sorted(set(_over_free_steps(model))):
        raise ValueError(
            f"to_litert: the `TimeDistributed` layers {free} run over a free number of steps, "
            "which LiteRT's converter writes wrongly. Received: inputs "
            f"{[(t.name, t.shape) for t in model.inputs]}. Give the inputs a fixed number, "
            "`keras.Input((steps, ...))`, or leave `TimeDistributed` out around a `Dense`, which "
            "reads each step by itself."
        )


def _over_free_steps(model):
    """Yields the names of `TimeDistributed` layers that a model calls on free numbers of steps."""
    for nodes in getattr(model, "_functional", model)._nodes_by_depth.values():
        for node in nodes:
            free = [x.shape[1:2] == (None,) for x in node.input_tensors]
            if node.is_input or not any(free):
                continue
            if isinstance(node.operation, (keras.Sequential, keras_private.Functional)):
                yield from _over_free_steps(node.operation)
            elif isinstance(node.operation, keras.layers.TimeDistributed) and free[0]:
                yield node.operation.name


def _check_windows(stepper, model, timed):
    """Raises if a model cannot be read window by window."""
    from keras_gated.serve.streaming import check_pieces  # it needs TensorFlow

    cut = check_pieces(stepper, "to_litert")
    if whole := [x.name for n, x in enumerate(model.inputs) if timed[n] and n not in cut]:
        raise ValueError(
            f"to_litert: {model.name!r} looks at all steps of the inputs {whole} at every step, "
            "but with `states=True` a file reads windows. Received: inputs with a free number of "
            "steps. Give these inputs a fixed number, `keras.Input((steps, ...))`."
        )


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
    """Returns a model of our layers, and the recurrent layers that are not converted, with why."""
    check_own_call(model, "to_litert")
    functional = getattr(model, "_functional", model)
    if not isinstance(functional, keras_private.Functional):
        raise ValueError(
            "to_litert: `model` must be a functional model, or a sequential one that knows its "
            f"input. Received: {model!r}."
        )
    double = [x.name for x in keras_private.parts_of(model) if x.compute_dtype == "float64"]
    if double:
        raise ValueError(
            f"to_litert: the layers {double} are of float64, in which LiteRT cannot compute. Build "
            "the model with `dtype='float32'`, and give it the weights: "
            "new.set_weights(old.get_weights())."
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

    It goes through a SavedModel: from any other source the converter drops the marks of an LSTM.
    """
    tf = tensorflow_for("to_litert")
    module = tf.Module()
    module.function = graph.function
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
        try:
            tf.saved_model.save(module, folder, signatures=graph.function)
        except tf.errors.OpError as error:  # a full disk: TensorFlow does not raise OSError
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
        except Exception as error:  # the converter's own kinds, with pages of source lines
            needed = [
                line for line in str(error).splitlines() if line.startswith(("TF Select", "\ttf."))
            ]
            raise ValueError(
                "to_litert: the model needs more than LiteRT's built-in operations"
                f"{' of 8 bits' if quantize == 'int8' else ''}. "
                f"{' '.join(needed) or str(error)[-300:]} Leave the layers that need them outside."
            ) from error
