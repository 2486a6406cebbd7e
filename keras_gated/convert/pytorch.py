"""From `torch.nn.RNN`, `LSTM` and `GRU` and back. Reading a state dict of arrays needs no torch."""

import warnings

import keras
import numpy as np

import keras_gated.layers.bidirectional
from keras_gated.cells.gates import from_library, to_library
from keras_gated.convert import torch_weights
from keras_gated.layers.base import RNN
from keras_gated.layers.families import GRU, LSTM, SimpleRNN

_BY_GATES = {1: SimpleRNN, 3: GRU, 4: LSTM}


def from_torch(
    module_or_state_dict,
    *,
    prefix: str = "",
    activation: str = "tanh",
    return_sequences: bool = True,
) -> keras.layers.Layer:
    """Returns our layers with the weights of a `torch.nn.RNN`, `LSTM` or `GRU`.

    Inputs are `(batch, time, features)` here, whatever `batch_first` says there. Packed sequences
    there are masks here: `pad_packed_sequence` writes zeros at masked steps, where an LSTM here
    repeats its last output (a `Bidirectional` writes zeros, too). The two biases there are kept
    apart where there are two here, in a GRU, and added elsewhere. An LSTM's `proj_size` there is
    `projection` here.

    Args:
        module_or_state_dict: The module, or a dict of its arrays or tensors by their names
            (`weight_ih_l0`, ...), for which torch need not be installed.
        prefix: What stands before those names in a larger model's state dict, as `"lstm."`;
            other entries are then left alone.
        activation: "tanh" or "relu": that of an RNN of which there is a state dict alone.
        return_sequences: Whether the last layer returns all steps, as torch does.

    Returns:
        A built `SimpleRNN`, `LSTM` or `GRU`, in a `Bidirectional` where it has both directions;
        for several layers a `keras.Sequential` of them, with `Dropout` between where a module has
        some.

    Raises:
        ValueError: If an entry is missing, unknown or of another shape.
    """
    owner = "from_torch"
    source, activation, dropout = torch_weights.source_of(module_or_state_dict, activation, owner)
    arrays = torch_weights.arrays_of(source, prefix, owner)
    number, directions, names = torch_weights.layout_of(arrays, owner)
    use_bias = "bias_ih" in names
    rows, width = arrays["weight_hh", 0, False].shape
    projects = "weight_hr" in names
    units = arrays["weight_hr", 0, False].shape[1] if projects else width
    gates = rows // units
    layers = []
    for place in range(number):
        last = place == number - 1
        options = {"return_sequences": return_sequences or not last}
        if gates == 1:
            options["activation"] = activation
        if projects:
            options["projection"] = width
        weights = [
            _to_ours(_BY_GATES[gates].cell_class.gates, {n: arrays[n, place, d] for n in names})
            for d in directions
        ]
        options.update(use_bias=use_bias, dtype=str(weights[0][0].dtype))
        layer = _BY_GATES[gates](units, **options)
        if len(directions) == 2:
            layer = keras_gated.layers.bidirectional.Bidirectional(layer, dtype=options["dtype"])
        layer.build((None, None, weights[0][0].shape[0]))
        layer.set_weights([w for of_direction in weights for w in of_direction])
        layers.append(layer)
        if dropout and not last:
            layers.append(keras.layers.Dropout(dropout, dtype=options["dtype"]))
    if len(layers) == 1:
        return layers[0]
    features = arrays["weight_ih", 0, False].shape[1]
    return keras.Sequential([keras.Input((None, features), dtype=options["dtype"]), *layers])


def to_torch(layers, *, batch_first: bool = True, state_dict: bool = False):
    """Returns a `torch.nn.RNN`, `LSTM` or `GRU` with the weights of our layers.

    Where there is one bias here and there are two there, the whole of it becomes `bias_ih`, and
    `bias_hh` is zero; a GRU's two are kept as they are. What is dropped in training there is
    dropped elsewhere: a layer's own dropouts are left out, with a warning.

    Args:
        layers: A built layer of ours, a `Bidirectional` around one (outputs concatenated), or
            several of the same size: a list or `keras.Sequential`, with `Dropout` between.
        batch_first: Whether the module takes `(batch, time, features)`.
        state_dict: Whether to return a dict of arrays instead, for which torch is not needed.

    Returns:
        The module, or its state dict of NumPy arrays.

    Raises:
        ValueError: For what torch does not have: `go_backwards`, `reset_after=False`, other
            activations, layers of different kinds or sizes.
        ImportError: If torch is not installed and a module is asked for.
    """
    owner = "to_torch"
    if isinstance(layers, keras.Sequential):
        layers = layers.layers
    layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    drops = [one.rate for one in layers if type(one) is keras.layers.Dropout]
    layers = [one for one in layers if type(one) is not keras.layers.Dropout]
    if drops and (len(set(drops)) > 1 or len(drops) != len(layers) - 1):
        raise ValueError(
            f"{owner}: torch drops the same fraction between all layers. Received: Dropout layers "
            f"of {drops} with {len(layers)} recurrent layers. Leave them out of the list."
        )
    pairs = [_directions(one, owner) for one in layers]
    kinds = {
        (
            type(one),
            one.units,
            one.use_bias,
            one.activation,
            len(pair),
            one.cell.kernel.dtype,
            getattr(one, "projection", None),
        )
        for pair in pairs
        for one in pair
    }
    if len(kinds) != 1:
        raise ValueError(
            f"{owner}: all layers must have the same class, units, biases, activation, directions, "
            f"dtype and projection. Received: {layers}. Convert them one by one."
        )
    [(kind, units, use_bias, activation, directions, dtype, projection)] = kinds
    arrays = {}
    for place, pair in enumerate(pairs):
        for suffix, one in zip(("", "_reverse"), pair, strict=False):
            for name, array in _to_theirs(one.cell).items():
                arrays[f"{name}_l{place}{suffix}"] = array
    if state_dict:
        return arrays
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{owner}: torch is not installed. Install it (pip install 'keras_gated[torch]'), or "
            "ask for the arrays alone: to_torch(layers, state_dict=True)."
        ) from error
    options = {"nonlinearity": activation.__name__} if kind is SimpleRNN else {}
    if projection:
        options["proj_size"] = projection
    module = {SimpleRNN: torch.nn.RNN, LSTM: torch.nn.LSTM, GRU: torch.nn.GRU}[kind](
        input_size=arrays["weight_ih_l0"].shape[1],
        hidden_size=units,
        num_layers=len(layers),
        bias=use_bias,
        batch_first=batch_first,
        dropout=drops[0] if drops else 0.0,
        bidirectional=directions == 2,
        dtype=getattr(torch, dtype),
        **options,
    )
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return module


def _to_ours(gates, arrays):
    def ours(name):
        blocks = np.split(arrays[name], len(gates))
        return np.concatenate(from_library("torch", gates, blocks))

    weights = [ours("weight_ih").T, ours("weight_hh").T]
    if "bias_ih" in arrays:
        b, c = ours("bias_ih"), ours("bias_hh")
        weights.append(np.stack([b, c]) if GRU.cell_class.gates == gates else b + c)
    return [*weights, arrays["weight_hr"].T] if "weight_hr" in arrays else weights


def _to_theirs(cell):
    def theirs(weight):
        weight = keras.ops.convert_to_numpy(weight)
        blocks = np.split(weight, len(cell.gates), axis=-1)
        return np.concatenate(to_library("torch", cell.gates, blocks), axis=-1)

    arrays = {"weight_ih": theirs(cell.kernel).T, "weight_hh": theirs(cell.recurrent_kernel).T}
    if cell.use_bias:
        bias = theirs(cell.bias)
        own, recurrent = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        arrays.update(bias_ih=own, bias_hh=recurrent)
    if getattr(cell, "projection", None):
        arrays["weight_hr"] = keras.ops.convert_to_numpy(cell.projection_kernel).T
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _directions(layer, owner):
    """Returns our layers of one layer of torch: one, or both directions."""
    pair = [layer]
    if isinstance(layer, keras.layers.Bidirectional):
        if layer.merge_mode != "concat":
            raise ValueError(
                f"{owner}: torch concatenates both directions. Received: merge_mode="
                f"{layer.merge_mode!r} of {layer.name!r}."
            )
        pair = [layer.forward_layer, layer.backward_layer]
    for one in pair:
        if type(one) not in (SimpleRNN, LSTM, GRU) or not one.built:
            raise ValueError(
                f"{owner}: `layers` must be built layers of keras_gated (SimpleRNN, LSTM, GRU, or "
                f"a Bidirectional around one). Received: {one!r}. `from_keras` turns those of "
                "Keras into ours; calling a layer once builds it."
            )
        _check_options(one, one is not pair[0], owner)
    return pair


def _check_options(layer: RNN, backward, owner):
    relu = isinstance(layer, SimpleRNN) and layer.activation is keras.activations.relu
    for name, value, accepted in (
        ("go_backwards", layer.go_backwards, layer.go_backwards == backward),
        ("zoneout", layer.zoneout, not any(layer.cell.zoneout_rates())),
        ("reset_after", getattr(layer, "reset_after", True), getattr(layer, "reset_after", True)),
        ("activation", layer.activation, layer.activation is keras.activations.tanh or relu),
        (
            "recurrent_activation",
            getattr(layer, "recurrent_activation", None),
            getattr(layer, "recurrent_activation", keras.activations.sigmoid)
            is keras.activations.sigmoid,
        ),
    ):
        if not accepted:
            value = getattr(value, "__name__", value)
            raise ValueError(
                f"{owner}: torch has no counterpart of {name}={value!r} of {layer.name!r}. It "
                "reads forwards, resets after the product, has no zoneout, and uses tanh (RNN: or "
                "relu) and sigmoid."
            )
    dropouts = ("dropout", "recurrent_dropout", "recurrent_weight_dropout")
    left_out = {name: getattr(layer, name) for name in dropouts if getattr(layer, name)}
    if left_out:
        warnings.warn(
            f"{owner}: {layer.name!r} drops {left_out} in training, which torch's layers do not; "
            "the result is the same at inference alone.",
            stacklevel=4,
        )
