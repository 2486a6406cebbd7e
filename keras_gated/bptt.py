"""The compiled loop over time, and back-propagation through it by hand, for training.

Forwards, the input product `W x + b` of all steps is one matrix product, and a loop does only
what depends on the step before. Backwards there are two motions: at each step, the derivative of
the step's equations with one recurrent product (`step_gradient` in the family's file); then, for
all steps together, the derivatives by `U`, `W`, `b` and `x` as one product each.
"""

import functools
import types

import keras
import tensorflow as tf

from keras_gated import packing


def run(cell, group, fields, recur):
    """Runs a cell over a `packing.Group` with loops compiled by XLA, and its derivative by hand.

    Args:
        cell: A built cell with the functions of its equations: `tanh` and `sigmoid`.
        group: Its chunks are of a fixed size.
        fields: `("hidden",)` or none: the gates themselves have no derivative here.
        recur: The cell's `recurrent_weights`.

    Returns:
        The fields, each `(slots, units)`, and the final states. Another derivative of their
        derivative is refused with an error.
    """
    loops = _loops(type(cell), cell.units)
    states_number, chunks = len(group.states), group.chunks
    project = cell.input_weights()

    @tf.custom_gradient
    def through_time(x, *rest):
        states, (W, *b) = rest[:states_number], rest[states_number:][: len(project)]
        U, *c = rest[states_number + len(project) :]
        xs = cell.project(x, (W, *b))
        saved, finals = _forwards(loops, xs, chunks, list(states), (U, *c))
        saved, finals = [_once(s) for s in saved], [_once(f) for f in finals]

        def gradient(d_outputs, *d_finals):
            sums, before, d_states = _backwards(
                loops, saved, chunks, list(states), tf.transpose(U), d_outputs, list(d_finals)
            )
            # For all time steps: one product each.
            d_x, d_u = sums[0], sums[-1]
            by_input = [tf.matmul(x, d_x, transpose_a=True), *(tf.reduce_sum(d_x, 0) for _ in b)]
            by_state = [
                tf.matmul(before, d_u, transpose_a=True),
                *(tf.reduce_sum(d_u, 0) for _ in c),
            ]
            gradients = [tf.matmul(d_x, W, transpose_b=True), *d_states, *by_input, *by_state]
            return [_once(g) for g in gradients]

        return (saved[loops.fields.index("hidden")], *finals), gradient

    outputs, *finals = through_time(group.x, *group.states, *project, *recur)
    return [outputs] * len(fields), finals


def _once(tensor):
    """Marks what TensorFlow must not differentiate by itself."""
    return tf.raw_ops.PreventGradient(
        input=tensor,
        message="The fused layers of keras_gated have no second derivative. "
        "Build the layer with fused=False to differentiate twice.",
    )


def _forwards(loops, xs, chunks, states, recur):
    """Runs the chunks in order. Returns every field of every step, `(slots, units)`, and states."""
    width, units = xs.shape[-1], loops.cell.units

    def chunk(j, states):
        rows, offset = chunks.rows[j], chunks.offsets[j]
        piece = tf.reshape(xs[offset : offset + chunks.size * rows], [chunks.size, rows, width])
        active = [s[:rows] for s in states]
        fields, active = loops.forwards(piece, active, recur, *_extent(chunks, j))
        states = [packing.put_back(a, s, rows) for a, s in zip(active, states, strict=True)]
        return [tf.reshape(f, [-1, units]) for f in fields], states

    if chunks.single:
        return chunk(0, states)
    number = tf.size(chunks.steps)
    arrays = [packing.array(xs.dtype, number, units) for _ in loops.fields]

    def body(j, states, arrays):
        fields, states = chunk(j, states)
        return j + 1, states, [a.write(j, f) for a, f in zip(arrays, fields, strict=True)]

    states, arrays = packing.over_chunks(lambda j, *_: j < number, body, 0, states, arrays)
    return [a.concat() for a in arrays], states


def _backwards(loops, saved, chunks, states, U_T, d_outputs, d_states):
    """Runs the chunks from the last to the first.

    Returns:
        The derivatives by `W x + b` and by `U h + c`, `(slots, gates * units)` (one where they
        are the same); the hidden state before every step, `(slots, units)`; and the derivatives
        by the states before the first step.
    """
    units = loops.cell.units
    places = [loops.fields.index(name) for name in loops.cell.state_names]

    def chunk(j, d_states):
        rows, offset = chunks.rows[j], chunks.offsets[j]
        shape = tf.stack([chunks.size, rows, units])

        def piece(array):
            return tf.reshape(array[offset : offset + chunks.size * rows], shape)

        def first_states():
            return [s[:rows] for s in states]

        def states_of_the_chunk_before():
            # Every row of this chunk ran to the end of the chunk before.
            return [saved[place][offset - chunks.rows[j - 1] :][:rows] for place in places]

        before = first_states()
        if not chunks.single:
            before = tf.cond(j > 0, states_of_the_chunk_before, first_states)
        active = [d[:rows] for d in d_states]
        pieces = [piece(array) for array in saved]
        sums, active = loops.backwards(
            pieces, before, U_T, piece(d_outputs), active, *_extent(chunks, j)
        )
        d_states = [packing.put_back(a, d, rows) for a, d in zip(active, d_states, strict=True)]
        hidden_before = tf.concat([before[0][None], pieces[places[0]][:-1]], 0)
        return [tf.reshape(a, [-1, a.shape[-1]]) for a in (*sums, hidden_before)], d_states

    if chunks.single:
        (*sums, before), d_states = chunk(0, d_states)
        return sums, before, d_states
    number = tf.size(chunks.steps)
    widths = [U_T.shape[0]] * (1 if loops.cell.added else 2) + [units]
    arrays = [packing.array(U_T.dtype, number, width) for width in widths]

    def body(j, d_states, arrays):
        values, d_states = chunk(j, d_states)
        return j - 1, d_states, [a.write(j, v) for a, v in zip(arrays, values, strict=True)]

    d_states, arrays = packing.over_chunks(lambda j, *_: j >= 0, body, number - 1, d_states, arrays)
    *sums, before = (a.concat() for a in arrays)
    return sums, before, d_states


def _extent(chunks, j):
    """Returns how many steps to run of chunk j, and how many of them each row has (None: all)."""
    remaining = None
    if chunks.lengths is not None:
        remaining = chunks.lengths[: chunks.rows[j]] - j * chunks.size
    return chunks.steps[j], remaining


@functools.cache
def _loops(cell_class, units):
    return _Loops(_Equations(cell_class, units))


class _Equations:
    """A cell's equations, with their default functions and without weights."""

    activation = staticmethod(keras.activations.tanh)
    recurrent_activation = staticmethod(keras.activations.sigmoid)
    reset_after = True

    def __init__(self, cell_class, units):
        self.units = units
        for name in ("added", "state_names", "step_type"):
            setattr(self, name, getattr(cell_class, name))
        for name in ("step", "step_gradient"):
            setattr(self, name, types.MethodType(getattr(cell_class, name), self))


class _Loops:
    """The compiled loops over the steps of one chunk, for all cells of the same equations.

    XLA compiles them once for every shape of a chunk.
    """

    def __init__(self, cell):
        self.cell = cell
        self.fields = cell.step_type._fields
        self.forwards = tf.function(self._forwards, jit_compile=True, autograph=False)
        self.backwards = tf.function(self._backwards, jit_compile=True, autograph=False)

    def _forwards(self, xs, states, recur, steps, remaining):
        cell, size = self.cell, xs.shape[0]

        def body(t, states, arrays):
            step = cell.step(xs[t], states, recur)
            after = [getattr(step, name) for name in cell.state_names]
            if remaining is not None:
                after = packing.where_rows(t < remaining, after, states)
                step = step._replace(**dict(zip(cell.state_names, after, strict=True)))
            return t + 1, after, [a.write(t, v) for a, v in zip(arrays, step, strict=True)]

        arrays = [
            tf.TensorArray(xs.dtype, size, element_shape=states[0].shape) for _ in self.fields
        ]
        _, states, arrays = tf.while_loop(
            lambda t, *_: t < steps, body, (0, states, arrays), maximum_iterations=size
        )
        return [a.stack() for a in arrays], states

    def _backwards(self, saved, states, U_T, d_outputs, d_states, steps, remaining):
        cell, size = self.cell, d_outputs.shape[0]
        places = [self.fields.index(name) for name in cell.state_names]

        def body(t, d_states, arrays):
            step = cell.step_type(*(s[t] for s in saved))
            earlier = [saved[place][tf.maximum(t - 1, 0)] for place in places]
            before = [tf.where(t > 0, a, b) for a, b in zip(earlier, states, strict=True)]
            d_after = [d_states[0] + d_outputs[t], *d_states[1:]]
            d_x, d_u, d_before = cell.step_gradient(step, before, d_after, U_T)
            sums = [d_x] if cell.added else [d_x, d_u]
            if remaining is not None:
                valid = t < remaining
                d_before = packing.where_rows(valid, d_before, d_states)
                sums = packing.where_rows(valid, sums, [tf.zeros_like(s) for s in sums])
            return t - 1, d_before, [a.write(t, v) for a, v in zip(arrays, sums, strict=True)]

        shape = [d_outputs.shape[1], U_T.shape[0]]
        arrays = [
            tf.TensorArray(U_T.dtype, size, element_shape=shape)
            for _ in range(1 if cell.added else 2)
        ]
        _, d_states, arrays = tf.while_loop(
            lambda t, *_: t >= 0, body, (steps - 1, d_states, arrays), maximum_iterations=size
        )
        return [a.stack() for a in arrays], d_states
