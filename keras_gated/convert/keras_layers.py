"""From `keras.layers` and back: single layers, cells, and whole models.

A layer is converted by its config, in which the recurrent classes are given their other names,
wherever they stand (in `Bidirectional`, `StackedRNNCells`, `TimeDistributed`, nested models). The
weights follow, the columns of a GRU's update gate with the other sign (`gates.py`).
"""

import os

import keras
import numpy as np
from keras import ops, tree

import keras_gated.layers.bidirectional
from keras_gated import keras_private
from keras_gated.cells.base import GatedCell
from keras_gated.cells.gates import GRU_GATES, to_library
from keras_gated.convert.keras2 import from_file, from_tf_keras, is_tf_keras
from keras_gated.convert.keras2_stored import is_of_keras_3
from keras_gated.convert.keras_answers import check_answers, load_in_tf_keras
from keras_gated.convert.keras_checks import (
    check_masks_with_states,
    check_symmetry,
    check_turned_masks,
)
from keras_gated.convert.keras_classes import TO_KERAS, TO_OURS, arguments_of, base_of, subclasses
from keras_gated.layers.base import RNN

_ONLY_OURS = ("return_gates", "fused", "implementation", "recurrent_weight_dropout", "zoneout",
              "projection")  # fmt: skip

# An optimizer's variables that follow a weight's sign, and those that are squares or sizes.
_SIGNED = ("momentum", "average", "average_gradient", "gradient_accumulator", "linear")
_SIZES = ("velocity", "velocity_hat", "norm", "accumulator", "accumulated_grad")
_SIZES += ("accumulated_delta_var",)


def from_keras(
    layer_or_model: keras.layers.Layer | str | os.PathLike,
    custom_objects: dict | None = None,
    *,
    architecture=None,
    check: bool = False,
) -> keras.layers.Layer:
    """Returns a copy with our layers in the place of `keras.layers`'s recurrent ones.

    Outputs, states and gradients are the same, under the same masks. Converted are `SimpleRNN`,
    `LSTM`, `GRU`, their cells and `Bidirectional`, wherever they stand, and subclasses of them
    that change nothing but their constructor and `get_config`; everything else of a functional or
    sequential model is copied as it is. Names, weights, states of stateful layers, seeds, masks,
    and what `compile` said are kept, with the optimizer's variables. What was given is not changed.

    Models of Keras 2 and `tf.keras` are read without Keras 2: files (`.h5`, `.hdf5`, `.keras`),
    SavedModels, and functional or sequential models of `tf_keras`. The layers get their arguments
    of today, and answer as Keras 2 did: `hard_sigmoid` is `keras_gated.hard_sigmoid()`,
    `CuDNNLSTM` and `CuDNNGRU` are `LSTM` and `GRU`. What `compile` said and the optimizer's
    variables are left out. No code of the file is run.

    Args:
        layer_or_model: One of these:

            - A recurrent layer or cell of `keras.layers`, a `Bidirectional`, `StackedRNNCells` or
              other wrapper around one, or a functional or sequential model.
            - A model of `tf_keras`.
            - The path of a model: a `.keras` file; of Keras 2 also a `.h5` or `.hdf5` file or the
              folder of a SavedModel.
            - The path of weights of Keras 2 (`save_weights`: `.h5`, `.weights.h5`, or the prefix
              of a checkpoint), with their `architecture`.
        custom_objects: Optional dict of names and the classes or functions of your own that they
            stand for, as in `keras.saving.load_model`.
        architecture: The model that weights belong to: a model of `keras.layers`, ours or
            `tf_keras`, or what `to_json` of Keras 2 returned: the text, the path of a file, or a
            dict. Of a model built today, `hard_sigmoid` is that of today: write
            `keras_gated.hard_sigmoid()` for Keras 2's. Layers of other names belong together in
            their order, as in Keras 2's `load_weights`.
        check: Whether to ask the original, too, about random inputs with masks, and to print the
            largest difference. More than 1e-4 of the largest answer (float16: 1e-2, float64: 1e-9)
            raises. What Keras 2 saved is asked in `tf_keras`.

    Returns:
        The same kind of thing, built if it was built.

    Raises:
        ValueError: If there is nothing to convert, or something cannot be converted exactly: a
            subclass that changes what the class it extends does; a mask that `keras.layers` drops
            because the layer is given an initial state (ours counts it); a GRU whose recurrent
            activation, regularizers or constraints tell a weight from its negative. For a file,
            if it is damaged or has what Keras 3 does not; the message names the file and layer.
        FileNotFoundError: If there is no file.
        ImportError: For `check`, if `tf_keras` is not installed.
    """
    owner = "from_keras"
    with keras.saving.custom_object_scope(custom_objects or {}):
        is_path = isinstance(layer_or_model, (str, os.PathLike))
        if architecture is not None and not is_path:
            raise ValueError(
                f"{owner}: `architecture` is the model of a file's weights. Received a "
                f"{type(layer_or_model).__name__}, which is a model already. Leave it out."
            )
        if is_path and is_of_keras_3(layer_or_model):
            layer_or_model = keras.saving.load_model(layer_or_model)
            is_path = False
        if is_path:
            if isinstance(architecture, keras.Model):
                architecture = _ours(architecture, owner)
            new = from_file(layer_or_model, architecture, owner)
        elif is_tf_keras(layer_or_model):
            new = from_tf_keras(layer_or_model, owner)
        else:
            new = _converted(layer_or_model, TO_OURS, owner)
        if check:
            original = layer_or_model
            if is_path:
                original = load_in_tf_keras(layer_or_model, architecture, owner)
            check_answers(new, original, owner)
        return new


def _ours(model, owner):
    """Returns a copy of a model, with our layers."""
    if has_keras_layers(model):
        return _converted(model, TO_OURS, owner)
    return keras.models.clone_model(model)


def to_keras(layer_or_model: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a copy with `keras.layers`'s recurrent layers in the place of ours.

    The way back of `from_keras`: see there. `fused` is left out, since Keras has none.

    Args:
        layer_or_model: One of our layers or cells, a wrapper around one, or a functional or
            sequential model.

    Returns:
        The same kind of thing, built if it was built.

    Raises:
        ValueError: As `from_keras`, and for `return_gates=True`, which Keras does not have.
    """
    return _converted(layer_or_model, TO_KERAS, "to_keras")


def _converted(old, classes, owner):
    if not isinstance(old, keras.layers.Layer):
        raise ValueError(
            f"{owner}: `layer_or_model` must be a Keras layer or model. Received: {old!r} (of type "
            f"{type(old).__name__})."
        )
    classes = classes | subclasses(old, classes, owner)
    if not any(type(part) in classes for part in keras_private.parts_of(old)):
        names = sorted({c.__name__ for c in classes})
        raise ValueError(
            f"{owner}: there is nothing to convert in {old.name!r}, a {type(old).__name__}. "
            f"{', '.join(names)} of {next(iter(classes)).__module__.split('.')[0]} are converted."
        )
    if isinstance(old, keras.Model):
        if not isinstance(old, (keras.Sequential, keras_private.Functional)):
            raise ValueError(
                f"{owner}: {old.name!r} must be a functional or sequential model; what the code "
                f"of a {type(old).__name__} does cannot be rewritten. Convert its layers one by "
                "one."
            )
        check_masks_with_states(old, owner)
        check_turned_masks(old, owner)
        new = keras.models.clone_model(
            old, clone_function=lambda layer: _by_config(layer, classes, owner), recursive=True
        )
    else:
        new = _by_config(old, classes, owner)
    if old.built:
        negated = _copy_weights(old, new)
        if isinstance(old, keras.Model) and old.compiled and old.optimizer is not None:
            _copy_optimizer(old, new, negated, owner)
    return new


def _by_config(layer, classes, owner):
    named = {_key(old): (old, new) for old, new in classes.items()}
    if type(layer) not in classes:
        # By its class, which need not be registered; what is nested in its config is converted.
        return type(layer).from_config(_renamed(layer.get_config(), named, owner))
    config = _renamed(keras.saving.serialize_keras_object(layer), named, owner)
    return keras.saving.deserialize_keras_object(config, safe_mode=False)


def _key(cls):
    registered = keras.saving.get_registered_name(cls)
    of_keras = getattr(keras.layers, cls.__name__, None) is cls
    return cls.__name__, registered if ">" in registered else None, of_keras


def _renamed(config, classes, owner):
    """Returns a config, of whatever is nested in it too, with classes replaced."""
    if isinstance(config, (list, tuple)):
        return type(config)(_renamed(part, classes, owner) for part in config)
    if not isinstance(config, dict):
        return config
    # A model's layers are built by being called, or the paths of their weights would be others.
    config = {k: _renamed(v, classes, owner) for k, v in config.items() if k != "build_config"}
    registered = config.get("registered_name")
    registered = registered if registered and ">" in registered else None
    key = config.get("class_name"), registered, config.get("module") == "keras.layers"
    if key not in classes:
        return config
    (old, new), arguments = classes[key], config["config"]
    if old not in TO_OURS and old not in TO_KERAS:  # a subclass, with arguments of its own
        known = arguments_of(base_of(old))
        arguments = {k: v for k, v in arguments.items() if k in known}
    if arguments.get("return_gates"):
        raise ValueError(
            f"{owner}: {arguments['name']!r} returns its gates (`return_gates=True`), which no "
            "layer of Keras does. Convert the layer without."
        )
    if arguments.get("recurrent_weight_dropout"):
        raise ValueError(
            f"{owner}: {arguments['name']!r} drops weights in training, which no layer of Keras "
            f"does. Received: recurrent_weight_dropout={arguments['recurrent_weight_dropout']}. "
            "Set it to 0 for a model that is not trained any more."
        )
    for name in ("zoneout", "projection"):
        if np.any(arguments.get(name)):
            raise ValueError(
                f"{owner}: {arguments['name']!r} has equations that no layer of Keras has. "
                f"Received: {name}={arguments[name]}. Convert a layer without."
            )
    arguments = {k: v for k, v in arguments.items() if k not in _ONLY_OURS}
    if key[0].startswith("GRU"):
        check_symmetry(arguments, owner)
    ours = issubclass(new, (GatedCell, RNN, keras_gated.Bidirectional))
    return {
        **config,
        "class_name": new.__name__,
        "module": new.__module__ if ours else "keras.layers",
        "registered_name": keras.saving.get_registered_name(new) if ours else None,
        "config": arguments,
    }


def _copy_weights(old, new):
    """Copies weights, states and seeds. Returns the ids of old weights that were negated."""
    negated = {}
    for a, b in zip(keras_private.parts_of(old), keras_private.parts_of(new), strict=True):
        if not a.built:
            continue
        if not b.built:
            b.build_from_config(a.get_build_config())
        own = [layer._trainable_variables + layer._non_trainable_variables for layer in (a, b)]
        turned = type(a) is not type(b) and "GRUCell" in (type(a).__name__, type(b).__name__)
        for before, after in zip(*own, strict=True):
            after.assign(_negated(before.value) if turned else before.value)
            if turned:
                negated[id(before)] = True
        if isinstance(a, keras.layers.RNN) and a.stateful:
            for before, after in zip(tree.flatten(a.states), tree.flatten(b.states), strict=True):
                after.assign(before.value)
        if hasattr(a, "seed_generator") and hasattr(b, "seed_generator"):
            b.seed_generator.state.assign(a.seed_generator.state.value)
    return negated


def _negated(weight):
    """Returns a GRU's weight with the columns of the update gate negated."""
    return ops.concatenate(to_library("keras", GRU_GATES, ops.split(weight, 3, axis=-1)), axis=-1)


def _copy_optimizer(old, new, negated, owner):
    """Copies what an optimizer remembers of every weight."""
    if not old.optimizer.built:
        return
    new.optimizer.build(new.trainable_variables)
    turned = {v.path.replace("/", "_"): id(v) in negated for v in old.trainable_variables}
    for before, after in zip(old.optimizer.variables, new.optimizer.variables, strict=True):
        # Keras names it after the weight's path and what it is.
        weight = max((p for p in turned if before.name.startswith(p + "_")), key=len, default=None)
        value = before.value
        if weight is not None and turned[weight]:
            what = before.name[len(weight) + 1 :]
            if what not in _SIGNED + _SIZES:
                raise ValueError(
                    f"{owner}: it is not known how the optimizer's {what!r} changes when a GRU's "
                    "weights change their sign. Received: a compiled "
                    f"{type(old.optimizer).__name__}. Convert before `compile`, or compile the "
                    "result anew."
                )
            value = _negated(value) if what in _SIGNED else value
        after.assign(value)


def has_keras_layers(model):
    """Whether a model holds recurrent layers of `keras.layers` that `from_keras` converts."""
    return any(type(part) in TO_OURS for part in keras_private.parts_of(model))
