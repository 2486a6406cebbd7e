"""Which weights of a file of Keras 2 belong to which variables of a model, and in what form.

Keras 2 stored a layer's weights in one list: those that are trained, then the others. A model in
a model has one list for all its layers, in the order of its config.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from keras_gated.cells.gates import GRU_GATES, from_library
from keras_gated.cells.gru import GRUCell
from keras_gated.convert.keras2_layers import MODELS, RefusedError, layers_in
from keras_gated.layers.families import GRU


class _Slot(NamedTuple):
    """A variable, the shape in which the file holds it, and how it is made of that."""

    variable: Any
    shape: tuple
    convert: Any = np.asarray


def load(model, spec, stored, names):
    """Assigns all weights of a model.

    Args:
        model: What `model_of(spec)` returned.
        spec: The model's config.
        stored: Returns the weights of a layer by its name: a list of names and arrays.
        names: The layers of the file.

    Raises:
        RefusedError: If a layer's weights are too few, too many, or of another shape.
    """
    parts = layers_in(spec)
    known = {name for name, _ in parts}
    further = [name for name in names if name not in known and stored(name)]
    if further:
        raise RefusedError(
            f"there are weights of {further}, which are no layers of the model's config. The "
            "file is damaged: save the model again."
        )
    for name, part in parts:
        if part["class_name"] == "InputLayer":
            continue
        slots = [slot for group in _slots(model.get_layer(name), part) for slot in group]
        _assign(name, part["class_name"], slots, stored(name))


def _assign(name, kind, slots, found):
    expected = [f"{s.variable.path} {s.shape}" for s in slots]
    received = [f"{label} {tuple(array.shape)}" for label, array in found]
    fit = [s.shape == tuple(array.shape) for s, (_, array) in zip(slots, found, strict=False)]
    if len(slots) != len(found) or not all(fit):
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


def _slots(layer, spec):
    """Returns the slots of what is trained and of the rest, in the order of Keras 2."""
    parts = _parts(layer, spec)
    if parts is None:
        trained, others = _of_one(layer, spec["class_name"])
    else:
        found = [_slots(part, of_part) for part, of_part in parts]
        trained, others = ([s for pair in found for s in pair[n]] for n in (0, 1))
    return (trained, others) if layer.trainable else ([], trained + others)


def _parts(layer, spec):
    """Returns the layers in a layer, each with its config, or None."""
    kind, config = spec["class_name"], spec["config"]
    if kind in MODELS:
        parts = [(n, p) for n, p in layers_in(spec) if p["class_name"] != "InputLayer"]
        return [(layer.get_layer(name), part) for name, part in parts]
    if kind == "Bidirectional":
        backward = config.get("backward_layer") or config["layer"]
        return [(layer.forward_layer, config["layer"]), (layer.backward_layer, backward)]
    if kind == "TimeDistributed":
        return [(layer.layer, config["layer"])]
    if kind == "RNN":
        cell = config["cell"]
        if isinstance(cell, list):
            return list(zip(layer.cell.cells, cell, strict=True))
        return [(layer.cell, cell)]
    if kind == "StackedRNNCells":
        return list(zip(layer.cells, config["cells"], strict=True))
    return None


def _of_one(layer, kind):
    trained, others = (
        [_Slot(variable, tuple(variable.shape)) for variable in variables]
        for variables in (layer.trainable_weights, layer.non_trainable_weights)
    )
    if kind in ("CuDNNLSTM", "CuDNNGRU"):
        trained, others = (
            [_of_cudnn(s, s.variable.name, kind == "CuDNNLSTM") for s in slots]
            for slots in (trained, others)
        )
    if isinstance(layer, (GRU, GRUCell)):
        trained, others = ([_turned(s) for s in slots] for slots in (trained, others))
    return trained, others


def _turned(slot):
    """Keras's update gate keeps what ours overwrites: see `gates.py`."""

    def convert(array):
        blocks = np.split(slot.convert(array), len(GRU_GATES), axis=-1)
        return np.concatenate(from_library("keras", GRU_GATES, blocks), axis=-1)

    return slot._replace(convert=convert)


def _of_cudnn(slot, name, is_lstm):
    """Keras 2 stored these as cuDNN reads them: each gate's block transposed, two biases in a row.

    The gates stand in the order of Keras.
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
