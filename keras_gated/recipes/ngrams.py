"""A linear model of the n-grams of a text, to stand beside a recurrent network."""

import keras
import numpy as np
from keras import ops

from keras_gated.recipes.arguments import check_whole
from keras_gated.recipes.ids import PADDING, UNKNOWN

CHECK = 1_048_573  # a prime of 20 bits: OpenVINO computes remainders with 24
ANY = -1  # the check of a bucket that belongs to any n-gram


@keras.saving.register_keras_serializable(package="keras_gated")
class NGrams(keras.layers.Layer):
    """Sums one weight for every different n-gram of 1 to `longest` words in a text.

        logit = sum over the n-grams of  ratio * kernel

    `ratio` says how much more often an n-gram occurs in texts of one label than in texts of the
    other. `adapt` counts it once, before the training. The training learns the `kernel`. So an
    n-gram that is rare, or equally frequent in both labels, has little weight, however well it
    would fit the training texts.

    Each word has its own weight. Longer n-grams fall into `buckets` by hashing (an n-gram is a
    number in base `words`; the remainder is its bucket). A bucket belongs to one n-gram: of those
    in the training texts, the n-gram that tells most about the label. The other n-grams in the
    bucket, most of which no training text holds, count nothing. Before `adapt` all n-grams of a
    bucket share it. Padding and unknown words, and n-grams with one of them, count nothing.

    Args:
        words: Number of ids, padding and unknown included.
        buckets: The number of weights for n-grams of two words and more; a prime spreads them well.
        longest: The most words in an n-gram.
        dropout: Fraction of a text's n-grams that are dropped in training. This keeps the kernel
            from fitting the training texts by n-grams that only few texts hold.

    Call arguments:
        ids: Integers, `(batch, time)`.
        training: Whether n-grams are dropped.

    Returns:
        float, `(batch, 1)`: a logit.

    Raises:
        ValueError: If `words`, `buckets` or `longest` is not a whole number of at least 1, if there
            are more n-grams of so many words than whole numbers of 64 bits, or if `buckets` is a
            multiple of 1,048,573, the divisor that tells apart the n-grams of a bucket.

    Weights: `kernel (words + buckets,)`; `ratio` of the same shape and `check (buckets,)`, int32,
    are not trained. An n-gram with the number n owns its bucket if `n % 1048573` is the bucket's
    `check`. Of the other n-grams in the bucket, one in a million is mistaken for the owner.

    Reference: Wang and Manning 2012, "Baselines and Bigrams", section 2.3, with logistic
    regression in the place of the support vector machine. For the dropout: Wager, Wang and Liang
    2013, "Dropout Training as Adaptive Regularization".
    """

    def __init__(self, words, buckets, longest=3, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        words, buckets = check_whole("NGrams", 1, words=words, buckets=buckets)
        [longest] = check_whole("NGrams", 1, ": n-grams need at least one word", longest=longest)
        if words**longest >= 2**63:
            raise ValueError(
                f"NGrams: n-grams of {longest} of {words} words are more than fit into 64 bits. "
                f"Received: words={words}, longest={longest}. Take fewer."
            )
        if buckets % CHECK == 0:
            raise ValueError(
                f"NGrams: `buckets` must not be a multiple of {CHECK}. Received: {buckets}"
            )
        self.words, self.buckets, self.longest = words, buckets, longest
        self.dropout = dropout
        self.drop = keras.layers.Dropout(dropout)

    def build(self, input_shape):
        shape = (self.words + self.buckets,)
        # A text has hundreds of n-grams. Naive Bayes weighs each as if it were the only one.
        self.kernel = self.add_weight(shape, keras.initializers.Constant(0.02), name="kernel")
        self.ratio = self.add_weight(shape, "ones", name="ratio", trainable=False)
        self.check = self.add_weight(
            (self.buckets,),
            keras.initializers.Constant(ANY),
            dtype="int32",
            trainable=False,
            name="check",
        )

    def load_own_variables(self, store):
        """Loads files of version 0.1, too: they hold no `check`, and n-grams share a bucket."""
        if len(store.keys()) > 2:
            super().load_own_variables(store)
        else:
            self.kernel.assign(store["0"])
            self.ratio.assign(store["1"])

    def adapt(self, rows, least=3):
        """Sets `check` and `ratio`, the log-count ratios of naive Bayes in labelled texts.

        Args:
            rows: A `tf.data.Dataset` of batches of `(ids, labels)`, ids `(batch, time)`, labels
                `(batch,)`, 0 or 1.
            least: An n-gram of two words and more owns no bucket if fewer texts hold it.

        Raises:
            ValueError: If a label is not 0 or 1, or an id is not below `words`.
        """
        found = [[np.zeros(0, "int64")], [np.zeros(0, "int64")]]
        for ids, labels in rows:
            ids, labels = ops.convert_to_numpy(ids), ops.convert_to_numpy(labels)
            if labels.shape != ids.shape[:1] or not np.isin(labels, (0, 1)).all():
                raise ValueError(
                    "NGrams: `rows` must have a label for each text, 0 or 1, in batches of shape "
                    f"{ids.shape[:1]}. Received: shape {labels.shape}, values "
                    f"{labels.ravel()[:5].tolist()}."
                )
            if ids.size and not 0 <= ids.min() <= ids.max() < self.words:
                raise ValueError(
                    f"NGrams: the ids in `rows` must be 0 to {self.words - 1}, since `words` is "
                    f"{self.words}. Received: {ids.min()} to {ids.max()}."
                )
            numbers = np.sort(ops.convert_to_numpy(self._numbers(ids)), axis=1)
            first = np.diff(numbers, axis=1, prepend=PADDING) > 0  # first of equal ones; no padding
            for label in (0, 1):
                of_label = labels == label
                found[label].append(numbers[of_label][first[of_label]])
        found = [np.concatenate(of_label) for of_label in found]
        numbers = np.unique(np.concatenate(found))
        counts = np.array(
            [np.bincount(np.searchsorted(numbers, f), minlength=len(numbers)) for f in found]
        )
        kept = (counts.sum(axis=0) >= least) | (numbers < self.words)
        numbers, counts = numbers[kept], counts[:, kept]
        telling = np.abs(np.log((counts[1] + 1) / (counts[0] + 1))) * np.sqrt(counts.sum(axis=0))
        order = np.argsort(telling, kind="stable")  # the last n-gram in a bucket owns it
        places = np.where(numbers < self.words, numbers, self.words + numbers % self.buckets)
        owners = np.full(self.words + self.buckets, CHECK)  # is never a remainder: no owner
        owners[places[order]] = numbers[order] % CHECK
        of_place = np.ones((2, len(owners)))  # Laplace smoothing: counts begin at 1
        of_place[:, places[order]] += counts[:, order]
        of_place[:, PADDING] = 1
        shares = of_place / of_place.sum(axis=1, keepdims=True)
        ratio = np.log(shares[1] / shares[0])
        ratio[PADDING] = 0
        if not self.built:
            self.build(None)
        self.ratio.assign(ratio)
        self.check.assign(owners[self.words :])

    def _numbers(self, ids):
        """Returns the number of the n-gram that ends at each word, `(batch, longest * time)`.

        The ids of the n-gram are the digits of the number in base `words`. The number is `PADDING`
        if a word of the n-gram is padding or unknown.
        """
        ids = ops.cast(ids, "int64")
        number, known, found = ids, ids > UNKNOWN, []
        for length in range(1, self.longest + 1):
            if length > 1:
                before, known_before = (
                    ops.pad(x[:, :-1], [[0, 0], [1, 0]]) for x in (number, known)
                )
                number, known = before * self.words + ids, known_before & (ids > UNKNOWN)
            found.append(ops.where(known, number, PADDING))
        return ops.concatenate(found, axis=1)

    def places(self, ids):
        """Returns the places of the weights of the different n-grams of each text.

        Args:
            ids: Integers, `(batch, time)`.

        Returns:
            int64, `(batch, longest * time)`, in ascending order. `PADDING` stands in the place of
            n-grams that count nothing, and of repeated n-grams.
        """
        numbers = self._numbers(ids)
        bucket = numbers % self.buckets
        check = ops.cast(ops.take(self.check, bucket), "int64")
        owned = (check == ANY) | (check == numbers % CHECK)
        longer = ops.where(owned, self.words + bucket, PADDING)
        places = ops.sort(ops.where(numbers < self.words, numbers, longer), axis=1)
        repeated = places[:, 1:] == places[:, :-1]
        return ops.where(ops.pad(repeated, [[0, 0], [1, 0]]), PADDING, places)

    def call(self, ids, training=None):
        places = self.places(ids)
        weights = ops.take(self.kernel, places) * ops.take(self.ratio, places)
        weights = self.drop(ops.where(places == PADDING, 0, weights), training=training)
        return ops.sum(weights, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1)

    def get_config(self):
        own = {name: getattr(self, name) for name in ("words", "buckets", "longest", "dropout")}
        return {**super().get_config(), **own}
