"""The embedded data sets are what they promise; missing ones fail at once and say what to do."""

import collections
import errno
import functools
import importlib
import re
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gated import datasets
from keras_gated.datasets import toy_plays, toy_reviews
from keras_gated.recipes import text


@functools.cache
def reviews(split):
    return list(toy_reviews.generate(split))


@pytest.mark.slow
def test_toy_reviews_is_read_through_tfds_with_three_balanced_splits(data_dir):
    splits = datasets.load("toy_reviews", data_dir)
    assert {name: int(s.cardinality()) for name, s in splits.items()} == toy_reviews.SIZES
    for name, split in splits.items():
        labels = np.array([int(x["label"]) for x in split])
        assert labels.mean() == 0.5
        # The same texts every time, in a fixed order.
        assert next(iter(split))["text"].numpy().decode() == reviews(name)[0][0]


def test_preparing_a_data_set_warns_of_nothing(tmp_path, caplog):
    """TFDS warns where it is asked about a folder that is not there."""
    datasets.load("toy_plays", str(tmp_path))
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_data_set_that_another_process_prepares_meanwhile_is_read(tmp_path, monkeypatch):
    generators = toy_plays.ToyPlays._split_generators

    def is_late(builder, manager):  # TFDS has looked already, and will not look again
        monkeypatch.undo()
        toy_plays.ToyPlays(data_dir=tmp_path).download_and_prepare()
        return generators(builder, manager)

    monkeypatch.setattr(toy_plays.ToyPlays, "_split_generators", is_late)
    splits = datasets.load("toy_plays", str(tmp_path))
    assert {name: int(data.cardinality()) for name, data in splits.items()} == {
        "train": 1, "validation": 1, "test": 1,
    }  # fmt: skip


def test_without_tfds_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "keras_gated.datasets")
    with pytest.raises(ImportError, match=r"pip install 'keras_gated\[examples\]'"):
        importlib.import_module("keras_gated.datasets")


def test_no_sentence_stands_in_two_splits():
    sentences = {
        split: {s for text, *_ in reviews(split) for s in re.findall(r"[^.]+\.", text.lower())}
        for split in toy_reviews.SIZES
    }
    stripped = {split: {s.strip() for s in found} for split, found in sentences.items()}
    assert not stripped["train"] & stripped["test"]
    assert not stripped["train"] & stripped["validation"]
    assert not stripped["validation"] & stripped["test"]
    lines = {split: set(toy_plays.generate(split).split("\n")[:-1]) for split in toy_plays.SIZES}
    common = lines["train"] & lines["test"] | lines["train"] & lines["validation"]
    assert {line for line in common if not line.endswith(":")} == {""}


@pytest.mark.parametrize("kind", ["negation", "contrast", "distant"])
def test_every_review_whose_order_matters_has_a_twin_with_the_same_words(kind):
    def words(text):
        return tuple(sorted(re.findall(r"[a-z]+", text.lower())))

    labels = collections.defaultdict(list)
    for text_, label, k in reviews("test"):
        if k == kind:
            labels[words(text_)].append(label)
    assert sum(map(len, labels.values())) == toy_reviews.SIZES["test"] // 4
    assert all(sum(found) * 2 == len(found) for found in labels.values())


def test_a_verdict_may_stand_far_before_the_end():
    distances = [len(text.split()) for text, _, kind in reviews("test") if kind == "distant"]
    assert max(distances) > 80 and min(distances) > 25


def test_toy_plays_is_one_text_a_split(data_dir):
    splits = datasets.load("toy_plays", data_dir)
    for name, size in toy_plays.SIZES.items():
        [example] = splits[name]
        assert len(example["text"].numpy()) == size


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(code, tmp_path, monkeypatch):
    def prepare(self):
        raise OSError(code, "foreign words")

    monkeypatch.setattr(toy_plays.ToyPlays, "download_and_prepare", prepare)
    with pytest.raises(
        type(OSError(code, "")), match=r"toy_plays cannot be written: .*TFDS_DATA_DIR"
    ):
        datasets.load("toy_plays", str(tmp_path))


@pytest.mark.parametrize("name", ["imdb_reviews", "tiny_shakespeare"])
def test_a_data_set_that_cannot_be_downloaded_fails_within_seconds_and_says_what_to_do(
    name, tmp_path, no_network
):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"TFDS_DATA_DIR.*--dataset toy_reviews"):
        datasets.load(name, str(tmp_path), offline="toy_reviews")
    assert time.monotonic() - start < 20
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.slow
def test_a_bag_of_words_sees_only_the_plain_reviews():
    """Logistic regression on word counts, trained on all kinds and to convergence."""
    train, test = reviews("train"), reviews("test")
    vectorizer = keras.layers.TextVectorization(standardize=text.clean, output_mode="count")
    vectorizer.adapt([t for t, *_ in train])
    model = keras.Sequential([keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    counts = vectorizer(tf.constant([t for t, *_ in train]))
    model.fit(counts, np.array([y for _, y, _ in train]), epochs=10, batch_size=128, verbose=0)

    answers = model.predict(vectorizer(tf.constant([t for t, *_ in test])), verbose=0)[:, 0] > 0.5
    right = collections.defaultdict(list)
    for (_, label, kind), answer in zip(test, answers, strict=True):
        right[kind == "plain"].append(answer == label)
    assert np.mean(right[True]) > 0.98
    assert 0.45 < np.mean(right[False]) < 0.55
