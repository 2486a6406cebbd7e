"""TensorFlow Serving's REST format: JSON to tensors and back."""

import base64
import binascii
import json
import math
import re

import c_session
import numpy as np

TYPES = {  # TensorFlow's number of a type: its name, and the values that fit
    1: ("float", None),
    2: ("double", None),
    3: ("int32", range(-(1 << 31), 1 << 31)),
    7: ("string", None),
    9: ("int64", range(-(1 << 63), 1 << 63)),
    10: ("bool", None),
}
PARSE_ERRORS = {  # the words of Python's parser: the words of the server's
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or } after an object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}
# Escapes of a JSON text that are to be read together, or half of a pair that stands alone.
ESCAPES = re.compile(
    r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<lone>\\u[dD][89a-fA-F])", re.DOTALL
)
MOST_SHOWN = 256  # the most characters of a value in an error


def parse(body):
    """Returns the JSON object of a request. Text after the object is not read.

    Raises:
        RequestError: If the request is wrong. So do all functions of this module.
    """
    text = body.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    start, decoder = len(text) - len(text.lstrip(" \t\r\n")), json.JSONDecoder(parse_float=_float)
    if start == len(text):
        raise c_session.RequestError("JSON Parse error: The document is empty")
    try:
        request, end = decoder.raw_decode(text, start)
        for escape in ESCAPES.finditer(text, start, end):
            if escape["lone"]:
                message = "The surrogate pair in string is invalid."
                raise json.JSONDecodeError(message, text, escape.start())
    except json.JSONDecodeError as error:
        words = PARSE_ERRORS.get(error.msg.rstrip(": "), error.msg)
        if error.msg == "Expecting ',' delimiter" and _in_list(decoder, text, start, error.pos):
            words = "Missing a comma or ] after an array element."
        offset = len(text[: error.pos].encode(errors="surrogateescape"))
        raise c_session.RequestError(f"JSON Parse error: {words} at offset: {offset}") from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of 5,000 digits
        raise c_session.RequestError(f"JSON Parse error: {error}") from None
    if not isinstance(request, dict):
        raise c_session.RequestError(f"JSON Value: {_shown(request)} Is not object")
    if not isinstance(request.get("signature_name", ""), str):
        raise c_session.RequestError(
            f"JSON Value: {_shown(request)} not formatted correctly. 'signature_name' key must be "
            "a string value."
        )
    return request


def _in_list(decoder, text, start, place):
    """Returns whether a list may end at a place of a text."""
    try:
        decoder.raw_decode(text[:place] + "]", start)
    except json.JSONDecodeError as error:
        return error.pos > place
    return True


def _float(digits):
    value = float(digits)
    if math.isinf(value):
        raise ValueError("Number too big to be stored in double.")
    return value


def check_examples(request):
    """Refuses what is no request to classify or regress examples."""
    if "examples" not in request:
        raise c_session.RequestError(
            f"JSON Value: {_shown(request)} When method is classify, key 'examples' is expected "
            "and was not found"
        )
    _check_list(request, "examples", "'examples' value", "'examples' value is an empty array")
    for example in request["examples"]:
        if not isinstance(example, dict):
            raise c_session.RequestError(
                f"Example must be JSON object but got JSON {_kind(example)}"
            )


def _check_list(request, key, wanted, empty):
    """Refuses what is no list with a value, in the words that the server has for this key."""
    if not isinstance(request[key], list):
        raise c_session.RequestError(
            f"JSON Value: {_shown(request)} Expecting {wanted} to be an list/array"
        )
    if not request[key]:
        raise c_session.RequestError(f"JSON Value: {_shown(request)} {empty}")


def read(request, signatures):
    """Returns the signature's name, the inputs as arrays, and whether they are given row by row.

    Args:
        request: From `parse`.
        signatures: Name to `SignatureDef`.
    """
    name = request.get("signature_name") or "serving_default"
    if name not in signatures:
        raise c_session.RequestError(f'Serving signature name: "{name}" not found in signature def')
    expected = signatures[name].inputs
    if not expected:
        raise c_session.RequestError(f"Failed to get input map for signature: {name}")
    if "instances" in request and "inputs" in request:
        raise c_session.RequestError(
            f"JSON Value: {_shown(request)} Not formatted correctly expecting only one of 'inputs' "
            "or 'instances' keys to exist "
        )
    if "instances" in request:
        _check_list(request, "instances", "'instances'", "No values in 'instances' array")
        return name, _rows(request["instances"], expected), True
    if "inputs" in request:
        return name, _columns(request["inputs"], expected), False
    raise c_session.RequestError("Missing 'inputs' or 'instances' key")


def _columns(given, expected):
    """Returns the inputs of a signature. Other inputs are ignored."""
    if not isinstance(given, dict) or _is_base64(given):
        if len(expected) > 1:
            raise c_session.RequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        given = {next(iter(expected)): given}
    for name in expected:
        if name not in given:
            raise c_session.RequestError(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(given[name], info.dtype) for name, info in expected.items()}


def _rows(instances, expected):
    if not isinstance(instances[0], dict) and len(expected) > 1:
        raise c_session.RequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    by_name, rows = _is_named(instances[0]), {name: [] for name in expected}
    for place, row in enumerate(instances):
        if _is_named(row) != by_name:
            wanted = "object but got list" if by_name else "value/list but got object"
            raise c_session.RequestError(f"Expecting {wanted} at item {place} of input list")
        for name, value in row.items() if by_name else [(next(iter(expected)), row)]:
            try:
                array = _row(name, value, rows, expected)
            except c_session.RequestError as error:
                key = f" key: {name}" if by_name else ""
                raise c_session.RequestError(
                    f"Failed to process element: {place}{key} of 'instances' list. Error: "
                    f"{error.code}: {error}"
                ) from None
            rows[name].append(array)
        if by_name and set(row) != set(expected):
            raise c_session.RequestError(
                f"Failed to process element: {place} of 'instances' list. JSON object: "
                f"{_shown(row)} keys must be equal to: {','.join(sorted(expected))}"
            )
    return {name: np.stack(arrays) for name, arrays in rows.items()}


def _row(name, value, rows, expected):
    if name not in expected:
        raise c_session.RequestError(f"JSON object: does not have named input: {name}")
    array = _array(value, expected[name].dtype)
    first = rows[name][0] if rows[name] else array
    if first.size != array.size:
        raise c_session.RequestError(f"Expecting tensor size: {first.size} but got: {array.size}")
    if first.shape != array.shape:
        raise c_session.RequestError(f"Expecting shape {_shape(first)} but got: {_shape(array)}")
    return array


def _shape(array):
    return "[" + ",".join(map(str, array.shape)) + "]"


def _array(value, number):
    """Returns a value as an array. Its first elements decide on the shape that all must have."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > c_session.MOST_AXES or number not in TYPES:
        raise c_session.RequestError(
            f"Conversion of JSON Value: {_shown(value)} to {len(shape)} axes of type {number}",
            "UNIMPLEMENTED",
        )
    leaves = []
    _collect(value, 0, shape, number, leaves)
    flat = np.empty(len(leaves), c_session.DTYPES[number])
    try:
        with np.errstate(over="ignore"):
            flat[:] = leaves
    except OverflowError:
        raise c_session.RequestError(
            "JSON Parse error: Number too big to be stored in double."
        ) from None
    return flat.reshape(shape)


def _collect(value, level, shape, number, leaves):
    if not isinstance(value, list):
        if level != len(shape):
            raise c_session.RequestError(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, number))
        return
    if level >= len(shape):
        raise c_session.RequestError(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(value) != shape[level]:
        raise c_session.RequestError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for one in value:
        _collect(one, level + 1, shape, number, leaves)


def _leaf(value, number):
    kind, fitting = TYPES[number]
    if kind == "string":
        if isinstance(value, dict):
            return _from_base64(value)
        fits = isinstance(value, str)
    elif kind == "bool" or isinstance(value, bool):
        fits = kind == "bool" and isinstance(value, bool)
    else:
        whole = isinstance(value, int)
        fits = (whole and value in fitting) if fitting else whole or isinstance(value, float)
    if not fits:
        raise c_session.RequestError(
            f"JSON Value: {_shown(value)} Type: {_kind(value)} is not of expected type: {kind}"
        )
    # Bytes that are not UTF-8 stay as they are.
    return value.encode(errors="surrogateescape") if kind == "string" else value


def _is_base64(value):
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_named(row):
    return isinstance(row, dict) and not _is_base64(row)


def _from_base64(value):
    if not _is_base64(value):
        raise c_session.RequestError(
            f"JSON Value: {_shown(value)} not formatted correctly for base64 data"
        )
    given = "".join(value["b64"].split())
    digits = given.rstrip("=")
    padding = "=" * (-len(digits) % 4)  # may be left out, but not in part
    try:
        return base64.b64decode(digits + padding if given == digits else given, validate=True)
    except (binascii.Error, ValueError):
        raise c_session.RequestError("Unable to base64 decode") from None


def _shown(value):
    return json.dumps(value)[:MOST_SHOWN]


def _kind(value):
    kinds = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return str(value) if isinstance(value, bool) else kinds.get(type(value), "Number")


def write(answer, by_row):
    """Returns the body of a response.

    Args:
        answer: Output name to array.
        by_row: Whether the request gave its inputs row by row. The answer has the same form.
    """
    if by_row:
        rows = {array.shape[:1] for array in answer.values()}
        if () in rows or len(rows) > 1:
            raise c_session.RequestError(
                "outputs have no batch axis, or inconsistent batch sizes: "
                f"{ {name: list(array.shape) for name, array in answer.items()} }"
            )
    columns = {
        name: _strings(array.tolist(), name.endswith("_bytes"))
        if array.dtype == object
        else _shortest(array).tolist()
        for name, array in answer.items()
    }
    if not by_row:
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _shortest(array):
    """Returns an array whose numbers of 32 bits are as short as the server writes them."""
    if array.dtype != np.float32:
        return array
    # Many are equal: zeros at the end. As bits, since -0.0 equals 0.0.
    bits, places = np.unique(array.view("uint32"), return_inverse=True)
    values = bits.view("float32")
    short = np.array([float(f"{value:.6g}") for value in values.tolist()])
    long = short.astype(np.float32) != values
    short[long] = [float(f"{value:.9g}") for value in values[long].tolist()]
    return short[places].reshape(array.shape)


def _strings(value, as_base64):
    if isinstance(value, list):
        return [_strings(one, as_base64) for one in value]
    if as_base64:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="surrogateescape")
