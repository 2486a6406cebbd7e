"""How the steps of a batch of sequences lie in memory while a layer runs over them.

A batch is cut into two groups of rows. They run side by side, one on each half of the cores, and do
not wait for each other at every step. A group is a list of chunks; a chunk holds a fixed number of
steps of some rows, steps first: `(steps, rows, features)`. All chunks of a group, flattened, are
its slots.

Without a mask every chunk of a group holds all of its rows. With a mask, the valid steps of each
row move to its start and longer rows come first, so that a later chunk holds fewer rows. Masked
steps get no slot. A chunk may end in slots without a step; nothing reads their results.
"""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gated.paths.gradients import custom_gradient


class Layout(NamedTuple):
    """The sizes of chunks that suit a loop."""

    steps: int  # steps of a chunk
    rows: int  # the number of rows is a multiple of this, where a multiple is needed
    numbers: int  # split the batch in two only if a state of each group has this many numbers
    whole: bool  # without a mask, steps of a known number are a single chunk


# XLA compiles the loops of training anew for every shape of a chunk, so there are few shapes.
# The plain loop writes the steps of a chunk out. (Sizes measured on two cores.)
COMPILED = Layout(steps=32, rows=8, numbers=0, whole=True)
PLAIN = Layout(steps=16, rows=1, numbers=1024, whole=False)
ROWS_WORTH_A_GROUP = 8
# The chunks of a group have at most so many different numbers of rows, however large the batch is.
# More of them would leave fewer rows without a step, but XLA would compile for minutes.
NUMBERS_OF_ROWS = 8


class Chunks(NamedTuple):
    """The chunks of a group."""

    size: int  # steps that a chunk has slots for
    steps: Any  # steps of the longest row in each chunk, int32 (chunks,)
    rows: Any  # rows of each chunk, int32 (chunks,); never more than of the chunk before
    offsets: Any  # slots before each chunk, int32 (chunks,)
    lengths: Any  # steps of each row, int32 (rows,); None: all steps of the chunks
    single: bool  # whether there is exactly one chunk
    full: bool  # whether every slot holds a step


class Group(NamedTuple):
    """Rows that run together."""

    x: Any  # (slots, features)
    states: Any  # the states before the first step, each (rows, width)
    chunks: Chunks
    keep: Any = ()  # the mask of recurrent dropout, (rows, width), if there is one


class Batch(NamedTuple):
    """A batch cut into groups, and the functions that put the results together."""

    groups: list
    unpack_outputs: Any  # (slots, units) of each group -> (batch, time, units)
    unpack_states: Any  # a state of each group -> (batch, units)


def pack(x, states, go_backwards, outputs_reversed, layout):
    """Returns the `Batch` of sequences `(batch, time, features)` without a mask.

    Args:
        x, states, go_backwards, outputs_reversed, layout: As for `pack_masked`.
    """
    static, features = x.shape[1], x.shape[2]
    time = tf.shape(x)[1] if static is None else static
    single = bool(static) and (layout.whole or static <= layout.steps)
    size = static if single else layout.steps
    if static and not single:  # a size that leaves no slots empty, or only a few
        sizes = range(size, size // 2 - 1, -1)
        fewest = -(-static // -(-static // size))
        size = next((n for n in sizes if static % n == 0), fewest)
    slots = -(-time // size) * size
    # If the number of rows is not known beforehand, it is rounded up: XLA compiles fewer shapes.
    multiple = layout.rows if x.shape[0] is None else 1
    rows = _rows_of_groups(x, states, layout, multiple)
    groups, widths = [], []
    for own_rows, part, *own in zip(rows, *(tf.split(a, rows) for a in (x, *states)), strict=True):
        steps_first = tf.transpose(part, [1, 0, 2])
        if go_backwards:
            steps_first = tf.reverse(steps_first, [0])
        width = own_rows if multiple == 1 else -(-own_rows // multiple) * multiple
        if multiple > 1 or not single:
            steps_first = tf.pad(steps_first, [[0, slots - time], [0, width - own_rows], [0, 0]])
            own = [tf.pad(s, [[0, width - own_rows], [0, 0]]) for s in own]
        starts = tf.range(0, time, size)
        if not single:  # a group without rows has no chunk to run
            starts = starts[: tf.where(width > 0, tf.size(starts), 0)]
        chunks = Chunks(
            size,
            tf.minimum(time - starts, size),
            tf.fill(tf.shape(starts), width),
            starts * width,
            None,
            single,
            single or (static is not None and static % size == 0),
        )
        widths.append(width)
        groups.append(Group(tf.reshape(steps_first, [-1, features]), own, chunks))

    def unpack_outputs(outputs):
        parts = []
        for own_rows, width, output in zip(rows, widths, outputs, strict=True):
            steps_first = tf.reshape(output, [slots, width, output.shape[-1]])
            parts.append(tf.transpose(steps_first[:time, :own_rows], [1, 0, 2]))
        unpacked = tf.concat(parts, 0)
        return tf.reverse(unpacked, [1]) if go_backwards and not outputs_reversed else unpacked

    def unpack_states(parts):
        return tf.concat([part[:own] for part, own in zip(parts, rows, strict=True)], 0)

    return Batch(groups, unpack_outputs, unpack_states)


def pack_masked(
    x, mask, states, go_backwards, outputs_reversed, zero_masked_outputs, layout, functions
):
    """Returns the `Batch` of sequences in which only the steps where `mask` is True count.

    Args:
        x: `(batch, time, features)`; its masked steps are not read.
        mask: bool, `(batch, time)`.
        states: Each `(batch, units)`.
        go_backwards: Whether steps are read from the last one to the first.
        outputs_reversed: Whether outputs are wanted with the last step first.
        zero_masked_outputs: Whether a masked step's output is zero, not that of the step before.
        layout: The `Layout` of the loop.
        functions: As for `traced_once`.
    """
    batch, static, _ = x.shape
    size = static if static and static <= layout.steps else layout.steps
    single = size == static and batch is not None
    fewest = max(ROWS_WORTH_A_GROUP, layout.numbers // states[0].shape[-1])
    take = _take if layout is not PLAIN else _take_plainly
    options = (batch, size, layout.rows, fewest, single, go_backwards)
    own = functools.partial(_places, *options)
    places = traced_once(functions, (_places, *options), own, mask)
    chunks = [Chunks(size, *numbers, single, False) for numbers in places.chunks]
    slot, step_at, groups = places.slot, places.step_at, []
    packed = take([tf.reshape(x, [-1, x.shape[2]])], step_at, tf.reshape(slot, [-1]))
    packed = tf.split(packed, places.slots)
    for parts in zip(packed, chunks, places.rows, places.within, strict=True):
        own = [take([state], *parts[2:]) for state in states]
        groups.append(Group(parts[0], own, parts[1]))

    def unpack_outputs(outputs):
        if zero_masked_outputs:
            unpacked = take(outputs, tf.reshape(slot, [-1]), step_at)
            unpacked = tf.reshape(unpacked, tf.concat([tf.shape(mask), [unpacked.shape[-1]]], 0))
        else:
            unpacked = gather_or_zero(outputs, places.slot_read_last, layout is not PLAIN)
        return tf.reverse(unpacked, [1]) if outputs_reversed else unpacked

    def unpack_states(parts):
        return take(parts, places.place, places.row_at)

    return Batch(groups, unpack_outputs, unpack_states)


class _Places(NamedTuple):
    """Where the rows and steps of a masked batch go.

    Rows, slots and steps of the batch are numbered from 1. Number 0 means none, and reads zeros.
    """

    chunks: Any  # of each group: `steps`, `rows`, `offsets` and `lengths` of `Chunks`
    slots: Any  # how many slots each group has
    rows: Any  # the rows of each group, the longest first
    row_at: Any  # the row of each place in the groups
    place: Any  # the place of each row
    within: Any  # of each group: the place of each row within it, 0 for a row of another group
    slot: Any  # the slot of each step, `(batch, time)`
    slot_read_last: Any  # the slot of the last step that a row has read, `(batch, time)`
    step_at: Any  # the step of each slot


def _places(batch, size, multiple, fewest, single, go_backwards, mask):
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    rows = _longest_first(lengths, batch, fewest, multiple)
    chunks = [
        _chunks(tf.gather(tf.pad(lengths, [[1, 0]]), own), size, multiple, single) for own in rows
    ]
    slots = [tf.reduce_sum(own.rows) * size for own in chunks]
    row_at = tf.concat(rows, 0)
    places = tf.range(1, tf.size(row_at) + 1)
    none = tf.zeros([tf.size(lengths) + 1], tf.int32)
    place = tf.tensor_scatter_nd_update(none, row_at[:, None], places)[1:]
    # For each step: how many valid steps have been read, with this step; 0 before the first.
    read = tf.cumsum(tf.cast(mask, tf.int32), axis=1, reverse=go_backwards)
    slot_read_last = _slots_of_steps(chunks, rows, place, read)
    slot = tf.where(mask, slot_read_last, 0)
    steps = tf.range(1, tf.size(mask) + 1)
    none = tf.zeros([sum(slots) + 1], tf.int32)
    step_at = tf.tensor_scatter_nd_update(none, tf.reshape(slot, [-1, 1]), steps)[1:]
    within = [_within(place, rows, group) for group in range(len(rows))]
    chunks = [(own.steps, own.rows, own.offsets, own.lengths) for own in chunks]
    return _Places(chunks, slots, rows, row_at, place, within, slot, slot_read_last, step_at)


def _within(place, rows, group):
    """Returns the place of each row within a group, 0 for a row of another group."""
    if len(rows) == 1:
        return place
    first = tf.size(rows[0])
    return tf.where(place > first, 0, place) if group == 0 else tf.maximum(place - first, 0)


def _longest_first(lengths, batch, fewest, multiple):
    """Returns the rows of each group, the longest first.

    Args:
        batch: The number of rows, if it is known beforehand.
        fewest: The fewest rows that are worth a group.
        multiple: Groups have multiples of this number of rows.
    """
    count = tf.size(lengths) if batch is None else batch
    rows = tf.math.top_k(lengths, count).indices + 1
    if multiple > 1:
        blocks = -(-count // multiple)
        rows = tf.pad(rows, [[0, blocks * multiple - count]])
        rows = tf.reshape(rows, [-1, multiple])
    # The groups get blocks of rows in turn, so that both are equally long.
    if batch is not None:
        groups = [rows[::2], rows[1::2]] if count >= 2 * fewest else [rows]
    else:
        step = tf.where(count >= 2 * fewest, 2, 1)
        groups = [rows[::step], rows[tf.where(step == 2, 1, count) :: 2]]
    return [tf.reshape(own, [-1]) for own in groups]


def _rows_of_groups(x, states, layout, multiple):
    """Returns how many rows go into each group: all into the first where two groups gain nothing.

    Args:
        multiple: The number of rows in the first of two groups is a multiple of this.
    """
    fewest = max(ROWS_WORTH_A_GROUP, layout.numbers // states[0].shape[-1])
    rows = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    first = -(-rows // (2 * multiple)) * multiple
    if isinstance(rows, int):
        return [first, rows - first] if rows >= 2 * fewest else [rows]
    first = tf.where(rows >= 2 * fewest, first, rows)
    return [first, rows - first]


def _chunks(lengths, size, multiple, single):
    """Returns the `Chunks` of rows with these lengths, the longest first."""
    longest = tf.maximum(tf.reduce_max(lengths), 0)  # without a row: the least integer
    starts = tf.range(1 if single else -(-longest // size)) * size
    rows = tf.reduce_sum(tf.cast(lengths > starts[:, None], tf.int32), 1)
    if multiple > 1:
        larger = multiple * 2 ** tf.range(16)
        multiple = larger[tf.searchsorted(larger * NUMBERS_OF_ROWS, tf.size(lengths)[None])[0]]
        rows = -(-tf.maximum(rows, 1) // multiple) * multiple
        rows = tf.minimum(rows, tf.size(lengths))  # of a batch without rows: none
    steps = tf.minimum(longest - starts, size)
    return Chunks(size, steps, rows, _offsets(rows, size), lengths, single, False)


def _offsets(rows, size):
    return tf.cumsum(rows * size, exclusive=True)


def _slots_of_steps(chunks, rows, place, read):
    """Returns the slot of the step read last, `(batch, time)`; 0 where none has been read yet."""
    size = chunks[0].size
    # One more entry, for the case that no row has a step.
    table = tf.pad(tf.concat([own.rows for own in chunks], 0), [[0, 1]])
    within, first = place, 0
    if len(chunks) == 2:
        second = place > tf.size(rows[0])
        within = tf.where(second, place - tf.size(rows[0]), place)
        first = tf.where(second, tf.size(chunks[0].rows), 0)[:, None]
    step = tf.maximum(read - 1, 0)
    chunk = first + step // size
    slot = tf.gather(_offsets(table, size), chunk) + step % size * tf.gather(table, chunk)
    return tf.where(read > 0, slot + within[:, None], 0)


def gather_or_zero(parts, index, dense_gradient):
    """Gathers rows of the concatenated parts, numbered from 1; number 0 gives zeros."""
    none = tf.zeros([1, parts[0].shape[-1]], parts[0].dtype)
    rows = tf.concat([none, *parts], 0)
    return tf.gather(_dense_gradient(rows) if dense_gradient else rows, index)


@custom_gradient
def _dense_gradient(values):
    # The derivative of a gather is sparse. To make it dense costs less than to take it apart.
    return values, tf.convert_to_tensor


def _take(parts, index, inverse):
    """Gathers rows as `gather_or_zero` does, where `inverse` undoes `index`.

    No row is taken twice, so the derivative is a gather, too, and not a scatter.
    """

    @custom_gradient
    def take(*parts):
        sizes = [tf.shape(part)[0] for part in parts]

        def gradient(*d):
            return tf.split(gather_or_zero(d, inverse, True), sizes, num=len(parts))

        return gather_or_zero(parts, index, True), gradient

    return take(*parts)


def _take_plainly(parts, index, inverse):
    # An exported graph must hold no derivative of ours: not every program that loads the graph
    # finds the derivative.
    del inverse
    return gather_or_zero(parts, index, False)


def traced_once(functions, key, run, *given):
    """Calls `run(*given)`. TensorFlow traces it, and writes it into an export, once for each key.

    Args:
        functions: The cache of the equations: both directions of a layer use it, and all layers
            that have the same equations.
        key: Tells apart what is called.
    """
    if key not in functions:
        functions[key] = tf.function(run, autograph=False, reduce_retracing=True)
    return functions[key](*given)


def over_group(functions, key, run, chunks, *given):
    """Calls `run(chunks, *given)` as `traced_once` does: groups differ in numbers alone."""
    settings = tuple(value for value in chunks if not tf.is_tensor(value))
    return traced_once(functions, (*key, settings), run, chunks, *given)


def over_chunks(chunks, chunk, states, widths, sums=(), backwards=False):
    """Runs a function over the chunks of a group, in order or from the last to the first.

    Args:
        chunk: Called with the number of the chunk and the states; returns tensors, each `(slots of
            the chunk, width)`, the new states, and terms of the sums.
        states: Each `(rows, units)`.
        widths: The last axis of what `chunk` returns, one for each tensor.
        sums: What the terms are added to.

    Returns:
        The tensors, for `all_slots` and `of_chunk` to read, the final states, and the sums.
    """
    if chunks.single:
        return chunk(0, states)
    number = tf.size(chunks.steps)
    arrays = [
        tf.TensorArray(states[0].dtype, number, element_shape=[None, width], infer_shape=False)
        for width in widths
    ]

    def body(turn, states, sums, arrays):
        j = number - 1 - turn if backwards else turn
        values, states, terms = chunk(j, states)
        arrays = [a.write(j, v) for a, v in zip(arrays, values, strict=True)]
        return turn + 1, states, [s + t for s, t in zip(sums, terms, strict=True)], arrays

    shapes = [tf.TensorShape([None, s.shape[-1]]) for s in states]
    of_sums, of_arrays = [s.shape for s in sums], [tf.TensorShape(None)] * len(arrays)
    _, states, sums, arrays = tf.while_loop(
        lambda turn, *_: turn < number,
        body,
        (0, list(states), list(sums), arrays),
        shape_invariants=(tf.TensorShape([]), shapes, of_sums, of_arrays),
    )
    # Lists of TensorFlow, which a function can return. Eagerly, there are none.
    kept = [array.concat() if tf.executing_eagerly() else array.flow for array in arrays]
    return kept, states, sums


def all_slots(kept, width, dtype):
    """Returns what `over_chunks` kept, for all slots: `(slots, width)`."""
    if kept.dtype != tf.variant:
        return kept
    none = tf.zeros([0], tf.int64)
    slots, _ = tf.raw_ops.TensorListConcatV2(
        input_handle=kept, element_shape=[-1, width], leading_dims=none, element_dtype=dtype
    )
    return slots


def of_chunk(chunks, kept, width, dtype, j):
    """Returns what `over_chunks` or `all_slots` returned, for chunk j: `(slots, width)`."""
    if kept.dtype != tf.variant:
        return slots_of(chunks, kept, j)
    return tf.raw_ops.TensorListGetItem(
        input_handle=kept, index=j, element_shape=[-1, width], element_dtype=dtype
    )


def slots_of(chunks, array, j):
    """Returns the slots of chunk j of an array `(slots, width)`."""
    if chunks.single:
        return array
    offset = chunks.offsets[j]
    return array[offset : offset + chunks.size * chunks.rows[j]]


def put_back(active, state, rows):
    """Returns the state with its first rows replaced: those that were active in a chunk."""
    return tf.ensure_shape(tf.concat([active, state[rows:]], 0), [None, state.shape[-1]])


def where_rows(rows, chosen, otherwise):
    """Returns tensors with the rows of `chosen` where bool `rows` is True, else of `otherwise`."""
    return [tf.where(rows[:, None], a, b) for a, b in zip(chosen, otherwise, strict=True)]
