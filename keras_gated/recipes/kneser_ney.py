"""The next character by counts, to stand beside a recurrent network."""

import keras
import numpy as np
from keras import ops

from keras_gated.recipes.arguments import check_whole
from keras_gated.recipes.ids import FIRST

FEW = (0.5, 1.0, 1.5)  # discounts where the text has too few rare n-grams to compute them


@keras.saving.register_keras_serializable(package="keras_gated")
class KneserNey(keras.layers.Layer):
    """The probability of each next id after the last ids, from the n-grams of a text.

        p(id | context) = share(context, id) + (1 - sum of the context's shares) * p(id | shorter)

    `share` is how often the id follows the context in the text, less a discount. What the discounts
    leave goes to the context without its oldest id, and at last to all ids alike. The counts of a
    shorter context say after how many different ids its n-grams stand, not how often.

    `adapt` computes the shares. The layer has nothing to train: it knows the text that it has
    counted by heart.

    Args:
        ids: Number of ids, padding and unknown included.
        longest: The most ids in an n-gram: `longest - 1` of the context, and the next one.
        sizes: The number of n-grams of each length. `adapt` sets it.

    Call arguments:
        context: The last ids before the next one, the newest first, `(batch, time, longest - 1)`,
            of any dtype that holds them exactly. 0 stands where no id came before.

    Returns:
        float, `(batch, time, ids - 2)`: the logarithm of the probability of each id but padding and
        unknown. A mask is passed on.

    Raises:
        ValueError: If `ids` is not a whole number of at least 3, or `longest` of at least 2, if
            there are more n-grams of so many ids than whole numbers of 64 bits, or if the layer is
            called before `adapt` or with contexts of another size.

    Weights, none of which is trained, for n-grams of 1 to `longest` ids: `numbers_<n> (size,)`,
    int64, in ascending order (the ids of the n-gram are the digits in base `ids`), and
    `shares_<n> (size,)`.

    Reference: Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language
    Modeling", section 3: modified Kneser-Ney smoothing, interpolated. If a discount that it gives
    is not between 0 and the count, the discounts are 0.5, 1 and 1.5.
    """

    def __init__(self, ids: int, longest: int = 7, sizes: list | None = None, **kwargs):
        super().__init__(trainable=False, autocast=False, **kwargs)  # 16 bits would not hold ids
        [ids] = check_whole("KneserNey", FIRST + 1, ": padding, unknown and an id", ids=ids)
        why = ": n-grams need at least one id as context"
        [longest] = check_whole("KneserNey", 2, why, longest=longest)
        if ids**longest >= 2**63:
            raise ValueError(
                f"KneserNey: n-grams of {longest} of {ids} ids are more than fit into 64 bits. "
                f"Received: ids={ids}, longest={longest}. Take fewer."
            )
        self.ids, self.longest, self.sizes = ids, longest, sizes
        self.supports_masking = True

    def build(self, input_shape=None):
        if self.sizes is None:
            raise ValueError("KneserNey: call `adapt` with a text before the layer.")
        fixed = {"initializer": "zeros", "trainable": False, "autocast": False}
        self.tables = [
            (
                self.add_weight((size,), dtype="int64", name=f"numbers_{n}", **fixed),
                self.add_weight((size,), dtype="float32", name=f"shares_{n}", **fixed),
            )
            for n, size in enumerate(self.sizes, 1)
        ]
        self.built = True

    def adapt(self, text, least: int = 2):
        """Counts the n-grams of a text, and builds the layer.

        Args:
            text: Ids, `(time,)`, without padding and unknown ids.
            least: One of the longest n-grams is left out if the text holds it fewer times. The
                shares of its context then leave more to shorter contexts.

        Raises:
            ValueError: If the layer has counted a text before, or if the text is shorter than the
                longest n-gram, has more than one axis or holds other ids.
        """
        if self.built:
            raise ValueError("KneserNey: the layer has counted a text. Make another for this one.")
        given = ops.convert_to_numpy(text)
        if given.ndim != 1 or given.dtype.kind not in "iuf" or (given != np.floor(given)).any():
            raise ValueError(
                "KneserNey: a text must be whole numbers, (time,). Received: "
                f"shape={given.shape}, dtype={given.dtype}. Turn characters into ids first, and "
                "join several texts."
            )
        text = given.astype("int64")
        if len(text) < self.longest or text.min() < FIRST or text.max() >= self.ids:
            raise ValueError(
                f"KneserNey: a text must have at least {self.longest} ids, each from {FIRST} to "
                f"{self.ids - 1}. Received: {len(text)} ids{_range(text)}."
            )
        tables, longer = [], None
        for length in range(self.longest, 0, -1):
            if longer is None:
                numbers, counts = np.unique(_numbers(text, length, self.ids), return_counts=True)
            else:  # after how many ids: each longer n-gram without its oldest id
                numbers, counts = np.unique(longer % self.ids**length, return_counts=True)
            shares = _shares(numbers // self.ids, counts)
            kept = counts >= (1 if tables else least)
            tables.append((numbers[kept], shares[kept]))
            longer = numbers
        self.sizes = [len(numbers) for numbers, _ in reversed(tables)]
        self.build()
        for weights, values in zip(self.tables, reversed(tables), strict=True):
            for weight, value in zip(weights, values, strict=True):
                weight.assign(value)

    def call(self, context):
        if context.shape[-1] not in (None, self.longest - 1):
            raise ValueError(
                f"KneserNey: a context must have {self.longest - 1} ids, its last axis, since "
                f"`longest` is {self.longest}. Received: context.shape={tuple(context.shape)}"
            )
        context = ops.cast(context, "int64")
        rows = ops.shape(context)[:-1]
        context = ops.reshape(context, (-1, self.longest - 1))
        number = ops.zeros_like(context[:, :1])  # of the context, and later with each next id
        of_next = ops.arange(FIRST, self.ids, dtype="int64")
        p = ops.full((1, self.ids - FIRST), 1 / (self.ids - FIRST), dtype="float32")
        for length, (numbers, shares) in enumerate(self.tables, 1):
            if length > 1:
                oldest = context[:, length - 2 : length - 1]
                number = number + oldest * self.ids ** (length - 2)
            if not self.sizes[length - 1]:  # all were left out
                continue
            asked = ops.reshape(number * self.ids + of_next, (-1,))
            place = ops.minimum(ops.searchsorted(numbers, asked), self.sizes[length - 1] - 1)
            share = ops.where(ops.take(numbers, place) == asked, ops.take(shares, place), 0)
            share = ops.reshape(share, (-1, self.ids - FIRST))
            p = share + (1 - ops.sum(share, axis=-1, keepdims=True)) * p
        return ops.reshape(ops.log(ops.maximum(p, 1e-30)), (*rows, self.ids - FIRST))

    def compute_output_spec(self, context):
        return keras.KerasTensor((*context.shape[:-1], self.ids - FIRST), "float32")

    def get_config(self):
        own = {"ids": self.ids, "longest": self.longest, "sizes": self.sizes}
        config = {**super().get_config(), **own}
        del config["trainable"]
        return config


def _range(text):
    return f" from {text.min()} to {text.max()}" if len(text) else ""


def _numbers(text, length, base):
    """Returns the number of every n-gram of a length in a text, its ids the digits in a base."""
    end, numbers = len(text) - length + 1, 0
    for place in range(length):
        numbers = numbers * base + text[place : end + place]
    return numbers


def _shares(contexts, counts):
    """Returns the share of every n-gram in the n-grams of its context, less the discount.

    Args:
        contexts: The number of each n-gram's context, in ascending order.
        counts: How often each n-gram counts.
    """
    of_count = [np.sum(counts == n) for n in range(5)]
    part = of_count[1] / max(of_count[1] + 2 * of_count[2], 1)
    discounts = [n - (n + 1) * part * of_count[n + 1] / max(of_count[n], 1) for n in (1, 2, 3)]
    if not all(0 < discount < n for n, discount in enumerate(discounts, 1)):
        discounts = FEW
    discount = np.array([0, *discounts])[np.minimum(counts, 3)]
    starts = np.flatnonzero(np.diff(contexts, prepend=-1))
    totals = np.add.reduceat(counts, starts)
    return (counts - discount) / np.repeat(totals, np.diff([*starts, len(counts)]))
