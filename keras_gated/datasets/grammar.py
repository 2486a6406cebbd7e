"""Sentences from small grammars, for data sets that need no network."""

import zlib


def split_of(key):
    """Returns the only split that may hold a sentence, so that no two splits share a sentence.

    Args:
        key: The sentence's words in any order. Sentences with the same words get the same split.
    """
    bucket = zlib.crc32(" ".join(sorted(key)).encode()) % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def draw(make, rng, split):
    """Calls `make(rng)`, which returns a key and a sentence, until the key belongs to `split`."""
    while True:
        key, sentence = make(rng)
        if split_of(key) == split:
            return sentence
