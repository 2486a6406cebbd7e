"""The loop over time in plain TensorFlow, for inference.

A stock server can run it, and TensorFlow differentiates it by itself. A turn of the loop writes
the steps of a chunk out, since a turn costs more than a step. The input product is made for a few
steps at a time, which then stay in the processor's cache.
"""

import functools

import tensorflow as tf

from keras_gated.paths import packing

# Numbers of an input product for all steps of a turn, from which on half of them are better: they
# then stay in the processor's cache (measured: 10 % of a forward pass of 32 rows and 512 columns).
CACHED = 1 << 17
# Numbers of a recurrent matrix from which on its product with a few rows is made gate by gate, on
# all cores (measured on two: 256 units and 4 gates, 16 rows: 1.9 times as fast; below: slower).
LARGE = 3 << 16


def run(equations, group, fields, project, recur):
    """Runs equations over a `packing.Group` in plain TensorFlow.

    Args:
        equations: `Equations`.
        group: A `packing.Group`.
        fields: Names of the gates and states wanted of every step.
        project: The cell's `input_weights`.
        recur: The cell's `recurrent_weights`.

    Returns:
        The fields, each `(slots, units)`, and the final states.
    """
    chunks, recur = group.chunks, by_gate(equations, recur)
    numbers = {name: value for name, value in chunks._asdict().items() if tf.is_tensor(value)}
    settings = tuple(
        (name, value) for name, value in chunks._asdict().items() if name not in numbers
    )
    # One function for both groups, both directions and all layers of the same equations: traced,
    # and written into an export, but once.
    key = (_chunks, group.x.shape[-1], fields, settings)
    if key not in equations.functions:
        own = functools.partial(_chunks, equations, fields, settings)
        equations.functions[key] = tf.function(own, autograph=False, reduce_retracing=True)
    return equations.functions[key](group.x, group.states, numbers, project, recur)


def _chunks(equations, fields, settings, x, states, numbers, project, recur):
    chunks = packing.Chunks(**dict(settings), **numbers)
    masked = chunks.lengths is not None

    def chunk(j, states):
        rows, offset = chunks.rows[j], chunks.offsets[j]
        own = x if chunks.single else x[offset : offset + chunks.size * rows]
        active = [s[:rows] for s in states] if masked else states
        outputs, after = _steps(equations, fields, chunks, j, own, active, project, recur)
        if masked:
            after = [packing.put_back(a, s, rows) for a, s in zip(after, states, strict=True)]
        return outputs, after

    return packing.over_chunks(chunks, chunk, states, [equations.units] * len(fields))


def _steps(equations, fields, chunks, j, x, states, project, recur):
    """Runs the steps of chunk j, written out.

    Args:
        x: `(slots of the chunk, features)`.
        states: Those of its rows, each `(rows, units)`.

    Returns:
        The fields, each `(slots of the chunk, units)`, and the states after each row's last step.
    """
    rows, size, steps, before = states[0].shape[0], chunks.size, [], states
    pieces = 2 if (rows or 0) * equations.width * size > CACHED and size % 2 == 0 else 1
    for piece in tf.split(x, pieces):
        for xs in tf.split(equations.project(piece, project), size // pieces):
            xs = tf.ensure_shape(xs, [rows, equations.width])
            steps.append(equations.step(xs, states, recur))
            states = [getattr(steps[-1], name) for name in equations.state_names]
    names = {*fields, *(() if chunks.full else equations.state_names)}
    columns = {name: tf.concat([getattr(step, name) for step in steps], 0) for name in names}
    outputs = [columns[name] for name in fields]
    if chunks.full:
        return outputs, states
    number = tf.shape(before[0])[0]
    if chunks.lengths is None:
        last = chunks.steps[j] - 1
        ends = [columns[name][last * number :][:number] for name in equations.state_names]
        return outputs, [tf.ensure_shape(end, b.shape) for end, b in zip(ends, before, strict=True)]
    remaining = chunks.lengths[:number] - j * size
    last = (tf.clip_by_value(remaining, 1, size) - 1) * number + tf.range(number)
    ends = [tf.gather(columns[name], last) for name in equations.state_names]
    return outputs, packing.where_rows(remaining > 0, ends, before)


def weights(cell):
    """Returns what `one_step` needs for many steps: to be read, and taken apart, but once."""
    return by_gate(cell, cell.input_weights()), by_gate(cell, cell.recurrent_weights())


def by_gate(cell, weights):
    """Returns weights with a large matrix as a tuple of the columns of each gate."""
    matrix, *others = weights
    if isinstance(matrix, tuple) or matrix.shape.num_elements() < LARGE:
        return weights
    return (tuple(tf.split(matrix, matrix.shape[1] // cell.units, axis=1)), *others)


def one_step(equations, x, states, mask, project, recur, fields):
    """Runs equations over a single step.

    Args:
        equations, project, recur, fields: As for `run`.
        x: float, `(batch, 1, features)`.
        states: The states before it, each `(batch, units)`.
        mask: Optional bool, `(batch, 1)`: a masked step keeps the states, and its fields are 0.

    Returns:
        The fields, each `(batch, 1, units)`, and the final states.
    """
    if mask is not None:
        x = tf.where(mask[..., None], x, 0)  # whatever it holds reaches no gradient
    step = equations.step(equations.project(x[:, 0], project), states, recur)
    finals = [getattr(step, name) for name in equations.state_names]
    steps = [getattr(step, name) for name in fields]
    if mask is not None:
        finals = [tf.where(mask, new, old) for new, old in zip(finals, states, strict=True)]
        steps = [tf.where(mask, step, 0) for step in steps]
    return [step[:, None] for step in steps], finals
