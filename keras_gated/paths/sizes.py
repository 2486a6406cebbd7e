"""Checks of sizes that are known only when a graph runs, with the words of the static checks."""

import tensorflow as tf


def with_sizes_checked(owner, sequences, mask, states, features):
    """Returns the sequences, mask and states, which can be read only if their sizes fit together.

    If all sizes are known, no check is added. Without the checks, a mask or a state of another size
    would shift rows: the output of a row would depend on its neighbours.

    Args:
        owner: The name of the layer, for the message.
        sequences: `(batch, time, features)`.
        mask: Optional bool, `(batch, time)`.
        states: The states that were given, each `(batch, units)`.
        features: The number of features that the layer was built for.
    """
    checks, shape = [], tf.shape(sequences)
    if sequences.shape[-1] is None:
        checks.append((
            shape[-1] == features,
            [f"{owner} was built for {features} features (the last axis of its input). "
             "Received: inputs.shape =", shape],
        ))  # fmt: skip
    if mask is not None and None in (*mask.shape, *sequences.shape[:2]):
        checks.append((
            tf.reduce_all(tf.shape(mask) == shape[:2]),
            [f"{owner}: `mask` must be of shape (batch, time), True where a step counts. "
             "Received: mask.shape =", tf.shape(mask), "with sequences.shape =", shape],
        ))  # fmt: skip
    for state in states:
        if None in (state.shape[0], sequences.shape[0]):
            checks.append((
                tf.shape(state)[0] == shape[0],
                [f"{owner}: the states before must be of shape (batch, units). Received: a state "
                 "of shape =", tf.shape(state), "with sequences.shape =", shape],
            ))  # fmt: skip
    if not checks:
        return sequences, mask, states
    checks = [tf.raw_ops.Assert(condition=c, data=data, summarize=8) for c, data in checks]
    with tf.control_dependencies(checks):
        mask = None if mask is None else _held(mask)
        states = [_held(state) for state in states]
        if sequences.shape[-1] is None:
            sequences = tf.ensure_shape(_held(sequences), [*sequences.shape[:2], features])
    return sequences, mask, states


def _held(tensor):
    # The graph's optimizer moves operations that do not change a tensor past the checks. The error
    # would then come from a later operation. The optimizer does not see that this slice changes
    # nothing.
    whole = tf.slice(tensor, [0] * tensor.shape.rank, tf.shape(tensor))
    return tf.ensure_shape(whole, tensor.shape)
