"""Compares the answers of a written model in onnxruntime with those of the model."""

import importlib.util

import keras
import numpy as np

from keras_gated.convert.examples import TOLERANCE, difference, fixed_sizes, random_inputs
from keras_gated.convert.windows import answers, of_windows, timed_of

_BATCHES = [(1, 1), (3, 7), (4, 12)]  # rows and steps, where the model leaves them free
_SHORTEN = {"Conv1D", "MaxPooling1D", "AveragePooling1D", "GetItem", "Functional", "Sequential"}
_MOST_TRIED = 11  # the most powers of two that `least_steps` tries


def wanted(check, owner):
    """Returns whether to check: by default where onnxruntime is installed.

    Args:
        check: True, False or None.
        owner: `"to_onnx"` or `"from_onnx"`.

    Raises:
        ImportError: If `check` is True and onnxruntime is not installed.
    """
    if check not in (None, True, False):
        raise ValueError(
            f"{owner}: `check` must be True, False or None (True where onnxruntime is installed). "
            f"Received: {check!r}."
        )
    installed = importlib.util.find_spec("onnxruntime") is not None
    if check and not installed:
        unchecked = "write the file" if owner == "to_onnx" else "read the file"
        raise ImportError(
            f"{owner}: `check=True` asks onnxruntime, which is not installed. Install it (pip "
            f"install 'keras_gated[onnx]'), or {unchecked} unchecked: check=False."
        )
    return installed if check is None else bool(check)


def check_answers(content, model, backwards, lengths):
    """Raises if onnxruntime answers otherwise than the model, at random unequal lengths.

    Args:
        content: The file's bytes.
        model: The functional model.
        backwards: For every output, whether its steps are in reverse order.
        lengths: Whether the file has the input `lengths`. The model then reads the rows of each
            length apart, cut to that length.
    """
    try:
        session = session_of(content)
    except Exception as error:  # of onnxruntime's own kinds
        raise _cannot_run(model, error) from error
    fixed_rows, fixed_steps = fixed_sizes(model)
    least = least_steps(model)
    for seed, (rows, steps) in enumerate(_BATCHES):
        rows, steps = fixed_rows or rows, fixed_steps or steps + least - 1
        of_rows = np.full(rows, steps, "int32")
        if lengths and not fixed_steps:
            rng = np.random.default_rng(seed)
            of_rows[1:] = rng.choice(rng.integers(least, steps + 1, 2), rows - 1)
        valid = np.arange(steps) < of_rows[:, None] if lengths else None
        given = random_inputs(model, rows, steps, seed, valid)
        named = dict(zip((t.name for t in model.inputs), given, strict=True))
        named.update({"lengths": of_rows} if lengths else {})
        received = _run(session, named, model)
        for length in sorted(set(of_rows)):
            cut = [
                x[:, :length] if len(t.shape) > 1 and t.shape[1] is None else x
                for x, t in zip(given, model.inputs, strict=True)
            ]
            own = of_rows == length
            expected = [y[own] for y in _answers(model, cut)]
            parts = [
                _steps_of(y[own], e, b)
                for y, e, b in zip(received, expected, backwards, strict=True)
            ]
            _compare(parts, expected, model, cut)
    if sum(timed_of(model)) > 1 and not lengths and not fixed_steps:
        _check_unequal_steps(session, model, fixed_rows or 3, least)


def _check_unequal_steps(session, model, rows, least):
    """Compares the answers where each input has other steps, if the model answers then."""
    given = [
        random_inputs(model, rows, least + 4 + 3 * place, place)[place]
        for place in range(len(model.inputs))
    ]
    try:
        expected = answers(model, given)
    except Exception:  # the backend's own kinds: the steps of these inputs belong together
        return
    received = _run(session, dict(zip((t.name for t in model.inputs), given, strict=True)), model)
    _compare(received, expected, model, given)


class Asked:
    """A file in onnxruntime. A call takes a list: the model's inputs, and then its states."""

    def __init__(self, content, model, lengths, states):
        try:
            self._session = session_of(content)
        except Exception as error:
            raise _cannot_run(model, error) from error
        self._model, self._lengths = model, lengths
        self._names = [*(t.name for t in model.inputs), *states]

    def __call__(self, values):
        named = dict(zip(self._names, values, strict=True))
        if self._lengths:
            steps = [v for v, t in zip(values, timed_of(self._model), strict=False) if t]
            shape = (steps or values)[0].shape
            named["lengths"] = np.full(shape[0], shape[1], "int32")
        return _run(self._session, named, self._model)


def differs_by(asked, model, stepper, examples):
    """Returns the largest difference of a file's answers from the model's.

    Args:
        asked: An `Asked`.
        model: The functional model.
        stepper: Its `Stepper` if the file takes states, or None. The file then reads step by step
            the sequences that the model reads as a whole.
        examples: Lists of inputs, in the model's order.
    """
    if stepper:
        return of_windows(asked, model, stepper, examples, 1, timed_of(model))
    return max(difference(asked(values), _answers(model, values)) for values in examples)


def examples_of(model, streamed):
    """Returns lists of random inputs; those for a stream have no masked steps."""
    fixed_rows, fixed_steps = fixed_sizes(model)
    least, found = 1 if streamed else least_steps(model), []
    for seed, (rows, steps) in enumerate(_BATCHES):
        rows, steps = fixed_rows or rows, fixed_steps or steps + least - 1
        valid = np.ones((rows, steps), bool) if streamed else None
        found.append(random_inputs(model, rows, steps, seed, valid))
    return found


def check_windows(asked, model, stepper):
    """Raises if a file answers otherwise step by step than the model to the whole sequence."""
    differs = differs_by(asked, model, stepper, examples_of(model, streamed=True))
    if not differs <= TOLERANCE:
        raise ValueError(
            f"to_onnx: {model.name!r} answers otherwise in onnxruntime step by step, by "
            f"{differs:.2g} of its largest answer (accepted: {TOLERANCE:.0e}). Nothing was "
            "written. It cannot be read window by window if a layer besides the recurrent ones "
            "looks at more than one step (`Conv1D`, pooling, attention). check=False writes the "
            "file all the same."
        )


def may_shorten(model):
    """Whether an output may have other steps than the input."""
    return bool({type(operation).__name__ for operation in model.operations} & _SHORTEN)


def least_steps(model):
    """Returns the number of steps with which no tensor of a model is empty, or 1.

    Convolutions, pooling and parts of tensors may need more than one. Powers of two are tried.
    """
    if not may_shorten(model):
        return 1
    tensors = [
        tensor
        for nodes in model._nodes_by_depth.values()
        for node in nodes
        for tensor in node.outputs
    ]
    whole = keras.Model(model.inputs, tensors)
    for steps in (2**n for n in range(_MOST_TRIED)):
        given = random_inputs(model, 1, steps, 0)
        try:
            found = whole(keras.tree.pack_sequence_as(whole.input, given), training=False)
        except Exception:  # the backend's own kinds: too few steps, or an error of `_answers`, too
            continue
        if all(np.prod(tensor.shape) for tensor in found):
            return steps
    return 1


def _steps_of(received, expected, backwards):
    """Returns the outputs of the expected number of steps, without those of padding."""
    if received.ndim < 2 or received.ndim != expected.ndim:
        return received
    steps = expected.shape[1]
    return received[:, received.shape[1] - steps :] if backwards else received[:, :steps]


def session_of(content, optimised=True):
    """Returns onnxruntime's session of a file: its bytes, or its path."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run(session, named, model):
    try:
        return session.run(None, named)
    except Exception as error:
        raise _cannot_run(model, error) from error


def _cannot_run(model, error):
    return ValueError(
        f"to_onnx: onnxruntime cannot run what was written of {model.name!r}: "
        f"{str(error).splitlines()[0][:300]} Nothing was written. For a runtime that can, write "
        "it unchecked: check=False."
    )


def _answers(model, given):
    try:
        return answers(model, given)
    except Exception as error:
        shapes = {t.name: x.shape for t, x in zip(model.inputs, given, strict=True)}
        raise ValueError(
            f"to_onnx: {model.name!r} does not answer random inputs of the shapes {shapes}, so "
            f"what was written cannot be compared: {str(error).splitlines()[0][:300]} Nothing was "
            "written. Write it unchecked: check=False."
        ) from error


def _compare(received, expected, model, given):
    differs = difference(received, expected)
    if not differs <= TOLERANCE:
        shapes = {t.name: x.shape for t, x in zip(model.inputs, given, strict=True)}
        raise ValueError(
            f"to_onnx: {model.name!r} answers otherwise in onnxruntime, by {differs:.2g} of its "
            f"largest answer (accepted: {TOLERANCE:.0e}), to random inputs of the shapes {shapes}. "
            "Nothing was written. Please report it; check=False writes the file all the same."
        )
