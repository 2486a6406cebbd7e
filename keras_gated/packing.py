"""How the steps of a batch of sequences lie in memory while a layer runs over them.

A batch is cut into two groups of rows that run side by side, one on each half of the cores, with
no barrier between them at every step. A group is a list of chunks; a chunk holds some steps of
some rows, steps first: `(steps, rows, features)`. All chunks of a group, flattened, are its slots.

Without a mask a group is one chunk. With one, the valid steps of each row move to its start and
longer rows come first, so that a later chunk holds fewer rows. Masked steps take no slot; chunks of
a fixed size hold some more slots than steps, which nothing reads.
"""

from typing import Any, NamedTuple

import tensorflow as tf

# A chunk of the compiled loops has a fixed number of steps and a multiple of so many rows, since
# XLA compiles anew for every shape.
STEPS, ROWS = 32, 8
# A group is worth its while from so many rows on in the compiled loops, and from so many numbers
# of a state in the plain ones, where every operation has its price (measured on two cores).
ROWS_WORTH_A_GROUP, NUMBERS_WORTH_A_GROUP = 8, 1024


class Chunks(NamedTuple):
    """The chunks of a group."""

    steps: Any  # steps that some row of each chunk has, int32 (chunks,)
    rows: Any  # rows of each chunk, int32 (chunks,); never more than of the chunk before
    offsets: Any  # slots before each chunk, int32 (chunks,)
    size: Any  # steps a chunk has slots for, if that is fixed; None: as many as it has steps
    lengths: Any  # steps of each row, int32 (rows,); None: as many as the chunks together
    single: bool  # whether there is exactly one chunk


class Group(NamedTuple):
    """Rows that run together."""

    x: Any  # (slots, features)
    states: Any  # the states before the first step, each (rows, units)
    chunks: Chunks


class Batch(NamedTuple):
    """A batch cut into groups, and the way back."""

    groups: list
    unpack_outputs: Any  # (slots, units) of each group -> (batch, time, units)
    unpack_states: Any  # a state of each group -> (batch, units)


def _rows_of_groups(x, states, compiled):
    """Returns how many rows go into each group: all into the first where two gain nothing."""
    fewest = ROWS_WORTH_A_GROUP if compiled else NUMBERS_WORTH_A_GROUP // states[0].shape[-1]
    if x.shape[0] is not None:
        rows = x.shape[0]
        return [rows - rows // 2, rows // 2] if rows >= 2 * fewest else [rows]
    rows = tf.shape(x)[0]
    second = tf.where(rows >= 2 * fewest, rows // 2, 0)
    return [rows - second, second]


def pack(x, states, go_backwards, flipped, compiled):
    """Returns the `Batch` of sequences `(batch, time, features)` without a mask.

    Args:
        x, states, go_backwards, flipped, compiled: As for `pack_masked`.
    """
    rows = _rows_of_groups(x, states, compiled)
    static, features = x.shape[1], x.shape[2]
    time = tf.shape(x)[1] if static is None else static
    groups, shapes = [], []
    for part, *own in zip(*(tf.split(a, rows) for a in (x, *states)), strict=True):
        steps_first = tf.transpose(part, [1, 0, 2])
        if go_backwards:
            steps_first = tf.reverse(steps_first, [0])
        width, size = tf.shape(part)[0], static
        steps, offsets = tf.reshape(time, [1]), tf.zeros([1], tf.int32)
        if compiled and not static:
            size, starts = STEPS, tf.range(0, time, STEPS)
            steps_first = tf.pad(steps_first, [[0, -time % STEPS], [0, 0], [0, 0]])
            steps, offsets = tf.minimum(time - starts, STEPS), starts * width
        # A row without steps would be a turn of every loop for nothing.
        steps = tf.where(width > 0, steps, 0)
        chunks = Chunks(
            steps,
            tf.fill(tf.shape(steps), width),
            offsets,
            size,
            None,
            bool(static) or not compiled,
        )
        shapes.append(tf.shape(steps_first)[:2])
        groups.append(Group(tf.reshape(steps_first, [-1, features]), own, chunks))

    def unpack_outputs(outputs):
        parts = []
        for shape, output in zip(shapes, outputs, strict=True):
            steps_first = tf.reshape(output, tf.concat([shape, [output.shape[-1]]], 0))
            parts.append(tf.transpose(steps_first[:time], [1, 0, 2]))
        unpacked = tf.concat(parts, 0)
        return tf.reverse(unpacked, [1]) if go_backwards and not flipped else unpacked

    return Batch(groups, unpack_outputs, lambda parts: tf.concat(parts, 0))


def pack_masked(x, mask, states, go_backwards, flipped, zero_masked_outputs, compiled):
    """Returns the `Batch` of sequences of which only the steps where `mask` is True count.

    Args:
        x: `(batch, time, features)`; nothing is read of its masked steps.
        mask: bool, `(batch, time)`.
        states: Each `(batch, units)`.
        go_backwards: Whether steps are read from the last one to the first.
        flipped: Whether outputs are wanted with the last step first.
        zero_masked_outputs: Whether a masked step's output is zero, not that of the step before.
        compiled: Whether chunks have the fixed sizes that compiled loops need.
    """
    features = x.shape[2]
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    longest_first = tf.argsort(lengths, direction="DESCENDING", stable=True)
    rows = _rows_of_groups(x, states, compiled)
    rows_of_groups = [longest_first]
    if len(rows) == 2:  # dealt out in turn, so that both are as long
        second = tf.range(rows[1]) * 2 + 1
        others = tf.concat([second - 1, tf.range(2 * rows[1], rows[0] + rows[1])], 0)
        rows_of_groups = [tf.gather(longest_first, places) for places in (others, second)]
    in_groups = tf.concat(rows_of_groups, 0)
    back = tf.argsort(in_groups)
    # How many valid steps have been read when a step has been: 0 before the first.
    read = tf.cumsum(tf.cast(mask, tf.int32), axis=1, reverse=go_backwards)
    tokens = tf.reshape(tf.range(tf.size(mask)), tf.shape(mask))

    groups, sources, slots, before, first = [], [], [], 0, 0
    for own in rows_of_groups:
        chunks, ends = (_fixed_chunks if compiled else _exact_chunks)(tf.gather(lengths, own))
        size = tf.reduce_sum(_slots_of(chunks))
        slot = _slot_of_step(chunks, ends, tf.gather(read, own) - 1)
        valid = tf.gather(mask, own)
        source = tf.tensor_scatter_nd_update(
            tf.fill([size], -1),
            tf.boolean_mask(slot, valid)[:, None],
            tf.boolean_mask(tf.gather(tokens, own), valid),
        )
        sources.append(source)
        slots.append(tf.where(slot < 0, -1, slot + before))
        before += size
        padded = tf.pad(
            own, [[0, tf.shape(chunks.lengths)[0] - tf.shape(own)[0]]], constant_values=-1
        )
        place = tf.where((back >= first) & (back < first + tf.shape(own)[0]), back - first, -1)
        first += tf.shape(own)[0]
        own_states = [_take([s], padded, place) for s in states]
        groups.append(
            Group(None, own_states, chunks if compiled else chunks._replace(lengths=None))
        )

    slot_read_last = tf.gather(tf.concat(slots, 0), back)  # (batch, time), -1: none
    slot = tf.where(mask, slot_read_last, -1)
    source = tf.concat(sources, 0)
    packed = _take([tf.reshape(x, [-1, features])], source, tf.reshape(slot, [-1]))
    parts = tf.split(packed, [tf.size(s) for s in sources], num=len(sources))
    groups = [group._replace(x=part) for group, part in zip(groups, parts, strict=True)]

    def unpack_outputs(outputs):
        if zero_masked_outputs:
            unpacked = _take(outputs, tf.reshape(slot, [-1]), source)
            unpacked = tf.reshape(unpacked, tf.concat([tf.shape(mask), [unpacked.shape[-1]]], 0))
        else:
            unpacked = _gather_or_zero(outputs, slot_read_last)
        return tf.reverse(unpacked, [1]) if flipped else unpacked

    def unpack_states(parts):
        kept = [p[: tf.shape(rows)[0]] for p, rows in zip(parts, rows_of_groups, strict=True)]
        return _take(kept, back, in_groups)

    return Batch(groups, unpack_outputs, unpack_states)


def _fixed_chunks(lengths):
    """Returns chunks of `STEPS` steps and a multiple of `ROWS` rows, and their ends in steps."""

    def rounded(rows):
        return tf.maximum(-(-rows // ROWS), 1) * ROWS

    number = tf.maximum(-(-tf.reduce_max(tf.concat([lengths, [0]], 0)) // STEPS), 1)
    starts = tf.range(number) * STEPS
    rows = rounded(tf.reduce_sum(tf.cast(lengths[None] > starts[:, None], tf.int32), 1))
    steps = tf.minimum(tf.reduce_max(tf.concat([lengths, [0]], 0)) - starts, STEPS)
    lengths = tf.pad(lengths, [[0, rounded(tf.size(lengths)) - tf.size(lengths)]])
    offsets = tf.cumsum(rows * STEPS, exclusive=True)
    return Chunks(steps, rows, offsets, STEPS, lengths, False), starts + STEPS


def _exact_chunks(lengths):
    """Returns a chunk from every end of a row to the next, and the steps at their ends."""
    ends, _ = tf.unique(tf.sort(tf.maximum(lengths, 1)))
    ends = tf.cond(tf.size(ends) > 0, lambda: ends, lambda: tf.ones([1], tf.int32))
    starts = tf.concat([[0], ends[:-1]], 0)
    rows = tf.reduce_sum(tf.cast(lengths[None] > starts[:, None], tf.int32), 1)
    steps = ends - starts
    offsets = tf.cumsum(rows * steps, exclusive=True)
    return Chunks(steps, rows, offsets, None, lengths, False), ends


def _slots_of(chunks):
    return chunks.rows * (chunks.steps if chunks.size is None else chunks.size)


def _slot_of_step(chunks, ends, step):
    """Returns the slot of step number `step[r, t]` of row r; -1 for a negative number."""
    # One number more, since searching for none at all is an error.
    numbers = tf.concat([tf.reshape(tf.maximum(step, 0), [-1]), [0]], 0)
    chunk = tf.searchsorted(ends, numbers, side="right")[:-1]
    # A row without any step asks for none, but its numbers must stay inside the table.
    chunk = tf.reshape(tf.minimum(chunk, tf.size(ends) - 1), tf.shape(step))
    starts = tf.concat([[0], ends[:-1]], 0)
    rows = tf.range(tf.shape(step)[0])[:, None]
    within = (step - tf.gather(starts, chunk)) * tf.gather(chunks.rows, chunk) + rows
    return tf.where(step < 0, -1, tf.gather(chunks.offsets, chunk) + within)


def _gather_or_zero(parts, index):
    """Gathers rows of parts that follow each other; an index of -1 gives zeros."""
    none = tf.zeros([1, parts[0].shape[-1]], parts[0].dtype)
    return tf.gather(_dense_gradient(tf.concat([none, *parts], 0)), index + 1)


@tf.custom_gradient
def _dense_gradient(values):
    # That of a gather is sparse, which costs more to take apart than to fill up.
    return values, tf.convert_to_tensor


def _take(parts, index, inverse):
    """Gathers rows as `_gather_or_zero` does, where `inverse` undoes `index`.

    No row is taken twice, so the derivative is a gather, too, and not a scatter.
    """

    @tf.custom_gradient
    def take(*parts):
        sizes = [tf.shape(part)[0] for part in parts]

        def gradient(d):
            return tf.split(_gather_or_zero([d], inverse), sizes, num=len(parts))

        return _gather_or_zero(parts, index), gradient

    return take(*parts)


def over_chunks(condition, body, first, states, arrays):
    """A loop over chunks, which may hold ever fewer rows. Returns the final states and arrays."""
    shapes = [tf.TensorShape([None, s.shape[-1]]) for s in states]
    shapes = (tf.TensorShape([]), shapes, [tf.TensorShape(None)] * len(arrays))
    return tf.while_loop(condition, body, (first, states, arrays), shape_invariants=shapes)[1:]


def put_back(active, state, rows):
    """Returns the state with its first rows replaced: those that were active in a chunk."""
    return tf.ensure_shape(tf.concat([active, state[rows:]], 0), [None, state.shape[-1]])


def array(dtype, number, width):
    return tf.TensorArray(dtype, number, element_shape=[None, width], infer_shape=False)


def where_rows(rows, chosen, otherwise):
    """Returns tensors with the rows of `chosen` where bool `rows` is True, else of `otherwise`."""
    return [tf.where(rows[:, None], a, b) for a, b in zip(chosen, otherwise, strict=True)]
