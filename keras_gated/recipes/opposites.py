"""Whole reviews with the other verdict, made by rule: words give way to their opposites.

A classifier of whole reviews also learns from the subject of a film. A turned review has the same
subject as before. Only its label and the words that praise or blame are different. Kaushik, Hovy
and Lipton 2020, arXiv:1909.12434, let people write such texts. Wang and Culotta 2021,
arXiv:2012.10040, made them by replacing words. Here the reviews alone tell which words are
opposites.
"""

import collections
import itertools
import random
import re

import numpy as np
import tensorflow as tf

from keras_gated.recipes import text
from keras_gated.recipes.edits import labelled, ratios

CAPITALIZED = r"(?<=[a-z,'] )[A-Z][a-z]+\b"  # within a sentence


class Opposites:
    """Words and their opposites, found in labelled reviews.

    Two words are opposites if one is much more frequent in reviews of label 1, the other in those
    of label 0, and if they stand between the same words: "it is poorly written", "it is brilliantly
    written". Names have none.

    Args:
        reviews: Strings, or bytes in UTF-8.
        labels: Of each, 0 or 1.
        least: The fewest reviews that hold a word which has an opposite.
        telling: The least ratio of the two frequencies of such a word, as its logarithm.
        alike: The least cosine of the words around two opposites.

    Attributes:
        of: Word to the list of its opposites, the closest first.

    Raises:
        ValueError: If a review is not a text, or a label is not 0 or 1.
    """

    def __init__(self, reviews, labels, least=30, telling=0.7, alike=0.45):
        reviews, labels = labelled("Opposites", reviews, labels)
        capitalized = collections.Counter(
            word.lower() for review in reviews for word in re.findall(CAPITALIZED, review)
        )
        cleaned = text.clean(tf.constant(reviews, tf.string)).numpy()
        reviews = [review.decode().split() for review in cleaned]
        of_reviews = [collections.Counter() for _ in range(2)]
        for tokens, label in zip(reviews, labels, strict=True):
            of_reviews[label].update(set(tokens))
        tells, seen = ratios(*of_reviews), of_reviews[0] + of_reviews[1]
        every = collections.Counter(itertools.chain.from_iterable(reviews))
        words = [
            word
            for word in sorted(seen)  # in one order, whatever the hashes of a process
            if seen[word] >= least and word.isalnum() and capitalized[word] <= 0.3 * every[word]
        ]
        self._reviews, self._labels = reviews, labels
        self._tells = {word: tells(word) for word in words if abs(tells(word)) > 0.5}
        self.of = self._pairs([w for w, t in self._tells.items() if abs(t) > telling], every, alike)

    def _pairs(self, words, every, alike, contexts=600, tried=8, near=12):
        """Returns each word's opposites: among words of the other label the nearest, both ways."""
        around = _around(self._reviews, words, [word for word, _ in every.most_common(contexts)])
        likeness = around @ around.T
        praise = np.array([self._tells[word] > 0 for word in words])
        likeness[praise[:, None] == praise[None]] = -1
        order = likeness.argsort(axis=1)[:, ::-1]
        nearest, found = [set(row[:near]) for row in order], {}
        for place, word in enumerate(words):
            opposites = [
                words[other]
                for other in order[place, :tried]
                if likeness[place, other] > alike and place in nearest[other]
            ]
            if opposites:
                found[word] = opposites
        return found

    def turned(self, seed):
        """Yields the reviews that can be turned, lists of tokens, each with its new label.

        At least two words are replaced, and the words that then tell a label must together tell the
        new one.
        """
        rng = random.Random(seed)
        for tokens, label in zip(self._reviews, self._labels, strict=True):
            new = [rng.choice(self.of[word]) if word in self.of else word for word in tokens]
            told = sum(self._tells.get(word, 0) for word in set(new))
            replaced = sum(word in self.of for word in tokens)
            if replaced >= 2 and (told if label == 0 else -told) > 1:
                yield new, 1 - label


def _around(reviews, words, contexts):
    """Returns unit vectors of the words that stand before and after each of some words.

    Their numbers are how much more frequent a neighbour is beside a word than beside any (positive
    pointwise mutual information), times the root of how often it is there.
    """
    row = {word: n for n, word in enumerate(words)}
    column = {word: n for n, word in enumerate(contexts)}
    counts = np.zeros((len(words), 2 * len(contexts)))
    for tokens in reviews:
        for before, after in itertools.pairwise(tokens):
            if after in row and before in column:
                counts[row[after], column[before]] += 1
            if before in row and after in column:
                counts[row[before], len(contexts) + column[after]] += 1
    beside = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    anywhere = counts.sum(axis=0) / max(counts.sum(), 1)
    told = np.log(np.maximum(beside, 1e-12) / np.maximum(anywhere, 1e-12))
    vectors = np.maximum(told, 0) * np.sqrt(beside)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
