"""The fused path of the layers: when it is valid, and how a batch goes through it."""

import functools

import tensorflow as tf
from tensorflow.python.eager.forwardprop_util import pack_tangents
from tensorflow.python.eager.record import could_possibly_record
from tensorflow.python.framework.op_callbacks import should_invoke_op_callbacks
from tensorflow.python.ops import control_flow_util
from tensorflow.python.ops.control_flow_v2_func_graphs import WhileBodyFuncGraph

from keras_gated.cells.base import GatedCell
from keras_gated.cells.dropout import dropped
from keras_gated.cells.equations import equations_of, owner, why_not_given
from keras_gated.paths import compiled as loops
from keras_gated.paths import packing, plain
from keras_gated.paths.recorder import weights_given


def why_not(layer, sequences, mask, training, looked_at):
    """Returns why the fused path cannot run, as a clause, or None where it can."""
    if inside_xla():
        if mask is not None:
            return "a mask cannot be packed inside a function that XLA compiles"
        if looked_at:
            return "gates come from the plain loop, which XLA does not compile"
        if None in sequences.shape:
            return "XLA compiles the function around the layer, and not all sizes are known there"
        if _inside_a_loop():
            return "XLA compiles a loop around the layer"
    return equations_differ(layer, training)


def equations_differ(layer, training):
    """Returns why a layer needs the cell's own loop, or None."""
    cell = layer.cell
    if layer.unroll:
        return "`unroll=True` asks for the cell's own loop"
    if cell.recurrent_dropout and training:
        return "`recurrent_dropout` changes the recurrent product in training"
    for method in ("call", "whole_step"):
        if owner(cell, method) is not GatedCell:
            return f"{type(cell).__name__} has a `{method}` of its own, which only that loop calls"
    return why_not_given(cell)


def inside_xla():
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _inside_a_loop():
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and not isinstance(graph, WhileBodyFuncGraph):
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


def _is_compiled(training, fields):
    """Whether the compiled loops run, with the derivative by hand.

    Under a tape a derivative is going to be taken. An inference graph is left free of both: what
    is exported must run on a server that does not compile.
    """
    if not set(fields) <= {"hidden"} or should_invoke_op_callbacks():  # XLA has no such operations
        return False
    if tf.config.functions_run_eagerly():  # nothing is compiled then
        return False
    return could_possibly_record() or inside_xla() or (training and tf.executing_eagerly())


def run(layer, sequences, states, mask, training, fields, outputs_reversed):
    """Runs a layer over sequences as `keras_loop.run`, for a layer for which `why_not` is None.

    Outputs, states and gradients are the same. Where a derivative is going to be taken, the loops
    are compiled and back-propagation is written by hand, unless other fields than the output are
    wanted.
    """
    cell = layer.cell
    if training and layer.dropout:  # drawn in the layer's call, once for all steps
        sequences = dropped(sequences, cell.dropout_mask(None)[:, None])
    equations = equations_of(cell)
    weights = weights_given(layer)
    if weights is None:
        drop = cell.recurrent_weight_mask() if training else None
        weights = cell.input_weights(), cell.recurrent_weights(drop)
    # Keras's `convert_to_tensor` leaves a variable of TensorFlow what it is.
    states, weights = tf.nest.map_structure(tf.convert_to_tensor, (list(states), weights))
    sequences = tf.cast(sequences, cell.state_dtype)
    options = (
        _is_compiled(training, fields),
        fields,
        layer.go_backwards,
        outputs_reversed,
        layer.zero_output_for_mask,
    )
    function = functools.partial(_run, equations, *options)
    # TensorFlow derives a whole function of known sizes forwards, but not what is written out.
    forwards = bool(pack_tangents([sequences, *states, *tf.nest.flatten(weights)]).tangents)
    if (tf.executing_eagerly() or forwards) and not should_invoke_op_callbacks():
        # The number of features stays known: it is relaxed for no other layer's.
        key = (_run, sequences.shape[-1], forwards, *options)
        if key not in equations.functions:
            function = tf.function(function, autograph=False, reduce_retracing=not forwards)
            equations.functions[key] = function
        function = equations.functions[key]
    output, steps, finals = function(sequences, states, mask, *weights)
    if not tf.executing_eagerly():  # what the loops do not know of shapes
        batch, time, _ = sequences.shape
        for state in (output, *finals):
            state.set_shape([batch, cell.units])
        for step in steps:
            step.set_shape([batch, time, cell.units])
    return output, steps, finals


def _run(
    equations, compiled, fields, go_backwards, outputs_reversed, zero_masked_outputs,
    x, states, mask, project, recur,
):  # fmt: skip
    last = functools.partial(last_output, x, mask, go_backwards, zero_masked_outputs)
    if x.shape[1] == 1 and not compiled:  # there is nothing to loop over, and nothing to pack
        steps, finals = plain.one_step(equations, x, states, mask, project, recur, fields)
        return last(finals), steps, finals
    layout = packing.COMPILED if compiled else packing.PLAIN
    order = (go_backwards, outputs_reversed)
    if mask is None:
        batch = packing.pack(x, states, *order, layout)
    else:
        batch = packing.pack_masked(x, mask, states, *order, zero_masked_outputs, layout)
    run_group = (loops if compiled else plain).run
    results = [run_group(equations, group, fields, project, recur) for group in batch.groups]
    steps, finals = zip(*results, strict=True)
    steps = [batch.unpack_outputs(parts) for parts in zip(*steps, strict=True)]
    finals = [batch.unpack_states(parts) for parts in zip(*finals, strict=True)]
    return last(finals), steps, finals


def last_output(x, mask, go_backwards, zero_masked_outputs, final_states):
    """Returns the output after the last step: zeros where there is none, or it is to be zero."""
    if mask is None:
        if x.shape[1]:
            return tf.identity(final_states[0])
        some = tf.fill([tf.shape(x)[0]], tf.shape(x)[1] > 0)
    else:
        last = mask[:, :1] if go_backwards else mask[:, -1:]
        some = tf.reduce_any(last if zero_masked_outputs else mask, axis=1)
    return tf.where(some[:, None], final_states[0], 0)
