"""TensorFlow Serving's REST format: JSON to tensors and back."""

import base64
import json

import c_session
import numpy as np


def read_request(body, session):
    """Returns the signature's name, the inputs as arrays, and whether they came row by row.

    Raises:
        c_session.RequestError: Saying what does not fit.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise c_session.RequestError(f"JSON Parse error: {error}") from None
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise c_session.RequestError(
            "Request must be a JSON object with one of 'instances' and 'inputs'"
        )
    name = request.get("signature_name") or "serving_default"
    if name not in session.signatures:
        raise c_session.RequestError(f"Serving signature name: {name!r} not found in signature def")
    signature = session.signatures[name]
    by_row = "instances" in request
    given = _columns(request["instances"], signature) if by_row else request["inputs"]
    if not isinstance(given, dict) or set(given) - set(signature.inputs) == set(given):
        if len(signature.inputs) > 1:
            raise c_session.RequestError(
                f"'inputs' must be an object with the inputs {sorted(signature.inputs)}"
            )
        given = {next(iter(signature.inputs)): given}
    if set(given) != set(signature.inputs):
        raise c_session.RequestError(
            f"input names must be {sorted(signature.inputs)}; received: {sorted(given)}"
        )
    return name, {k: _array(k, v, signature.inputs[k]) for k, v in given.items()}, by_row


def _columns(instances, signature):
    if not isinstance(instances, list) or not instances:
        raise c_session.RequestError("'instances' must be a list of at least one row")
    if not isinstance(instances[0], dict) or set(instances[0]) == {"b64"}:
        return instances
    if any(not isinstance(row, dict) or set(row) != set(signature.inputs) for row in instances):
        raise c_session.RequestError(
            f"every row of 'instances' must give {sorted(signature.inputs)}"
        )
    return {name: [row[name] for row in instances] for name in signature.inputs}


def _array(name, value, info):
    dtype = c_session.DTYPES[info.dtype]
    try:
        if info.dtype == c_session.STRING:
            array = np.array(_to_bytes(value), object)
        else:
            array = np.array(value)
            if not np.can_cast(array.dtype, dtype, "same_kind") and array.size:
                raise ValueError(f"{array.dtype} is not {dtype}")
            array = array.astype(dtype)
            if array.size and dtype.kind == "i" and (array != np.array(value)).any():
                raise ValueError(f"{value} is out of range")
    except (ValueError, TypeError, OverflowError) as error:
        raise c_session.RequestError(
            f"Tensor {name!r} cannot be read as {dtype if info.dtype != 7 else 'strings'}: {error}"
        ) from None
    expected = [dim.size for dim in info.tensor_shape.dim]
    if len(expected) != array.ndim or any(
        n not in (-1, m) for n, m in zip(expected, array.shape, strict=True)
    ):
        raise c_session.RequestError(
            f"Tensor {name!r} must be of shape {expected}, -1 for any size; received: "
            f"{list(array.shape)}"
        )
    return array


def _to_bytes(value):
    if isinstance(value, list):
        return [_to_bytes(one) for one in value]
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    raise TypeError(f"{value!r} is neither a string nor {{'b64': ...}}")


def write_answer(answer, by_row):
    """Returns the body of a response."""
    columns = {name: _to_json(array.tolist()) for name, array in answer.items()}
    if not by_row:
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _to_json(value):
    if isinstance(value, list):
        return [_to_json(one) for one in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
