"""What `characters.py` does to the plays that it learns from."""

import characters
import numpy as np
import tensorflow as tf

PLAY = """First Citizen:
Where is Menenius? A citizen must know.

MENENIUS:
Here, with the lady Volumnia.

VOLUMNIA:
Menenius, the king is come.

KING BRUTUS:
Peace, Brutus speaks.
"""


def test_speakers_are_the_words_of_labels_that_are_nowhere_written_small():
    assert characters.speakers(PLAY) == ["BRUTUS", "FIRST", "MENENIUS", "VOLUMNIA"]


def test_a_renamed_speaker_has_one_new_name_throughout_and_nothing_else_changes():
    new = characters.renamed(PLAY, 1.0, seed=1)
    lines = new.splitlines()
    name = lines[3].rstrip(":")
    assert lines[1] == f"Where is {name.capitalize()}? A citizen must know."
    assert lines[7] == f"{name.capitalize()}, the king is come."
    assert lines[9] == f"KING {lines[10][7:].split(' ')[0].upper()}:"
    assert len(lines) == len(PLAY.splitlines())
    old = characters.speakers(PLAY)
    first_halves, last_halves = (
        {n[: (len(n) + 1) // 2] for n in old},
        {n[len(n) // 2 :] for n in old},
    )
    assert any(name.startswith(a) and name.endswith(b) for a in first_halves for b in last_halves)
    # Another seed, other names; a share of none, the play itself.
    assert len({characters.renamed(PLAY, 1.0, seed) for seed in range(5)}) > 1
    assert characters.renamed(PLAY, 1.0, seed=1) == new
    assert characters.renamed(PLAY, 0.0, seed=1) == PLAY
    assert characters.renamed("No labels here.", 1.0, seed=1) == "No labels here."


def test_windows_come_from_the_text_of_their_epoch_with_the_characters_after_them():
    texts = [tf.range(100, 150, dtype=tf.int64), tf.range(200, 290, dtype=tf.int64)]
    batches = list(characters.windows(texts, 10, 4, seed=1, number=8).take(5).as_numpy_iterator())
    for count, (ids, targets) in enumerate(batches):
        low, high = ((100, 150), (200, 290))[min(count // 2, 1)]  # the last text goes on
        assert ids.min() >= low and targets.max() + 2 < high
        assert (ids == ids[:, :1] + np.arange(10)).all() and (targets + 2 == ids + 1).all()
    resumed = next(iter(characters.windows(texts, 10, 4, seed=1, number=8, first=8)))
    np.testing.assert_array_equal(resumed[0], batches[2][0])
