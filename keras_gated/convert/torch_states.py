"""A stack of recurrent layers as one model that takes its states and returns them."""

import keras


def with_states(layers, features, dtype):
    """Returns a model `(x, states) -> (y, states)` of built layers.

    Args:
        layers: Recurrent layers or `Bidirectional`s with `return_state=True`, with `Dropout`
            between.
        features: The width of the inputs.
        dtype: The dtype of the inputs and states.

    Returns:
        A functional `keras.Model`. Its states are `[*h_n, *c_n]` of torch: the hidden states of
        all layers and then the memories, each layer forwards and then backwards.
    """
    identity = keras.layers.Identity
    sequences = y = keras.Input((None, features), dtype=dtype, name="x")
    initial, final = {}, {}
    number = 0
    for layer in layers:
        if isinstance(layer, keras.layers.Dropout):
            y = layer(y)
            continue
        both = isinstance(layer, keras.layers.Bidirectional)
        widths = keras.tree.flatten((layer.forward_layer if both else layer).state_size)
        given = {
            name: keras.Input((width,), dtype=dtype, name=name)
            for suffix in (("", "_reverse") if both else ("",))
            for letter, width in zip("hc", widths, strict=False)
            for name in [f"{letter}_{number}{suffix}"]
        }
        y, *states = layer(y, initial_state=list(given.values()))
        initial.update(given)
        final.update(zip(given, states, strict=True))
        number += 1
    names = [name for letter in "hc" for name in initial if name.startswith(letter)]
    y = identity(dtype=dtype, name="y")(y)
    outputs = [identity(dtype=dtype, name=f"{name}_final")(final[name]) for name in names]
    return keras.Model((sequences, [initial[name] for name in names]), (y, outputs))
