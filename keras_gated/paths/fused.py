"""The fused path of the layers: when it is valid, and how a batch goes through it."""

import functools

import tensorflow as tf

from keras_gated import keras_private
from keras_gated.cells.equations import equations_of
from keras_gated.cells.trial import check_step
from keras_gated.paths import compiled as loops
from keras_gated.paths import packing, plain
from keras_gated.paths.path import Results, filled, is_exporting, last_output, why_cells_loop


def why_not(call):
    """As in `Path`."""
    if inside_xla():
        if call.mask is not None:
            return "a mask cannot be packed inside a function that XLA compiles"
        if call.looked_at:
            return "gates come from the plain loop, which XLA does not compile"
        if None in call.sequences.shape:
            return "XLA compiles the function around the layer, and not all sizes are known there"
        if _inside_a_loop():
            return "XLA compiles a loop around the layer"
    if _has_a_tape_and_tangents(call):
        return "a forward accumulator and a tape together cannot differentiate a whole function"
    return why_cells_loop(call) or check_step(call.cell, equations_of(call.cell))


def _has_a_tape_and_tangents(call):
    """Whether an eager call is differentiated in forward mode and by a tape, too."""
    if not tf.executing_eagerly() or not keras_private.could_possibly_record():
        return False
    weights = [weight.value for weight in call.cell.weights]
    given = [call.sequences, *map(tf.convert_to_tensor, call.states)]
    handles = [getattr(weight, "handle", weight) for weight in weights]
    if not keras_private.pack_tangents([*given, *handles]).tangents:
        return False
    return keras_private.should_record_backprop([*given, *map(tf.convert_to_tensor, weights)])


def inside_xla():
    return keras_private.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _inside_a_loop():
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and not isinstance(graph, keras_private.WhileBodyFuncGraph):
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


# The functions in which Keras runs `fit`, `evaluate`, `predict` and the `..._on_batch`. For
# an export, Keras traces a model anew, in functions with other names.
_OF_KERAS = (
    "one_step_on_data",
    "one_step_on_data_distributed",
    "multi_step_on_data",
    "multi_step_on_iterator",
)


def _loops_of(call):
    """Returns the function that runs a group: the compiled loop where that is safe, else the plain.

    Under a tape, a derivative will be taken. Without a tape, the graph may be exported. It must
    then run on a server that does not compile.
    """
    if keras_private.should_invoke_op_callbacks():  # XLA lacks the operations that they add
        return plain.run_group
    if tf.config.functions_run_eagerly():  # nothing is compiled then
        return plain.run_group
    if keras_private.could_possibly_record() or inside_xla():
        return plain.run_group if call.looked_at else loops.run_group
    if is_exporting() or not (call.compiled or _is_never_exported()):
        return plain.run_group
    return loops.run_group_forwards


def _is_never_exported():
    """Whether the current call cannot become part of an export.

    This holds for calls outside of any graph, and in the functions that Keras makes to run a model.
    Any other function of TensorFlow may be exported.
    """
    if keras_private.in_save_context():
        return False
    graph, names = tf.compat.v1.get_default_graph(), []
    while not tf.executing_eagerly() and graph is not None:
        names.append(getattr(graph, "name", None))
        graph = getattr(graph, "outer_graph", None)
    return tf.executing_eagerly() or any(name in _OF_KERAS for name in names)


def run(call):
    """As in `Path`.

    Outputs, states and gradients equal those of Keras's loop.
    """
    cell, sequences, masks = call.cell, call.sequences, call.masks
    weights = call.weights
    if weights is None:
        weights = plain.Weights(cell.input_weights(), cell.recurrent_weights(masks.kernel), ())
    keep = () if masks.hidden is None else (masks.hidden,)
    # TensorFlow's function: Keras's `convert_to_tensor` returns a variable of TensorFlow unchanged.
    states, weights, keep = tf.nest.map_structure(
        tf.convert_to_tensor, (list(call.states), weights, keep)
    )
    sequences = tf.cast(sequences, cell.state_dtype)
    if masks.zones is not None:
        sequences = tf.concat([sequences, masks.zones], -1)
    equations = equations_of(cell, masks.zones is not None)
    run_group = _loops_of(call)
    options = (
        run_group,
        _layout(run_group, equations, sequences),
        call.fields,
        call.layer.go_backwards,
        call.outputs_reversed,
        call.layer.zero_output_for_mask,
    )
    function = functools.partial(_run, equations, *options)
    # For a forward-mode derivative, TensorFlow needs a whole function, with known sizes.
    given = [sequences, *states, *tf.nest.flatten(weights), *keep]
    forwards = bool(keras_private.pack_tangents(given).tangents)
    if (tf.executing_eagerly() or forwards) and not keras_private.should_invoke_op_callbacks():
        # In the key, so that TensorFlow never relaxes the number of features for another layer.
        key = (_run, sequences.shape[-1], forwards, *options)
        function = equations.once(
            key, lambda: tf.function(function, autograph=False, reduce_retracing=not forwards)
        )
    output, steps, finals = function(sequences, states, call.mask, weights, keep)
    if not tf.executing_eagerly():  # sizes that the loops do not know
        batch, time, _ = sequences.shape
        widths = cell.state_widths()
        for state, width in zip((output, *finals), (widths[0], *widths), strict=True):
            state.set_shape([batch, width])
        for name, step in zip(call.fields, steps, strict=True):
            step.set_shape([batch, time, cell.width_of(name)])
    return Results(output, steps, finals)


# If the input products of all steps have more numbers than this (128 MiB in float32), training
# makes them chunk by chunk. Fewer are faster as a single chunk.
LARGE = 1 << 25


def _layout(run_group, equations, x):
    """Returns the `Layout` for sequences `x`."""
    if run_group is plain.run_group:
        return packing.PLAIN
    # XLA cannot compile a loop over chunks, and inference keeps little of a step.
    if run_group is loops.run_group_forwards or inside_xla() or None in x.shape[:2]:
        return packing.COMPILED
    large = x.shape[0] * x.shape[1] * equations.width > LARGE
    return packing.COMPILED._replace(whole=not large)


def _run(
    equations, run_group, layout, fields, go_backwards, outputs_reversed, zero_masked_outputs,
    x, states, mask, weights, keep,
):  # fmt: skip

    def last(finals):  # a separate tensor, since a function returns it
        return tf.identity(last_output(x, mask, go_backwards, zero_masked_outputs, finals[0]))

    one = x.shape[1] == 1 and run_group is not loops.run_group
    if one:  # there is nothing to loop over, and nothing to pack
        if not weights.blocks:
            weights = plain.prepared(equations, weights.project, weights.recur)
        steps, finals = plain.one_step(equations, x, states, mask, weights, keep, fields)
        return last(finals), steps, finals
    order, by_row = (go_backwards, outputs_reversed), [*states, *keep]
    if not equations.zero_is_safe:  # a further feature: 0 in the slots without a step
        x = tf.concat([x, tf.ones_like(x[..., :1])], -1)
    if mask is None:
        batch = packing.pack(x, by_row, *order, layout)
    else:
        options = (*order, zero_masked_outputs, layout, equations.functions)
        batch = packing.pack_masked(x, mask, by_row, *options)
    results = []
    for group in batch.groups:
        own, kept = group.states[: len(states)], group.states[len(states) :]
        group = group._replace(states=own, keep=kept)
        if not equations.zero_is_safe:
            group = group._replace(x=filled(group.x[:, :-1], group.x[:, -1] > 0))
        results.append(run_group(equations, group, fields, weights.project, weights.recur))
    steps, finals = zip(*results, strict=True)
    steps = [batch.unpack_outputs(parts) for parts in zip(*steps, strict=True)]
    finals = [batch.unpack_states(parts) for parts in zip(*finals, strict=True)]
    return last(finals), steps, finals
