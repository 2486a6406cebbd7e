"""Whole models that Keras 2 saved: HDF5 files, and model objects of `tf_keras`.

A file holds the model's config as JSON (`model_config`) and its weights by layer
(`model_weights`). `keras2_layers.py` makes the layers, `keras2_weights.py` gives them the weights.
Nothing in a file is code that is run, and nothing leads out of it: no links, no pickles.
"""

import json
import os

import h5py

from keras_gated.convert.keras2_layers import RefusedError, model_of
from keras_gated.convert.keras2_weights import load
from keras_gated.convert.keras_checks import check_turned_masks

_KEPT = "The model must have been saved whole by Keras 2 (`model.save('model.h5')`)."


def from_file(path, owner):
    """Returns the model of an HDF5 file of Keras 2, with our recurrent layers.

    Raises:
        ValueError: If it holds no such model, or one that cannot be converted exactly; the message
            names the file.
        FileNotFoundError: If there is no file.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{owner}: there is no file {path!r}. {_KEPT}")
    told = f"{owner}: {path!r}"
    if os.path.isdir(path):
        raise ValueError(f"{told} is a folder, and no HDF5 file. {_KEPT}")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{told} may not be read.")
    if not h5py.is_hdf5(path):
        way_out = _KEPT
        if path.endswith(".keras"):
            way_out = "`keras.saving.load_model` reads it, and `from_keras` converts that model."
        raise ValueError(f"{told} is no HDF5 file. {way_out}")
    return _told(told, _read, path)


def is_tf_keras(model):
    """Whether this is an object of `tf_keras`, which need not be installed."""
    return any(cls.__module__.split(".")[0] == "tf_keras" for cls in type(model).__mro__)


def from_tf_keras(model, owner):
    """Returns a model of `tf_keras` with our recurrent layers.

    Raises:
        ValueError: If it is not a functional or sequential model, or cannot be converted exactly.
    """
    name = getattr(model, "name", type(model).__name__)
    if not hasattr(model, "to_json"):
        raise ValueError(
            f"{owner}: of tf_keras a whole model is converted. Received: {name!r}, a "
            f"{type(model).__name__}. Put it into a functional or sequential model."
        )
    return _told(f"{owner}: the model {name!r} of tf_keras", _of_object, model)


def _told(told, read, given):
    """Returns what `read` returns; whatever it raises names where it comes from."""
    try:
        model = read(given)
        check_turned_masks(model, told)
        return model
    except RefusedError as error:
        raise ValueError(f"{told}: {error}") from error.__cause__
    except Exception as error:
        if str(error).startswith(told):
            raise
        raise ValueError(
            f"{told} cannot be read as a model of Keras 2. Received: {type(error).__name__}: "
            f"{error}. {_KEPT}"
        ) from error


def _read(path):
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            weights = "layer_names" in file.attrs or "layer_names0" in file.attrs
            raise RefusedError(
                "it has no `model_config`"
                + (": it holds weights alone (`save_weights`)" if weights else "")
                + f". {_KEPT}"
            )
        _check_version(_text(file.attrs.get("keras_version", "2")))
        spec = json.loads(_text(file.attrs["model_config"]))
        model = model_of(spec)
        layers = _Layers(_member(file, "model_weights", h5py.Group))
        load(model, spec, layers, layers.names)
        return model


def _of_object(model):
    try:
        spec = json.loads(model.to_json())
    except NotImplementedError as error:
        raise RefusedError(
            f"it must be a functional or sequential model; what the code of a "
            f"{type(model).__name__} does cannot be rewritten"
        ) from error

    def stored(name):
        layer = model.get_layer(name)
        return [(w.name, w.numpy()) for w in layer.trainable_weights + layer.non_trainable_weights]

    new = model_of(spec)
    load(new, spec, stored, [layer.name for layer in model.layers])
    return new


def _check_version(version):
    if version.startswith("3."):
        raise RefusedError(
            f"Keras {version} wrote it, not Keras 2. `keras.saving.load_model` reads it, and "
            "`from_keras` converts that model."
        )
    if version.startswith("1."):
        raise RefusedError(
            f"Keras {version} wrote it, whose recurrent layers have weights of another form. Keras "
            "2.0 to 2.3 reads it: load it there and save it again."
        )


class _Layers:
    """The weights in a file: called with the name of a layer, a list of names and data sets."""

    def __init__(self, group):
        self._group = group
        self.names = _names(group, "layer_names")
        if "top_level_model_weights" in group:
            self.names.append("top_level_model_weights")

    def __call__(self, name):
        if name not in self._group:
            return []
        group = _member(self._group, name, h5py.Group)
        return [(w, _member(group, w, h5py.Dataset)) for w in _names(group, "weight_names")]


def _member(group, path, kind):
    """Returns a group or data set of the file itself: no link leads to it, or from it elsewhere."""
    found = group
    for part in filter(None, path.split("/")):
        inside = isinstance(found, h5py.Group) and part in found
        if not inside or not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise RefusedError(
                f"{path!r} is missing in {group.name!r}, or is a link. The file is damaged: save "
                "the model again."
            )
        found = found[part]
    outside = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
    if not isinstance(found, kind) or outside:
        raise RefusedError(
            f"{path!r} in {group.name!r} must be a {kind.__name__.lower()} of the file itself. "
            "The file is damaged: save the model again."
        )
    return found


def _names(group, attribute):
    """Returns a list of names, which long ones are stored in pieces of."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    pieces, found = 0, []
    while f"{attribute}{pieces}" in group.attrs:
        found += [_text(name) for name in group.attrs[f"{attribute}{pieces}"]]
        pieces += 1
    return found


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)
