"""A linear model of the runs of words in a text, to stand beside a recurrent network."""

import keras
import numpy as np
from keras import ops

from keras_gated.recipes.ids import PADDING, UNKNOWN


@keras.saving.register_keras_serializable(package="keras_gated")
class NGrams(keras.layers.Layer):
    """Sums one weight for every different run of 1 to `longest` words in a text.

        logit = sum over the runs of  ratio_run * kernel_run

    `ratio` says how much more often a run is in texts of one label than in those of the other;
    `adapt` counts it once, before the training, which then learns the `kernel`. So a run that is
    rare or says nothing has little weight, however well it would fit the training texts.

    Words have weights of their own; longer runs share `buckets` by hashing (the remainder of the
    number that they are in base `words`). Padding and unknown words, and runs with one of them,
    count nothing.

    Args:
        words: Number of ids, padding and unknown included.
        buckets: How many weights runs of two words and more share; a prime spreads them well.
        longest: The most words in a run.

    Call arguments:
        ids: Integers, `(batch, time)`.

    Returns:
        float, `(batch, 1)`: a logit.

    Raises:
        ValueError: If there are more runs of so many words than whole numbers of 64 bits.

    Weights: `kernel (words + buckets,)`, and `ratio` of the same shape, which is not trained.

    Reference: Wang and Manning 2012, "Baselines and Bigrams", section 2.3, with logistic
    regression in the place of the support vector machine.
    """

    def __init__(self, words, buckets, longest=3, **kwargs):
        super().__init__(**kwargs)
        if words**longest >= 2**63:
            raise ValueError(
                f"NGrams: runs of {longest} of {words} words are more than fit into 64 bits. "
                f"Received: words={words}, longest={longest}. Take fewer."
            )
        self.words, self.buckets, self.longest = words, buckets, longest

    def build(self, input_shape):
        shape = (self.words + self.buckets,)
        # A text has hundreds of runs, which naive Bayes counts as if each were the only one.
        self.kernel = self.add_weight(shape, keras.initializers.Constant(0.02), name="kernel")
        self.ratio = self.add_weight(shape, "ones", name="ratio", trainable=False)

    def adapt(self, rows):
        """Sets `ratio` to the log-count ratios of naive Bayes in labelled texts.

        Args:
            rows: A `tf.data.Dataset` of batches of `(ids, labels)`, ids `(batch, time)`, labels
                `(batch,)`, 0 or 1.
        """
        counts = np.ones((2, self.words + self.buckets))  # Laplace's: every run was seen once
        for ids, labels in rows:
            runs, labels = ops.convert_to_numpy(self.runs(ids)), ops.convert_to_numpy(labels)
            for label in (0, 1):
                counts[label] += np.bincount(
                    runs[labels == label].ravel(), minlength=counts.shape[1]
                )
        counts[:, PADDING] = 1
        shares = counts / counts.sum(axis=1, keepdims=True)
        ratio = np.log(shares[1] / shares[0])
        ratio[PADDING] = 0
        if not self.built:
            self.build(None)
        self.ratio.assign(ratio)

    def runs(self, ids):
        """Returns the places of the weights of the different runs of each text.

        Args:
            ids: Integers, `(batch, time)`.

        Returns:
            int64, `(batch, longest * time)`: in ascending order, with `PADDING` in the place of
            what counts nothing, and of a run that was there already.
        """
        ids = ops.cast(ids, "int64")
        run, known, places = ids, ids > UNKNOWN, []
        for length in range(1, self.longest + 1):
            if length > 1:
                before, known_before = (ops.pad(x[:, :-1], [[0, 0], [1, 0]]) for x in (run, known))
                run, known = before * self.words + ids, known_before & (ids > UNKNOWN)
            place = run if length == 1 else self.words + run % self.buckets
            places.append(ops.where(known, place, PADDING))
        places = ops.sort(ops.concatenate(places, axis=1), axis=1)
        repeated = places[:, 1:] == places[:, :-1]
        return ops.where(ops.pad(repeated, [[0, 0], [1, 0]]), PADDING, places)

    def call(self, ids):
        runs = self.runs(ids)
        weights = ops.take(self.kernel, runs) * ops.take(self.ratio, runs)
        return ops.sum(ops.where(runs == PADDING, 0, weights), axis=1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1)

    def get_config(self):
        own = {"words": self.words, "buckets": self.buckets, "longest": self.longest}
        return {**super().get_config(), **own}
