"""Finds and checks the weights of PyTorch's recurrent modules. torch is not needed."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_NAMES = r"(?:weight|w)_(?:ih|hh|hr)|(?:bias|b)_(?:ih|hh)"
_KEY = re.compile(
    r"(?P<prefix>(?:.*?[._/])??)(?P<parametrized>parametrizations\.)?"
    rf"(?P<name>{_NAMES})(?:_l(?P<layer>0|[1-9][0-9]{{0,8}})(?P<reverse>_reverse)?)?"
    r"(?P<rest>(?(parametrized)\..+|(?:_[a-z]+)?))"
)
# The suffixes of the sizes and of the directions, in both kinds of weight_norm.
_WEIGHT_NORM = (("_g", "_v"), (".original0", ".original1"))
_RNN = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}
_LAYERS = ("RNN", "LSTM", "GRU")
_CELLS = ("RNNCell", "LSTMCell", "GRUCell")
_WANTED = "a torch.nn.RNN, LSTM, GRU or a cell of them"
_GATES = (1, 3, 4)  # of an RNN, a GRU, an LSTM
_DEPTH = 4  # the deepest level of dicts in a checkpoint that is searched


class Source(NamedTuple):
    """A state dict, the prefix of the module in it, and the options that it does not hold."""

    state_dict: Mapping
    prefix: str | None
    activation: str
    dropout: float = 0.0
    module: Any = None


def is_weight(key):
    """Whether an entry of this name may belong to a recurrent module."""
    return _KEY.fullmatch(key) is not None


def source_of(source, prefix, activation, owner):
    """Returns the `Source` of a module or of a state dict."""
    if activation not in _RNN.values():
        raise ValueError(
            f"{owner}: `activation` must be 'tanh' or 'relu', those of torch.nn.RNN. Received: "
            f"activation={activation!r}."
        )
    if prefix is not None and not isinstance(prefix, str):
        raise ValueError(
            f'{owner}: `prefix` must be the text before the names, for example "lstm.", or None. '
            f"Received: {prefix!r}."
        )
    if hasattr(source, "named_modules") and not isinstance(source, type):
        return _of_module(source, prefix, activation, owner)
    if isinstance(source, Mapping):
        found = dict(_state_dicts(source))
        if len(found) > 1:
            names = " and ".join(".".join(map(str, keys)) for keys in found)
            raise ValueError(
                f"{owner}: the checkpoint holds several state dicts: {names}. Pass one of them."
            )
        source = next(iter(found.values()), source)
    if not isinstance(source, Mapping) or not all(isinstance(key, str) for key in source):
        raise ValueError(
            f"{owner}: `module_or_state_dict` must be {_WANTED}, a model that holds one, its state "
            f"dict (arrays by their names), or the path of a file. Received: {str(source)[:60]!r} "
            f"(of type {type(source).__name__})."
        )
    return Source(source, prefix, activation)


def _state_dicts(source, keys=()):
    """Yields the dicts in a checkpoint that hold recurrent weights: (keys to the dict, dict)."""
    if any(isinstance(key, str) and is_weight(key) for key in source):
        yield keys, source
        return
    for key, value in source.items():
        if isinstance(value, Mapping) and len(keys) < _DEPTH:
            yield from _state_dicts(value, (*keys, key))


def _of_module(module, prefix, activation, owner):
    inside = {
        f"{name}." if name else "": part
        for name, part in module.named_modules()
        if _is_recurrent(part)
    }
    if not inside:
        raise ValueError(
            f"{owner}: the module must be {_WANTED}, or hold one. Received: a "
            f"{type(module).__name__}, which holds no recurrent module. Its other layers are not "
            "converted."
        )
    part = inside[_choice(inside, prefix, f"a {type(module).__name__}", owner)]
    if ".quantized." in type(part).__module__:
        raise ValueError(
            f"{owner}: the module must have its weights as floats. Received: a quantised "
            f"{type(part).__name__}. Of a quantised module, pass the one before."
        )
    for name, steps in getattr(part, "parametrizations", {}).items():
        kinds = [type(step).__name__ for step in steps]
        if kinds != ["_WeightNorm"]:
            raise ValueError(
                f"{owner}: of the parametrizations weight_norm alone is converted. Received: "
                f"{', '.join(kinds)} of {name}. {_FOLD}"
            )
    activation = _RNN.get(getattr(part, "mode", None), activation)
    activation = getattr(part, "nonlinearity", activation)
    return Source(part.state_dict(), "", activation, getattr(part, "dropout", 0.0), part)


def check_own_forward(module, owner):
    """Raises if a module of torch does not compute what its class does: by a subclass, by hooks."""
    order = type(module).__mro__
    extended = next((cls for cls in order if cls.__module__.startswith("torch.")), None)
    own = order[: order.index(extended)] if extended else ()
    if any("forward" in vars(cls) for cls in own):
        raise ValueError(
            f"{owner}: a {type(module).__name__} has a `forward` of its own, and only the weights "
            f"of its {extended.__name__} are converted. The answers may be others: check=True "
            "compares them. Or pass the state dict."
        )
    kinds = "_forward_hooks", "_forward_pre_hooks"  # weight_norm is such a hook, and is converted
    hooks = [hook for kind in kinds for hook in getattr(module, kind, {}).values()]
    if not all(type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks):
        raise ValueError(
            f"{owner}: a {type(module).__name__} has a forward hook, and only its weights are "
            "converted. The answers may be others: check=True compares them. Or remove the hook."
        )


def _is_recurrent(module):
    if hasattr(module, "_orig_mod"):  # of torch.compile: the module inside is found, too
        return False
    if getattr(module, "mode", None) in (*_RNN, "LSTM", "GRU"):
        return True
    if any(cls.__name__ in _CELLS for cls in type(module).__mro__):
        return True
    # A traced module has lost its class and attributes; another class may have the same name.
    of_torch = getattr(module, "original_name", None) in (*_LAYERS, *_CELLS)
    return of_torch and any(name in module.state_dict() for name in ("weight_hh_l0", "weight_hh"))


def _choice(prefixes, prefix, what, owner):
    """Returns the prefix that was asked for, or the only one."""
    listed = ", ".join(map(repr, prefixes))
    if prefix is None and len(prefixes) > 1:
        raise ValueError(
            f"{owner}: {what} holds {len(prefixes)} recurrent modules. Pass the `prefix` of one of "
            f"them: {listed}."
        )
    if prefix is not None and prefix not in prefixes:
        raise ValueError(
            f"{owner}: `prefix` must be the whole text before the names of a recurrent module. "
            f"Received: prefix={prefix!r}. {what} has: {listed}."
        )
    return next(iter(prefixes)) if prefix is None else prefix


def arrays_of(source, prefix, owner):
    """Returns a state dict's arrays by (name, layer, whether of the backward direction).

    The layer of a cell is None. A weight that weight_norm stored as two entries is computed.
    """
    found = {}
    for key in source:
        match = _KEY.fullmatch(key)
        if match:
            layer = match["layer"] and int(match["layer"])
            name = re.sub("^w_", "weight_", re.sub("^b_", "bias_", match["name"]))
            place = name, layer, bool(match["reverse"])
            entries = found.setdefault(match["prefix"], {}).setdefault(place, {})
            entries[match["rest"]] = key
    if not found:
        raise ValueError(
            f"{owner}: the state dict lacks weight_hh_l0 or, of a cell, weight_hh. Received: "
            f"{_listed(source)}. Pass the state dict of {_WANTED}."
        )
    prefix = _choice(found, prefix, "the state dict", owner)
    whole = prefix.endswith(".") or not prefix  # a module's name: all its entries are of the module
    for key in source:
        own = key.removeprefix(prefix) if whole and key.startswith(prefix) else "."
        if not _KEY.fullmatch(key) and ("." not in own or own.startswith("parametrizations.")):
            raise ValueError(
                f"{owner}: {key!r} is no weight of {_WANTED}. Expected weight_ih_l0, weight_hh_l0, "
                "bias_ih_l0, bias_hh_l0 and so on, without _l0 of a cell. Leave it out if it says "
                "nothing of the module's answers."
            )
    arrays = {place: _weight(source, keys, owner) for place, keys in found[prefix].items()}
    cells = {layer is None for _, layer, _ in arrays}
    first = "weight_hh", None if cells == {True} else 0, False
    if len(cells) > 1 or first not in arrays:
        raise ValueError(
            f"{owner}: the state dict lacks {prefix}{_key(first)}, or is of a layer and a cell. "
            f"Received: {_listed(source)}. Pass all entries of one module."
        )
    return arrays


def _listed(names, most=20):
    names = sorted(names)
    return f"{names[:most]}" + (f" and {len(names) - most} more" if len(names) > most else "")


_FOLD = (
    "Pass the module after torch.nn.utils.parametrize.remove_parametrizations (of the older ones "
    "remove_spectral_norm, prune.remove), which leaves the weight that counts."
)


def _weight(source, keys, owner):
    """Returns the array of one weight from its entry, or from the two entries of weight_norm."""
    if set(keys) == {""}:
        return _floats(source, keys[""], owner)
    for pair in _WEIGHT_NORM:
        if set(keys) == set(pair):
            return _normed(*(_floats(source, keys[rest], owner) for rest in pair), keys, owner)
    raise ValueError(
        f"{owner}: of the parametrizations weight_norm alone is converted. Received: "
        f"{', '.join(sorted(keys.values()))}. {_FOLD}"
    )


def _normed(size, direction, keys, owner):
    """Returns g * v / |v|: Salimans and Kingma 2016, arXiv:1602.07868, equation 2.

    The norm is over the axes in which g is of length 1: all but the first, unless weight_norm was
    given another `dim`.
    """
    shape = size.shape or (1,) * direction.ndim  # with dim=None the size is one number
    fits = len(shape) == direction.ndim and all(
        one in (1, whole) for one, whole in zip(shape, direction.shape, strict=True)
    )
    if not fits or size.dtype != direction.dtype:
        raise ValueError(
            f"{owner}: of {' and '.join(keys.values())} (weight_norm) the first must have the "
            "shape of the second with axes of length 1, and its dtype. Received: shapes "
            f"{size.shape} and {direction.shape} of {size.dtype} and {direction.dtype}."
        )
    axes = tuple(axis for axis, one in enumerate(shape) if one == 1)
    wide = direction.astype(np.promote_types(direction.dtype, "float32"))
    with np.errstate(invalid="ignore"):  # torch gives NaN, too, where v is zero
        norm = np.sqrt(np.sum(wide * wide, axis=axes, keepdims=True))
        return (size.reshape(shape) * wide / norm).astype(direction.dtype)


def _floats(source, key, owner):
    array = _array(source[key])
    if array.dtype.name not in ("float16", "float32", "float64"):
        value = source[key]
        if str(getattr(value, "device", "")) == "meta":
            raise ValueError(
                f"{owner}: {key!r} must be a dense array of floats. Received: a tensor on the "
                "device 'meta', which holds no numbers. Load the weights of the module first."
            )
        raise ValueError(
            f"{owner}: {key!r} must be a dense array of floats. Received: "
            f"{getattr(value, 'dtype', type(value))} of the shape "
            f"{tuple(getattr(value, 'shape', ()))}. Of a quantised module, pass the one before."
        )
    return array


def _array(value):
    """Returns an array. For a sparse tensor or uneven lists, an array of objects."""
    try:
        if hasattr(value, "detach"):  # a tensor of torch
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        array = np.asarray(value)
        return array.astype("float32") if array.dtype.name == "bfloat16" else array
    except (ValueError, TypeError, RuntimeError):
        return np.asarray(None)


def layout_of(arrays, owner):
    """Returns the layers (for a cell [None]), the directions (True: backwards), and the names.

    Raises:
        ValueError: If an entry is missing, or its shape or dtype does not fit the others.
    """
    layers = [None]
    if ("weight_hh", None, False) not in arrays:
        number = 1 + max(layer for _, layer, _ in arrays)
        # Each layer has entries. With more layers than entries, some entries are missing.
        layers = range(min(number, len(arrays)))
    directions = sorted({reverse for _, _, reverse in arrays})
    use_bias = any(name.startswith("bias") for name, _, _ in arrays)
    projects = any(name == "weight_hr" for name, _, _ in arrays)
    names = ("weight_ih", "weight_hh") + (("bias_ih", "bias_hh") if use_bias else ())
    names += ("weight_hr",) if projects else ()
    wanted = {(n, layer, d) for n in names for layer in layers for d in directions}
    if wanted != set(arrays) or directions not in ([False], [False, True]):
        missing = sorted(map(_key, wanted - set(arrays))) or ["those of the forward direction"]
        raise ValueError(
            f"{owner}: the state dict lacks {', '.join(missing)}. Received: "
            f"{sorted(map(_key, arrays))}. Pass all entries of the module."
        )
    first = "weight_hh", layers[0], False
    size = arrays[first].shape
    units = size[1] if len(size) == 2 else 0
    if projects:  # an LSTM's `weight_hr`: (width, units)
        units = arrays["weight_hr", layers[0], False].shape[-1:]
        units = units[0] if units else 0
    gates = size[0] / units if units else 0
    if gates not in ((4,) if projects else _GATES):
        raise ValueError(
            f"{owner}: {_key(first)} must have shape (gates * units, units), with 1 (RNN), 3 (GRU) "
            f"or 4 (LSTM) gates. Received: {_key(first)}.shape={size}."
        )
    _check_shapes(arrays, first, int(gates), units, len(directions), owner)
    return list(layers), directions, names


def _key(place):
    name, layer, reverse = place
    return name if layer is None else f"{name}_l{layer}{'_reverse' if reverse else ''}"


def _check_shapes(arrays, first, gates, units, directions, owner):
    width = arrays[first].shape[1]
    inputs = (*arrays["weight_ih", first[1], False].shape[1:2], "features")[0]
    for place, array in arrays.items():
        name, layer, _ = place
        matrices = {"weight_hh": (gates * units, width), "weight_hr": (width, units)}
        expected = matrices.get(name, (gates * units,))
        if name == "weight_ih":
            expected = (gates * units, directions * width if layer else inputs)
        if array.shape != expected or array.dtype != arrays[first].dtype:
            raise ValueError(
                f"{owner}: {_key(place)} must have shape {expected}, as {_key(first)} says "
                f"{gates} gate(s) of {units} units, and its dtype. Received: {_key(place)}.shape="
                f"{array.shape} of {array.dtype}."
            )
