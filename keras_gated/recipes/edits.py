"""Short texts made of labelled reviews by rule, in which one word and its negation decide.

A classifier of whole reviews learns which words praise. It does not learn to negate: "not dull" is
rare, and few reviews hang on it. The texts of this module do. Their words are those of the reviews:
nothing is known beforehand about which words praise and which blame. A label is 0 or 1.
"""

import collections
import itertools
import math
import random
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_gated.recipes import text

BE = frozenset("is was are were looks looked seems seemed feels felt".split())
SHORT = {"is": "isn't", "was": "wasn't", "are": "aren't", "were": "weren't"}
DEGREES = frozenset(
    "very so really quite rather pretty too truly absolutely simply just extremely totally "
    "completely utterly incredibly fairly particularly".split()
)
GRADES = frozenset("very extremely truly absolutely incredibly utterly".split())
OF_VERBS = frozenset(
    "really absolutely thoroughly truly totally completely particularly genuinely simply".split()
)
OBJECTS = frozenset("it this the every him her them that all".split())
BEFORE_VERBS = frozenset("to i you would don't".split())
NEGATIONS = frozenset(
    "not no never nothing nobody none neither nor without hardly barely far anything cannot can't "
    "don't doesn't didn't isn't wasn't aren't weren't won't wouldn't couldn't shouldn't ain't "
    "haven't hasn't hadn't if".split()
)
TURNS = frozenset("but although though however despite while yet except unless instead".split())
ENDS = frozenset(". , ! ? ; : and )".split())

# {} is the word; what stands before it follows a form of "to be".
DENIALS = (
    "not {}", "not {}", "not {} at all", "not very {}", "not really {}", "not even {}",
    "not that {}", "not in the least {}", "never {}", "hardly {}", "far from {}",
    "anything but {}", "by no means {}", "not exactly {}",
)  # fmt: skip
DOUBTS = (
    "i don't think", "i do not think", "i didn't think", "i wouldn't say", "i can't say that",
    "i never thought", "nobody would say that", "no one could say that", "you cannot say that",
)  # fmt: skip
BELIEFS = "i think", "i thought", "i must say that", "i would say", "to me"
FRAGMENTS = "{}", "{} film", "a {} film", "very {}", "what a {} movie", "a really {} story"
DENIED_FRAGMENTS = (
    "not {}", "not {} at all", "not a {} film", "not a very {} movie", "not even {}", "never {}",
    "nothing {} here", "nothing {} about it", "far from {}", "hardly {}", "anything but {}",
)  # fmt: skip
# {0} is a verb, {1} its past tense, {of} what it is said of.
OPINIONS = (
    "i {1} {of}", "i {1} {of}", "we {1} {of}", "i really {1} {of}", "i think i {1} {of}",
    "i {0} {of}", "you will {0} {of}", "my friends {1} {of}", "i must say that i {1} {of}",
)  # fmt: skip
DENIED_OPINIONS = (
    "i did not {0} {of}", "i didn't {0} {of}", "i did not {0} {of} at all", "i don't {0} {of}",
    "i do not {0} {of}", "i didn't really {0} {of}", "we did not {0} {of}", "i never {1} {of}",
    "you will not {0} {of}", "i can't say that i {1} {of}", "i don't think you will {0} {of}",
    "nobody {1} {of}", "i cannot say that i {1} {of}", "my friends didn't {0} {of}",
)  # fmt: skip
OF = "it", "it", "it", "this film", "the film", "this movie", "this one", "the whole thing"
NAME = r"(?<=[a-z,] )[A-Z][a-z]+ [A-Z][a-z]+\b"  # two capitalized words within a sentence
OF_PERSONS = (
    "{name} is {} .", "{name} is {} .", "{name} was {} in this film .", "{name} is {} here .",
    "as always , {name} is {} .", "with {name} it is {} .", "{name} made it , and it is {} .",
)  # fmt: skip
# The verdict is that of {1}.
CONTRASTS = (
    "{0} , but {1} .", "{0} , but {1} .", "although {0} , {1} .", "{0} , yet {1} .",
    "while {0} , {1} .", "{1} , although {0} .", "{1} , even though {0} .",
    "i expected that {0} , but {1} .", "some say {0} . i say {1} .",
    "at first {0} . in the end {1} .",
)  # fmt: skip


class Frame(NamedTuple):
    """A sentence of a review with a place for a word that praises or blames."""

    tokens: tuple[str, ...]
    be: int  # where the form of "to be" stands
    word: int  # where the word stands


def labelled(owner, reviews, labels):
    """Returns the reviews as a list of strings, and their labels as a list of 0 and 1.

    Args:
        owner: The name of the class that was called, for the errors.
        reviews: Strings, or bytes in UTF-8.
        labels: Of each, 0 or 1.

    Raises:
        ValueError: If a review is not a text, or a label is not 0 or 1.
    """
    text.check_list(owner, reviews=reviews)
    reviews, labels = list(reviews), list(labels) if np.iterable(labels) else [labels]
    if wrong := [review for review in reviews if not isinstance(review, str | bytes)]:
        raise ValueError(
            f"{owner}: `reviews` must be strings. Received: {wrong[0]!r:.80}, of type "
            f"{type(wrong[0]).__name__}. Leave out rows without a text."
        )
    wrong = [label for label in labels if np.ndim(label) or label not in (0, 1)]
    if wrong or len(labels) != len(reviews):
        raise ValueError(
            f"{owner}: `labels` must hold a 0 or a 1 for each review. Received: {len(labels)} "
            f"labels for {len(reviews)} reviews{f', with {wrong[0]!r:.80}' if wrong else ''}."
        )
    reviews = [r.decode("utf-8", "replace") if isinstance(r, bytes) else r for r in reviews]
    return reviews, [int(label) for label in labels]


def sentences(tokens):
    """Yields the sentences of a text, each with the mark that ends it."""
    sentence = []
    for token in tokens:
        sentence.append(token)
        if token in ".!?":
            if len(sentence) > 2:
                yield sentence
            sentence = []


def predicates(sentence):
    """Yields the places of a form of "to be" and of the word that it says of something."""
    for word in range(1, len(sentence) - 1):
        if sentence[word + 1] in ENDS and sentence[word].isalpha():
            be = word - 1
            while be and sentence[be] in DEGREES:
                be -= 1
            if sentence[be] in BE:
                yield be, word


class Polarity:
    """What labelled reviews, lists of tokens, tell of their words.

    Attributes:
        words: Words that stand after a form of "to be", to 1 if they praise and 0 if they blame.
        verbs: Verbs of an opinion, pairs such as ("like", "liked"), to 1 if they praise or 0.
        loaded: All words that are much more frequent in reviews of one label than of the other.

    A word praises if reviews with it do, and if it is more often said than denied where reviews
    praise: "good" stands in as many reviews of either label, "not good" in bad ones. It must be a
    word of degree, as in "very dull", more often than a verb, as in "to like": that leaves
    adjectives. A verb is one that somebody says of itself: "i liked it". Its two tenses must agree,
    and it must be of degree, too, as in "i really liked it".
    """

    def __init__(self, reviews, labels, least=8, threshold=0.4):
        said, denied, of_reviews = (_counters(2) for _ in range(3))
        of_degree, as_verb = _counters(2)
        for tokens, label in zip(reviews, labels, strict=True):
            of_reviews[label].update(set(tokens))
            of_degree.update(b for a, b in itertools.pairwise(tokens) if a in GRADES)
            as_verb.update(b for a, b in itertools.pairwise(tokens) if a in BEFORE_VERBS)
            for sentence in sentences(tokens):
                if NEGATIONS.isdisjoint(sentence):
                    said[label].update(sentence[word] for _, word in predicates(sentence))
                for n, token in enumerate(sentence):
                    if not NEGATIONS.isdisjoint(sentence[max(0, n - 3) : n]):
                        denied[label][token] += 1
        counts = of_reviews, said, denied
        of, as_said, as_denied = (ratios(*count) for count in counts)
        seen = said[0] + said[1]
        adjectives = [w for w in seen if seen[w] >= least and of_degree[w] >= max(2, as_verb[w])]
        score = {w: of(w) + (as_said(w) - as_denied(w)) / 2 for w in adjectives}
        self.words = {w: int(s > 0) for w, s in score.items() if abs(s) > threshold}
        self.verbs = opinions(reviews, labels, least)
        self.loaded = {w for w in of_reviews[0] + of_reviews[1] if abs(of(w)) > 0.5}


def opinions(reviews, labels, least=8, threshold=0.3, of_degree=0.05):
    """Returns verbs of an opinion that reviews say of themselves, as `Polarity.verbs` has them.

    Regular verbs, that is: the two tenses of any others cannot be told from the reviews.
    """
    said, (degrees, every) = _counters(2), _counters(2)
    for tokens, label in zip(reviews, labels, strict=True):
        every.update(tokens)
        degrees.update(b for a, b in itertools.pairwise(tokens) if a in OF_VERBS)
        for n in range(1, len(tokens) - 1):
            before = n - 1
            while before and tokens[before] in OF_VERBS:
                before -= 1
            if tokens[before] in ("i", "we") and tokens[n + 1] in OBJECTS:
                said[label][tokens[n]] += 1
    tells, verbs = ratios(*said), {}
    for verb in said[0] + said[1]:
        for past in (f"{verb}d", f"{verb}ed", f"{verb}{verb[-1]}ed", f"{verb[:-1]}ied"):
            both = tells(verb), tells(past)
            often = said[0][past] + said[1][past] >= least
            often = often and degrees[past] >= of_degree * every[past]
            if often and (min(both) > threshold or max(both) < -threshold):
                verbs[verb, past] = int(both[0] > 0)
    return verbs


def _counters(number):
    return [collections.Counter() for _ in range(number)]


def ratios(of_0, of_1, prior=5):
    """Returns a function from a word to the log of how much more often it stands with label 1."""

    def ratio(a, b):
        return math.log((a + prior) / (b + prior))

    shift = ratio(sum(of_0.values()), sum(of_1.values()))
    return lambda word: ratio(of_1[word], of_0[word]) + shift


class Edits:
    """Draws short labelled texts, made of the sentences of labelled reviews.

    A sentence gives a frame if nothing but one predicate word tells its label; any word can stand
    in it then, said or denied. So the frame says nothing about the label, and the word alone does
    not, either.

    Persons who are praised or blamed in the texts have the names of all persons in the reviews, and
    who it is says nothing, either.

    Args:
        reviews: Strings, or bytes in UTF-8.
        labels: Of each, 0 or 1.
        longest: The most tokens in a frame.

    Raises:
        ValueError: If the reviews hold too little to make texts of, or if a review is not a text or
            a label not 0 or 1.
    """

    def __init__(self, reviews, labels, longest=20):
        reviews, labels = labelled("Edits", reviews, labels)
        self.names = [name.lower() for review in reviews for name in re.findall(NAME, review)]
        cleaned = text.clean(tf.constant(reviews, tf.string)).numpy()
        reviews = [review.decode().split() for review in cleaned]
        polarity = Polarity(reviews, labels)
        self.words, self.verbs = (
            [[w for w, of in told.items() if of == label] for label in (0, 1)]
            for told in (polarity.words, polarity.verbs)
        )
        self.frames, self.clauses, self.neutral = [], [], []
        verbs = set().union(*polarity.verbs)
        telling = polarity.loaded | set(polarity.words) | verbs | NEGATIONS | TURNS
        for tokens in reviews:
            for sentence in sentences(tokens):
                if len(sentence) > longest:
                    continue
                told = [n for n, token in enumerate(sentence) if token in telling]
                if not told:
                    self.neutral.append(tuple(sentence))
                    continue
                if len(told) > 1 or sentence[told[0]] not in polarity.words:
                    continue
                for be, word in predicates(sentence):
                    if word == told[0]:
                        frame = Frame(tuple(sentence), be, word)
                        self.frames.append(frame)
                        if word == len(sentence) - 2 and len(sentence) < 10:
                            self.clauses.append(frame)

        parts = {
            "words that blame": self.words[0],
            "words that praise": self.words[1],
            "verbs that blame": self.verbs[0],
            "verbs that praise": self.verbs[1],
            "sentences with one such word": self.clauses,
            "sentences without any": self.neutral,
            "names": self.names,
        }
        if missing := [name for name, of in parts.items() if not of]:
            raise ValueError(
                f"Edits: no {', no '.join(missing)} in the reviews. Train without edits, or with "
                f"more reviews. Received: {len(reviews)}"
            )

    def draw(self, number, seed):
        """Yields a number of texts with their labels, half of them 1."""
        rng = random.Random(seed)
        kinds = self.sentence, self.opinion, self.fragment, self.person, self.contrast, self.distant
        for n in range(number):
            yield kinds[n // 2 % len(kinds)](rng, n % 2).split(), n % 2

    def sentence(self, rng, label, frames=None):
        frame = rng.choice(frames or self.frames)
        ways = ("said", "denied", "denied", "doubted", "believed")
        way = rng.choice(ways[:3] if frames else ways)
        denied = way in ("denied", "doubted")
        word = rng.choice(self.words[label ^ denied])
        before, after = frame.tokens[: frame.be + 1], frame.tokens[frame.word + 1 :]
        between = frame.tokens[frame.be + 1 : frame.word]
        if way == "denied":
            denial, form = rng.choice(DENIALS).format(word), before[-1]
            if denial.startswith("not ") and form in SHORT and rng.random() < 0.5:
                before, denial = (*before[:-1], SHORT[form]), denial[len("not ") :]
            return " ".join((*before, denial, *after))
        said = " ".join((*before, *between, word, *after))
        if way == "said":
            return said
        return f"{rng.choice(DOUBTS if denied else BELIEFS)} {said}"

    def opinion(self, rng, label):
        denied = rng.random() < 0.6
        verb = rng.choice(self.verbs[label ^ denied])
        way = rng.choice(DENIED_OPINIONS if denied else OPINIONS)
        return way.format(*verb, of=rng.choice(OF)) + " ."

    def fragment(self, rng, label):
        denied = rng.random() < 0.7
        word = rng.choice(self.words[label ^ denied])
        return rng.choice(DENIED_FRAGMENTS if denied else FRAGMENTS).format(word) + " ."

    def person(self, rng, label):
        name = rng.choice(self.names)
        if rng.random() < 0.4:
            return f"{self.fragment(rng, label).removesuffix(' .')} by {name} ."
        denied = rng.random() < 0.5
        said = rng.choice(self.words[label ^ denied])
        said = rng.choice(DENIALS).format(said) if denied else said
        return rng.choice(OF_PERSONS).format(said, name=name)

    def clause(self, rng, label):
        return (
            self.sentence(rng, label, self.clauses)
            if rng.random() < 0.7
            else self.opinion(rng, label)
        )

    def contrast(self, rng, label):
        two = [self.clause(rng, of).strip(" .!?") for of in (1 - label, label)]
        return rng.choice(CONTRASTS).format(*two)

    def distant(self, rng, label):
        """One verdict to three, and more sentences that tell none, most of them after it."""
        kinds = self.sentence, self.opinion, self.fragment, self.person
        told = [" ".join(rng.choice(self.neutral)) for _ in range(rng.randint(2, 10))]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            told.insert(rng.choice((0, 0, 1, len(told))), rng.choice(kinds)(rng, label))
        return " ".join(told)
