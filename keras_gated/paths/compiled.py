"""The compiled loop over time, and back-propagation through it by hand.

A batch runs chunk by chunk (`packing.py`). Forwards, the input product `W x + b` is one matrix
product, and a loop does only what depends on the step before. Backwards has two parts. First, a
loop computes the derivative of the equations at each step, written by hand or derived
(`derivative.py`). Then the derivatives with respect to `U`, `W`, `b` and `x` are computed for all
steps of the chunk together, with one product each.

With a derivative by hand, the input product is made for each chunk, too, so that the products of
all steps are never in memory together. Elsewhere it is made for all steps at once.

For a second derivative, TensorFlow differentiates the same equations in a plain loop.
"""

import functools

import tensorflow as tf

from keras_gated import keras_private
from keras_gated.paths import packing
from keras_gated.paths.derivative import rule_of, without_derivative
from keras_gated.paths.gradients import custom_gradient


def run_group_forwards(equations, group, fields, project, recur):
    """As `run_group`, for any fields, if no derivative will be taken."""
    rule, chunks = without_derivative(equations, fields), group.chunks
    group, project = _projected_now(equations, group, project)
    kept, finals = _over_group(
        _forwards, rule, chunks, project, recur, group.x, group.states, group.keep
    )
    widths, dtype = [equations.widths[name] for name in fields], finals[0].dtype
    return [packing.all_slots(*k, dtype) for k in zip(kept, widths, strict=True)], finals


def _projected_now(equations, group, project):
    """Returns a group with the products of all steps, and no weights left to project with."""
    return group._replace(x=equations.project(group.x, project)), ()


def run_group(equations, group, fields, project, recur):
    """Runs equations over a `packing.Group` with loops compiled by XLA.

    Args:
        equations: `Equations`.
        group: A `packing.Group`.
        fields: `("hidden",)` or `()`. This loop has no derivative of the gates themselves.
        project: The cell's `input_weights`.
        recur: The cell's `recurrent_weights`.

    Returns:
        The fields, each `(slots, width)`, and the final states.
    """
    rule = rule_of(equations, bool(group.keep))
    # An overridden `project` may read weights that are not arguments: TensorFlow derives it.
    if rule.reads_inputs or not equations.projects_as_all:
        group, project = _projected_now(equations, group, project)
    number, keep = len(group.states), group.keep
    ends = [1]
    for part in (group.states, project, recur, keep):
        ends.append(ends[-1] + len(part))
    sizes = {name: value for name, value in group.chunks._asdict().items() if tf.is_tensor(value)}

    def taken_apart(given):
        """Returns inputs, states, the weights of `project` and `step`, `keep`, and the rest."""
        return given[0], *(given[a:b] for a, b in zip(ends, [*ends[1:], None], strict=True))

    @custom_gradient
    def through_time(*given):
        x, states, project, recur, keep, _ = taken_apart(given)
        with keras_private.stop_recording():  # TensorFlow need not derive it
            saved, finals = _over_group(
                _forwards, rule, group.chunks, project, recur, x, states, keep
            )
            # The others stay in chunks, since only the derivative of a chunk reads them.
            place, width = rule.places[0], equations.state_widths[0]
            saved[place] = packing.all_slots(saved[place], width, x.dtype)
        # The functions below return their first and their second derivative.
        saved, finals = ([tf.stop_gradient(t) for t in tensors] for tensors in (saved, finals))

        def gradient(*d_results):
            return derivative(saved)(*given, *d_results, *sizes.values())

        return (saved[place], *finals), gradient

    def derivative(saved):
        @custom_gradient
        def of_results(*given):
            # This derivative may be differentiated in another graph than the graph of `given`.
            given = [tf.identity(tensor) for tensor in given]
            x, states, project, recur, keep, (d_outputs, *rest) = taken_apart(given)
            d_finals, own = rest[:number], dict(zip(sizes, rest[number:], strict=True))
            chunks = group.chunks._replace(**own)
            with keras_private.stop_recording():
                d_x, d_weights, d_states = _over_group(
                    _backwards, rule, chunks, project, recur,
                    x, saved, states, keep, d_outputs, d_finals,
                )  # fmt: skip

            def second_derivative(*dd):
                def results():
                    return step_by_step(equations, chunks, *taken_apart(given)[:-1])

                def first():
                    return _derivative(results, given[: ends[-1]], [d_outputs, *d_finals])

                by_floats = _derivative(first, given[: ends[-1] + 1 + number], dd)
                return [*by_floats, *(None for _ in sizes)]

            by_keep = [tf.zeros_like(mask) for mask in keep]  # masks need no derivative
            return [d_x, *d_states, *d_weights, *by_keep], second_derivative

        return of_results

    outputs, *finals = through_time(group.x, *group.states, *project, *recur, *keep)
    return [outputs] * len(fields), finals


def _projected(equations, x, project):
    return equations.project(x, project) if project else x


def _derivative(function, sources, d_values):
    """Returns the derivatives of a function's results with respect to `sources`.

    The results are weighted by `d_values` and summed.
    """
    options = {"unconnected_gradients": "zero"}
    if not tf.executing_eagerly():  # no tape records while TensorFlow builds a derivative
        return tf.gradients(function(), sources, list(d_values), **options)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        values = function()
    return tape.gradient(values, sources, list(d_values), **options)


def step_by_step(equations, chunks, x, states, project, recur, keep):
    """Runs equations over the chunks of a group in a loop that TensorFlow differentiates.

    The loop is slow, but any derivative of it can be taken. Slots without a step are zero.

    Returns:
        The hidden states, `(slots, width)`, and the final states.
    """
    lengths = chunks.lengths
    if lengths is None:
        lengths = tf.fill(tf.shape(states[0])[:1], tf.reduce_sum(chunks.steps))
    # At least one step, and one chunk more: a group may have no row, and a batch no valid step.
    time = tf.reduce_max(tf.concat([lengths, [1]], 0))
    offsets, rows = (tf.pad(numbers, [[0, 1]]) for numbers in (chunks.offsets, chunks.rows))
    t = tf.range(time)[:, None]
    valid = t < lengths
    chunk = t // chunks.size
    slot = tf.gather(offsets, chunk) + t % chunks.size * tf.gather(rows, chunk)
    slot += tf.range(tf.size(lengths))
    xs = packing.gather_or_zero(
        [_projected(equations, x, project)], tf.where(valid, slot + 1, 0), dense_gradient=True
    )

    def body(t, states, array):
        step = equations.step(xs[t], states, recur, *keep)
        after = [getattr(step, name) for name in equations.state_names]
        return t + 1, packing.where_rows(valid[t], after, states), array.write(t, step.hidden)

    array = tf.TensorArray(xs.dtype, time, element_shape=states[0].shape)
    _, finals, array = tf.while_loop(lambda t, *_: t < time, body, (0, list(states), array))
    slots, hidden = (tf.boolean_mask(a, valid) for a in (slot, array.stack()))
    shape = [tf.shape(x)[0], equations.state_widths[0]]
    return [tf.scatter_nd(slots[:, None], hidden, shape), *finals]


def _over_group(run, rule, chunks, project, recur, x, *given):
    """Calls `_forwards` or `_backwards` for a group."""
    if chunks.single:  # there is no loop to trace
        return run(rule, chunks, project, recur, x, *given)
    # All sizes in the key: TensorFlow would relax a size that differs.
    key = (run, rule, x.shape[-1], *(tuple(weight.shape) for weight in (*project, *recur)))
    own = functools.partial(run, rule)
    return packing.over_group(rule.equations.functions, key, own, chunks, project, recur, x, *given)


def _forwards(rule, chunks, project, recur, x, states, keep):
    """Runs the chunks in order. Returns what is kept of every step, by chunks, and the states."""
    loop = _compiled(rule, _forwards_loop)

    def chunk(j, states):
        rows = chunks.rows[j]
        xs = _projected(rule.equations, packing.slots_of(chunks, x, j), project)
        xs = tf.reshape(xs, [chunks.size, rows, xs.shape[-1]])
        active = [s[:rows] for s in states]
        own = [k[:rows] for k in keep]
        kept, active = loop(xs, active, recur, own, *_extent(chunks, j))
        states = [packing.put_back(a, s, rows) for a, s in zip(active, states, strict=True)]
        return [tf.reshape(k, [-1, k.shape[-1]]) for k in kept], states, []

    kept, finals, _ = packing.over_chunks(chunks, chunk, states, rule.plan(x, recur).kept)
    return kept, finals


def _backwards(rule, chunks, project, recur, x, saved, states, keep, d_outputs, d_states):
    """Runs the chunks from the last to the first.

    Returns:
        The derivatives with respect to `x`, `(slots, features)`, to the weights of `project` and
        of the step, and to the states before the first step.
    """
    equations, prepared = rule.equations, rule.prepared(recur)
    plan = rule.plan(x, recur)
    loop = _compiled(rule, _backwards_loop)

    def chunk(j, d_states):
        rows = chunks.rows[j]

        def steps_first(flat):
            return tf.reshape(flat, [chunks.size, rows, flat.shape[-1]])

        def first_states():
            return [s[:rows] for s in states]

        def kept(place, number):
            return packing.of_chunk(chunks, saved[place], plan.kept[place], x.dtype, number)

        def states_of_the_chunk_before():
            # Every row of this chunk ran to the end of the chunk before.
            return [kept(place, j - 1)[-chunks.rows[j - 1] :][:rows] for place in rule.places]

        before = first_states()
        if not chunks.single:
            before = tf.cond(j > 0, states_of_the_chunk_before, first_states)
        pieces = [steps_first(kept(place, j)) for place in range(len(saved))]
        own = packing.slots_of(chunks, x, j)
        active = [d[:rows] for d in d_states]
        by_step, sums, active = loop(
            [steps_first(own)] if rule.reads_inputs else [], pieces, before, recur, prepared,
            [k[:rows] for k in keep], steps_first(packing.slots_of(chunks, d_outputs, j)), active,
            *_extent(chunks, j),
        )  # fmt: skip
        d_states = [packing.put_back(a, d, rows) for a, d in zip(active, d_states, strict=True)]
        multiplied = [
            tf.concat([before[n][None], pieces[rule.places[n]][:-1]], 0) for n in plan.states
        ]
        by_step, multiplied = (
            [tf.reshape(a, [-1, a.shape[-1]]) for a in arrays] for arrays in (by_step, multiplied)
        )
        # For all steps of the chunk: one product for each matrix.
        d_recur = rule.by_weights(own, recur, by_step, sums, multiplied)
        d_x, *d_project = _derivative(
            lambda: [_projected(equations, own, project)], [own, *project], by_step[:1]
        )
        return [d_x], d_states, [*d_project, *d_recur]

    sums = [tf.zeros_like(weight) for weight in (*project, *recur)]
    [d_x], d_states, d_weights = packing.over_chunks(
        chunks, chunk, d_states, [x.shape[-1]], sums, backwards=True
    )
    return packing.all_slots(d_x, x.shape[-1], x.dtype), d_weights, d_states


def _extent(chunks, j):
    """Returns how many steps to run of chunk j, and how many of them each row has (None: all)."""
    remaining = None
    if chunks.lengths is not None:
        remaining = chunks.lengths[: chunks.rows[j]] - j * chunks.size
    return chunks.steps[j], remaining


def _compiled(rule, loop):
    """Returns a loop over one chunk that XLA compiles once for every shape of a chunk."""
    # Not a method: TensorFlow warns if the code of one function is traced for many cells.
    own = functools.partial(loop, rule)
    return rule.equations.once(
        (loop, rule), lambda: tf.function(own, jit_compile=True, autograph=False)
    )


def _forwards_loop(rule, xs, states, recur, keep, steps, remaining):
    size = xs.shape[0]

    def read(t):
        t = tf.minimum(t, size - 1)
        return [xs[t]] if remaining is None else [xs[t], t < remaining]

    def body(t, ahead, states, arrays):
        x, *valid = ahead or read(t)
        after, kept = rule.step(x, states, recur, keep)
        if valid:
            after = packing.where_rows(*valid, after, states)
            for place, state in zip(rule.places, after, strict=False):
                kept[place] = state
        arrays = [a.write(t, v) for a, v in zip(arrays, kept, strict=True)]
        return t + 1, read(t + 1) if ahead else [], after, arrays

    # The inputs of a step are read one step ahead. If a step reads its inputs itself, XLA makes one
    # function of the read and the equations. That function reads the number of the step again for
    # every element, and so uses no vector instructions: 2.5 times as slow. With a derivative,
    # reading ahead gains nothing: such functions write the kept tensors in any case.
    ahead = read(0) if rule.reads_ahead else []
    rows = states[0].shape[0]
    arrays = [
        tf.TensorArray(xs.dtype, size, element_shape=[rows, width])
        for width in rule.plan(xs, recur).kept
    ]
    *_, states, arrays = tf.while_loop(
        lambda t, *_: t < steps, body, (0, ahead, list(states), arrays), maximum_iterations=size
    )
    return [a.stack() for a in arrays], states


def _backwards_loop(
    rule, xs, saved, states, recur, prepared, keep, d_outputs, d_states, steps, remaining
):
    size, plan = d_outputs.shape[0], rule.plan(xs[0] if xs else d_outputs, recur)

    def body(t, d_states, sums, arrays):
        kept = [s[t] for s in saved]
        earlier = [saved[place][tf.maximum(t - 1, 0)] for place in rule.places]
        before = [tf.where(t > 0, a, b) for a, b in zip(earlier, states, strict=True)]
        d_after = [d_states[0] + d_outputs[t], *d_states[1:]]
        if remaining is not None:
            valid, none = t < remaining, [tf.zeros_like(d) for d in d_after]
            d_after = packing.where_rows(valid, d_after, none)
        x = xs[0][t] if xs else None
        d_before, by_step, summed = rule.back(x, kept, before, recur, prepared, keep, d_after)
        if remaining is not None:
            d_before = packing.where_rows(valid, d_before, d_states)
            by_step = packing.where_rows(valid, by_step, [tf.zeros_like(b) for b in by_step])
        sums = [s + d for s, d in zip(sums, summed, strict=True)]
        return t - 1, d_before, sums, [a.write(t, v) for a, v in zip(arrays, by_step, strict=True)]

    rows, dtype = d_outputs.shape[1], d_outputs.dtype
    arrays = [tf.TensorArray(dtype, size, element_shape=[rows, w]) for w in plan.by_step]
    sums = [tf.zeros_like(recur[n]) for n in plan.direct]
    _, d_states, sums, arrays = tf.while_loop(
        lambda t, *_: t >= 0,
        body,
        (steps - 1, list(d_states), sums, arrays),
        maximum_iterations=size,
    )
    return [a.stack() for a in arrays], sums, d_states
