"""Text to ids: cleaning, cropping, padding, batching."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gated.recipes import classification, text


@pytest.mark.parametrize("raw, tokens", [
    ("Good.<br /><br />Very GOOD!", "good . very good !"),
    ("it's 10/10, don't miss it", "it's 10 / 10 , don't miss it"),
    ("a < b and c > d", "a < b and c > d"),
    ("caf\u00e9 \U0001f600 \u7535\u5f71", "caf\u00e9 \U0001f600 \u7535\u5f71"),
    ("", ""),
    (b"bad \xff\xfe bytes.", b"bad \xff\xfe bytes ."),
    ("good\0bad \0", "good bad"),
])  # fmt: skip
def test_clean_separates_words_and_punctuation_and_drops_tags(raw, tokens):
    cleaned = text.clean(tf.constant([raw])).numpy()[0]
    expected = tokens.encode() if isinstance(tokens, str) else tokens
    assert cleaned.split() == expected.split()


def test_head_and_tail_drops_the_middle_of_long_rows_only():
    rows = tf.ragged.constant([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5], [1], []], dtype=tf.int64)
    kept = text.head_and_tail(rows, 2, 3).to_list()
    assert kept == [[1, 2, 5, 6, 7], [1, 2, 3, 4, 5], [1], []]


def test_dense_gives_every_row_at_least_one_token():
    rows = tf.ragged.constant([[5, 6], []], dtype=tf.int64)
    assert text.dense(rows).numpy().tolist() == [[5, 6], [text.UNKNOWN, text.PADDING]]
    assert text.dense(rows[1:], empty=9).numpy().tolist() == [[9]]
    assert text.dense(rows[:0]).shape[0] == 0


def test_words_outside_the_vocabulary_are_unknown():
    vectorizer = text.word_vectorizer(tf.data.Dataset.from_tensors(["b a b", "b a c"]), 4)
    assert vectorizer.get_vocabulary() == ["", "[UNK]", "b", "a"]
    assert vectorizer(tf.constant(["a zzz b"])).to_list() == [[3, 1, 2]]


def test_words_are_left_out_of_a_vocabulary():
    texts = tf.data.Dataset.from_tensor_slices(["b a b", "b a c c", "c d"]).batch(2)
    vectorizer = text.word_vectorizer(texts, 4, without={"b", "e"})
    assert vectorizer.get_vocabulary() == ["", "[UNK]", "c", "a"]
    assert vectorizer(tf.constant(["a b c"])).to_list() == [[3, 1, 2]]


def test_names_are_known_by_their_capitals_in_the_middle_of_a_sentence():
    texts = [
        "Nobody knew Bette Davis. Nobody but Bette!<br />I saw it TWICE on DVD",
        "That nobody of a Davis (Nobody saw him) bored Zo\u00eb, and I saw Zo\u00eb and \u00c9va.",
        b"bad \xff\xfe Bytes, a light bette, so Light. Light is light",
    ]
    rows = tf.data.Dataset.from_tensor_slices(texts)
    found = text.capitalized(rows.batch(2))
    assert found == text.capitalized(rows)  # one by one
    # "bette" has a capital twice, and none once. "light" has a capital no more often than none.
    assert found == {"bette", "davis", "zo\u00eb", "\u00c9va"}


def test_character_ids_start_after_padding_and_unknown():
    lookup = text.character_lookup("banana\n")
    assert lookup(tf.constant(["\n", "a", "b", "n", "z"])).numpy().tolist() == [2, 3, 4, 5, 1]


@pytest.mark.parametrize("size", [0, 2])
def test_a_vocabulary_without_a_place_for_a_word_is_refused(size):
    with pytest.raises(ValueError, match=rf"`size` must be at least 3.*Received: size={size}"):
        text.word_vectorizer(tf.data.Dataset.from_tensors(["b a"]), size)


def test_words_that_a_vocabulary_cannot_hold_are_unknown():
    """Bytes of Latin-1, and NUL, which was the padding's entry in the middle of the vocabulary."""
    texts = tf.data.Dataset.from_tensor_slices([b"caf\xe9 caf\xe9 \0 \0 b a b", "\ufffd b a"])
    for without, words in (((), ["b", "a"]), (["a"], ["b"])):
        vectorizer = text.word_vectorizer(texts.batch(1), 9, without)
        assert vectorizer.get_vocabulary() == ["", "[UNK]", *words]
        assert vectorizer(tf.constant([b"caf\xe9 \0 b"])).to_list() == [[1, 2]]


def test_texts_without_a_word_have_no_vocabulary():
    for texts, without in (([b"", b"\xff"], ()), (["a b"], ["a", "b"])):
        with pytest.raises(ValueError, match="word_vectorizer: `texts` must hold a word"):
            text.word_vectorizer(tf.data.Dataset.from_tensors(texts), 9, without)


def test_one_text_in_the_place_of_a_list_is_refused():
    rows = tf.data.Dataset.from_tensors({"text": "a"})
    with pytest.raises(ValueError, match=r"without: `texts` .* a list.*Received: texts='a b'"):
        text.without(rows, "a b")
    with pytest.raises(ValueError, match=r"word_vectorizer: `without` .* Received: without='a'"):
        text.word_vectorizer(tf.data.Dataset.from_tensors(["a b"]), 9, without="a")


@pytest.mark.parametrize("characters", ["", b"ab", None, ["ab", "c"], 7])
def test_what_is_no_string_of_characters_is_refused(characters):
    with pytest.raises(ValueError, match=r"character_lookup: `text` must be a string.*Received: "):
        text.character_lookup(characters)


@pytest.mark.parametrize("head, tail", [(-1, 2), (2, -1), (1.5, 1), ("2", 1), (None, 1)])
def test_what_is_no_number_of_words_is_refused(head, tail):
    for function, given in ((text.head_and_tail, [tf.ragged.constant([[1, 2, 3]])]),
                            (classification.sentiment, [None, None])):  # fmt: skip
        name = function.__name__
        with pytest.raises(ValueError, match=rf"{name}: .* at least 0. Received: head={head!r}"):
            function(*given, head, tail)


@pytest.mark.parametrize("units", [[2], [1, 1]])
def test_a_classifier_that_gives_no_single_probability_is_refused(units):
    """Its first number was served as the probability."""
    ids = keras.Input((3,))
    model = keras.Model(ids, [keras.layers.Dense(number)(ids) for number in units])
    with pytest.raises(
        ValueError, match=r"sentiment: `model` .* Received: outputs of shapes \[\(N"
    ):
        classification.sentiment(model, None, 1, 1)
    named = keras.Model(ids, {"p": keras.layers.Dense(1)(ids)})
    with pytest.raises(ValueError, match="not in a dict"):
        classification.sentiment(named, None, 1, 1)


def test_nul_is_refused_as_a_character():
    with pytest.raises(ValueError, match=r"NUL. Received: one at place 2"):
        text.character_lookup("ba\0")


def test_batches_of_nothing_are_refused_in_words():
    rows = tf.data.Dataset.from_tensor_slices((np.ones((4, 3), int), np.ones(4, int)))
    for options in ({"batch_size": 0}, {"batch_size": 2, "width": 0}, {"batch_size": 2.5}):
        with pytest.raises(ValueError, match=r"bucketed: .* at least 1. Received: batch_size="):
            text.bucketed(rows, **options)
    with pytest.raises(ValueError, match="bucketed: `rows` must hold at least one row"):
        text.bucketed(rows.take(0), 2)
    with pytest.raises(ValueError, match="shuffled_buckets: `rows` must hold at least one row"):
        text.shuffled_buckets(rows.take(0), 2, seed=1, passes=[0])
    with pytest.raises(ValueError, match=r"shuffled_buckets: `passes` .* Received: passes=\[\]"):
        text.shuffled_buckets(rows, 2, seed=1, passes=range(3, 3))


def test_bucketed_batches_hold_every_row_once_with_little_padding():
    lengths = np.random.default_rng(0).integers(1, 120, 500)
    rows = tf.ragged.range(lengths).with_flat_values(tf.ones([lengths.sum()], tf.int64))
    data = tf.data.Dataset.from_tensor_slices((rows, np.arange(500)))
    batches = text.bucketed(data, 16, width=10)
    both, number = text.shuffled_buckets(data, 16, 1, passes=range(2), width=10)
    passes = [list(batches), list(both.take(number)), list(both.skip(number))]
    assert int(batches.cardinality()) == number == len(passes[0])
    for batch_list in passes:
        labels = np.concatenate([y for _, y in batch_list])
        assert sorted(labels) == list(range(500))
        tokens = sum(int(tf.reduce_sum(x)) for x, _ in batch_list)
        assert tokens == lengths.sum()
        assert tokens / sum(x.numpy().size for x, _ in batch_list) > 0.85
    later, _ = text.shuffled_buckets(data, 16, 1, passes=[1], width=10)
    passes.append(list(later))
    _, first, second, again = (np.concatenate([y for _, y in p]) for p in passes)
    assert (second == again).all()
    assert (first != second).any()


def test_texts_are_left_out_by_their_letters():
    texts = ["Tr\u00e8s bon.<br />9/10!", "tr\u00e8s\nBON", "tr\u00e8s bons", "10", ""]
    rows = tf.data.Dataset.from_tensor_slices({"text": texts, "label": [0, 1, 2, 3, 4]})
    kept = text.without(rows, ["Negative\t TR\u00c8S  bon ... <p>", "...", "not there"])
    assert [int(row["label"]) for row in kept] == [2, 3, 4]
    assert kept.cardinality() == 3
    assert text.without(rows, []).cardinality() == 5
    assert text.without(rows, ["tr\u00e8s bon".encode()]).cardinality() == 3
