"""How the gradient of a loss travels back through time, step by step.

The model runs once as usual, which gives the derivatives of the loss with respect to the outputs of
its recurrent layers. Inside a layer, a loop then takes the gradient back by hand. At every step it
differentiates one step of the cell, whatever its equations. The gradient is the sum over all steps.
"""

import functools
import itertools
import weakref
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_gated import keras_private
from keras_gated.cells.arguments import check_backend
from keras_gated.cells.base import GatedCell
from keras_gated.cells.equations import equations_of
from keras_gated.inside.trace import by_layer, chosen, each
from keras_gated.layers.base import RNN
from keras_gated.paths.packing import where_rows
from keras_gated.paths.path import filled
from keras_gated.paths.recorder import recording


class GradientFlow(NamedTuple):
    """The gradient of a loss on its way back through one recurrent layer.

    The loss is that of `model.compute_loss`, usually a mean over the batch. Step t belongs to
    step t of the inputs, in both directions. At a masked step the state passes through: the norm
    is that of the state's derivative, and the contribution is zero.
    """

    hidden: Any  # norm of dL/dh_t over the units, (batch, time)
    memory: Any  # norm of dL/dc_t, through h_t and later steps, (batch, time); None without c
    # The part of the state after step t that the gates of all later steps keep: for an LSTM the
    # product of the later forget gates, for a GRU the product of 1 - update.
    path: Any  # (batch, time, units); None: no such gate
    # By weight name: what a step adds to the gradient, (time, *weight.shape). The weight of a layer
    # in the cell is `layer/weight`, and the second weight of that name `layer/weight/2`.
    contributions: Any
    # By weight name, weight.shape: their sum. It is the ordinary gradient if the layer is called
    # once. Otherwise the ordinary gradient is the sum over all calls.
    gradients: Any
    mask: Any  # whether a step counts, bool (batch, time)
    backwards: bool  # whether the layer reads from the last step to the first


def gradient_flow(
    model: keras.Model, x, y, layer=None, contributions: bool = True
) -> GradientFlow | dict:
    """Returns how the gradient of a model's loss travels back through its recurrent layers.

    The model runs at inference: no dropout, and no weight or state changes. Penalties on weights
    do not travel through time and are left out.

    Args:
        model: A compiled Keras model with recurrent layers of keras_gated.
        x, y: One batch, as for `model.train_on_batch`.
        layer: Optional layer, or its name in the result, if only this layer is wanted. A direction
            of a `Bidirectional` is `name/forward` or `name/backward`. Default: all.
        contributions: Whether to keep what each step adds to the gradients of the weights. This
            takes as much memory as `time` copies of the weights. With False, `contributions` and
            `gradients` are None.

    Returns:
        The `GradientFlow` of `layer`, or without `layer` a dict of them by the name of the layer.
        A `Bidirectional` has a dict of two, `forward` and `backward`. The second call of a layer
        is `name/2`.

    Raises:
        ValueError: If Keras runs on another backend than TensorFlow, or if the model is not
            compiled, has no such layer, calls it several times, or calls it where its values cannot
            be read. A cell with a `call` of its own is treated as by `trace_gates`.

    Reference: Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013,
    arXiv:1211.5063, equations 3 to 5; the uninterrupted path: Gers, Schmidhuber and Cummins 2000.
    """
    flows = flows_of(model, x, y, layer, contributions)
    return flows if layer is None else next(iter(flows.values()))


def flows_of(model, x, y, layer, contributions):
    """Returns the wanted part of what `gradient_flow` returns for all layers, by name."""
    check_backend("gradient_flow")
    if not isinstance(model, keras.Model) or not getattr(model, "compiled", False):
        raise ValueError(
            f"gradient_flow: `model` must be a compiled Keras model. Received: {model!r}. "
            "`model.compile(loss=...)` says what is to be differentiated."
        )
    with tf.GradientTape() as tape, recording("states") as calls:
        for part in keras_private.parts_of(model):
            if isinstance(part, RNN) and part.built:
                # So that a frozen layer counts, too.
                tape.watch([weight.value for weight in _weights(part.cell).values()])
        prediction = model(x, training=False)
        loss = model.compute_loss(x=x, y=y, y_pred=prediction, training=False)
    found = chosen(by_layer(model, calls, "gradient_flow"), layer, "gradient_flow")
    wanted = []
    each(found, wanted.append)
    # If a layer returns its gates, the loss may depend on them, too.
    sources = [(c.results, c.gates if c.layer.return_gates else {}) for c in wanted]
    derivatives = tape.gradient(loss, sources, unconnected_gradients="zero")
    flows = map(_flow, wanted, derivatives, [contributions] * len(wanted))
    return each(found, lambda _: next(flows))


def _flow(call, derivatives, contributions):
    layer, cell = call.layer, call.layer.cell
    if call.sequences.shape[1] == 0:
        raise ValueError(f"gradient_flow: {layer.name!r} was given sequences without any step.")
    mask = tf.ones(tf.shape(call.sequences)[:2], tf.bool) if call.mask is None else call.mask
    (by_output, *by_finals), by_gates = tf.nest.map_structure(
        lambda d: tf.cast(d, cell.state_dtype), derivatives
    )

    def turned(steps):  # from the order of the inputs to that of computation, and back
        return tf.reverse(steps, [1]) if layer.go_backwards else steps

    by_fields = {name: _swapped(turned(d)) for name, d in by_gates.items()}
    if not layer.return_sequences:
        none = tf.zeros([call.sequences.shape[1] - 1, *by_output.shape], by_output.dtype)
        by_output = tf.concat([none, by_output[None]], 0)
        by_fields["hidden"] = by_output + by_fields.get("hidden", 0)
    elif not by_gates:  # with gates, the output is one of them
        by_fields["hidden"] = _swapped(by_output)  # in the order of computation
    d_states, carried, by_weights = _traced(layer, tuple(by_fields), contributions)(
        _swapped(turned(call.sequences)),
        _swapped(turned(mask)),
        call.states,
        list(by_fields.values()),
        by_finals or [tf.zeros_like(s) for s in call.states],
    )
    norms = [turned(_swapped(tf.norm(d, axis=-1))) for d in d_states]
    path = None
    if carried is not None:
        later = tf.math.cumprod(carried, axis=0, exclusive=True, reverse=True)
        path = turned(_swapped(later))
    by_step = sums = None
    if contributions:
        by_step = {
            name: tf.reverse(d, [0]) if layer.go_backwards else d
            for name, d in zip(_weights(cell), by_weights, strict=True)
        }
        sums = {name: tf.reduce_sum(d, 0) for name, d in by_step.items()}
    hidden, memory = (*norms, None)[:2]
    return GradientFlow(hidden, memory, path, by_step, sums, mask, layer.go_backwards)


def _weights(cell):
    """Returns the weights of a cell by the names of `GradientFlow`, without integers."""
    found, own = {}, len(cell.own_weights())
    for place, weight in enumerate(cell.weights):
        name = "/".join(weight.path.split("/")[-1 if place < own else -2 :])
        names = itertools.chain([name], (f"{name}/{n}" for n in itertools.count(2)))
        if keras.backend.is_float_dtype(weight.dtype):
            found[next(n for n in names if n not in found)] = weight
    return found


def _swapped(tensor):
    """Returns a tensor with its first two axes, batch and time, in the other order."""
    return tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])


# By layer: `_backwards`, traced. An attribute of the layer would be saved with every export.
_TRACED = weakref.WeakKeyDictionary()


def _traced(layer, *options):
    """Returns `_backwards` of a layer, traced once for all batch sizes and lengths."""
    own, key = _TRACED.setdefault(layer, {}), (equations_of(layer.cell), *options)
    if key not in own:
        # A partial each: TensorFlow counts the traces of one code, and warns of retracing.
        backwards = functools.partial(_backwards, weakref.proxy(layer), *options)
        own[key] = tf.function(backwards, autograph=False, reduce_retracing=True)
    return own[key]


def _backwards(layer, fields, contributions, x, mask, states, by_fields, by_finals):
    """Takes the gradient back through a layer. All tensors have the steps first, as computed.

    Args:
        layer: The layer.
        fields: The names of the fields of a step that the loss depends on.
        contributions: Whether the derivatives with respect to the weights are wanted.
        x: `(time, batch, features)`.
        mask: bool, `(time, batch)`.
        states: The states before the first step, each `(batch, units)`.
        by_fields: The derivatives of the loss with respect to these fields of each step, each
            `(time, batch, units)`.
        by_finals: Its derivatives with respect to the final states, each `(batch, units)`.

    Returns:
        The derivatives with respect to the states after each step, each `(time, batch, units)`;
        the part of the memory that each step keeps, with the same shape, or None; and what each
        step adds to the derivatives with respect to the weights, each `(time, *weight.shape)`.
    """
    cell, time = layer.cell, tf.shape(x)[0]
    x = filled(tf.cast(x, cell.state_dtype), mask)  # 0 * NaN would be NaN
    weights = [w.value for w in _weights(cell).values()] if contributions else []

    def named(step, names=cell.state_names):
        return [getattr(step, name) for name in names]

    def forwards(t, states, before, kept):
        step = cell.whole_step(x[t], states)
        if kept:
            kept = _write(
                kept, t, where_rows(mask[t], [cell.carried(step)], [tf.ones_like(states[-1])])
            )
        return t + 1, where_rows(mask[t], named(step), states), _write(before, t, states), kept

    def backwards(t, d_shown, d_states, by_states, by_weights):
        valid, before = mask[t], [array.read(t) for array in saved]
        d_shown = [d + by_field[t] for d, by_field in zip(d_shown, by_fields, strict=True)]
        d_step = [*d_states, *d_shown]
        none = [tf.zeros_like(d) for d in d_step]
        with tf.GradientTape() as tape:
            tape.watch([*before, *weights])
            step = cell.whole_step(x[t], before)
            after = named(step)
        by_after, by_before, by_weight = tape.gradient(
            [*after, *named(step, fields)],
            [after, before, weights],
            where_rows(valid, d_step, none),
            "zero",
        )
        passing = [d_states[0] + d_shown[fields.index("hidden")], *d_states[1:]]
        by_states = _write(by_states, t, where_rows(valid, by_after, passing))
        d_states = where_rows(valid, by_before, d_states)
        # A masked step repeats the previous output, so its gradient belongs to that earlier step.
        kept = tf.zeros_like(valid) if layer.zero_output_for_mask else ~valid
        d_shown = where_rows(kept, d_shown, none[len(states) :])
        return t - 1, d_shown, d_states, by_states, _write(by_weights, t, by_weight)

    def arrays(tensors):
        return [tf.TensorArray(t.dtype, time, element_shape=t.shape) for t in tensors]

    has_path = type(cell).carried is not GatedCell.carried
    begin = (0, list(states), arrays(states), arrays(states[-1:] if has_path else []))
    *_, saved, kept = tf.while_loop(lambda t, *_: t < time, forwards, begin)
    nothing = [tf.zeros([tf.shape(mask)[1], cell.width_of(n)], states[0].dtype) for n in fields]
    begin = (time - 1, nothing, list(by_finals), arrays(states), arrays(weights))
    *_, by_states, by_weights = tf.while_loop(lambda t, *_: t >= 0, backwards, begin)
    stacked = [[array.stack() for array in own] for own in (by_states, kept, by_weights)]
    return stacked[0], stacked[1][0] if kept else None, stacked[2]


def _write(arrays, t, values):
    return [array.write(t, value) for array, value in zip(arrays, values, strict=True)]
