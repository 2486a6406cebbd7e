"""From `keras.layers` and back: single layers, cells, and whole models.

A layer is converted by its config. The recurrent classes are replaced wherever they stand in it
(in `Bidirectional`, `StackedRNNCells`, `TimeDistributed`, nested models). Then the weights are
copied; the columns of a GRU's update gate are negated (`gates.py`).
"""

import os
import warnings
from collections import Counter

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
from keras_gated.convert.keras_classes import (
    TO_KERAS,
    TO_OURS,
    arguments_of,
    base_of,
    check_own_code,
    subclasses,
)
from keras_gated.layers.base import RNN

_ONLY_OURS = ("return_gates", "fused", "implementation", "recurrent_weight_dropout", "zoneout",
              "projection")  # fmt: skip

# The layer around a single cell follows its cell.
_AROUND = {keras.layers.RNN: RNN, RNN: keras.layers.RNN}

# An optimizer's variables that are negated with a weight, and those (squares, sizes) that are not.
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
    """Returns a copy with layers of keras_gated in place of the recurrent layers of `keras.layers`.

    Outputs, states and gradients are the same, under the same masks. `SimpleRNN`, `LSTM`, `GRU`,
    their cells and `Bidirectional` are converted, at any place of a model, and subclasses of them
    that change only the constructor and `get_config`. A `keras.layers.RNN` around a single one of
    these cells becomes a `keras_gated.RNN`. Everything else of a functional or sequential model is
    copied. The copy keeps names, weights and which of them are trained, states of stateful layers,
    seeds, masks, the settings of `compile`, and the variables of the optimizer. The original does
    not change.

    Models of Keras 2 and `tf.keras` are read without Keras 2: files (`.h5`, `.hdf5`, `.keras`),
    SavedModels, and functional or sequential models of `tf_keras`. The layers get the arguments
    of Keras 3 and answer as Keras 2 did: `hard_sigmoid` becomes `keras_gated.hard_sigmoid()`,
    `CuDNNLSTM` and `CuDNNGRU` become `LSTM` and `GRU`. The settings of `compile` and the variables
    of the optimizer are left out, and so is which directions and cells were frozen. No code of the
    file is run.

    Args:
        layer_or_model: One of these:

            - A recurrent layer or cell of `keras.layers`, a `Bidirectional`, `StackedRNNCells` or
              other wrapper around one, or a functional or sequential model.
            - A model of `tf_keras`.
            - The path of a model: a `.keras` file; of Keras 2 also a `.h5` or `.hdf5` file or the
              folder of a SavedModel.
            - The path of weights of Keras 2 (`save_weights`: `.h5`, `.weights.h5`, or the prefix
              of a checkpoint), with their `architecture`.
        custom_objects: Optional dict of your classes and functions by name, as in
            `keras.saving.load_model`.
        architecture: The model that the weights belong to: a model of `keras.layers`, keras_gated
            or `tf_keras`, or the result of `to_json` of Keras 2 as a text, the path of a file, or
            a dict. In a model built with Keras 3, `hard_sigmoid` is that of Keras 3; use
            `keras_gated.hard_sigmoid()` for that of Keras 2. Layers whose names differ are matched
            in their order, as in `load_weights` of Keras 2.
        check: Whether to compare the answers with those of the original, for random inputs with
            masks, and to print the largest difference. A difference of more than 1e-4 of the
            largest answer (float16: 1e-2, float64: 1e-9) is an error. Models of Keras 2 are
            called in `tf_keras`.

    Returns:
        The same kind of thing, built if it was built.

    Raises:
        ValueError: If the model has nothing to convert, or something that cannot be converted
            exactly: a subclass that changes what its base class computes, also of `Sequential`; a
            recurrent layer that the code of another layer makes; a layer or cell that several
            layers were given; a lambda in `compile`; a mask that `keras.layers` ignores because
            the layer gets an initial state; a GRU whose recurrent activation, regularizers or
            constraints differ between a weight and its negative. If a file is damaged, or uses
            what Keras 3 does not have; the message names the file and the layer.
        FileNotFoundError: If there is no file.
        ImportError: If TensorFlow (for a SavedModel or a checkpoint) or `tf_keras` (for `check`) is
            not installed.
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
    """Returns a copy with recurrent layers of `keras.layers` in place of those of keras_gated.

    The reverse of `from_keras`. `fused` is left out, because `keras.layers` does not have it.

    Args:
        layer_or_model: A layer or cell of keras_gated, a wrapper around it, or a functional or
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
        with keras.saving.custom_object_scope(_compiled_with(old, owner)):
            new = keras.models.clone_model(
                old, clone_function=lambda layer: _by_config(layer, classes, owner), recursive=True
            )
        _check_shared(old, new, owner)
        check_own_code(old, new, owner)
    else:
        new = _by_config(old, classes, owner)
        _check_shared(old, new, owner)
    left = [part for part in keras_private.parts_of(new) if type(part) in classes]
    if left:
        told = (
            f"{owner}: {left[0].name!r}, a {type(left[0]).__name__}, stays what it is: the code of "
            f"a layer of {old.name!r} makes it, and code cannot be rewritten. Give that layer the "
            f"{type(left[0]).__name__} as an argument that stands in its `get_config`."
        )
        given = sum(type(part) in classes for part in keras_private.parts_of(old))
        if len(left) == given:
            raise ValueError(told)
        warnings.warn(told, UserWarning, stacklevel=3)
    _copy_vocabularies(old, new, owner)
    for a, b in zip(keras_private.parts_of(old), keras_private.parts_of(new), strict=True):
        if getattr(a, "activity_regularizer", None) and not b.activity_regularizer:
            raise ValueError(
                f"{owner}: {a.name!r} has an `activity_regularizer`, which `keras.layers."
                f"{type(b).__name__}` drops without a word. Leave it out, or use another layer."
            )
        if b.trainable != a.trainable:  # of a cell, which the config of its layer does not say
            b.trainable = a.trainable
    if old.built or isinstance(old, keras.Model):
        copies = _copy_weights(old, new)
        if isinstance(old, keras.Model) and old.compiled and old.optimizer is not None:
            _copy_optimizer(old, new, copies, owner)
    return new


def _check_shared(old, new, owner):
    """Raises if a copy has a layer or cell twice where the original shares it."""
    copies, parts = (
        Counter(
            part.name
            for part in keras_private.parts_of(one)
            if not isinstance(part, keras.layers.InputLayer)
        )
        for one in (new, old)
    )
    if copies.total() != parts.total():
        # A part that Keras names itself may have another name in the copy.
        twice = [name for name, number in copies.items() if number > parts[name] > 0]
        if not twice:
            raise ValueError(
                f"{owner}: {old.name!r} holds layers that its config does not make, such as an "
                f"attribute that was set later. Received: {sorted(parts - copies)}. Convert the "
                "model without them."
            )
        raise ValueError(
            f"{owner}: several layers of {old.name!r} were given the same layer or cell, and share "
            "its weights. Their copies would have weights of their own. "
            f"Received: {twice} at several places. Give each place a layer or cell of its own, or "
            "call one layer several times."
        )


def _compiled_with(model, owner):
    """Returns the functions and classes of a user's own in the settings of `compile`, by name.

    Keras writes only their names into the settings that it copies.
    """
    found = keras.tree.flatten(keras_private.compiled_with(model)) if model.compiled else []
    lambdas = any(getattr(one, "__name__", None) == "<lambda>" for one in found)
    if lambdas and keras_private.in_safe_mode() is not False:
        raise ValueError(
            f"{owner}: {model.name!r} was compiled with a lambda, which Keras copies only after "
            "`keras.config.enable_unsafe_deserialization()`. Make it a function with `def`, or "
            "convert before `compile`."
        )
    named = [one if hasattr(one, "__name__") else type(one) for one in found]
    known = ("keras", "builtins", "None")
    return {c.__name__: c for c in named if str(c.__module__).split(".")[0] not in known}


def _by_config(layer, classes, owner):
    named = {_key(old): (old, new) for old, new in classes.items()}
    if type(layer) not in classes and type(layer) not in _AROUND:
        # Made by its class, which need not be registered. Classes nested in the config are
        # replaced.
        return type(layer).from_config(_renamed(layer.get_config(), named, owner))
    config = _renamed(keras.saving.serialize_keras_object(layer), named, owner)
    return keras.saving.deserialize_keras_object(config, safe_mode=False)


def _key(cls):
    registered = keras.saving.get_registered_name(cls)
    of_keras = getattr(keras.layers, cls.__name__, None) is cls
    return cls.__name__, registered if ">" in registered else None, of_keras


def _renamed(config, classes, owner):
    """Returns a config with classes replaced, also in nested configs."""
    if isinstance(config, (list, tuple)):
        return type(config)(_renamed(part, classes, owner) for part in config)
    if not isinstance(config, dict):
        return config
    # Without `build_config` a model's layers are built when they are called. With it, the paths
    # of their weights would change.
    before = config
    config = {k: _renamed(v, classes, owner) for k, v in config.items() if k != "build_config"}
    registered = config.get("registered_name")
    registered = registered if registered and ">" in registered else None
    key = config.get("class_name"), registered, config.get("module") == "keras.layers"
    if _follows_its_cell(key, before, config):
        classes = {_key(old): (old, new) for old, new in _AROUND.items()}
    if key not in classes:
        return config
    (old, new), arguments = classes[key], config["config"]
    if old not in {**TO_OURS, **TO_KERAS, **_AROUND}:  # a subclass, with arguments of its own
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
    without = (*_ONLY_OURS, "use_cudnn") if new is keras.layers.RNN else _ONLY_OURS
    arguments = {k: v for k, v in arguments.items() if k not in without}
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


def _follows_its_cell(key, before, after):
    """Whether a config is that of the layer around a cell that was converted, and was not yet."""
    layer = next((layer for layer in _AROUND if _key(layer) == key), None)
    if layer is None:
        return False
    old, new = (config["config"]["cell"]["module"] for config in (before, after))
    return new != old and (new == "keras.layers") == (layer is RNN)


def _copy_weights(old, new):
    """Copies weights, states and seeds.

    Returns:
        By the id of each old weight: the new weight, and whether the old one was negated.
    """
    copies = {}
    for a, b in zip(keras_private.parts_of(old), keras_private.parts_of(new), strict=True):
        if not a.built:
            continue
        if not b.built:
            b.build_from_config(a.get_build_config())
        own = [layer._trainable_variables + layer._non_trainable_variables for layer in (a, b)]
        turned = type(a) is not type(b) and "GRUCell" in (type(a).__name__, type(b).__name__)
        for before, after in zip(*own, strict=True):
            after.assign(_negated(before.value) if turned else before.value)
            after.trainable = before.trainable
            copies[id(before)] = after, turned
        if isinstance(b, keras.layers.Normalization):
            b.finalize_state()  # the layer computes with tensors that this makes of its weights
        if isinstance(a, keras.layers.RNN) and a.stateful:
            for before, after in zip(tree.flatten(a.states), tree.flatten(b.states), strict=True):
                after.assign(before.value)
        if hasattr(a, "seed_generator") and hasattr(b, "seed_generator"):
            b.seed_generator.state.assign(a.seed_generator.state.value)
    return copies


def _copy_vocabularies(old, new, owner):
    """Copies the words or numbers that layers have learned by `adapt`: their configs have none."""
    for a, b in zip(keras_private.parts_of(old), keras_private.parts_of(new), strict=True):
        if not isinstance(a, (keras.layers.StringLookup, keras.layers.IntegerLookup)):
            continue
        known = a.get_vocabulary(include_special_tokens=False)
        if not known or b.get_vocabulary(include_special_tokens=False):
            continue
        if a.output_mode == "tf_idf":
            raise ValueError(
                f"{owner}: {a.name!r} has learned the weights of its words by `adapt`, which "
                "cannot be copied. Received: output_mode='tf_idf'. Give the layer `vocabulary=` "
                "and `idf_weights=`."
            )
        b.set_vocabulary(known)


def _negated(weight):
    """Returns a GRU's weight with the columns of the update gate negated."""
    return ops.concatenate(to_library("keras", GRU_GATES, ops.split(weight, 3, axis=-1)), axis=-1)


def _copy_optimizer(old, new, copies, owner):
    """Copies an optimizer's variables."""
    if new.optimizer.built:  # by Keras, before it was known which weights are trained
        new.optimizer = type(old.optimizer).from_config(old.optimizer.get_config())
    if not old.optimizer.built:
        return
    # Those of today may be others: a layer was frozen since.
    trained = keras_private.trained_by(old.optimizer)
    if not all(id(variable) in copies for variable in trained):
        raise ValueError(
            f"{owner}: the optimizer of {old.name!r} was built for weights that are not in the "
            f"model any more. Received: a compiled {type(old.optimizer).__name__}. Compile the "
            "model anew."
        )
    new.optimizer.build([copies[id(variable)][0] for variable in trained])
    turned = {v.path.replace("/", "_"): copies[id(v)][1] for v in trained}
    for before, after in zip(old.optimizer.variables, new.optimizer.variables, strict=True):
        # Keras names the variable after the weight's path and the kind of variable.
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
