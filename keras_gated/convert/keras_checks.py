"""Refuses what cannot be converted exactly to or from `keras.layers`, before the conversion."""

import keras

from keras_gated import keras_private
from keras_gated.cells.activations import HardSigmoid

# A conversion negates the weights of a GRU's update gate. A GRU may have only these functions,
# which treat a weight and its negative alike.
_SYMMETRIC = {
    "activation": {"sigmoid", "hard_sigmoid"},
    "regularizer": {"L1", "L2", "L1L2", "OrthogonalRegularizer"},
    "constraint": {"MaxNorm", "MinMaxNorm", "UnitNorm"},
}


class RefusedError(Exception):
    """Something cannot be converted. The message says what, why and the way out, not the file."""


def check_symmetry(arguments, owner):
    """Raises if a function of a GRU does not treat a weight and its negative alike."""
    for name, value in arguments.items():
        kind = name.rsplit("_", 1)[-1]
        if name in ("activation", "activity_regularizer") or kind not in _SYMMETRIC or not value:
            continue
        named = value if isinstance(value, str) else value.get("class_name", value)
        if named == "function":
            named = value["config"]
        if named == HardSigmoid.__name__ and value["config"]["offset"] == 0.5:
            continue
        if named not in _SYMMETRIC[kind]:
            raise ValueError(
                f"{owner}: `{name}` of the GRU {arguments['name']!r} must be one that does not "
                f"tell a weight from its negative ({', '.join(sorted(_SYMMETRIC[kind]))}): Keras's "
                f"update gate is the complement of ours. Received: {name}={named!r}."
            )


def check_masks_with_states(model, owner):
    """Raises if `keras.layers` would drop a mask that our layers use."""
    for layer, node, mask, _ in _calls(model):
        states = node.input_tensors[1:]
        if states and mask is not None and node.arguments.kwargs.get("mask") is None:
            raise ValueError(
                f"{owner}: {layer.name!r} is given an initial state and sequences with a mask. "
                "keras.layers then drops the mask and ours counts it, so the answers would "
                "differ. Give the layer `mask=` explicitly, or sequences without a mask."
            )


def check_turned_masks(model, owner):
    """Raises if a layer reads a mask that `keras.layers` does not reverse with the outputs."""
    for layer, node, mask, parent in _calls(model):
        turned = getattr(layer, "go_backwards", False) and layer.return_sequences
        if turned and mask is not None and _mask_is_read_after(parent, node):
            raise ValueError(
                f"{owner}: {layer.name!r} reads backwards under a mask (`go_backwards=True, "
                "return_sequences=True`) and a later layer reads that mask. keras.layers "
                "passes it on in the order of the inputs and ours in that of the outputs, so "
                "the answers would differ. Give the later layer sequences without a mask."
            )


def _calls(model):
    """Yields each call of a recurrent layer: (layer, node, mask, the model that holds it)."""
    for layer in model.layers:
        if isinstance(layer, keras_private.Functional):
            yield from _calls(layer)
        if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
            for node in layer._inbound_nodes:
                yield layer, node, keras_private.mask_of(node.input_tensors[0]), model


def _mask_is_read_after(model, node):
    """Whether a recurrent layer reads masked sequences that depend on a call's outputs."""
    for layer in model.layers:
        if not isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
            continue
        for other in layer._inbound_nodes:
            masked = keras_private.mask_of(other.input_tensors[0]) is not None
            waiting, seen = [other] if masked and other is not node else [], set()
            while waiting:
                current = waiting.pop()
                if current is node:
                    return True
                for parent in current.parent_nodes:
                    if id(parent) not in seen:
                        seen.add(id(parent))
                        waiting.append(parent)
    return False
