"""The compiled loop over time, and back-propagation through it by hand, for training.

Forwards, the input product `W x + b` of all steps is one matrix product, and a loop does only
what depends on the step before. Backwards there are two motions: at each step, the derivative of
the step's equations with one recurrent product (`step_gradient` in the family's file); then, for
all steps together, the derivatives by `U`, `W`, `b` and `x` as one product each.

A derivative of this derivative is TensorFlow's, of the same equations in a plain loop.
"""

import functools

import tensorflow as tf
from tensorflow.python.eager.record import stop_recording

from keras_gated.paths import packing
from keras_gated.paths.gradients import custom_gradient


def run(equations, group, fields, project, recur):
    """Runs equations over a `packing.Group` with loops compiled by XLA.

    Args:
        equations: `Equations` whose `step_gradient` is the derivative of their `step`.
        group: A `packing.Group`.
        fields: `("hidden",)` or none: the gates themselves have no derivative here.
        project: The cell's `input_weights`.
        recur: The cell's `recurrent_weights`.

    Returns:
        The fields, each `(slots, units)`, and the final states.
    """
    if not equations.projects_as_all:  # it may read weights that only TensorFlow knows of
        group, project = group._replace(x=equations.project(group.x, project)), ()
    number = len(group.states)
    ends = [1, 1 + number, 1 + number + len(project), 1 + number + len(project) + len(recur)]
    sizes = {name: value for name, value in group.chunks._asdict().items() if tf.is_tensor(value)}

    def taken_apart(given):
        """Returns the inputs, the states, the weights of `project` and of `step`, and the rest."""
        return given[0], *(given[a:b] for a, b in zip(ends, [*ends[1:], None], strict=True))

    @custom_gradient
    def through_time(*given):
        x, states, project, recur, _ = taken_apart(given)
        with stop_recording():  # or TensorFlow derives what nobody asks it for
            xs = _projected(equations, x, project)
            saved, finals = _forwards(equations, xs, group.chunks, states, recur)
        # Their derivatives, and those of the derivatives, are what the functions below return.
        saved, finals = ([tf.stop_gradient(t) for t in tensors] for tensors in (saved, finals))

        def gradient(*d_results):
            return derivative(saved)(*given, *d_results, *sizes.values())

        return (saved[_place(equations, "hidden")], *finals), gradient

    def derivative(saved):
        @custom_gradient
        def of_results(*given):
            # It may be differentiated in a graph that knows nothing of the one of `given`.
            given = [tf.identity(tensor) for tensor in given]
            x, states, project, (U, *c), (d_outputs, *rest) = taken_apart(given)
            d_finals, own = rest[:number], dict(zip(sizes, rest[number:], strict=True))
            chunks = group.chunks._replace(**own)
            with stop_recording():
                sums, before, d_states = _backwards(
                    equations, saved, chunks, states, tf.transpose(U), d_outputs, d_finals
                )
            # For all time steps: one product each.
            d_xs, d_u = sums[0], sums[-1]
            d_x, *d_project = _derivative(
                lambda: [_projected(equations, x, project)], [x, *project], [d_xs]
            )
            d_U, d_c = tf.matmul(before, d_u, transpose_a=True), [tf.reduce_sum(d_u, 0) for _ in c]

            def second_derivative(*dd):
                def results():
                    return step_by_step(equations, chunks, *taken_apart(given)[:-1])

                def first():
                    return _derivative(results, given[: ends[-1]], [d_outputs, *d_finals])

                by_floats = _derivative(first, given[: ends[-1] + 1 + number], dd)
                return [*by_floats, *(None for _ in sizes)]

            return [d_x, *d_states, *d_project, d_U, *d_c], second_derivative

        return of_results

    outputs, *finals = through_time(group.x, *group.states, *project, *recur)
    return [outputs] * len(fields), finals


def _projected(equations, x, project):
    return equations.project(x, project) if project else x


def _derivative(function, sources, d_values):
    """Returns the derivatives by the sources of what a function returns, summed with `d_values`."""
    options = {"unconnected_gradients": "zero"}
    if not tf.executing_eagerly():  # while TensorFlow transposes a derivative, no tape records
        return tf.gradients(function(), sources, list(d_values), **options)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        values = function()
    return tape.gradient(values, sources, list(d_values), **options)


def step_by_step(equations, chunks, x, states, project, recur):
    """Runs equations over the chunks of a group in a loop that TensorFlow differentiates.

    It is slow, and any derivative can be taken of it. Slots without a step are zero.

    Returns:
        The hidden states, `(slots, units)`, and the final states.
    """
    lengths = chunks.lengths
    if lengths is None:
        lengths = tf.fill(tf.shape(states[0])[:1], tf.reduce_sum(chunks.steps))
    time = tf.reduce_max(tf.concat([lengths, [0]], 0))
    t = tf.range(time)[:, None]
    valid = t < lengths
    chunk = t // chunks.size
    slot = tf.gather(chunks.offsets, chunk) + t % chunks.size * tf.gather(chunks.rows, chunk)
    slot += tf.range(tf.size(lengths))
    xs = packing.gather_or_zero(
        [_projected(equations, x, project)], tf.where(valid, slot + 1, 0), dense_gradient=True
    )

    def body(t, states, array):
        step = equations.step(xs[t], states, recur)
        after = [getattr(step, name) for name in equations.state_names]
        return t + 1, packing.where_rows(valid[t], after, states), array.write(t, step.hidden)

    array = tf.TensorArray(xs.dtype, time, element_shape=states[0].shape)
    _, finals, array = tf.while_loop(lambda t, *_: t < time, body, (0, list(states), array))
    slots, hidden = (tf.boolean_mask(a, valid) for a in (slot, array.stack()))
    shape = [tf.shape(x)[0], equations.units]
    return [tf.scatter_nd(slots[:, None], hidden, shape), *finals]


def _forwards(equations, xs, chunks, states, recur):
    """Runs the chunks in order. Returns every field of every step, `(slots, units)`, and states."""
    width, units = xs.shape[-1], equations.units
    loop = _compiled(equations, _forwards_loop)

    def chunk(j, states):
        rows, offset = chunks.rows[j], chunks.offsets[j]
        piece = tf.reshape(xs[offset : offset + chunks.size * rows], [chunks.size, rows, width])
        active = [s[:rows] for s in states]
        fields, active = loop(piece, active, recur, *_extent(chunks, j))
        states = [packing.put_back(a, s, rows) for a, s in zip(active, states, strict=True)]
        return [tf.reshape(f, [-1, units]) for f in fields], states

    return packing.over_chunks(chunks, chunk, states, [units] * len(equations.step_type._fields))


def _backwards(equations, saved, chunks, states, U_T, d_outputs, d_states):
    """Runs the chunks from the last to the first.

    Returns:
        The derivatives by `W x + b` and by `U h + c`, `(slots, gates * units)` (one where they
        are the same); the hidden state before every step, `(slots, units)`; and the derivatives
        by the states before the first step.
    """
    units = equations.units
    places = [_place(equations, name) for name in equations.state_names]
    loop = _compiled(equations, _backwards_loop)

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
        sums, active = loop(pieces, before, U_T, piece(d_outputs), active, *_extent(chunks, j))
        d_states = [packing.put_back(a, d, rows) for a, d in zip(active, d_states, strict=True)]
        hidden_before = tf.concat([before[0][None], pieces[places[0]][:-1]], 0)
        return [tf.reshape(a, [-1, a.shape[-1]]) for a in (*sums, hidden_before)], d_states

    widths = [U_T.shape[0]] * _sums(equations) + [units]
    (*sums, before), d_states = packing.over_chunks(chunks, chunk, d_states, widths, backwards=True)
    return sums, before, d_states


def _place(equations, name):
    return equations.step_type._fields.index(name)


def _sums(equations):
    """Returns how many derivatives there are: by `W x + b` and by `U h + c`, or by their sum."""
    return 1 if equations.inputs_and_state_are_summed else 2


def _extent(chunks, j):
    """Returns how many steps to run of chunk j, and how many of them each row has (None: all)."""
    remaining = None
    if chunks.lengths is not None:
        remaining = chunks.lengths[: chunks.rows[j]] - j * chunks.size
    return chunks.steps[j], remaining


def _compiled(equations, loop):
    """Returns a loop over one chunk that XLA compiles once for every shape of a chunk."""
    if loop not in equations.functions:
        # Not a method: TensorFlow warns of a function's code that is traced for many cells.
        own = functools.partial(loop, equations)
        equations.functions[loop] = tf.function(own, jit_compile=True, autograph=False)
    return equations.functions[loop]


def _forwards_loop(equations, xs, states, recur, steps, remaining):
    size = xs.shape[0]

    def body(t, states, arrays):
        step = equations.step(xs[t], states, recur)
        after = [getattr(step, name) for name in equations.state_names]
        if remaining is not None:
            after = packing.where_rows(t < remaining, after, states)
            step = step._replace(**dict(zip(equations.state_names, after, strict=True)))
        return t + 1, after, [a.write(t, v) for a, v in zip(arrays, step, strict=True)]

    arrays = [
        tf.TensorArray(xs.dtype, size, element_shape=states[0].shape)
        for _ in equations.step_type._fields
    ]
    _, states, arrays = tf.while_loop(
        lambda t, *_: t < steps, body, (0, list(states), arrays), maximum_iterations=size
    )
    return [a.stack() for a in arrays], states


def _backwards_loop(equations, saved, states, U_T, d_outputs, d_states, steps, remaining):
    size = d_outputs.shape[0]
    places = [_place(equations, name) for name in equations.state_names]

    def body(t, d_states, arrays):
        step = equations.step_type(*(s[t] for s in saved))
        earlier = [saved[place][tf.maximum(t - 1, 0)] for place in places]
        before = [tf.where(t > 0, a, b) for a, b in zip(earlier, states, strict=True)]
        d_after = [d_states[0] + d_outputs[t], *d_states[1:]]
        d_x, d_u, d_before = equations.step_gradient(step, before, d_after, U_T)
        sums = [d_x] if equations.inputs_and_state_are_summed else [d_x, d_u]
        if remaining is not None:
            valid = t < remaining
            d_before = packing.where_rows(valid, d_before, d_states)
            sums = packing.where_rows(valid, sums, [tf.zeros_like(s) for s in sums])
        return t - 1, d_before, [a.write(t, v) for a, v in zip(arrays, sums, strict=True)]

    shape = [d_outputs.shape[1], U_T.shape[0]]
    arrays = [tf.TensorArray(U_T.dtype, size, element_shape=shape) for _ in range(_sums(equations))]
    _, d_states, arrays = tf.while_loop(
        lambda t, *_: t >= 0, body, (steps - 1, list(d_states), arrays), maximum_iterations=size
    )
    return [a.stack() for a in arrays], d_states
