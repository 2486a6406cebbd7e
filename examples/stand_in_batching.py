"""TensorFlow Serving's rules for large requests: refuse a request, run it whole, or in pieces.

Requests do not share batches here. The rules for the size of a request are the server's.
"""

import c_session
import numpy as np
import stand_in_config


def run(session, batching, signature, inputs, outputs=(), timeout_ms=0):
    """Returns the outputs of a signature, as `c_session.Session.run`.

    Args:
        batching: `BatchingParameters`, or None: any request runs whole.

    Raises:
        RequestError: With the server's words.
    """
    if batching is None:
        return session.run(signature, inputs, outputs, timeout_ms)
    session.check(signature, inputs, outputs)
    rows = _rows(inputs)
    most, at_once = stand_in_config.sizes(batching)
    if rows > most:
        raise c_session.RequestError(
            f"Task size {rows} is larger than maximum input batch size {most}"
        )
    pieces = []
    for first in range(0, max(rows, 1), at_once):
        piece = {name: array[first : first + at_once] for name, array in inputs.items()}
        answer = session.run(signature, piece, outputs, timeout_ms)
        _check_rows(answer, min(at_once, rows - first))
        pieces.append(answer)
    return {name: _joined(name, [piece[name] for piece in pieces]) for name in pieces[0]}


def _rows(inputs):
    if not inputs:
        raise c_session.RequestError("Batching Run() must have at least one input tensor")
    if not all(array.ndim for array in inputs.values()):
        raise c_session.RequestError(
            "Batching Run() input tensors must have at least one dimension"
        )
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) > 1:
        raise c_session.RequestError(
            "Batching Run() input tensors must have equal 0th-dimension size"
        )
    return sizes.pop()


def _check_rows(answer, rows):
    for array in answer.values():
        if not array.ndim:
            raise c_session.RequestError(
                "Batched output tensor has 0 dimensions", "FAILED_PRECONDITION"
            )
        if len(array) != rows:
            raise c_session.RequestError(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
                "sizes of the input tensors",
                "FAILED_PRECONDITION",
            )


def _joined(name, arrays):
    """Joins the pieces' answers. Unlike the server, checks that their other sizes agree."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise c_session.RequestError(
            f"{name!r} has another shape in each piece of this request: "
            f"{sorted(shapes)} after the rows. A TensorFlow Serving that splits large batches ends "
            "here, or answers with foreign memory. Export outputs whose sizes after the first "
            "depend on the inputs' sizes alone, or ask for fewer rows at a time.",
            "INTERNAL",
        )
    return np.concatenate(arrays)
