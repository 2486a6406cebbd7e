"""The weights of a `torch.nn.RNN`, `LSTM` or `GRU`: found, and checked. No torch is needed."""

import re
from collections.abc import Mapping

import numpy as np

_KEY = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(\d+)(_reverse)?")
_RNN = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}
_CELLS = ("RNNCell", "LSTMCell", "GRUCell")
_GATES = (1, 3, 4)  # of an RNN, a GRU, an LSTM


def source_of(source, activation, owner):
    """Returns a state dict, and the activation and dropout of the module that it is of."""
    dropout = 0.0
    if hasattr(source, "named_modules") and not isinstance(source, type):
        mode = getattr(source, "mode", None)
        if mode not in (*_RNN, "LSTM", "GRU"):
            raise ValueError(
                f"{owner}: the module must be a torch.nn.RNN, LSTM or GRU. Received: a "
                f"{type(source).__name__}{_way_out(source)}"
            )
        activation, dropout = _RNN.get(mode, "tanh"), source.dropout
        source = source.state_dict()
    if not isinstance(source, Mapping) or not all(isinstance(key, str) for key in source):
        raise ValueError(
            f"{owner}: `module_or_state_dict` must be a torch.nn.RNN, LSTM or GRU, or its state "
            f"dict: arrays by their names. Received: {str(source)[:60]!r} (of type "
            f"{type(source).__name__}). Of a file, pass what it holds: torch.load(path, "
            "weights_only=True), or dict(numpy.load(path))."
        )
    return source, activation, dropout


def _way_out(module):
    """Returns what to pass in the place of a module that is not converted."""
    if type(module).__name__ in _CELLS:
        return (
            ", a cell. Pass its weights under the names of a layer: "
            'from_torch({f"{n}_l0": w for n, w in cell.state_dict().items()}).'
        )
    inside = [
        name
        for name, part in module.named_modules()
        if getattr(part, "mode", None) in (*_RNN, "LSTM", "GRU")
    ]
    cells = [n for n, part in module.named_modules() if type(part).__name__ in _CELLS]
    if not inside and cells:
        return f", which holds the cells {', '.join(cells)}: pass one of them."
    if not inside:
        return ", which holds no recurrent module. Its other layers are not converted."
    return (
        f", which holds {', '.join(inside)}. Pass one of them, or the state dict with its "
        f'`prefix`: from_torch(module.state_dict(), prefix="{inside[0]}.") (other modules are not '
        "converted)."
    )


def arrays_of(source, prefix, owner):
    """Returns a state dict's arrays by (name, layer, whether of the backward direction)."""
    if not isinstance(prefix, str):
        raise ValueError(
            f'{owner}: `prefix` must be the text before the names, for example "lstm.". Received: '
            f"{prefix!r}."
        )
    arrays = {}
    for key, value in source.items():
        if not key.startswith(prefix):
            continue
        name = key[len(prefix) :]
        match = _KEY.fullmatch(name)
        if not match:
            raise ValueError(
                f"{owner}: {key!r} is no weight of a torch.nn.RNN, LSTM or GRU. Expected "
                "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 and so on; of a larger model, "
                'pass `prefix`: what stands before these names, for example "lstm.".'
            )
        array = _array(value)
        if array.dtype.name not in ("float16", "float32", "float64"):
            told = f"{getattr(value, 'dtype', type(value))}"
            raise ValueError(
                f"{owner}: {key!r} must be a dense array of floats. Received: {told} of the shape "
                f"{tuple(getattr(value, 'shape', ()))}. Of a quantised module, pass the one before."
            )
        arrays[match[1], int(match[2]), bool(match[3])] = array
    if ("weight_hh", 0, False) not in arrays:
        raise ValueError(
            f"{owner}: the state dict lacks {prefix}weight_hh_l0. Received: {sorted(source)}. Pass "
            "the state dict of a torch.nn.RNN, LSTM or GRU, or `prefix`."
        )
    return arrays


def _array(value):
    """Returns an array, of objects for what is none: a sparse tensor, lists of several lengths."""
    try:
        if hasattr(value, "detach"):  # a tensor of torch
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return np.asarray(None)


def layout_of(arrays, owner):
    """Returns the number of layers, whether they read backwards (a list), and the entries' names.

    Raises:
        ValueError: If an entry is missing or has another shape or dtype than the others say.
    """
    number = 1 + max(layer for _, layer, _ in arrays)
    number = min(number, len(arrays))  # each layer has entries: beyond, some are missing
    directions = sorted({reverse for _, _, reverse in arrays})
    use_bias = any(name.startswith("bias") for name, _, _ in arrays)
    projects = any(name == "weight_hr" for name, _, _ in arrays)
    names = ("weight_ih", "weight_hh") + (("bias_ih", "bias_hh") if use_bias else ())
    names += ("weight_hr",) if projects else ()
    wanted = {(n, layer, d) for n in names for layer in range(number) for d in directions}
    if wanted != set(arrays) or directions not in ([False], [False, True]):
        missing = sorted(map(_key, wanted - set(arrays))) or ["those of the forward direction"]
        raise ValueError(
            f"{owner}: the state dict lacks {', '.join(missing)}. Received: "
            f"{sorted(map(_key, arrays))}. Pass all entries of the module."
        )
    size = arrays["weight_hh", 0, False].shape
    width = units = size[1] if len(size) == 2 else 0
    if projects:  # of an LSTM: (width, units)
        units = arrays["weight_hr", 0, False].shape[-1:]
        units = units[0] if units else 0
    gates = size[0] / units if units else 0
    if gates not in ((4,) if projects else _GATES):
        raise ValueError(
            f"{owner}: weight_hh_l0 must have shape (gates * units, units), with 1 (RNN), 3 (GRU) "
            f"or 4 (LSTM) gates. Received: weight_hh_l0.shape={size}."
        )
    _check_shapes(arrays, int(gates), units, width, len(directions), owner)
    return number, directions, names


def _key(place):
    name, layer, reverse = place
    return f"{name}_l{layer}{'_reverse' if reverse else ''}"


def _check_shapes(arrays, gates, units, width, directions, owner):
    for place, array in arrays.items():
        name, layer, _ = place
        matrices = {"weight_hh": (gates * units, width), "weight_hr": (width, units)}
        expected = matrices.get(name, (gates * units,))
        if name == "weight_ih":
            of_first = (*arrays["weight_ih", 0, False].shape[1:2], "features")[0]
            expected = (gates * units, directions * width if layer else of_first)
        if array.shape != expected or array.dtype != arrays["weight_hh", 0, False].dtype:
            raise ValueError(
                f"{owner}: {_key(place)} must have shape {expected}, as weight_hh_l0 says "
                f"{gates} gate(s) of {units} units, and its dtype. Received: {_key(place)}.shape="
                f"{array.shape} of {array.dtype}."
            )
