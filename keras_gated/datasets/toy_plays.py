"""`toy_plays`: dialogues from a small grammar. Each split is one long text."""

import random

import tensorflow_datasets as tfds

from keras_gated.datasets.grammar import draw

SPEAKERS = "ALMA BRUNO CLARA DIEGO EDDA FELIX".split()
THINGS = "boat lamp letter horse garden mirror clock ring".split()
COLOURS = "red green white black golden silver".split()
PLACES = ["by the harbour", "on the hill", "in the kitchen", "under the bridge", "at the gate"]
TIMES = ["at dawn", "at noon", "in the evening", "before the storm", "after the feast"]
VERBS = "found lost sold hid painted mended".split()

SIZES = {"train": 200_000, "validation": 20_000, "test": 20_000}  # characters


def _line(rng):
    thing, other = rng.sample(THINGS, 2)
    colour, place, time, verb = (rng.choice(w) for w in (COLOURS, PLACES, TIMES, VERBS))
    line = rng.choice(
        [
            f"I {verb} the {colour} {thing} {place}.",
            f"Who {verb} my {thing} {time}? Was it the {colour} one?",
            f'They told me {time}: "the {thing} is {colour}, the {other} is not".',
            f"{time.capitalize()} we {verb} a {thing} and a {other} {place}.",
        ]
    )
    return line.split(), line


def generate(split):
    """Returns the text of a split, always the same text. No two splits share a line."""
    rng = random.Random(f"toy_plays 1.0.0 {split}")
    parts, length = [], 0
    while length < SIZES[split]:
        lines = [draw(_line, rng, split) for _ in range(rng.randint(1, 3))]
        part = "\n".join([f"{rng.choice(SPEAKERS)}:", *lines, "", ""])
        parts.append(part)
        length += len(part)
    return "".join(parts)[: SIZES[split]]


class ToyPlays(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of `toy_plays`, in the form of `tiny_shakespeare`; nothing is downloaded."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        yield split, {"text": generate(split)}
