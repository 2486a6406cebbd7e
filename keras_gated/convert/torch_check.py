"""Compares our layers with PyTorch: their answers to random sequences of unequal lengths."""

import warnings

import keras
import numpy as np

from keras_gated.convert.examples import ANY_DTYPE, difference

_ROWS, _STEPS = 4, 9
_BFLOAT16 = 5e-2  # accepted: torch computes with 8 bits of each number, and we with 24


def check_answers(ours, module, features, *, return_sequences, return_state, owner):
    """Prints the largest difference of the outputs, or raises if it is not rounding.

    Args:
        ours: What `from_torch` made.
        module: The recurrent module of torch, a `torch.nn.RNN`, ..., or a cell.
        features: The width of the inputs.
        return_sequences: Whether `ours` returns all steps.
        return_state: Whether `ours` takes states and returns them.
        owner: What the message begins with.

    Raises:
        ValueError: If the outputs differ.
    """
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    rng = np.random.default_rng(0)
    # NumPy has no bfloat16. The weights are then read as float32.
    x = rng.normal(size=(_ROWS, _STEPS, features))
    x = x.astype("float32" if dtype == "bfloat16" else dtype)
    lengths = np.array([_STEPS, 5, 1, 7])
    valid = np.arange(_STEPS) < lengths[:, None]
    y, last = _theirs(module, x, lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns that a model itself passes no mask on
        received = _ours(ours, x, valid, return_state)
    pair = [received[valid], y[valid]] if return_sequences else [received, last]
    differs, accepted = difference(*([one] for one in pair)), ANY_DTYPE.get(dtype, _BFLOAT16)
    if not differs <= accepted:
        raise ValueError(
            f"{owner}: the layers answer otherwise than torch, by {differs:.2g} of the largest "
            f"answer (accepted: {accepted:.0e}), to random sequences of unequal lengths. Please "
            "report it; check=False converts all the same."
        )
    print(f"{owner}: the largest difference from torch is {differs:.1e} (unequal lengths)")


def _ours(ours, x, valid, return_state):
    if not return_state:
        return keras.ops.convert_to_numpy(ours(x, mask=valid))
    states = [np.zeros((len(x), *t.shape[1:]), x.dtype) for t in ours.input[1]]
    y, _ = ours((x, states), mask=(valid, [None] * len(states)))
    return keras.ops.convert_to_numpy(y)


def _theirs(module, x, lengths):
    """Returns torch's outputs of all steps, and of the last valid step of every direction."""
    import torch

    parameter, was_training = next(module.parameters()), module.training
    x = torch.from_numpy(x).to(parameter.device, parameter.dtype)
    module.eval()  # the module itself: a module with weight_norm cannot be copied
    try:
        with torch.inference_mode():
            run = _of_cell if isinstance(module, torch.nn.RNNCellBase) else _of_layers
            y, last = run(module, x, torch.from_numpy(lengths))
    finally:
        module.train(was_training)
    if parameter.dtype == torch.bfloat16:
        y, last = y.float(), last.float()
    return y.cpu().numpy(), last.cpu().numpy()


def _of_layers(module, x, lengths):
    import torch

    batch_first = module.batch_first
    x = x if batch_first else x.swapaxes(0, 1)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, lengths, batch_first=batch_first, enforce_sorted=False
    )
    y, states = module(packed)
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    hidden = states[0] if isinstance(states, tuple) else states
    directions = 2 if module.bidirectional else 1
    return y, torch.cat(list(hidden[-directions:]), dim=-1)


def _of_cell(cell, x, lengths):
    import torch

    outputs, state = [], None
    for step in range(x.shape[1]):
        state = cell(x[:, step], state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    y = torch.stack(outputs, dim=1)
    return y, y[torch.arange(len(y)), lengths - 1]
