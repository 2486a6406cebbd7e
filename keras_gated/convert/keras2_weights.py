"""Which weights of a file of Keras 2 belong to which variables of a model, and in what form.

HDF5 files hold one list for each layer: the trainable weights, then the others. A model in a model
has one list for all its layers, in the order of its config. A config does not say which direction
of a `Bidirectional`, or whether the cell of a layer, was frozen. So the names of the weights tell
which layer inside a layer they belong to. `.keras` files, SavedModels and checkpoints also hold a
separate list for each layer inside a layer, at its place.
"""

import itertools
import math
import re
from typing import Any, NamedTuple

import numpy as np

from keras_gated.cells.base import UPDATE_WRITES
from keras_gated.cells.gates import GRU_GATES, from_library
from keras_gated.cells.gru import GRUCell
from keras_gated.convert.keras2_layers import MODELS, layers_in
from keras_gated.convert.keras_checks import RefusedError
from keras_gated.layers.families import GRU, LSTM

_OF_CUDNN = ("CuDNNLSTM", "CuDNNGRU")


class _Slot(NamedTuple):
    """A variable, the shape of its array in the file, and how the array is converted."""

    variable: Any
    shape: tuple
    convert: Any = np.asarray


class Step(NamedTuple):
    """A step on the path from a model to a layer in it."""

    role: str  # the attribute that holds it: "layers", "cell", "forward_layer", ...
    index: int = 0  # its place, if the attribute holds several layers
    key: str = ""  # its name in a `.keras` file, if the attribute holds several layers


def load_by_layer(model, spec, stored, names, by_order=False):
    """Assigns all weights of a model from one list for each of its layers.

    Args:
        model: What `model_of(spec)` returned.
        spec: The model's config.
        stored: Returns the weights of a layer by its name: a list of names and arrays.
        names: The layers of the file, in its order.
        by_order: Whether layers whose names differ are matched in their order, as in
            `load_weights` of Keras 2.

    Raises:
        RefusedError: If a layer's weights are too few, too many, or of another shape.
    """
    parts = [(name, part) for name, part in layers_in(spec) if part["class_name"] != "InputLayer"]
    own = {name: name for name, _ in parts}
    held = [name for name in names if stored(name)]
    if not set(held) <= set(own):
        weighted = [name for name, _ in parts if model.get_layer(name).weights]
        if not by_order or len(held) != len(weighted):
            raise RefusedError(
                f"there are weights of the layers {held}, and the model has the layers {weighted} "
                "with weights. The file is damaged, or of another model."
            )
        own = {**dict.fromkeys(own), **dict(zip(weighted, held, strict=True))}
    for name, part in parts:
        layer = model.get_layer(name)
        found = stored(own[name]) if own[name] else []
        kind, inside = part["class_name"], _by_name(layer, part, found)
        if inside is None:
            _assign(name, kind, found, lambda c, p=part, y=layer: _chain(_slots(y, p, c)))
        for one, of_one, own_found in inside or ():
            _assign(name, of_one, own_found, lambda c, y=one, k=of_one: _chain(_of_one(y, k, c)))


def load_by_place(model, spec, stored):
    """Assigns all weights of a model from a separate list for each layer inside a layer, too.

    Args:
        model: What `model_of(spec)` returned.
        spec: The model's config.
        stored: Takes a tuple of `Step`s to a layer, and the layer. Returns the weights at that
            place: a list of names and arrays.

    Raises:
        RefusedError: If a layer's weights are too few, too many, or of another shape.
    """
    for place, layer, kind in _leaves(model, spec):
        found = stored(place, layer)
        if any(label.endswith(UPDATE_WRITES) for label, _ in found):
            raise RefusedError(
                f"the weights of {layer.name!r} are of keras_gated's GRU. `model.load_weights` "
                "reads them."
            )
        _assign(layer.name, kind, found, lambda c, y=layer, k=kind: _chain(_of_one(y, k, c)))


def _by_name(layer, spec, found):
    """Returns the layers inside a layer, each with its class and its weights, or None.

    None if the names do not tell it of every weight, or do not give every layer as many as it has.
    """
    leaves = [leaf for leaf in _named(layer, spec) if leaf[1].weights]
    groups = [[] for _ in leaves]
    for label, array in found:
        parts = {*label.split("/")}
        fit = [own for (names, *_), own in zip(leaves, groups, strict=True) if names <= parts]
        if len(fit) != 1:
            return None
        fit[0].append((label, array))
    inside = [(one, kind, own) for (_, one, kind), own in zip(leaves, groups, strict=True)]
    return inside if all(len(one.weights) == len(own) for one, _, own in inside) else None


def _named(layer, spec, names=frozenset()):
    """Yields the layers inside a layer with the names that their weights have in Keras 2."""
    kind = spec["class_name"]
    parts = _parts(layer, spec)
    if parts is None:
        yield names, layer, kind
        return
    for (step, *_), part, of_part in parts:
        before = step.role.removesuffix("layer") if kind == "Bidirectional" else ""
        name = of_part["config"].get("name")
        if kind == "TimeDistributed":  # it gives its own name to the weights inside
            name = None
        own = frozenset([f"{before}{name}"] if name else [])
        yield from _named(part, of_part, names | own)


def _chain(lists):
    return list(itertools.chain(*lists))


def _leaves(layer, spec, place=()):
    """Yields the layers that hold weights themselves: (steps to the layer, layer, class)."""
    kind = spec["class_name"]
    parts = _parts(layer, spec)
    if parts is not None:
        for steps, part, of_part in parts:
            yield from _leaves(part, of_part, (*place, *steps))
    elif hasattr(layer, "cell") and kind not in _OF_CUDNN:
        yield (*place, Step("cell")), layer.cell, kind
    elif layer.weights or isinstance(layer, (LSTM, GRU)):
        yield place, layer, kind


def _assign(name, kind, found, slots_of):
    """Assigns the weights of a layer, in cuDNN's form or not: Keras 2 loaded either for either."""
    for cudnn in (kind in _OF_CUDNN, kind not in _OF_CUDNN):
        slots = slots_of(cudnn)
        fit = [s.shape == tuple(array.shape) for s, (_, array) in zip(slots, found, strict=False)]
        if len(slots) == len(found) and all(fit):
            break
    else:
        expected = [f"{s.variable.path} {s.shape}" for s in slots_of(kind in _OF_CUDNN)]
        received = [f"{label} {tuple(array.shape)}" for label, array in found]
        raise RefusedError(
            f"the weights of the layer {name!r}, a {kind}, do not fit. Expected: {expected}. "
            f"Received: {received}. The file is damaged, or its config is of another model."
        )
    for slot, (label, array) in zip(slots, found, strict=True):
        if np.dtype(array.dtype).kind not in "biuf":
            raise RefusedError(
                f"the weight {label!r} of the layer {name!r} must be numbers. Received: "
                f"dtype={array.dtype}. The file is damaged: save the model again."
            )
        slot.variable.assign(slot.convert(array[()]))


def _slots(layer, spec, cudnn):
    """Returns the slots of the trainable weights and of the others, in the order of Keras 2."""
    parts = _parts(layer, spec)
    if parts is None:
        trained, others = _of_one(layer, spec["class_name"], cudnn)
    else:
        found = [_slots(part, of_part, cudnn) for _, part, of_part in parts]
        trained, others = ([s for pair in found for s in pair[n]] for n in (0, 1))
    return (trained, others) if layer.trainable else ([], trained + others)


def _parts(layer, spec):
    """Returns the layers in a layer as (steps to it, layer, config), or None if it has none."""
    kind, config = spec["class_name"], spec["config"]
    if kind in MODELS:
        found = layers_in(spec)
        if kind == "Sequential":  # Keras 2 does not count its input
            found = [(name, part) for name, part in found if part["class_name"] != "InputLayer"]
        steps = _numbered("layers", [part for _, part in found])
        return [
            ((step,), layer.get_layer(name), part)
            for step, (name, part) in zip(steps, found, strict=True)
            if part["class_name"] != "InputLayer"
        ]
    if kind == "Bidirectional":
        backward = config.get("backward_layer") or config["layer"]
        return [
            ((Step("forward_layer"),), layer.forward_layer, config["layer"]),
            ((Step("backward_layer"),), layer.backward_layer, backward),
        ]
    if kind == "TimeDistributed":
        return [((Step("layer"),), layer.layer, config["layer"])]
    if kind == "RNN":
        cell = config["cell"]
        if isinstance(cell, list):
            cell = {"class_name": "StackedRNNCells", "config": {"cells": cell}}
        return [((Step("cell"),), layer.cell, cell)]
    if kind == "StackedRNNCells":
        cells = config["cells"]
        steps = _numbered("cells", cells)
        return [((s,), c, p) for s, c, p in zip(steps, layer.cells, cells, strict=True)]
    return None


def _numbered(role, specs):
    """Yields a step to each of several layers. A file numbers layers of the same class."""
    seen = {}
    for index, spec in enumerate(specs):
        name = re.sub(r"\W+", "", spec["class_name"].rpartition(">")[2])
        name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
        name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
        seen[name] = seen.get(name, -1) + 1
        yield Step(role, index, f"{name}_{seen[name]}" if seen[name] else name)


def _of_one(layer, kind, cudnn):
    trained, others = (
        [_Slot(variable, tuple(variable.shape)) for variable in variables]
        for variables in (layer.trainable_weights, layer.non_trainable_weights)
    )
    is_lstm = kind in ("LSTM", "CuDNNLSTM")
    if cudnn and (is_lstm or kind in ("GRU", "CuDNNGRU")):
        trained, others = (
            [_of_cudnn(s, s.variable.name, is_lstm) for s in slots] for slots in (trained, others)
        )
    if isinstance(layer, (GRU, GRUCell)):
        trained, others = ([_turned(s) for s in slots] for slots in (trained, others))
    return trained, others


def _turned(slot):
    """Converts a GRU's weights: Keras's update gate keeps what ours overwrites (`gates.py`)."""

    def convert(array):
        blocks = np.split(slot.convert(array), len(GRU_GATES), axis=-1)
        return np.concatenate(from_library("keras", GRU_GATES, blocks), axis=-1)

    return slot._replace(convert=convert)


def _of_cudnn(slot, name, is_lstm):
    """Converts weights that Keras 2 stored in cuDNN's form.

    Each gate's block is transposed, and the two biases stand in one row. The gates stand in the
    order of Keras.
    """
    gates = 4 if is_lstm else 3

    def of_gates(change):
        return lambda array: np.concatenate(
            [change(block) for block in np.split(array, gates, axis=-1)], axis=-1
        )

    if name == "kernel":
        return slot._replace(convert=of_gates(lambda k: k.T.reshape(k.shape, order="F")))
    if name == "recurrent_kernel":
        return slot._replace(convert=of_gates(np.transpose))
    width = math.prod(slot.shape) * (2 if is_lstm else 1)
    both = lambda array: array.reshape(2, -1)  # noqa: E731
    convert = (lambda array: both(array).sum(axis=0)) if is_lstm else both
    return slot._replace(shape=(width,), convert=convert)
