"""The masks of Keras 2, for the layers that pass masks on by other rules in Keras 3.

- Of several masked inputs, Keras 2 keeps the steps that all masks keep. An input without a mask
  does not count. Keras 3 keeps the steps that any mask keeps, and no mask if an input has none.
- `Identity`, `Rescaling` and `Normalization` pass no mask on in Keras 2.
- `TimeDistributed` passes on the mask that the layer in it makes, in Keras 2.

Where a layer would read another mask than in Keras 2, it is given Keras 2's as an argument.
"""

import functools
import inspect

import keras
from keras import ops, tree

from keras_gated import keras_private
from keras_gated.convert.keras_checks import RefusedError

_LAYERS = keras.layers
_MERGES = (
    _LAYERS.Add,
    _LAYERS.Subtract,
    _LAYERS.Multiply,
    _LAYERS.Average,
    _LAYERS.Maximum,
    _LAYERS.Minimum,
    _LAYERS.Concatenate,
)
_PASS_NO_MASK = (_LAYERS.Identity, _LAYERS.Rescaling, _LAYERS.Normalization)
_RECURRENT = (_LAYERS.RNN, _LAYERS.Bidirectional)
OTHER_RULES = (*_MERGES, *_PASS_NO_MASK, _LAYERS.TimeDistributed)
_MODELS = (keras.Sequential, keras_private.Functional)
# In place of a mask: a model within the model makes it, and no tensor stands for it here.
_AT_RUN_TIME = object()
# In place of a mask: it is made of a mask `_AT_RUN_TIME`, and Keras 3 would make another.
_OTHER_AT_RUN_TIME = object()


class Masks:
    """Calls layers so that each reads the masks that it read in Keras 2.

    Args:
        try_with_masks: Called before a model within the model, with the model's name and, for each
            input, the number of axes of its mask or None. Returns for each output whether it has a
            mask then. Raises a `RefusedError` if a layer in the model would read another mask than
            in Keras 2.
    """

    def __init__(self, try_with_masks):
        self.given = False  # whether a layer was given a mask as an argument, or a copy without one
        self._try_with_masks = try_with_masks
        self._other = {}  # the `id` of a tensor: the tensor, and its mask if that is not Keras 3's
        self._equal = {}  # the `id` of a mask: the mask, and the mask that it is computed from

    def of(self, tensor):
        """Returns the mask that a tensor had in Keras 2, or None."""
        _, mask = self._other.get(id(tensor), (None, keras_private.mask_of(tensor)))
        return mask

    def known(self, tensor):
        """Returns the mask that a tensor had in Keras 2 if a tensor stands for it, or None."""
        mask = self.of(tensor)
        return None if mask is _AT_RUN_TIME or mask is _OTHER_AT_RUN_TIME else mask

    def differ(self, tensors):
        """Whether a mask of these tensors is not the mask that Keras 3 attaches."""
        return any(
            self._source(self.known(t)) is not self._source(keras_private.mask_of(t))
            for t in tree.flatten(tensors)
        )

    def are_lost(self, tensors):
        """Whether a mask of these tensors is neither Keras 3's nor can be given to a layer."""
        return any(self.of(t) is _OTHER_AT_RUN_TIME for t in tree.flatten(tensors))

    def call(self, layer, given, **others):
        """Returns `layer(given, **others)`.

        Raises:
            RefusedError: If the layer cannot be given the mask that it read in Keras 2.
        """
        masks, masked = tree.map_structure(self.of, given), None
        _check(layer, given, tree.flatten(masks))
        if isinstance(layer, _MODELS) and any(mask is not None for mask in tree.flatten(masks)):
            axes = tree.flatten(tree.map_structure(_axes_of, masks))
            masked = self._try_with_masks(layer.name, axes)
        tensors = given
        if self.differ(given) and others.get("mask") is None and _reads_masks(layer):
            self.given = True
            # `None` as an argument would stand for the mask that Keras 3 attached.
            tensors = tree.map_structure(self._without_a_mask_of_keras_3, given)
            if any(mask is _AT_RUN_TIME for mask in tree.flatten(masks)):  # no tensor to give
                _refuse(layer, "a model within the model makes one of the masks that it reads")
            if any(mask is not None for mask in tree.flatten(masks)):
                others["mask"] = masks
        outputs = layer(tensors, **others)
        if isinstance(layer, _RECURRENT) and others.get("mask") is not None:
            masks = others["mask"]
        if isinstance(layer, _MODELS):
            masked = masked or list(map(_is_masked, layer.outputs))
            after = [_AT_RUN_TIME if one else None for one in masked]
        else:
            after = self._after(layer, given, masks, outputs)
        self._note(tree.flatten(outputs), tree.flatten(after))
        return outputs

    def _without_a_mask_of_keras_3(self, tensor):
        return ops.copy(tensor) if self.of(tensor) is None and _is_masked(tensor) else tensor

    def _note(self, outputs, masks):
        for output, mask in zip(outputs, masks, strict=True):
            if mask is not keras_private.mask_of(output):
                self._other[id(output)] = output, mask

    def _after(self, layer, given, masks, outputs):
        """Returns the masks of a layer's outputs."""
        flat, none = tree.flatten(masks), tree.map_structure(lambda _: None, outputs)
        at_run_time = [m for m in flat if m is _AT_RUN_TIME or m is _OTHER_AT_RUN_TIME]
        if at_run_time:
            kept = layer.supports_masking and not _ends_masks(layer)
            other = isinstance(layer, (*_MERGES, *_PASS_NO_MASK))
            mask = _OTHER_AT_RUN_TIME if other else at_run_time[0]
            return tree.map_structure(lambda _: mask if kept else None, outputs)
        if isinstance(layer, _PASS_NO_MASK):
            return none
        if isinstance(layer, _LAYERS.TimeDistributed):
            return _after_each_step(layer, given, masks)
        if isinstance(layer, _MERGES):
            rank = len(tree.flatten(given)[0].shape)
            axis = layer.axis % rank if isinstance(layer, _LAYERS.Concatenate) else rank - 1
            if axis == rank - 1:
                attached = None if self.differ(given) else keras_private.mask_of(outputs)
                return [self._all_of(flat, attached)]
            if all(mask is not None for mask in flat):
                return [ops.concatenate(flat, axis=axis)]
        if not self.differ(given) or _reads_masks(layer):
            return tree.map_structure(keras_private.mask_of, outputs)
        return layer.compute_mask(given, masks) if layer.supports_masking else none

    def _all_of(self, masks, attached):
        """Returns the mask that keeps the steps which all masks keep; None does not count.

        Args:
            masks: The masks of the inputs.
            attached: The mask that Keras 3 made of the same masks, or None.
        """
        sources = {id(one): one for one in map(self._source, masks) if one is not None}
        if not sources:
            return None
        all_of = functools.reduce(ops.logical_and, sources.values())
        if len(sources) == 1 and attached is not None and all(m is not None for m in masks):
            self._equal[id(attached)] = attached, all_of  # computed by another rule, but equal
        return all_of

    def _source(self, mask):
        _, source = self._equal.get(id(mask), (None, mask))
        return source


def _check(layer, given, masks):
    """Raises if the mask after a layer, or in it, cannot be that of Keras 2."""
    known = [mask for mask in masks if mask is not None]
    inner, depth = _at_each_step(layer)
    at_each_step = depth > 0
    reads = _has_masks(inner) if at_each_step else _reads_masks(layer)
    lost = any(mask is _OTHER_AT_RUN_TIME for mask in known)
    if reads and (lost or (at_each_step and any(mask is _AT_RUN_TIME for mask in known))):
        why = "a model within the model makes the mask that it reads"
    elif (
        isinstance(inner, _MODELS)
        and at_each_step
        and (any(map(_is_masked, inner.outputs)) or any(_axes_of(mask) > 1 + depth for mask in known))
    ):
        why = "it runs a model with a mask of its own at every step"
    elif at_each_step and known and given.shape[0] is not None and not _is_plain(inner):
        why = "Keras 2 runs it step by step for a fixed batch size, and repeats masked outputs"
    else:
        return
    _refuse(layer, why)


def _refuse(layer, why):
    raise RefusedError(
        f"the layer {layer.name!r}, a {type(layer).__name__}, would get or pass on another mask in "
        f"Keras 3: {why}. Put the layers of a model within the model into the outer model in Keras "
        "2, or leave the mask out, and save that."
    )


def _reads_masks(layer):
    return "mask" in inspect.signature(layer.call).parameters


def _has_masks(layer):
    """Whether a layer reads masks or makes one."""
    return _reads_masks(layer) or isinstance(layer, (_LAYERS.Embedding, _LAYERS.Masking))


def _ends_masks(layer):
    one = getattr(layer, "forward_layer", layer)
    if isinstance(one, _LAYERS.RNN):
        return not one.return_sequences
    return isinstance(layer, (_LAYERS.GlobalAveragePooling1D, _LAYERS.Dot))


def _is_masked(output):
    return keras_private.mask_of(output) is not None


def _axes_of(mask):
    """Returns the number of axes of a mask, or None for none."""
    return None if mask is None else len(mask.shape) if hasattr(mask, "shape") else 2


def _at_each_step(layer):
    """Returns the layer in one or several `TimeDistributed`, and how many there are around it."""
    depth = 0
    while isinstance(layer, _LAYERS.TimeDistributed):
        layer, depth = layer.layer, depth + 1
    return layer, depth


def _is_plain(layer):
    """Whether Keras 2 runs a layer for all steps at once, also for a fixed batch size."""
    own = type(layer).__module__.split(".")[0] not in ("keras", "keras_gated")
    return not (own or isinstance(layer, _MODELS) or getattr(layer, "stateful", False))


def _after_each_step(distributed, given, mask):
    """Returns the mask after a `TimeDistributed`."""
    layer, depth = _at_each_step(distributed)
    if isinstance(layer, (_LAYERS.Embedding, _LAYERS.Masking)):
        made = layer.compute_mask(given, None)
    elif isinstance(layer, _PASS_NO_MASK) or _ends_masks(layer) or not layer.supports_masking:
        made = None
    else:
        made = mask
    if made is None and mask is not None:
        made, steps = mask, 1 + depth
        if len(mask.shape) > steps:
            made = ops.any(mask, axis=tuple(range(steps, len(mask.shape))))
    return made
