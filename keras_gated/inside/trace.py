"""Every gate and state of a trained model, at every step, from one call of it."""

import keras
from keras import tree

from keras_gated import keras_private
from keras_gated.paths.recorder import recording


def trace_gates(layer_or_model: keras.layers.Layer, inputs, mask=None, initial_state=None) -> dict:
    """Returns every gate and state of a recurrent layer, or of all those of a model.

    What a step computes is recorded while the model runs as it always does (at inference), so the
    values are those of the model itself. Differentiable by inputs and weights, and usable inside
    a `tf.function` and an exported signature. As outputs of a functional model: build the layer
    with `return_gates=True`. A stateful layer's state is read and left as it is.

    Args:
        layer_or_model: One of our layers, a `Bidirectional` around one, or a model with some.
        inputs: What it is called with; for a layer `(batch, time, features)`.
        mask: Optional bool, `(batch, time)`. Default: the mask that comes with `inputs` or arises
            inside the model.
        initial_state: Optional list of the states before the first step, each `(batch, units)`.
            Default: zeros, or a stateful layer's own.

    Returns:
        For a layer a dict from name to float tensor, `(batch, time, units)`: of an LSTM `input`,
        `forget`, `candidate`, `output`, `memory` and `hidden`; of a GRU `update`, `reset`,
        `candidate` and `hidden`; of a SimpleRNN `hidden`. Gates are between 0 (closed) and 1
        (open); the update gate writes at 1. For a `Bidirectional` two of them, `forward` and
        `backward`. For a model a dict of these by the layer's name; a layer that is called again
        has `name/2` and so on.

        Step t belongs to step t of the inputs, in either direction. A masked step repeats the
        step computed before it (zeros where there is none, or everywhere with
        `zero_output_for_mask=True`): `hidden` is what the layer puts out. Under half precision
        the values are float32, as a step computes them.

    Raises:
        ValueError: If nothing recurrent of ours is called, or what is called hides its layers (in
            a `tf.function` of its own, for example).

    Reference: Karpathy, Johnson and Fei-Fei 2015, arXiv:1506.02078, section 4.
    """
    if any(isinstance(x, keras.KerasTensor) for x in tree.flatten(inputs)):
        raise ValueError(
            "trace_gates: `inputs` must be values. Received: a symbolic input of a functional "
            "model. Build the layer with `return_gates=True`: it then returns the gates as well."
        )
    if not isinstance(layer_or_model, keras.layers.Layer):
        raise ValueError(
            "trace_gates: `layer_or_model` must be a layer or a model. Received: "
            f"{layer_or_model!r} (of type {type(layer_or_model).__name__})."
        )
    is_model = isinstance(layer_or_model, keras.Model)
    if is_model and initial_state is not None:
        raise ValueError(
            "trace_gates: `initial_state` is for a layer; a model's states are among its `inputs`. "
            "Trace the layer: `trace_gates(model.get_layer(name), ...)`."
        )
    options = {"mask": mask, "initial_state": initial_state}
    options = {name: value for name, value in options.items() if value is not None}
    with recording("gates") as calls:
        layer_or_model(inputs, training=False, **options)
    traces = each(by_layer(layer_or_model, calls, "trace_gates"), lambda call: call.gates)
    return traces if is_model else next(iter(traces.values()))


def each(found, function):
    """Returns what `by_layer` returned with a function of every call in the call's place."""
    return {
        name: each(call, function) if isinstance(call, dict) else function(call)
        for name, call in found.items()
    }


def named(found):
    """Yields names and what was found there; a direction of a `Bidirectional` is `name/direction`.

    Args:
        found: What `trace_gates` or `gradient_flow` returns for a model.
    """
    for name, one in found.items():
        if isinstance(one, dict) and "forward" in one:
            yield from ((f"{name}/{direction}", own) for direction, own in one.items())
        else:
            yield name, one


def by_layer(layer, recorded, owner):
    """Returns what was recorded by the layers' names: a call, or a dict of both directions'.

    Args:
        layer: The layer or model that was called.
        recorded: The calls.
        owner: The function that an error is to name.
    """
    calls = {}
    for call in recorded:
        calls.setdefault(id(call.layer), []).append(call)
    found, seen = {}, set()
    for part in keras_private.parts_of(layer):
        if id(part) in seen:
            continue
        if isinstance(part, keras.layers.Bidirectional):
            directions = {"forward": part.forward_layer, "backward": part.backward_layer}
            own = [calls.get(id(one), []) for one in directions.values()]
            seen.update(map(id, directions.values()))
            own = [dict(zip(directions, pair, strict=True)) for pair in zip(*own, strict=True)]
        else:
            own = calls.get(id(part), [])
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
