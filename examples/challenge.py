"""Try a sentiment model on short sentences that a reader would never get wrong.

    python examples/challenge.py saved_models/sentiment
    python examples/challenge.py saved_models/sentiment --wrong     # names what it got wrong

Each case tests one capability, in the manner of Ribeiro et al. 2020, "Beyond Accuracy: Behavioral
Testing of NLP Models with CheckList". A case is right if the model reads each of its texts rightly:
a case of `names` and `genres` holds the same verdict about several persons or kinds of film.
`sentiment.py` trains on none of these texts.
"""

import itertools
import json
import random
from typing import NamedTuple

import quiet_tensorflow  # noqa: F401
from argument_types import command_line
from ask import classifier, load

GOOD = (
    "good great excellent wonderful brilliant superb fantastic amazing beautiful moving gripping "
    "charming clever funny entertaining enjoyable touching fascinating delightful memorable"
).split()
BAD = (
    "bad awful terrible horrible boring dull stupid dreadful tedious silly annoying lame pathetic "
    "predictable ridiculous bland weak mediocre disappointing forgettable"
).split()
ABOUT = "film movie story plot acting script ending music cast dialogue".split()
NAMES = (
    "Tom Hanks, Nicolas Cage, Meryl Streep, Anna Petrova, Samuel Okafor, Li Wei, Adam Sandler, "
    "Steven Seagal, Audrey Hepburn, Uwe Boll, Ingmar Bergman, Priya Nair"
).split(", ")
GENRES = (
    "horror film, western, comedy, war film, musical, thriller, documentary, cartoon, romance, "
    "science fiction film, soap opera, silent film"
).split(", ")
PLACES = "in a small town, on a ship, at a school, in the desert, near the sea, in a castle".split(
    ", "
)
EVENTS = (
    "A young teacher moves {place} and meets an old friend of her father.",
    "Two brothers look for a letter that their mother hid {place}.",
    "The police find a car {place} and question the owner.",
    "He takes the train every morning and she works {place}.",
    "They spend the summer {place} before the war begins.",
    "A doctor and his daughter wait for news {place}.",
    "The second part tells how the three met {place}.",
    "It was shot {place} over the course of a year.",
)

# In a template {x} is a word of the label, {y} a word of the other one; `a` and `b` differ.
TEMPLATES = {
    "vocabulary": (
        "The {a} is {x}.",
        "What a {x} film.",
        "This was {x}.",
        "A {x} movie with a {x2} {a}.",
        "I found the {a} {x}.",
    ),
    "negation": (
        "Not {y} at all.",
        "The {a} was not {y}.",
        "This is not a {y} film.",
        "The {a} isn't {y}.",
        "I don't think the {a} was {y}.",
        "Nobody could call this {a} {y}.",
        "There is nothing {y} about the {a}.",
        "It was never {y}.",
        "I can't say that the {a} was {y}.",
        "The {a} is anything but {y}.",
    ),
    "contrast": (
        "The {a} was {y}, but the {b} was {x}, and I {verdict} it.",
        "It looked {y} at first, but it turned out to be {x}.",
        "Although the {a} is {y}, the film is {x}.",
        "I expected something {y}, but this was {x}.",
        "Some people say it is {y}. I say it is {x}.",
        "Despite the {y} {a}, this is a {x} film.",
        "The first ten minutes are {y}, yet the rest is {x}.",
    ),
    "intensifiers": (
        "The {a} was very {x}.",
        "An incredibly {x} film.",
        "The {a} is so {x}.",
        "The {a} was not very {y}.",
        "The {a} was hardly {y}.",
        "It is not even remotely {y}.",
        "The film is really quite {x}.",
        "The {a} isn't really that {y}.",
    ),
    "distance": (
        "A {x} film. {events}",
        "I thought it was {x}. {events}",
        "The {a} is {x}. {events}",
        "This is not a {y} film. {events}",
    ),
    "names": (
        "{name} is {x} in this.",
        "{name} made a {x} film.",
        "With {name} in the main part, the {a} is {x}.",
        "{name} was not {y}.",
    ),
    "genres": (
        "A {x} {genre}.",
        "As a {genre} it is {x}.",
        "This {genre} is not {y}.",
        "I saw this {genre} last week. It was {x}.",
    ),
}  # fmt: skip
CASES = 50  # of each capability, half of them positive
VARIANTS = 4  # of a case of names or genres


class Case(NamedTuple):
    capability: str
    texts: tuple[str, ...]
    label: int  # 1: positive


def cases(seed=1):
    """Returns the cases, always the same ones for a seed: half of them are positive."""
    draw = random.Random(seed)
    found = []
    for capability, templates in TEMPLATES.items():
        texts = set()
        while len(texts) < CASES:
            label = len(texts) % 2
            case = Case(
                capability, written(draw, templates[len(texts) // 2 % len(templates)], label), label
            )
            if case.texts not in texts:
                texts.add(case.texts)
                found.append(case)
    return found


def written(draw, template, label):
    """Returns the texts of a case: one, or one for each of several names or genres."""
    right, wrong = (GOOD, BAD) if label else (BAD, GOOD)
    a, b = draw.sample(ABOUT, 2)
    x, x2 = draw.sample(right, 2)
    events = " ".join(event.format(place=draw.choice(PLACES)) for event in draw.sample(EVENTS, 5))
    words = {
        "a": a, "b": b, "x": x, "x2": x2, "y": draw.choice(wrong), "events": events,
        "verdict": "liked" if label else "disliked",
    }  # fmt: skip
    for field, values in (("name", NAMES), ("genre", GENRES)):
        if "{" + field + "}" in template:
            chosen = draw.sample(values, VARIANTS)
            return tuple(spelled(template.format(**words, **{field: v})) for v in chosen)
    return (spelled(template.format(**words)),)


def spelled(text):
    """Returns a text with "an" before a vowel."""
    words = text.split(" ")
    for n, (article, word) in enumerate(itertools.pairwise(words)):
        if article in ("a", "A") and word[0] in "aeiou":
            words[n] = article + "n"
    return " ".join(words)


def shares(probability_of):
    """Returns the share of right cases by capability and `all`, and the texts read wrongly.

    Args:
        probability_of: A function from a list of texts to their probabilities of being positive.
    """
    every = cases()
    texts = [text for case in every for text in case.texts]
    probabilities = dict(zip(texts, probability_of(texts), strict=True))
    wrong = [
        (text, float(probabilities[text]))
        for case in every
        for text in case.texts
        if (probabilities[text] >= 0.5) != case.label
    ]
    missed = {text for text, _ in wrong}
    right = {name: [] for name in [*TEMPLATES, "all"]}
    for case in every:
        for name in (case.capability, "all"):
            right[name].append(missed.isdisjoint(case.texts))
    return {name: sum(of) / len(of) for name, of in right.items()}, wrong


def main():
    p = command_line(__doc__)
    p.add_argument("directory", help="of an exported model, or of its versions")
    p.add_argument("--wrong", action="store_true", help="print what was read wrongly, too")
    args = p.parse_args()
    model = load(args.directory)
    right, wrong = shares(classifier(model, args.directory))
    if args.wrong:
        for text, probability in wrong:
            print(f"{probability:.3f}  {text}")
    print(json.dumps({name: round(share, 3) for name, share in right.items()}))


if __name__ == "__main__":
    main()
