"""How the steps of a batch lie in memory while a layer runs over them on JAX.

On JAX every size is known beforehand. The valid steps of each row move to its start, and rows are
sorted by length into groups of one size.
"""

import jax
from jax import lax
from jax import numpy as jnp

GROUPS = 4, 3, 2  # numbers of groups to try
# A group has at least so many rows, and a state of it so many numbers. (Measured on two cores.)
ROWS_WORTH_A_GROUP, NUMBERS_WORTH_A_GROUP = 8, 2048


def number_of_groups(batch, units):
    """Returns the number of groups of a batch: equally large ones that are large enough."""
    fewest = max(ROWS_WORTH_A_GROUP, NUMBERS_WORTH_A_GROUP // units)
    return next((n for n in GROUPS if batch % n == 0 and batch // n >= fewest), 1)


class Packing:
    """Where the valid steps lie while the loop runs: in slots `(groups, time, rows)`."""

    def __init__(self, mask, go_backwards, groups):
        self.mask, (batch, time) = mask, mask.shape
        self._shape = groups, time, batch // groups
        counts = mask.astype("int32")
        # For each step: how many valid steps have been read, with this step.
        read = lax.cumsum(counts, axis=1, reverse=go_backwards)
        lengths, numbers = jnp.sum(counts, 1), jnp.arange(batch)
        order = numbers if groups == 1 else jnp.argsort(-lengths)
        self._order, self._place = order, jnp.zeros_like(order).at[order].set(numbers)
        self.lengths = self._grouped(lengths[order])
        step = jnp.zeros((batch, time), "int32")
        step = step.at[numbers[:, None], jnp.where(mask, read - 1, time)].set(
            jnp.arange(time, dtype="int32"), mode="drop"
        )
        step = self._grouped(order[:, None] * time + step[order])
        self._step = jnp.swapaxes(step, 1, 2).reshape(-1)  # of every slot
        used = jnp.arange(time)[:, None] < self.lengths[:, None]
        self._used = used.reshape(-1)  # of every slot
        group, row = jnp.divmod(self._place[:, None], self._shape[2])
        slot = (group * time + jnp.maximum(read - 1, 0)) * self._shape[2] + row
        self._slot = slot.reshape(-1)  # read last, of every step
        self._read = (read > 0).reshape(-1)

    def packed(self, x):
        """Returns the steps of `(batch, time, features)` in their slots; the others are zeros."""
        steps = x.reshape(-1, x.shape[-1])
        slots = _moved(steps, self._step, self._used, self._slot, self.mask.reshape(-1))
        return slots.reshape(*self._shape, -1)

    def unpacked(self, slots, zero_masked_outputs):
        """Returns what is in the slots, `(batch, time, width)`."""
        slots = slots.reshape(-1, slots.shape[-1])
        if zero_masked_outputs:
            steps = _moved(slots, self._slot, self.mask.reshape(-1), self._step, self._used)
        else:
            steps = jnp.where(self._read[:, None], slots[self._slot], 0)
        return steps.reshape(*self.mask.shape, -1)

    def sorted(self, rows):
        every = jnp.ones(self._order.shape, bool)
        return self._grouped(_moved(rows, self._order, every, self._place, every))

    def unsorted(self, rows):
        every = jnp.ones(self._order.shape, bool)
        rows = rows.reshape(-1, rows.shape[-1])
        return _moved(rows, self._place, every, self._order, every)

    def _grouped(self, rows):
        return rows.reshape(self._shape[0], self._shape[2], *rows.shape[1:])


@jax.custom_vjp
def _moved(values, index, valid, inverse, used):
    """Gathers rows; zeros where `valid` is False. No row is taken twice.

    So the derivative is a gather, too: `inverse` is the place of every row that is `used`.
    """
    return jnp.where(valid[:, None], values[index], 0)


_moved.defvjp(
    lambda values, index, valid, inverse, used: (
        _moved(values, index, valid, inverse, used),
        (index, valid, inverse, used),
    ),
    lambda to, d: (_moved(d, to[2], to[3], to[0], to[1]), None, None, None, None),
)
