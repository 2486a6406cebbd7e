"""The loop over time in plain TensorFlow, for inference.

A stock server can run the loop, and TensorFlow differentiates it by itself. A turn of the loop runs
all steps of a chunk, written out, since a turn costs more than a step. The input product is made
for a few steps at a time, which then stay in the processor's cache.
"""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gated.cells.products import number_of, products_by
from keras_gated.paths import packing
from keras_gated.paths.path import filled

# If the input product of a chunk has more numbers than this, it is computed in two halves, which
# stay in the processor's cache (measured: 10 % of a forward pass of 32 rows and 512 columns).
CACHED = 1 << 17
# A matrix of this many numbers or more is multiplied gate by gate. Its product with a few
# rows then uses all cores (measured on two: 256 units and 4 gates, 16 rows: 1.9 times as fast;
# below: slower).
LARGE = 3 << 16


def run_group(equations, group, fields, project, recur):
    """Runs equations over a `packing.Group` in plain TensorFlow.

    Args:
        equations: `Equations`.
        group: A `packing.Group`.
        fields: Names of the gates and states wanted of every step.
        project: The cell's `input_weights`.
        recur: The cell's `recurrent_weights`.

    Returns:
        The fields, each `(slots, width)`, and the final states.
    """
    chunks, weights = group.chunks, prepared(equations, project, recur)
    key, own = (_chunks, group.x.shape[-1], fields), functools.partial(_chunks, equations, fields)
    return packing.over_group(
        equations.functions, key, own, chunks, group.x, group.states, group.keep, weights
    )


def _chunks(equations, fields, chunks, x, states, keep, weights):
    masked = chunks.lengths is not None

    def chunk(j, states):
        rows, own = chunks.rows[j], packing.slots_of(chunks, x, j)
        active = [s[:rows] for s in states] if masked else states
        kept = [k[:rows] for k in keep] if masked else keep
        with _multiplying(weights):
            outputs, after = _steps(equations, fields, chunks, j, own, active, kept, weights)
        if masked:
            after = [packing.put_back(a, s, rows) for a, s in zip(after, states, strict=True)]
        return outputs, after, []

    widths = [equations.widths[name] for name in fields]
    kept, finals, _ = packing.over_chunks(chunks, chunk, states, widths)
    dtype = states[0].dtype
    return [packing.all_slots(*k, dtype) for k in zip(kept, widths, strict=True)], finals


def _steps(equations, fields, chunks, j, x, states, keep, weights):
    """Runs the steps of chunk j, written out.

    Args:
        x: `(slots of the chunk, features)`.
        states: The states of its rows, each `(rows, width)`.

    Returns:
        The fields, each `(slots of the chunk, width)`, and the states after each row's last step.
    """
    rows, size, steps, before = states[0].shape[0], chunks.size, [], states
    pieces = 2 if (rows or 0) * equations.width * size > CACHED and size % 2 == 0 else 1
    for piece in tf.split(x, pieces):
        for xs in tf.split(equations.project(piece, weights.project), size // pieces):
            xs = tf.ensure_shape(xs, [rows, xs.shape[-1]])
            steps.append(equations.step(xs, states, weights.recur, *keep))
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


class Weights(NamedTuple):
    """A cell's weights as the steps of a plain loop read them."""

    project: Any  # the weights for `project`
    recur: Any  # the weights for `step`
    blocks: Any  # of each weight: the columns of each gate if it is large, else []; (): unknown


def weights_of(cell):
    """Returns the `Weights` of a cell for many steps: they are read and split only once."""
    return prepared(cell, cell.input_weights(), cell.recurrent_weights())


def prepared(equations, project, recur):
    """Returns `Weights` for equations whose gates are `units` wide."""

    def blocks(weight):
        large = weight.shape.rank == 2 and weight.shape.num_elements() >= LARGE
        number = weight.shape[-1] // equations.units if large else 1
        evenly = large and weight.shape[-1] % equations.units == 0
        return tf.split(weight, number, axis=1) if evenly and number > 1 else []

    return Weights(project, recur, [blocks(weight) for weight in (*project, *recur)])


def _multiplying(weights):
    """Makes a step multiply by a large matrix gate by gate, inside the `with` block."""
    whole = [*weights.project, *weights.recur]

    def multiply(vectors, matrix):
        number = number_of(matrix, whole)
        parts = () if number is None else weights.blocks[number]
        if not parts:
            return tf.matmul(vectors, matrix)
        return tf.concat([tf.matmul(vectors, part) for part in parts], -1)

    return products_by(multiply)


def one_step(equations, x, states, mask, weights, keep, fields):
    """Runs equations over a single step.

    Args:
        equations, fields: As for `run_group`.
        x: float, `(batch, 1, features)`.
        states: The states before the step, each `(batch, width)`.
        mask: Optional bool, `(batch, 1)`: a masked step keeps the states, and its fields are 0.
        weights: `Weights`.
        keep: As in a `packing.Group`.

    Returns:
        The fields, each `(batch, 1, width)`, and the final states.
    """
    if mask is not None:
        # Values of a masked step reach no gradient.
        zeros = equations.zero_is_safe
        x = tf.where(mask[..., None], x, 0) if zeros else filled(x, mask)
    with _multiplying(weights):
        xs = equations.project(x[:, 0], weights.project)
        step = equations.step(xs, states, weights.recur, *keep)
    finals = [getattr(step, name) for name in equations.state_names]
    steps = [getattr(step, name) for name in fields]
    if mask is not None:
        finals = [tf.where(mask, new, old) for new, old in zip(finals, states, strict=True)]
        steps = [tf.where(mask, step, 0) for step in steps]
    return [step[:, None] for step in steps], finals
