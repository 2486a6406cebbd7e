"""Every gate and state of a trained model, at every step, from one call of the model."""

import keras
from keras import tree

from keras_gated import keras_private
from keras_gated.paths.path import steps_are_known
from keras_gated.paths.recorder import recording


def trace_gates(
    layer_or_model: keras.layers.Layer, inputs, mask=None, initial_state=None, layer=None
) -> dict:
    """Returns every gate and state of a recurrent layer, or of all those of a model.

    The model runs once at inference, and what its steps compute is recorded. So the values are
    those of the model itself. They can be differentiated with respect to inputs and weights.
    The function works inside a `tf.function` and an exported signature. For gates as outputs of a
    functional model, build the layer with `return_gates=True`. The state of a stateful layer stays
    as it is. A layer whose cell has a `call` of its own is left out: its steps are not known.

    Args:
        layer_or_model: A recurrent layer of keras_gated, a `Bidirectional` around one, or a model
            or another layer with such layers.
        inputs: The inputs of the layer or model; for a layer `(batch, time, features)`.
        mask: Optional bool, `(batch, time)`. Default: the mask that comes with `inputs`, or that
            a layer of the model makes.
        initial_state: Optional list of the states before the first step, each `(batch, units)`.
            Default: zeros, or the states of a stateful layer.
        layer: Optional layer inside of the model, or its name in the result, if only this layer is
            wanted. A direction of a `Bidirectional` is `name/forward` or `name/backward`. Default:
            all.

    Returns:
        For a layer, a dict of float tensors by name, `(batch, time, units)`. An LSTM has `input`,
        `forget`, `candidate`, `output`, `memory` and `hidden`, a GRU `update`, `reset`,
        `candidate` and `hidden`, a SimpleRNN `hidden`. Gates are between 0 (closed) and 1
        (open). The update gate writes at 1. For a `Bidirectional`, a dict of two such dicts,
        `forward` and `backward`. For a model, or a layer that calls several recurrent layers, a
        dict of all these by the name of the layer. The second call of a layer is `name/2`.

        Step t belongs to step t of the inputs, in both directions. A masked step repeats the
        values of the step before it. They are zero if no valid step came before, or at every
        masked step with `zero_output_for_mask=True`. `hidden` is the output of the layer. Under
        half precision the values are float32, as a step computes them.

    Raises:
        ValueError: If no recurrent layer of keras_gated is called, if `layer` is not among them or
            is called several times, if `layer`, or every layer, is left out (see above), or if a
            layer is called where its values cannot be read, for example inside another
            `tf.function`.

    Reference: Karpathy, Johnson and Fei-Fei 2015, arXiv:1506.02078, section 4.
    """
    found = traces("trace_gates", layer_or_model, inputs, mask, initial_state, layer)
    whole = isinstance(layer_or_model, keras.Model) or len(found) > 1
    return found if layer is None and whole else next(iter(found.values()))


def traces(owner, layer_or_model, inputs, mask=None, initial_state=None, layer=None):
    """Returns what `trace_gates` returns for a model, also for a layer. `owner` is for errors."""
    if any(isinstance(x, keras.KerasTensor) for x in tree.flatten(inputs)):
        raise ValueError(
            f"{owner}: `inputs` must be values. Received: a symbolic input of a functional "
            "model. Build the layer with `return_gates=True`: it then returns the gates as well."
        )
    if not isinstance(layer_or_model, keras.layers.Layer):
        raise ValueError(
            f"{owner}: `layer_or_model` must be a layer or a model. Received: "
            f"{layer_or_model!r} (of type {type(layer_or_model).__name__})."
        )
    if isinstance(layer_or_model, keras.Model) and initial_state is not None:
        raise ValueError(
            f"{owner}: `initial_state` is for a layer; a model's states are among its `inputs`. "
            "Trace the layer: `trace_gates(model.get_layer(name), ...)`."
        )
    options = {"mask": mask, "initial_state": initial_state}
    options = {name: value for name, value in options.items() if value is not None}
    with recording("gates") as calls:
        layer_or_model(inputs, training=False, **options)
    found = chosen(by_layer(layer_or_model, calls, owner), layer, owner)
    return each(found, lambda call: call.gates)


def each(found, function):
    """Returns the result of `by_layer` with `function(call)` in place of every call."""
    return {
        name: each(call, function) if isinstance(call, dict) else function(call)
        for name, call in found.items()
    }


def named(found):
    """Yields names and values of layers; a direction of a `Bidirectional` is `name/direction`.

    Args:
        found: What `trace_gates` or `gradient_flow` returns for a model.
    """
    for name, one in found.items():
        if isinstance(one, dict) and "forward" in one:
            yield from ((f"{name}/{direction}", own) for direction, own in one.items())
        else:
            yield name, one


def chosen(found, layer, owner):
    """Returns the part of the result of `by_layer` that is wanted, by the same names.

    The steps of a cell with a `call` of its own are not known. It is left out of all layers, and
    an error if it is the only layer or the wanted layer.

    Args:
        found: The result of `by_layer`.
        layer: A layer, or a name as `named` yields it; None for all.
        owner: The name of the function, for errors.
    """
    wanted = _chosen(found, layer, owner)
    known = {
        name: call
        for name, call in wanted.items()
        if all(steps_are_known(one.layer.cell) for _, one in named({name: call}))
    }
    if wanted and not known:
        raise ValueError(
            f"{owner}: cannot look into {', '.join(map(repr, wanted))}, because the cell has a "
            "`call` of its own, whose steps are not known. Override `step` or `whole_step`."
        )
    return known


def _chosen(found, layer, owner):
    if layer is None:
        return found
    calls = {**found, **dict(named(found))}
    if isinstance(layer, keras.layers.Layer):
        names = [name for name, call in calls.items() if _is_of(call, layer)]
    else:
        names = [name for name in calls if name == layer]
    if len(names) > 1:
        raise ValueError(
            f"{owner}: {layer.name!r} is called {len(names)} times. Name the wanted call: `layer` "
            f"must be one of {names}. Received: {layer!r}."
        )
    if not names:
        raise ValueError(
            f"{owner}: the model called no recurrent layer {layer!r}. `layer` must be one of "
            f"{list(calls)}. Received: {layer!r}."
        )
    return {names[0]: calls[names[0]]}


def _is_of(call, layer):
    """Whether a call of `by_layer` is that of a layer. A `Bidirectional` has a dict of two."""
    if isinstance(call, dict):
        return getattr(layer, "forward_layer", None) is call["forward"].layer
    return call.layer is layer


def by_layer(layer, recorded, owner):
    """Returns the recorded calls by layer name: a call, or a dict of the calls of both directions.

    Args:
        layer: The layer or model that was called.
        recorded: The calls.
        owner: The name of the function, for errors.
    """
    calls = {}
    for call in recorded:
        calls.setdefault(id(call.layer), []).append(call)
    found, seen = {}, set()
    for part in keras_private.parts_of(layer):
        if id(part) in seen:
            continue
        own = calls.get(id(part), [])
        if isinstance(part, keras.layers.Bidirectional):
            directions = {"forward": part.forward_layer, "backward": part.backward_layer}
            pairs = [calls.get(id(one), []) for one in directions.values()]
            # A direction that was called without the other is a layer like any other.
            if len(pairs[0]) == len(pairs[1]):
                seen.update(map(id, directions.values()))
                own = [
                    dict(zip(directions, pair, strict=True)) for pair in zip(*pairs, strict=True)
                ]
        for number, call in enumerate(own, start=1):
            name = part.name if number == 1 else f"{part.name}/{number}"
            if name in found:
                raise ValueError(
                    f"{owner}: two recurrent layers are called {name!r}. Give them names of "
                    "their own."
                )
            found[name] = call
    if not found:
        raise ValueError(
            f"{owner}: {layer.name!r} called no recurrent layer of keras_gated. Received: "
            f"{layer!r}. Pass an LSTM, a GRU, a SimpleRNN, a Bidirectional around one, or a model "
            "that calls them outside of functions compiled before."
        )
    return found
