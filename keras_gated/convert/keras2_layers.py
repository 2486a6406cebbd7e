"""Layers and models from configs that Keras 2 wrote, made by the constructors of Keras 3.

A config's `module` is never read: a class is one of ours, of `keras.layers`, or one that the
caller registered (`custom_objects`). Arguments that have another name, form or meaning in Keras 3
are translated. Arguments that Keras 3 does not have are left out if nothing is lost by that, and
refused otherwise.
"""

import functools
import inspect

import keras
from keras import ops, tree

from keras_gated import keras_private
from keras_gated.cells.activations import hard_sigmoid
from keras_gated.cells.arguments import kind as module_of
from keras_gated.cells.base import GatedCell
from keras_gated.cells.gru import GRUCell
from keras_gated.convert.keras2_masks import OTHER_RULES, Masks, axes_of
from keras_gated.convert.keras2_nodes import further_arguments, one_of, references, with_tensors
from keras_gated.convert.keras_checks import RefusedError, check_symmetry
from keras_gated.convert.keras_classes import OURS
from keras_gated.layers.base import RNN
from keras_gated.layers.families import GRU, LSTM

MODELS = ("Sequential", "Functional", "Model")
_OURS = {**OURS, "CuDNNLSTM": LSTM, "CuDNNGRU": GRU}
_TODAY = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
}
_ARGUMENTS_TODAY = {("LeakyReLU", "alpha"): "negative_slope"}
_ANY = object()
# Arguments of Keras 2 that a class of Keras 3 may lack, and the values that may be left out.
_GONE = {
    "batch_input_shape": (_ANY,),  # the model's input has it
    "input_length": (_ANY,),
    "fused": (_ANY,),
    "time_major": (False, None),
    "num_constants": (0, None),
    "noise_shape": (None,),
    "renorm": (False,),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "groups": (1,),
    "reverse_state_order": (False,),
}
_PARTS = {  # arguments that are layers
    "Bidirectional": ("layer", "backward_layer"),
    "TimeDistributed": ("layer",),
    "RNN": ("cell",),
    "StackedRNNCells": ("cells",),
}
# Arguments that `SeparableConv1D` and `SeparableConv2D` do not use: they have `depthwise_...` and
# `pointwise_...` instead.
_UNREAD = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_OTHER_RULES = [cls.__name__ for cls in OTHER_RULES]
_LOOKUPS = ("TextVectorization", "StringLookup", "IntegerLookup")
_HOLDS_CODE = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
_OLD_DISTRIBUTIONS = {"normal": "truncated_normal"}  # of `VarianceScaling`


def model_of(spec, masked=()):
    """Returns a model with our recurrent layers from the config of a model of Keras 2.

    Args:
        spec: The config.
        masked: For each input, a mask of the outer model or None. The model must be right with
            such masks.

    Raises:
        RefusedError: If a layer cannot be converted exactly; the message names it.
    """
    kind, _, config = _read(spec)
    if kind not in MODELS:
        raise RefusedError(
            f"it is a {kind}, and must be a functional or sequential model. Put the layers into "
            "one of these with Keras 2, and save that."
        )
    make = _sequential if kind == "Sequential" else _functional
    model = make(spec, masked)
    if isinstance(config, dict) and config.get("trainable", True) is False:
        model.trainable = False
    return model


def layers_in(spec):
    """Returns the layers in a model's config, each with its name, in their order."""
    config = spec["config"]
    parts = config if isinstance(config, list) else config["layers"]  # Keras 2.0 wrote a list
    return [(_read(part)[1], part) for part in parts]


def _read(spec):
    """Returns the class, name and config of a layer."""
    config = spec.get("config") if isinstance(spec, dict) else None
    if not isinstance(config, (dict, list)) or not isinstance(spec.get("class_name"), str):
        raise RefusedError(
            "its config must give every layer a `class_name` and a `config`. Received: "
            f"{str(spec)[:200]}. The file is damaged: save the model again."
        )
    name = config.get("name") if isinstance(config, dict) else None
    return spec["class_name"], spec.get("name", name), config


def _sequential(spec, masked):
    config, parts = spec["config"], layers_in(spec)
    config = {} if isinstance(config, list) else config
    shape, layers = config.get("build_input_shape"), parts
    start = None
    if parts and parts[0][1]["class_name"] == "InputLayer":
        start, layers = _input(parts[0][1]), parts[1:]
    elif parts and isinstance(parts[0][1]["config"], dict):
        start = _input_before(parts[0][1]["config"])
    if masked and start is None and shape:
        start = keras.Input(batch_shape=tuple(shape))
    _attach(masked, [] if start is None else [start])
    model = keras.Sequential([] if start is None else [start], name=config.get("name"))
    if any(part["class_name"] in (*_OTHER_RULES, *MODELS) for _, part in layers):
        if start is None and shape:
            start = keras.Input(batch_shape=tuple(shape))
        if start is not None:
            masks, x = _masks_for(parts), start
            for name, part in layers:
                layer = _layer(part)
                x = _tried(name, layer, functools.partial(masks.call, layer, x))
            _check_masks(masks, model.name, masked)
            masks.note_outputs(model, x)
            if masks.given:  # a layer of a functional model can be given a mask
                model = keras.Model(start, x, name=model.name)
                masks.note_outputs(model, x)
                return model
    for _, part in layers:
        model.add(_layer(part))
    if not model.built and shape:
        model.build(tuple(shape))
    if not model.built:
        raise RefusedError(
            f"the sequential model {config.get('name')!r} does not say the shape of its input. "
            "Give its first layer `input_shape` in Keras 2, and save it again."
        )
    return model


def _input_before(config):
    """Returns the input that a config of a layer states, or None."""
    if not config.get("batch_input_shape"):
        return None
    dtype = _dtype(config.get("dtype"))
    dtype = "float32" if dtype is None or dtype.startswith("mixed_") else dtype
    return keras.Input(batch_shape=config["batch_input_shape"], dtype=dtype)


def _masks_for(parts):
    """Returns `Masks` for the layers of a model's config."""
    specs = dict(parts)

    def try_with_masks(name, masked):
        if _read(specs[name])[0] not in MODELS:  # a class of the caller's own has its own rules
            return None
        return model_of(specs[name], masked)

    return Masks(try_with_masks)


def _attach(masked, inputs):
    """Attaches masks to inputs, as many and as large as those of the outer model."""
    attached = {}
    for tensor, outer in zip(inputs, masked, strict=False):
        if outer is not None:
            mask = ops.not_equal(tensor, 0)  # any that is computed from the inputs
            if len(mask.shape) > axes_of(outer):
                mask = ops.any(mask, axis=tuple(range(axes_of(outer), len(mask.shape))))
            keras_private.attach_mask(tensor, attached.setdefault(id(outer), mask))


def _check_masks(masks, name, masked):
    """Raises if a model within the model would be wrong with the masks that it is given."""
    if any(mask is not None for mask in masked) and masks.given:
        raise RefusedError(
            f"{name!r}, a model within the model, combines or drops the masks that it is given by "
            "other rules in Keras 3. Put its layers into the outer model in Keras 2, and save that."
        )


def _functional(spec, masked):
    config = spec["config"]
    parts = layers_in(spec)
    _reserve(name for name, _ in parts)
    layers = {name: None if p["class_name"] == "InputLayer" else _layer(p) for name, p in parts}
    tensors = {(name, 0): [_input(p)] for name, p in parts if p["class_name"] == "InputLayer"}
    nodes = {
        (name, number): node
        for name, part in parts
        for number, node in enumerate(part.get("inbound_nodes", []))
    }
    ends = [config["input_layers"], config["output_layers"]]
    # Some versions count the calls of a nested model from 1, others from 0. All calls are named
    # in `named`, so the smallest number is that of the first call.
    named = [ref for found in [*nodes.values(), ends] for ref in references(found, layers)]
    first = {name: min(call for other, call, *_ in named if other == name) for name, *_ in named}

    masks = _masks_for(parts)

    def key(ref):
        return ref[0], ref[1] - first[ref[0]]

    def tensor(ref):
        return tensors[key(ref)][ref[2]]

    _attach(masked, tree.flatten(with_tensors(config["input_layers"], layers, tensor)))
    while nodes:
        ready = [
            call
            for call, node in nodes.items()
            if all(key(ref) in tensors for ref in references(node, layers))
        ]
        if not ready:
            raise RefusedError(
                f"nothing leads to the layers {sorted({name for name, _ in nodes})}. The file is "
                "damaged: save the model again."
            )
        for name, number in ready:
            node = nodes.pop((name, number))
            found = _call(
                name, layers[name], node, lambda x: with_tensors(x, layers, tensor), masks
            )
            tensors[name, number] = tree.flatten(found)
    inputs, outputs = (one_of(with_tensors(end, layers, tensor)) for end in ends)
    _check_masks(masks, config.get("name"), masked)
    model = keras.Model(inputs, outputs, name=config.get("name"))
    masks.note_outputs(model, outputs)
    return model


def _reserve(names):
    """Keeps Keras from giving a layer's name to the operations on masks that it adds itself."""
    for name in names:
        base, _, number = str(name).rpartition("_")
        if not number.isdecimal() or len(number) > 3:  # no number, or too large for Keras to reach
            base, number = str(name), 0
        for _ in range(int(number) + 1):
            keras.backend.get_uid(base)


def _call(name, layer, node, replaced, masks):
    """Calls a layer as a node says. The node has the other arguments beside every tensor.

    Args:
        masks: `Masks`.
    """
    given = one_of(replaced(node))
    others = next((o for o in further_arguments(node) if o), {})
    others = {key: replaced(value) for key, value in others.items() if value is not None}
    if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        sequences, *states = given if isinstance(given, list) else [given]
        if states:
            others["initial_state"] = states
        # Keras 2 uses a mask with an initial state, too. Keras 3 drops the mask.
        mask = masks.known(sequences)
        if mask is not None and "initial_state" in others:
            others.setdefault("mask", mask)
        given = sequences
    return _tried(name, layer, lambda: masks.call(layer, given, **others))


def _tried(name, kind, make):
    """Returns what `make` returns. The message of an error names the layer."""
    kind = kind if isinstance(kind, str) else type(kind).__name__
    try:
        return make()
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(
            f"the layer {name!r}, a {kind}, is not accepted by Keras {keras.__version__}: {error} "
            "If the file is sound, replace the layer in Keras 2 and save the model again."
        ) from error


def _input(spec):
    config = spec["config"]
    if config.get("ragged"):
        raise RefusedError(
            f"the input {config.get('name')!r} is ragged, which Keras 3 has none of. Use padded "
            "inputs and a mask."
        )
    shape = config.get("batch_input_shape", config.get("batch_shape"))
    return _tried(
        config.get("name"),
        "InputLayer",
        lambda: keras.Input(
            batch_shape=shape,
            dtype=_dtype(config.get("dtype")),
            sparse=config.get("sparse", False),
            name=config.get("name"),
        ),
    )


def _layer(spec):
    """Returns the layer, cell or model of a config."""
    kind, name, config = _read(spec)
    if kind in MODELS:
        return model_of(spec)
    own = _own(kind)
    cls = own or _OURS.get(kind) or _of_keras(kind, name)
    arguments = _arguments(cls, kind, name, config)
    if own:
        made = _tried(name, kind, lambda: own.from_config(arguments))
        made.name = name or made.name  # a class without `get_config` of its own has no config
        return made
    if kind == "Bidirectional":
        arguments["layer"] = _layer(config["layer"])
        if config.get("backward_layer"):
            arguments["backward_layer"] = _layer(config["backward_layer"])
    elif kind == "TimeDistributed":
        arguments["layer"] = _layer(config["layer"])
    elif kind == "StackedRNNCells":
        arguments["cells"] = [_layer(cell) for cell in config["cells"]]
    elif kind == "RNN":
        several = isinstance(config["cell"], list)
        cell = [_layer(c) for c in config["cell"]] if several else _layer(config["cell"])
        arguments["cell"] = cell
        cls = RNN if isinstance(cell, GatedCell) else cls
    elif kind in ("GRU", "GRUCell", "CuDNNGRU"):
        arguments.setdefault("reset_after", kind == "CuDNNGRU")
    if kind in ("LSTM", "GRU", "LSTMCell", "GRUCell") and "recurrent_activation" not in arguments:
        raise RefusedError(
            f"the layer {name!r}, a {kind}, does not say its `recurrent_activation`, which was "
            "`hard_sigmoid` or `sigmoid`. Load the model in the Keras 2 that wrote it, and save it "
            "again."
        )
    if kind in _LOOKUPS and arguments.get("vocabulary") is None:
        raise RefusedError(
            f"the layer {name!r}, a {kind}, learned its words by `adapt`, and its config does not "
            "hold them. In Keras 2 make it anew with `vocabulary=layer.get_vocabulary()`, and save "
            "the model again."
        )
    made = _tried(name, kind, lambda: cls(**arguments))
    if kind == "Bidirectional":
        _check_widths(made, name)
    if isinstance(made, (GRU, GRUCell)):
        check_symmetry(made.get_config(), f"the layer {name!r}")
    return made


def _check_widths(both, name):
    """Raises unless both directions have the same number of units, as Keras 3 assumes."""
    units = [getattr(one, "units", None) for one in (both.forward_layer, both.backward_layer)]
    if units[0] != units[1]:
        raise RefusedError(
            f"the layer {name!r}, a Bidirectional, has directions of {units[0]} and {units[1]} "
            "units, and Keras 3 takes the first number for both. Use two layers in Keras 2, one "
            "with `go_backwards=True`, and save the model again."
        )


def _own(kind):
    """Returns the class or function that the caller registered by this name, or None."""
    found = keras.saving.get_registered_object(kind)
    return found or keras.saving.get_registered_object(kind.rpartition(">")[2])


def _of_keras(kind, name):
    if kind in _HOLDS_CODE:
        raise RefusedError(
            f"the layer {name!r} is a {kind}, whose config is code. Code of a file is never run. "
            "Write it as a class of your own in Keras 2 (`get_config` without code), save the "
            "model again, and give its class of Keras 3 in `custom_objects`."
        )
    cls = getattr(keras.layers, _TODAY.get(kind, kind), None)
    if not inspect.isclass(cls) or not issubclass(cls, keras.layers.Layer):
        raise RefusedError(
            f"the layer {name!r} is a {kind}, which Keras {keras.__version__} does not have. Give "
            f"a class that stands for it: `custom_objects={{{kind!r}: ...}}`."
        )
    return cls


def _arguments(cls, kind, name, config):
    """Returns the arguments of a layer in the form of Keras 3, without those that are layers."""
    known = inspect.signature(cls.__init__).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    arguments = {}
    for argument, value in config.items():
        argument = _ARGUMENTS_TODAY.get((kind, argument), argument)
        if argument in _PARTS.get(kind, ()):
            continue
        if argument == "trainable" and argument not in known and not takes_any:
            continue  # a layer without weights, such as SpatialDropout1D
        if kind.startswith("SeparableConv") and argument in _UNREAD:
            continue
        if argument in _GONE and argument not in known:
            if not any(value is v or value == v or v is _ANY for v in _GONE[argument]):
                raise RefusedError(
                    f"the layer {name!r}, a {kind}, has what Keras 3 does not. Received: "
                    f"{argument}={value!r}. Save the model without it in Keras 2."
                )
            continue
        if argument == "dtype":
            value = _dtype(value)
        elif module_of(argument):
            value = _function(value, module_of(argument), name, argument)
        elif argument == "axis" and cls is keras.layers.BatchNormalization:
            value = one_of(value)
        if argument == "vocabulary" and isinstance(value, str):
            raise RefusedError(
                f"the layer {name!r}, a {kind}, reads another file. Received: vocabulary={value!r}."
                " Save the model with the words themselves."
            )
        if cls.__module__.startswith("keras.") and _holds_configs(value):
            raise RefusedError(
                f"the layer {name!r}, a {kind}, has objects where Keras 2 has none. Received: "
                f"{argument}={str(value)[:200]}. The file is damaged: save the model again."
            )
        arguments[argument] = value
    return arguments


def _holds_configs(value):
    if isinstance(value, dict):
        return "class_name" in value or _holds_configs(list(value.values()))
    return isinstance(value, list) and any(_holds_configs(part) for part in value)


def _dtype(value):
    """Returns a dtype or the name of a policy, which Keras 2 stored as a string or a config."""
    return value["config"]["name"] if isinstance(value, dict) else value


def _function(value, module, name, argument):
    """Returns an activation, initializer, regularizer or constraint."""
    if isinstance(value, dict) and value.get("class_name") == "function":
        value = value["config"]
    if isinstance(value, str):
        if _own(value):
            return _own(value)
        is_old = value == "hard_sigmoid" and module is keras.activations
        return hard_sigmoid() if is_old else value
    if not isinstance(value, dict):
        return value
    kind, _, config = _read(value)
    cls = _own(kind) or getattr(module, kind, None)
    if cls is None and module is keras.activations:
        return _layer(value)
    if not inspect.isclass(cls):
        raise RefusedError(
            f"`{argument}` of the layer {name!r} is a {kind}, which `{module.__name__}` does not "
            f"have. Give what stands for it: `custom_objects={{{kind!r}: ...}}`."
        )
    if module is keras.initializers:
        config = {key: v for key, v in config.items() if key != "dtype"}
        if kind == "VarianceScaling":
            old = config.get("distribution")
            config["distribution"] = _OLD_DISTRIBUTIONS.get(old, old)
    return _tried(name, f"{kind} (`{argument}`)", lambda: cls.from_config(config))
