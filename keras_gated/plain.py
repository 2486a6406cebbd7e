"""The loop over time in plain TensorFlow, for inference.

A stock server can run it, and TensorFlow differentiates it by itself. The input product is made for
a few steps at a time, which then stay in the processor's cache.
"""

import tensorflow as tf

from keras_gated import packing

# Numbers of an input product for all steps of a turn, from which on half of them are better: they
# then stay in the processor's cache (measured: 10 % of a forward pass of 32 rows and 512 columns).
CACHED = 1 << 17
# Numbers of a recurrent matrix from which on its product with a few rows is made gate by gate, on
# all cores (measured on two: 256 units and 4 gates, 16 rows: 1.9 times as fast; below: slower).
LARGE = 3 << 16
UNROLLED = 16  # steps written out in the plain loop's body: fewer, larger turns of the loop


def run(cell, group, fields, recur):
    """Runs a cell over a `packing.Group` in plain TensorFlow.

    Args:
        cell: A built cell.
        group: Its chunks have no slot without a step, so no row needs a mask.
        fields: Names of the gates and states wanted of every step.
        recur: The cell's `recurrent_weights`.

    Returns:
        The fields, each `(slots, units)`, and the final states.
    """
    chunks, states = group.chunks, group.states
    rows, columns = states[0].shape[0], len(cell.gates) * cell.units
    unrolled = UNROLLED // 2 if (rows or 0) * columns * UNROLLED > CACHED else UNROLLED
    # Read here and not at every step.
    project, recur = cell.input_weights(), by_gate(cell, recur)
    features = group.x.shape[-1]
    turns = chunks.steps // unrolled + chunks.steps % unrolled
    arrays = [packing.array(group.x.dtype, tf.reduce_sum(turns), cell.units) for _ in fields]
    written = tf.cumsum(turns, exclusive=True)

    def loop(steps_first, width, first, states, arrays):
        number = tf.shape(steps_first)[0] // width
        shape = tf.stack([number, width, *tf.unstack(tf.shape(steps_first))[1:]])
        blocks = tf.reshape(steps_first, shape)
        blocks = tf.ensure_shape(blocks, [None, width, None, features])

        def turn(t, states, arrays):
            steps = []
            # The input product of a few steps at a time stays in the processor's cache.
            for x in tf.unstack(_project(cell, tf.gather(blocks, t), project)):
                steps.append(cell.step(x, states, recur))
                states = [getattr(steps[-1], name) for name in cell.state_names]
            arrays = [
                array.write(first + t, tf.concat([getattr(step, name) for step in steps], 0))
                for name, array in zip(fields, arrays, strict=True)
            ]
            return t + 1, states, arrays

        return tf.while_loop(
            lambda t, *_: t < number, turn, (0, states, arrays), maximum_iterations=number
        )[1:]

    def chunk(j, states, arrays):
        steps, rows, offset = chunks.steps[j], chunks.rows[j], chunks.offsets[j]
        shape = tf.stack([steps, rows, features])
        xs = tf.reshape(group.x[offset : offset + steps * rows], shape)
        cut = steps - steps % unrolled
        active = [s[:rows] for s in states]
        if chunks.size is None or chunks.size >= unrolled:
            active, arrays = loop(xs[:cut], unrolled, written[j], active, arrays)
        if chunks.size is None or chunks.size % unrolled:
            active, arrays = loop(xs[cut:], 1, written[j] + steps // unrolled, active, arrays)
        states = [packing.put_back(a, s, rows) for a, s in zip(active, states, strict=True)]
        return j + 1, states, arrays

    if chunks.single:
        _, states, arrays = chunk(0, states, arrays)
    else:
        number = tf.size(chunks.steps)
        states, arrays = packing.over_chunks(lambda j, *_: j < number, chunk, 0, states, arrays)
    return [array.concat() for array in arrays], states


def weights(cell):
    """Returns what `one_step` needs for many steps: to be read, and taken apart, but once."""
    return by_gate(cell, cell.input_weights()), by_gate(cell, cell.recurrent_weights())


def by_gate(cell, weights):
    """Returns weights with a large matrix as a tuple of the columns of each gate."""
    matrix, *others = weights
    if matrix.shape.num_elements() < LARGE:
        return weights
    return (tuple(tf.split(matrix, len(cell.gates), axis=1)), *others)


def one_step(cell, x, states, mask, weights, fields):
    """Runs a cell over a single step.

    Args:
        x: float, `(batch, 1, features)`.
        states: The states before it, each `(batch, units)`.
        mask: Optional bool, `(batch, 1)`: a masked step keeps the states, and its fields are 0.
        weights: What `weights` returned, or None.

    Returns:
        The final states, and the fields, each `(batch, 1, units)`.
    """
    if mask is not None:
        x = tf.where(mask[..., None], x, 0)  # whatever it holds reaches no gradient
    # Only for one step, taking them apart would cost more than it gains.
    project, recur = weights or (cell.input_weights(), cell.recurrent_weights())
    step = cell.step(cell.project(x[:, 0], project), states, recur)
    finals = [getattr(step, name) for name in cell.state_names]
    steps = [getattr(step, name) for name in fields]
    if mask is not None:
        finals = [tf.where(mask, new, old) for new, old in zip(finals, states, strict=True)]
        steps = [tf.where(mask, step, 0) for step in steps]
    return finals, [step[:, None] for step in steps]


def _project(cell, steps_first, project):
    """Returns `W x + b` of some steps, `(steps, rows, features)`, as one product of matrices."""
    flat = cell.project(tf.reshape(steps_first, [-1, steps_first.shape[-1]]), project)
    shape = tf.concat([tf.shape(steps_first)[:2], [flat.shape[-1]]], 0)
    return tf.ensure_shape(tf.reshape(flat, shape), [steps_first.shape[0], None, flat.shape[-1]])
