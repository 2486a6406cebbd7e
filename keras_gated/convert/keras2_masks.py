"""The masks of Keras 2, for the layers that pass masks on by other rules in Keras 3.

- Of several masked inputs, Keras 2 keeps the steps that all masks keep. An input without a mask
  does not count. Keras 3 keeps the steps that any mask keeps, and no mask if an input has none.
- `Identity`, `Rescaling` and `Normalization` pass no mask on in Keras 2.
- `TimeDistributed` passes on the mask that the layer in it makes, in Keras 2.

Where a layer would read another mask than in Keras 2, it is given Keras 2's as an argument.
"""

import copy
import functools
import inspect
import weakref

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
# For the models made here: the masks of their outputs, as an outer model sees them.
_OF_OUTPUTS = weakref.WeakKeyDictionary()


class _AtRunTime:
    """In place of a mask that a model within the model makes: no tensor stands for it here.

    Args:
        model: The name of the model that makes it.
        right: Whether Keras 3 makes the same mask as Keras 2.
    """

    def __init__(self, model, right=True):
        self.model, self.right = model, right

    def why(self):
        return f"reads a mask that {self.model!r}, a model within the model, makes"


class Masks:
    """Calls layers so that each reads the masks that it read in Keras 2.

    Args:
        try_with_masks: Called before a model within the model, with the model's name and, for each
            input, its mask or None. Returns a model that is made to be right with such masks, or
            None if the model is of a class of the caller. Raises a `RefusedError` if a layer in
            the model would read another mask than in Keras 2.
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
        return None if isinstance(mask, _AtRunTime) else mask

    def differ(self, tensors):
        """Whether a mask of these tensors is not the mask that Keras 3 attaches."""
        return any(
            self._source(self.known(t)) is not self._source(keras_private.mask_of(t))
            for t in tree.flatten(tensors)
        )

    def note_outputs(self, model, outputs):
        """Notes the masks that the outputs of a model have where it is a layer of another model."""
        noted, made = [], {}
        for output in tree.flatten(outputs):
            mask = self.of(output)
            if isinstance(mask, _AtRunTime):
                noted.append(mask)
            elif self.differ(output):
                noted.append(_AtRunTime(model.name, right=False))
            elif mask is None:
                noted.append(None)
            else:
                noted.append(made.setdefault(id(self._source(mask)), _AtRunTime(model.name)))
        _OF_OUTPUTS[model] = noted

    def call(self, layer, given, **others):
        """Returns `layer(given, **others)`.

        Raises:
            RefusedError: If the layer cannot be given the mask that it read in Keras 2.
        """
        masks, tensors = tree.map_structure(self.of, given), given
        _check(layer, given, tree.flatten(masks))
        if isinstance(layer, _MODELS):
            made_by_model = self._after_model(layer, tree.flatten(masks))
        if self.differ(given) and others.get("mask") is None and _reads_masks(layer):
            self.given = True
            # `None` as an argument would stand for the mask that Keras 3 attached.
            tensors = tree.map_structure(self._without_a_mask_of_keras_3, given)
            for mask in tree.flatten(masks):
                if isinstance(mask, _AtRunTime):
                    _refuse(layer, mask.why())
            if any(mask is not None for mask in tree.flatten(masks)):
                others["mask"] = masks
        outputs = layer(tensors, **others)
        if isinstance(layer, _RECURRENT) and others.get("mask") is not None:
            masks = others["mask"]
        if isinstance(layer, _MODELS):
            after = made_by_model
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

    def _after_model(self, model, masks):
        """Returns the masks of the outputs of a model within the model."""
        if any(mask is not None for mask in masks):
            sources = [None if mask is None else self._source(mask) for mask in masks]
            model = self._try_with_masks(model.name, sources) or model
        made = _made_by(model)
        anew = {id(mask): copy.copy(mask) for mask in made if mask is not None}
        return [anew.get(id(mask)) for mask in made]

    def _after(self, layer, given, masks, outputs):
        """Returns the masks of a layer's outputs."""
        flat, none = tree.flatten(masks), tree.map_structure(lambda _: None, outputs)
        at_run_time = next((mask for mask in flat if isinstance(mask, _AtRunTime)), None)
        if at_run_time:
            kept = layer.supports_masking and not _ends_masks(layer)
            by_another_rule = isinstance(layer, _PASS_NO_MASK)
            if isinstance(layer, _MERGES):
                along_steps = _axis_of(layer, outputs) != len(outputs.shape) - 1
                by_another_rule = along_steps or any(m is not at_run_time for m in flat)
            mask = _AtRunTime(at_run_time.model, right=False) if by_another_rule else at_run_time
            return tree.map_structure(lambda _: mask if kept else None, outputs)
        if isinstance(layer, _PASS_NO_MASK):
            return none
        if isinstance(layer, _LAYERS.TimeDistributed):
            return _after_each_step(layer, given, masks)
        if isinstance(layer, _MERGES):
            axis = _axis_of(layer, outputs)
            if axis == len(outputs.shape) - 1:
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


def _made_by(model):
    """Returns the masks of a model's outputs as an outer model sees them."""
    made = _OF_OUTPUTS.get(model)
    if made is None:  # no layer in it has another rule, or its class is the caller's
        made = [_AtRunTime(model.name) if _is_masked(out) else None for out in model.outputs]
    return made


def _check(layer, given, masks):
    """Raises if the mask after a layer, or in it, cannot be that of Keras 2."""
    known = [mask for mask in masks if mask is not None]
    inner, depth = _at_each_step(layer)
    at_each_step = depth > 0
    reads = _has_masks(inner) if at_each_step else _reads_masks(layer)
    at_run_time = [mask for mask in known if isinstance(mask, _AtRunTime)]
    wrong = [mask for mask in at_run_time if at_each_step or not mask.right]
    if reads and wrong:
        why = wrong[0].why()
    elif (
        isinstance(inner, _MODELS)
        and at_each_step
        and (any(_made_by(inner)) or any(axes_of(mask) > 1 + depth for mask in known))
    ):
        why = "runs a model with a mask of its own at every step"
    elif at_each_step and known and given.shape[0] is not None and not _is_plain(inner):
        why = "is run step by step for a fixed batch size in Keras 2, and repeats masked outputs"
    else:
        return
    _refuse(layer, why)


def _refuse(layer, why):
    raise RefusedError(
        f"the layer {layer.name!r}, a {type(layer).__name__}, {why}: it would get or pass on "
        "another mask in Keras 3. Put the layers of a model within the model into the outer model "
        "in Keras 2, or leave the mask out, and save that."
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


def _axis_of(merge, outputs):
    """Returns the axis along which a layer puts several inputs together; the last for sums."""
    rank = len(outputs.shape)
    return merge.axis % rank if isinstance(merge, _LAYERS.Concatenate) else rank - 1


def _is_masked(output):
    return keras_private.mask_of(output) is not None


def axes_of(mask):
    """Returns the number of axes of a mask."""
    return 2 if isinstance(mask, _AtRunTime) else len(mask.shape)


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
