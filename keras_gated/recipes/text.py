"""Text to integers and back: words and characters, inside the graph.

Ids are int64. 0 is padding, which the models mask. 1 is a token that is not in the vocabulary.
"""

import collections
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from keras_gated.recipes.arguments import check_whole
from keras_gated.recipes.ids import FIRST, PADDING, UNKNOWN

REPLACED = "\ufffd"  # stands for bytes that are not UTF-8


@keras.saving.register_keras_serializable(package="keras_gated")
def clean(texts):
    """Lowers ASCII letters, removes HTML tags and separates punctuation from words.

    Args:
        texts: string, `(batch,)`, UTF-8. Other bytes stay as they are.

    Returns:
        string, `(batch,)`, with a space between any two tokens. NUL is a space, too: a vocabulary
        cannot hold it.
    """
    return _separated(tf.strings.lower(texts))


def _separated(texts):
    texts = tf.strings.regex_replace(texts, r"</?[A-Za-z][^<>]*>|\x00", " ")
    return tf.strings.regex_replace(texts, r"([^\s\pL\pM\pN'])", r" \1 ")


def letters(texts):
    """Returns the letters of texts alone, in lower case, without HTML tags. For matching texts.

    Args:
        texts: string, `(batch,)`, UTF-8.

    Returns:
        string, `(batch,)`. Two texts that differ in spaces, marks, digits or tags are equal.
    """
    texts = tf.strings.regex_replace(texts, r"</?[A-Za-z][^<>]*>", " ")
    return tf.strings.regex_replace(tf.strings.lower(texts, "utf-8"), r"[^\pL]", "")


def without(rows, texts):
    """Leaves out the rows whose text has the same letters as one of some texts.

    Args:
        rows: A finite `tf.data.Dataset` of dictionaries with a `text`.
        texts: A list of texts to leave out. If a text has tabs, only its longest field counts.

    Returns:
        A `tf.data.Dataset` of known cardinality. Texts are matched by `letters`.

    Raises:
        ValueError: If `texts` is a single text.
    """
    check_list("without", texts=texts)
    texts = [max(tf.compat.as_text(of).split("\t"), key=len) for of in texts]
    keys = letters(tf.constant(texts, tf.string))
    keys, _ = tf.unique(tf.boolean_mask(keys, keys != ""))
    keys = tf.concat([["-"], keys], 0)  # matches no text; a table must hold at least one key
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, tf.ones_like(keys, tf.int64)), 0
    )
    kept = rows.filter(lambda row: table.lookup(letters(row["text"])) == 0)
    number = kept.reduce(np.int64(0), lambda count, _: count + 1)
    return kept.apply(tf.data.experimental.assert_cardinality(number))


def check_list(owner, **values):
    """Raises if a value is a text in the place of a list, whose letters would be its texts."""
    for name, value in values.items():
        if isinstance(value, str | bytes):
            raise ValueError(
                f"{owner}: `{name}` must be a list of strings. Received: {name}={value!r}. Put it "
                "into a list."
            )


def word_vectorizer(texts, size, without=()):
    """Returns a `TextVectorization` from texts to ragged word ids.

    A word with bytes that are not UTF-8 is unknown: a vocabulary cannot hold it.

    Args:
        texts: A `tf.data.Dataset` of batches of strings, to take the vocabulary from: the most
            frequent words.
        size: Number of ids, padding and unknown included.
        without: Words that are not in the vocabulary, as `clean` writes them.

    Raises:
        ValueError: If `size` leaves no id for a word, if the texts hold no word, or if `without` is
            a single word in the place of a list.
    """
    check_whole("word_vectorizer", FIRST + 1, ": padding, unknown and a word", size=size)
    check_list("word_vectorizer", without=without)
    without = {*without}
    counter = keras.layers.TextVectorization(standardize=_clean_utf8)
    counter.adapt(texts)
    words = counter.get_vocabulary(include_special_tokens=False)
    words = [word for word in words if word not in without and REPLACED not in word]
    if not words:
        raise ValueError(
            "word_vectorizer: `texts` must hold a word that is not in `without`. Received: no such "
            "word. Give the texts that the model is trained on."
        )
    vectorizer = keras.layers.TextVectorization(
        standardize=clean, ragged=True, vocabulary=words[: size - FIRST]
    )
    vectorizer.build((None,))  # an export tracks built layers only
    return vectorizer


def _clean_utf8(texts):
    return tf.strings.unicode_transcode(clean(texts), "UTF-8", "UTF-8")


def capitalized(texts):
    """Finds the words that are written with a capital more often than not: most are names.

    A word counts where it follows another word, since the first word of a sentence has a capital
    whichever it is. A capital is followed by a small letter: "NOT" and "I" are not names.

    Args:
        texts: A finite `tf.data.Dataset` of strings, single or in batches, UTF-8.

    Returns:
        A set of words, as `clean` writes them.
    """
    surplus = collections.Counter()
    for batch in texts:
        for row in tf.strings.split(_separated(tf.reshape(batch, [-1]))).to_list():
            words = [word.decode("utf-8", "replace") for word in row]
            for before, word in itertools.pairwise(words):
                if any(map(str.isalpha, before)):
                    capital = word[0].isupper() and word[1:2].islower()
                    small = word[0].islower()
                    surplus[word.encode().lower().decode()] += capital - small  # ASCII, as `clean`
    return {word for word, number in surplus.items() if number > 0}


def character_lookup(text):
    """Returns a `StringLookup` from single characters to ids, for every character of `text`.

    Raises:
        ValueError: If `text` is no string, is empty, or holds NUL, which NumPy drops at the end of
            a string.
    """
    if not isinstance(text, str) or not text:
        raise ValueError(
            "character_lookup: `text` must be a string of at least one character. Received: "
            f"{text!r:.80}. Join a list of strings, and decode bytes."
        )
    if "\0" in text:
        raise ValueError(
            "character_lookup: `text` must not hold the character NUL. Received: one at place "
            f"{text.index(chr(0))}. Remove it, or replace it by another character."
        )
    lookup = keras.layers.StringLookup(vocabulary=sorted(set(text)), mask_token="")
    lookup.build((None,))
    return lookup


def head_and_tail(ragged, head, tail):
    """Keeps the first `head` and the last `tail` tokens of every row that holds more.

    Reviews give their verdict at the start or at the end. Rows of up to `head + tail` tokens stay
    whole.

    Args:
        ragged: A ragged tensor, `(batch, None)`.

    Returns:
        A ragged tensor, `(batch, None)`.

    Raises:
        ValueError: If `head` or `tail` is negative or not a whole number.
    """
    check_whole("head_and_tail", 0, head=head, tail=tail)
    lengths = ragged.row_lengths()
    places = tf.ragged.range(lengths)
    ends = tf.repeat(lengths, lengths)
    kept = (places.flat_values < head) | (places.flat_values >= ends - tail)
    return tf.ragged.boolean_mask(ragged, places.with_flat_values(kept))


def dense(ragged, empty=UNKNOWN):
    """Returns padded ids, `(batch, time)`; a row without any token becomes one token `empty`.

    So no row is all padding. (The mean over zero words would be NaN.)
    """
    fill = tf.fill([ragged.nrows(), 1], tf.cast(empty, ragged.dtype))
    missing = tf.cast(ragged.row_lengths() == 0, tf.int64)
    filled = tf.concat([tf.RaggedTensor.from_tensor(fill, lengths=missing), ragged], axis=1)
    return filled.to_tensor(PADDING)


def bucketed(rows, batch_size, width=25):
    """Batches rows of similar length, so that a batch is not mostly padding.

    The rows are read once by this function, and then kept in memory.

    Args:
        rows: A finite `tf.data.Dataset` of `(ids, label)`, ids `(time,)`.
        batch_size: Rows a batch; the last batch of each length may hold fewer.
        width: Rows whose lengths differ by less than this many tokens may share a batch.

    Returns:
        A `tf.data.Dataset` of `(ids, labels)`, ids `(batch, time)`, of known cardinality.

    Raises:
        ValueError: If there are no rows, or `batch_size` or `width` is not a whole number of at
            least 1.
    """
    rows, batch, _, number = _buckets("bucketed", rows, batch_size, width)
    return batch(rows).apply(tf.data.experimental.assert_cardinality(number)).prefetch(2)


def shuffled_buckets(rows, batch_size, seed, passes, width=25):
    """As `bucketed`, for training: several passes over the rows, each in another order.

    Args:
        rows, batch_size, width: As for `bucketed`.
        seed: The order of a pass depends on it and on the number of the pass alone.
        passes: The numbers of the passes, an iterable of integers: the epochs to train.

    Returns:
        The data set of all passes, and the number of batches in one.

    Raises:
        ValueError: As `bucketed`, or if there are no passes.
    """
    if not (passes := list(passes)):
        raise ValueError("shuffled_buckets: `passes` must hold a number. Received: passes=[]")
    rows, batch, size, number = _buckets("shuffled_buckets", rows, batch_size, width)

    def one_pass(count):
        of_pass = hash((seed, count)) % 2**31
        return batch(rows.shuffle(size, seed=of_pass, reshuffle_each_iteration=False))

    orders = map(one_pass, passes)
    return functools.reduce(tf.data.Dataset.concatenate, orders).prefetch(2), number


def _buckets(owner, rows, batch_size, width):
    """Returns the rows in memory, a function that batches them, and the numbers of both."""
    check_whole(owner, 1, batch_size=batch_size, width=width)
    # A row of an unbatched ragged tensor has a ragged type until a function was mapped over it.
    rows = rows.map(lambda ids, label: (ids, label)).cache()
    lengths = collections.Counter(int(n) for n in rows.map(lambda ids, _: tf.size(ids)))
    if not lengths:
        raise ValueError(f"{owner}: `rows` must hold at least one row. Received: none")
    edges = list(range(width, max(lengths) + 1, width))
    buckets = collections.Counter()
    for length, count in lengths.items():
        buckets[length // width] += count

    def batch(rows):
        return rows.bucket_by_sequence_length(
            lambda ids, _: tf.size(ids), edges, [batch_size] * (len(edges) + 1)
        )

    number = sum(-(-count // batch_size) for count in buckets.values())
    return rows, batch, sum(lengths.values()), number
