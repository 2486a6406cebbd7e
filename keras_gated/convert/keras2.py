"""Whole models that Keras 2 saved: files, SavedModels, and model objects of `tf_keras`.

`keras2_stored.py` finds the config and the weights, `keras2_layers.py` makes the layers, and
`keras2_weights.py` gives them the weights. Nothing in a file is code that is run.
"""

import json
import os

import keras

from keras_gated import keras_private
from keras_gated.convert.keras2_layers import model_of
from keras_gated.convert.keras2_stored import KEPT, opened
from keras_gated.convert.keras2_weights import load_by_layer
from keras_gated.convert.keras_checks import RefusedError, check_turned_masks

_LARGER = 2, 10**6  # most weights: so many times the file's numbers, plus so many (states, seeds)


def from_file(path, architecture, owner):
    """Returns the model of a file or folder of Keras 2, with our recurrent layers.

    Args:
        path: The path of the file or folder.
        architecture: The model that weights belong to: a model of ours, of `tf_keras`, or the
            config that `to_json` of Keras 2 returned (the text, the dict, or the path of a file).
            None for the config that the file holds.
        owner: What messages begin with.

    Raises:
        ValueError: If it holds no such model, or one that cannot be converted exactly; the message
            names the file.
        FileNotFoundError: If there is no file.
    """
    path = os.fspath(path)
    if not os.path.exists(path) and not os.path.exists(f"{path}.index"):
        raise FileNotFoundError(f"{owner}: there is no file {path!r}.")
    told = f"{owner}: {path!r}"
    if os.path.exists(path) and not os.access(path, os.R_OK):
        raise PermissionError(f"{told} may not be read.")
    return _told(told, lambda: _read(path, architecture))


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
    return _told(f"{owner}: the model {name!r} of tf_keras", lambda: _of_object(model))


def _told(told, read):
    """Returns what `read` returns. The message of an error begins with `told`."""
    try:
        model = read()
        for part in keras_private.parts_of(model):
            if isinstance(part, keras.layers.Normalization):
                part.finalize_state()  # it computes with tensors that this makes of its weights
        check_turned_masks(model, told)
        return model
    except RefusedError as error:
        raise ValueError(f"{told}: {error}") from error.__cause__
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except Exception as error:
        if str(error).startswith(told):
            raise
        raise ValueError(
            f"{told} cannot be read as a model of Keras 2. Received: {type(error).__name__}: "
            f"{error}. {KEPT}"
        ) from error


def _read(path, architecture):
    with opened(path) as stored:
        if isinstance(architecture, keras.Model):
            model = architecture
            spec = _without_operations(keras.saving.serialize_keras_object(architecture))
        else:
            spec = stored.spec if architecture is None else spec_of(architecture)
            if spec is None:
                raise RefusedError(
                    "it holds weights alone (`save_weights`). Give the model that they belong to: "
                    "`architecture=`, a model built by today's Keras or what `to_json` wrote."
                )
            _check_size(spec, stored.elements)
            model = model_of(spec)
        stored.load(model, spec, architecture is not None)
        return model


def spec_of(architecture):
    """Returns a model's config: from JSON that Keras 2 wrote, or from a model of `tf_keras`."""
    if is_tf_keras(architecture):
        return _config_of(architecture)
    if isinstance(architecture, (str, os.PathLike)):
        text = os.fspath(architecture)
        if not text.lstrip().startswith("{"):
            with open(text, encoding="utf-8") as file:
                text = file.read()
        architecture = json.loads(text)
    if not isinstance(architecture, dict):
        raise RefusedError(
            "`architecture` must be a functional or sequential model, or what `to_json` of Keras 2 "
            f"returned: the text, the path of a file, or a dict. Received: {architecture!r}."
        )
    if architecture.get("module") in ("keras", keras_private.Functional.__module__):
        raise RefusedError(
            "`architecture` is JSON of Keras 3. Pass the model that "
            "`keras.models.model_from_json` makes of it."
        )
    return architecture


def _without_operations(spec):
    """Returns a config of Keras 3 without the operations, of masks for one, that are no layers."""
    config = spec.get("config") or {}
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        return spec
    parts = [part for part in config["layers"] if "ops" not in str(part.get("module")).split(".")]
    return {**spec, "config": {**config, "layers": list(map(_without_operations, parts))}}


def _check_size(spec, elements):
    """Raises if a model has far more weights than its file: it would fill the memory."""
    times, beside = _LARGER
    try:
        wanted = keras_private.elements_of(lambda: model_of(_stateless(spec)))
    except Exception:
        return  # the model itself is made next, and its error says what is wrong
    if wanted > times * elements + beside:
        raise RefusedError(
            f"the model of its config has {wanted} weights, and {elements} numbers are stored. The "
            "file is damaged, or its config is of another model."
        )


def _stateless(config):
    """Returns a config without stateful layers: these would set values of their variables."""
    if isinstance(config, list):
        return [_stateless(part) for part in config]
    if not isinstance(config, dict):
        return config
    return {k: False if k == "stateful" else _stateless(v) for k, v in config.items()}


def _config_of(model):
    try:
        return json.loads(model.to_json())
    except NotImplementedError as error:
        raise RefusedError(
            f"it must be a functional or sequential model; what the code of a "
            f"{type(model).__name__} does cannot be rewritten"
        ) from error


def _of_object(model):
    spec = _config_of(model)

    def stored(name):
        layer = model.get_layer(name)
        return [(w.name, w.numpy()) for w in layer.trainable_weights + layer.non_trainable_weights]

    new = model_of(spec)
    load_by_layer(new, spec, stored, [layer.name for layer in model.layers])
    return new
