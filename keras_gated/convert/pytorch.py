"""From PyTorch's recurrent modules and back. Reading a state dict of arrays needs no torch."""

import os
import warnings
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

import keras_gated.layers.bidirectional
from keras_gated.cells.gates import from_library, to_library
from keras_gated.cells.gru import GRUCell
from keras_gated.cells.lstm import LSTMCell
from keras_gated.cells.simple_rnn import SimpleRNNCell
from keras_gated.convert import torch_check, torch_files, torch_states, torch_weights
from keras_gated.layers.base import RNN
from keras_gated.layers.families import GRU, LSTM, SimpleRNN

_BY_GATES = {1: SimpleRNN, 3: GRU, 4: LSTM}


def from_torch(
    module_or_state_dict,
    *,
    prefix: str | None = None,
    activation: str = "tanh",
    return_sequences: bool = True,
    return_state: bool = False,
    check: bool = False,
) -> keras.layers.Layer:
    """Returns layers of keras_gated with the weights of a `torch.nn.RNN`, `LSTM`, `GRU` or a cell.

    The inputs of the layers are `(batch, time, features)`, whatever `batch_first` says. Masks take
    the place of packed sequences. At a masked step torch's `pad_packed_sequence` writes zeros; a
    layer repeats its last output, and a `Bidirectional` writes zeros, too. A GRU keeps torch's two
    biases apart; other layers get their sum. `proj_size` becomes `projection`. A cell becomes a
    layer, which takes all steps. weight_norm becomes the effective weight.

    From a larger model one recurrent module is converted, and everything else is left out.

    Args:
        module_or_state_dict: One of these:

            - The module, or a model that holds it. It may be scripted or traced; a traced module
              has lost its activation and dropout.
            - A state dict of arrays or tensors (`weight_ih_l0`, ...; of a cell `weight_ih`). torch
              need not be installed for arrays. The names may be short (`w_ih`, `b_hh`). Or a
              checkpoint that holds the state dict under any name, for example "state_dict".
            - The path of such a dict: `.npz`, `.safetensors` (needs safetensors), or what
              `torch.save` wrote, `.pt`, `.pth`, `.bin`, `.ckpt` (needs torch). Weights alone are
              read: nothing that a file holds is run.
        prefix: The text before the names of the weights in a larger model, for example `"lstm."`
            or `"enc_"`, or `""` for no text. Default: that of the only recurrent module.
        activation: "tanh" or "relu", for an RNN that does not say its activation, such as a state
            dict.
        return_sequences: Whether the last layer returns all steps, as torch does.
        return_state: Whether to return a model that takes initial states and returns final ones.
        check: Whether to compare the answers with those of torch, for random sequences of unequal
            lengths, and to print the largest difference. A difference of more than 1e-4 of the
            largest answer (float16: 1e-2, float64: 1e-9) is an error.

    Returns:
        A built `SimpleRNN`, `LSTM` or `GRU`, inside a `Bidirectional` for both directions. For
        several layers, a `keras.Sequential` of them, with `Dropout` between if the module has it.

        With `return_state`, a functional `keras.Model`, `y, states = model((x, states))`. The
        states are lists of `(batch, width)` in torch's order, `[*h_n, *c_n]`: first the hidden
        states of all layers, forwards before backwards in each, then the memories of an LSTM in
        the same order. Inputs are named `x`, `h_0`, `h_0_reverse`, `h_1`, ..., `c_0`, ..., by the
        number of the layer, outputs `y`, `h_0_final`, ... A new sequence begins with states of
        zeros. `x` and the states must be all tensors or all arrays. Masked steps keep the state. A
        mask comes with `x`, or as `model((x, states), mask=(mask, [None] * len(states)))`.

    Raises:
        ValueError: If an entry is missing, unknown or of another shape; if a model has several
            recurrent modules and no `prefix` names one; for parametrizations other than
            weight_norm; if a module has a `forward` of its own or a forward hook and `check` is
            False; if a file is cut off, holds more than weights, or unpacks to far more than its
            size.
        FileNotFoundError: If there is no such file.
        ImportError: If the package that reads a file is not installed; for `check`, torch.
    """
    owner = "from_torch"
    if isinstance(module_or_state_dict, (str, os.PathLike)):
        path = module_or_state_dict
        module_or_state_dict = torch_files.state_dict_of(path, torch_weights.is_weight, owner)
        owner = f"from_torch({os.fspath(path)!r})"
    source = torch_weights.source_of(module_or_state_dict, prefix, activation, owner)
    if not check:
        torch_weights.check_own_forward(source.module, owner)
    arrays = torch_weights.arrays_of(source.state_dict, source.prefix, owner)
    places, directions, names = torch_weights.layout_of(arrays, owner)
    first = {name: arrays[name, places[0], False] for name in names}
    rows, width = first["weight_hh"].shape
    units = first["weight_hr"].shape[1] if "weight_hr" in names else width
    layer_class = _BY_GATES[rows // units]
    dtype = str(first["weight_hh"].dtype)
    options = {"use_bias": "bias_ih" in names, "return_state": return_state, "dtype": dtype}
    if layer_class is SimpleRNN:
        options["activation"] = source.activation
    if "weight_hr" in names:
        options["projection"] = width
    layers = []
    for place in places:
        last = place == places[-1]
        layer = layer_class(units, return_sequences=return_sequences or not last, **options)
        layers.append(_built(layer, [{n: arrays[n, place, d] for n in names} for d in directions]))
        if source.dropout and not last:
            layers.append(keras.layers.Dropout(source.dropout, dtype=dtype))
    features = first["weight_ih"].shape[1]
    if return_state:
        made = torch_states.with_states(layers, features, dtype)
    elif len(layers) == 1:
        [made] = layers
    else:
        made = keras.Sequential([keras.Input((None, features), dtype=dtype), *layers])
    if check:
        kind = _Kind(
            cell_class=layer_class.cell_class,
            units=units,
            use_bias=options["use_bias"],
            activation=keras.activations.get(source.activation),
            directions=len(directions),
            dtype=dtype,
            projection=options.get("projection"),
        )
        torch_check.check_answers(
            made,
            _asked(source.module, kind, arrays),
            features,
            return_sequences=return_sequences,
            return_state=return_state,
            owner=owner,
        )
    return made


def _asked(module, kind, arrays):
    """Returns the given module. For a state dict or a script, a new module of the same arrays."""
    torch = _torch("from_torch", "leave out `check`")
    if isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase)):
        return module
    named = {
        f"{name}_l{place or 0}{'_reverse' if reverse else ''}": array
        for (name, place, reverse), array in arrays.items()
    }
    layers = sum(name.startswith("weight_hh") for name in named) // kind.directions
    return _module(torch, kind, named, num_layers=layers, batch_first=True)


def _torch(owner, way_out):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{owner}: torch is not installed. Install it (pip install 'keras_gated[torch]'), or "
            f"{way_out}."
        ) from error
    return torch


def to_torch(layers, *, batch_first: bool = True, state_dict: bool = False):
    """Returns a `torch.nn.RNN`, `LSTM` or `GRU` with the weights of our layers.

    A layer with one bias gives its whole bias to `bias_ih`, and `bias_hh` is zero. A GRU keeps its
    two biases. torch applies dropout between layers, not inside them, so the dropouts of a layer
    are left out, with a warning.

    Args:
        layers: A built `SimpleRNN`, `LSTM` or `GRU` of keras_gated, an `RNN` around one of their
            cells, or a `Bidirectional` around these (outputs concatenated). Or several of the same
            size: a list or `keras.Sequential`, with `Dropout` between.
        batch_first: Whether the module takes `(batch, time, features)`.
        state_dict: Whether to return a dict of arrays instead, for which torch is not needed.

    Returns:
        The module, or its state dict of NumPy arrays.

    Raises:
        ValueError: For options that torch does not have: `go_backwards`, `reset_after=False`,
            other activations, layers of different kinds or sizes, `Dropout` elsewhere than
            between all layers.
        ImportError: If torch is not installed and `state_dict` is False.
    """
    layers, dropout = _without_dropout(layers)
    pairs = list(map(_directions, layers))  # `map` adds no frame, as the warning's stacklevel needs
    kind = _kind_of_all(layers, pairs)
    arrays = {}
    for place, pair in enumerate(pairs):
        for suffix, one in zip(("", "_reverse"), pair, strict=False):
            for name, array in _to_theirs(one.cell).items():
                arrays[f"{name}_l{place}{suffix}"] = array
    if state_dict:
        return arrays
    torch = _torch("to_torch", "ask for the arrays alone: to_torch(layers, state_dict=True)")
    return _module(
        torch, kind, arrays, num_layers=len(pairs), dropout=dropout, batch_first=batch_first
    )


class _Kind(NamedTuple):
    """What all layers of one module of torch have in common."""

    cell_class: type
    units: int
    use_bias: bool
    activation: Callable
    directions: int
    dtype: str
    projection: int | None


def _without_dropout(layers):
    """Returns the recurrent layers, and the fraction that is dropped between them."""
    if isinstance(layers, keras.Sequential):
        layers = layers.layers
    layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    are_drops = [type(one) is keras.layers.Dropout for one in layers]
    drops = [one.rate for one in layers if type(one) is keras.layers.Dropout]
    layers = [one for one in layers if type(one) is not keras.layers.Dropout]
    between = [False, *[True, False] * (len(layers) - 1)]
    if drops and (len(set(drops)) > 1 or are_drops != between):
        raise ValueError(
            "to_torch: torch drops the same fraction between all layers, and nothing before or "
            f"after them. Received: Dropout layers of {drops} with {len(layers)} recurrent layers. "
            "Leave them out of the list."
        )
    return layers, drops[0] if drops else 0.0


def _kind_of_all(layers, pairs):
    kinds = {
        _Kind(
            cell_class=type(cell),
            units=cell.units,
            use_bias=cell.use_bias,
            activation=cell.activation,
            directions=len(pair),
            dtype=cell.kernel.dtype,
            projection=getattr(cell, "projection", None),
        )
        for pair in pairs
        for cell in (one.cell for one in pair)
    }
    if not kinds:
        raise ValueError(f"to_torch: `layers` must hold a recurrent layer. Received: {layers}.")
    if len(kinds) != 1:
        raise ValueError(
            "to_torch: all layers must have the same class, units, biases, activation, directions, "
            f"dtype and projection. Received: {layers}. Convert them one by one."
        )
    [kind] = kinds
    width = kind.directions * (kind.projection or kind.units)
    for place, pair in enumerate(pairs[1:], 1):
        if (features := pair[0].cell.kernel.shape[0]) != width:
            raise ValueError(
                f"to_torch: layer {place} must read the {width} outputs of the layer before. "
                f"Received: {pair[0].name!r}, built for {features} features."
            )
    return kind


def _module(torch, kind, arrays, **options):
    if kind.cell_class is SimpleRNNCell:
        options["nonlinearity"] = kind.activation.__name__
    if kind.projection:
        options["proj_size"] = kind.projection
    classes = {SimpleRNNCell: torch.nn.RNN, LSTMCell: torch.nn.LSTM, GRUCell: torch.nn.GRU}
    module = classes[kind.cell_class](
        input_size=arrays["weight_ih_l0"].shape[1],
        hidden_size=kind.units,
        bias=kind.use_bias,
        bidirectional=kind.directions == 2,
        dtype=getattr(torch, kind.dtype),
        **options,
    )
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return module


def _built(layer, arrays):
    """Returns a layer with the weights of torch's arrays, which are of one direction or of both."""
    weights = [_to_ours(layer.cell_class.gates, of_direction) for of_direction in arrays]
    if len(weights) == 2:
        layer = keras_gated.layers.bidirectional.Bidirectional(layer, dtype=layer.dtype_policy)
    layer.build((None, None, weights[0][0].shape[0]))
    layer.set_weights([w for of_direction in weights for w in of_direction])
    return layer


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


def _directions(layer):
    """Returns our layers that make one layer of torch: a list of one direction, or of both."""
    pair = [layer]
    if isinstance(layer, keras.layers.Bidirectional):
        if layer.merge_mode != "concat":
            raise ValueError(
                "to_torch: torch concatenates both directions. Received: merge_mode="
                f"{layer.merge_mode!r} of {layer.name!r}."
            )
        pair = [layer.forward_layer, layer.backward_layer]
    for one in pair:
        known = type(one) in (RNN, SimpleRNN, LSTM, GRU)
        if not known or type(one.cell) not in (SimpleRNNCell, LSTMCell, GRUCell) or not one.built:
            raise ValueError(
                "to_torch: `layers` must be built layers of keras_gated (SimpleRNN, LSTM, GRU, an "
                f"RNN around one of their cells, or a Bidirectional of these). Received: {one!r}. "
                "`from_keras` turns those of Keras into ours; calling a layer once builds it."
            )
        _check_options(one, one is not pair[0])
    return pair


def _check_options(layer: RNN, backward):
    cell, activations = layer.cell, keras.activations
    relu = isinstance(cell, SimpleRNNCell) and cell.activation is activations.relu
    resets_after = getattr(cell, "reset_after", True)
    of_gates = getattr(cell, "recurrent_activation", activations.sigmoid)
    for name, value, accepted in (
        ("go_backwards", layer.go_backwards, layer.go_backwards == backward),
        ("zoneout", cell.zoneout, not any(cell.zoneout_rates())),
        ("reset_after", resets_after, resets_after),
        ("activation", cell.activation, cell.activation is activations.tanh or relu),
        ("recurrent_activation", of_gates, of_gates is activations.sigmoid),
    ):
        if not accepted:
            value = getattr(value, "__name__", value)
            raise ValueError(
                f"to_torch: torch has no counterpart of {name}={value!r} of {layer.name!r}. It "
                "reads forwards, resets after the product, has no zoneout, and uses tanh (RNN: or "
                "relu) and sigmoid."
            )
    dropouts = ("dropout", "recurrent_dropout", "recurrent_weight_dropout")
    left_out = {name: getattr(cell, name) for name in dropouts if getattr(cell, name)}
    if left_out:
        warnings.warn(
            f"to_torch: {layer.name!r} drops {left_out} in training, which torch's layers do not; "
            "the result is the same at inference alone.",
            stacklevel=4,
        )
