"""`toy_reviews`: film reviews from a small grammar. Order and context decide on the label."""

import random

import tensorflow_datasets as tfds

from keras_gated.datasets.grammar import draw

# Antonyms stand at the same index: a pair of reviews swaps them and nothing else.
GOOD = "wonderful brilliant moving superb gripping clever charming funny fresh lively".split()
BAD = "awful stupid tedious dreadful boring clumsy annoying silly bland lifeless".split()
ASPECTS = "plot acting music ending dialogue photography pace humour story cast script set".split()
DEGREES = "truly simply really quite rather mostly frankly utterly".split()
OTHERS = "critics papers neighbours students reviewers guests colleagues teachers".split()

WHO = ["we", "they", "my sister", "my brother", "two friends", "our class", "his aunt"]
VERB = ["saw it", "went", "arrived", "sat down", "bought tickets", "came along", "met"]
WHEN = ["on monday", "last night", "in march", "at noon", "after dinner", "in the rain"]
WHERE = ["at the old cinema", "near the station", "in the front row", "by the river", "in town"]

SIZES = {"train": 8000, "validation": 1000, "test": 2000}
KINDS = ("plain", "negation", "contrast", "distant")


def _filler(rng):
    parts = [rng.choice(words) for words in (WHO, VERB, WHEN, WHERE)]
    return parts, f"{' '.join(parts)}.".capitalize()


def _fillers(rng, split, fewest, most):
    return [draw(_filler, rng, split) for _ in range(rng.randint(fewest, most))]


def _pair_of_sentences(template):
    """Returns a function that makes two sentences. They differ only in the places of antonyms.

    In `template`, `{x}` is replaced by the word of the label and `{y}` by its antonym.
    """

    def make(rng):
        index = rng.randrange(len(GOOD))
        words = {"degree": rng.choice(DEGREES), "others": rng.choice(OTHERS)}
        words["a"], words["b"] = rng.sample(ASPECTS, 2)
        key = [*template.format(x="x", y="y", **words).split(), str(index)]
        positive = template.format(x=GOOD[index], y=BAD[index], **words)
        negative = template.format(x=BAD[index], y=GOOD[index], **words)
        return key, (negative, positive)

    return make


PLAIN = ["The {a} was {degree} {x}.", "I thought the {a} and the {b} were {degree} {x}."]
NEGATION = [
    "The {a} was not {y}, it was {degree} {x}.",
    "The {a} was {degree} {x}, it was not {y}.",
    "I did not find the {a} {y}, I found it {degree} {x}.",
]
CONTRAST = [
    "The {a} was {degree} {y}, but the {b} was {x}.",
    "Although the {a} was {degree} {y}, the {b} was {x}.",
    "The {a} was {degree} {x}, although the {b} was {y}.",
]
MINE = ["I found the {a} {degree} {x}.", "In my opinion the {a} was {degree} {x}."]
THEIRS = ["The {others} found the {a} {degree} {y}.", "The {others} called the {a} {y}."]


def _pair(rng, split, kind):
    """Returns the texts of a negative and a positive review of one kind.

    Except for `plain`, both hold the same words the same number of times.
    """
    if kind == "distant":
        # My verdict is the label, though it stands far before the others' verdict, its opposite.
        while True:
            mine = draw(_pair_of_sentences(rng.choice(MINE)), rng, split)
            theirs = draw(_pair_of_sentences(rng.choice(THEIRS)), rng, split)
            between = _fillers(rng, split, 4, 10)
            pair = [" ".join([m, *between, t]) for m, t in zip(mine, theirs, strict=True)]
            if sorted(pair[0].lower().split()) == sorted(pair[1].lower().split()):
                return pair
    template = rng.choice({"plain": PLAIN, "negation": NEGATION, "contrast": CONTRAST}[kind])
    sentences = draw(_pair_of_sentences(template), rng, split)
    before, after = _fillers(rng, split, 0, 3), _fillers(rng, split, 1, 4)
    return [" ".join([*before, sentence, *after]) for sentence in sentences]


def generate(split):
    """Yields the `(text, label, kind)` of a split, always the same. Label 1 is positive."""
    rng = random.Random(f"toy_reviews 1.0.0 {split}")
    examples = []
    for number in range(SIZES[split] // 2):
        kind = KINDS[number % len(KINDS)]
        examples += [(text, label, kind) for label, text in enumerate(_pair(rng, split, kind))]
    rng.shuffle(examples)
    yield from examples


class ToyReviews(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of `toy_reviews`; nothing is downloaded.

    A quarter each: `plain` (the words tell), `negation` (not boring, it was gripping), `contrast`
    (boring, but gripping) and `distant` (my verdict at the start counts, that of others at the end
    does not). In the last three every review has a twin of the other label with exactly the same
    words: whoever ignores the order gets exactly half of them right. No sentence stands in more
    than one split.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=["neg", "pos"]),
                    "kind": tfds.features.ClassLabel(names=list(KINDS)),
                }
            ),
            supervised_keys=("text", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        for number, (text, label, kind) in enumerate(generate(split)):
            yield number, {"text": text, "label": label, "kind": kind}
