"""Where Keras 2 put a model's config and weights: HDF5, `.keras`, SavedModels, checkpoints.

Only JSON and arrays of numbers are read. No code in a file is run. Links that lead out of a file
and pickles are not read.
"""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import h5py

from keras_gated.convert import keras2_checkpoint
from keras_gated.convert.files import check_unpacked
from keras_gated.convert.keras2_weights import load_by_layer, load_by_place
from keras_gated.convert.keras_checks import RefusedError

KEPT = "The model must have been saved whole by Keras 2 (`model.save('model.h5')`)."


class Stored(NamedTuple):
    """The contents of a file."""

    spec: dict | None  # the model's config; None if the file holds weights alone
    elements: int  # the numbers in all arrays
    load: Callable  # (model, its config, whether layers of other names are matched in order)


@contextlib.contextmanager
def opened(path):
    """Yields the `Stored` of a path.

    Raises:
        RefusedError: If it is of another kind or version, is damaged, or would fill the memory.
    """
    with contextlib.ExitStack() as stack:
        if keras2_checkpoint.is_saved_model(path):
            yield Stored(*keras2_checkpoint.saved_model(path))
        elif keras2_checkpoint.is_checkpoint(path):
            yield Stored(*keras2_checkpoint.checkpoint(path))
        elif os.path.isdir(path):
            raise RefusedError(f"it is a folder, and no SavedModel. {KEPT}")
        elif zipfile.is_zipfile(path) and not h5py.is_hdf5(path):
            yield _archive(stack.enter_context(zipfile.ZipFile(path)), path, stack)
        elif h5py.is_hdf5(path):
            yield _hdf5(stack.enter_context(h5py.File(path, "r")), os.path.getsize(path))
        else:
            raise RefusedError(f"it is no HDF5 file, `.keras` file or SavedModel. {KEPT}")


def _archive(archive, path, stack):
    """Reads a `.keras` file of Keras 2.12 and newer."""
    names = archive.namelist()
    if not {"metadata.json", "config.json", "model.weights.h5"} <= set(names):
        raise RefusedError(f"it holds {sorted(names)[:9]}, and is no `.keras` file. {KEPT}")
    check_unpacked(sum(entry.file_size for entry in archive.infolist()), os.path.getsize(path))
    check_version(json.loads(archive.read("metadata.json"))["keras_version"])
    content = archive.read("model.weights.h5")
    file = stack.enter_context(h5py.File(io.BytesIO(content), "r"))
    stored = _hdf5(file, len(content))
    return stored._replace(spec=json.loads(archive.read("config.json")))


def _hdf5(file, size):
    arrays = []
    file.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
    check_unpacked(sum(a.size * a.dtype.itemsize for a in arrays), size)
    elements = sum(a.size for a in arrays)
    if "model_config" in file.attrs:
        check_version(text(file.attrs.get("keras_version", "2")))
        spec = json.loads(text(file.attrs["model_config"]))
        layers = _Layers(_member(file, "model_weights", h5py.Group))
        return Stored(spec, elements, _by_layer(layers))
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        check_version(text(file.attrs.get("keras_version", "2")))
        layers = _Layers(file)
        return Stored(None, elements, _by_layer(layers))
    places = _Places(file)
    return Stored(None, elements, lambda model, spec, _: load_by_place(model, spec, places))


def _by_layer(layers):
    return lambda model, spec, by_order: load_by_layer(model, spec, layers, layers.names, by_order)


def is_of_keras_3(path):
    """Whether this is a `.keras` file of today's Keras."""
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return False
    with contextlib.suppress(KeyError, ValueError), zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))["keras_version"].startswith("3.")
    return False


def check_version(version):
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
    """The weights by layer. A call takes a layer's name and returns a list of (name, data set)."""

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


class _Places:
    """The weights by place, as `.keras` files have them. A call takes the steps to a layer."""

    def __init__(self, file):
        self._file = file
        # The name that Keras 2.12 gave to the layers of a model.
        self._layers = "_layer_checkpoint_dependencies"
        if self._layers not in file:
            self._layers = "layers"

    def __call__(self, place, layer):
        del layer
        path = "/".join(
            "/".join((self._layers, step.key) if step.role == "layers" else (step.role, step.key))
            if step.key
            else step.role
            for step in place
        )
        if f"{path}/vars" not in self._file:
            return []
        group = _member(self._file, f"{path}/vars", h5py.Group)
        names = sorted(group, key=lambda name: (len(name), name))
        return [(f"{path}/{name}", _member(group, name, h5py.Dataset)) for name in names]


def _member(group, path, kind):
    """Returns a group or data set stored in the file itself: no link leads to it, or out of it."""
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
    """Returns a list of names. Keras stores a long list in pieces."""
    if attribute in group.attrs:
        return [text(name) for name in group.attrs[attribute]]
    pieces, found = 0, []
    while f"{attribute}{pieces}" in group.attrs:
        found += [text(name) for name in group.attrs[f"{attribute}{pieces}"]]
        pieces += 1
    return found


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)
