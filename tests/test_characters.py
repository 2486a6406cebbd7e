"""What `characters.py` does to the plays that it learns from."""

import re
import types

import characters
import numpy as np
import pytest
import tensorflow as tf

import keras_gated
from keras_gated.recipes import generation, text
from keras_gated.recipes.kneser_ney import KneserNey

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
    old = characters.speakers(PLAY)
    new = characters.renamed(PLAY, old, 1.0, seed=1)
    lines = new.splitlines()
    name = lines[3].rstrip(":")
    assert lines[1] == f"Where is {name.capitalize()}? A citizen must know."
    assert lines[7] == f"{name.capitalize()}, the king is come."
    assert lines[9] == f"KING {lines[10][7:].split(' ')[0].upper()}:"
    assert len(lines) == len(PLAY.splitlines())
    first_halves, last_halves = (
        {n[: (len(n) + 1) // 2] for n in old},
        {n[len(n) // 2 :] for n in old},
    )
    assert any(name.startswith(a) and name.endswith(b) for a in first_halves for b in last_halves)
    # Another seed, other names; a share of none, the play itself.
    assert len({characters.renamed(PLAY, old, 1.0, seed) for seed in range(5)}) > 1
    assert characters.renamed(PLAY, old, 1.0, seed=1) == new
    assert characters.renamed(PLAY, old, 0.0, seed=1) == PLAY
    assert characters.renamed("No labels here.", [], 1.0, seed=1) == "No labels here."


def test_every_scene_has_names_of_its_own():
    names = characters.speakers(PLAY)
    scenes = characters.renamed("\n".join(100 * [PLAY]), names, 1.0, seed=1, speeches=4)
    found = re.findall(r"Where is (\w+)\?[^\n]*\n\n([A-Z]+):", scenes)
    assert len(found) == 100 and len(set(found)) > 5
    assert all(word.upper() == label for word, label in found)  # and the same one throughout


def test_rows_read_on_from_batch_to_batch_in_the_text_of_their_epoch():
    texts = [tf.range(100, 150, dtype=tf.int64), tf.range(200, 290, dtype=tf.int64)]
    batches, number = characters.windows(texts, steps=5, batch_size=4)
    batches = list(batches.as_numpy_iterator())
    assert number == 2 and len(batches) == 4  # of 12 characters a row, the last two are left out
    for epoch, (first, strip) in enumerate([(100, 12), (200, 22)]):
        ids, targets = (
            np.concatenate(part, 1) for part in zip(*batches[2 * epoch :][:2], strict=True)
        )
        np.testing.assert_array_equal(ids, first + strip * np.arange(4)[:, None] + np.arange(10))
        np.testing.assert_array_equal(targets, ids + 1 - 2)  # of the characters after them


def test_a_batch_that_replicas_cannot_share_or_that_no_text_fills_is_refused():
    three = types.SimpleNamespace(num_replicas_in_sync=3)
    assert characters.rows_of(three, 12) == 4
    with pytest.raises(SystemExit, match=r"multiple of 3, .* Received: 16\."):
        characters.rows_of(three, 16)
    with pytest.raises(SystemExit, match=r"20 characters .* Received: 20\."):
        characters.streams(tf.range(20), rows=20)
    [(ids, _)] = characters.streams(tf.range(20), rows=19).as_numpy_iterator()
    assert ids.shape == (19, 1)


def test_a_cell_without_recurrent_weights_trains_without_their_dropout(monkeypatch, capsys):
    argv = ["characters.py", "--cell", "min_gru"]
    monkeypatch.setattr("sys.argv", argv)
    assert characters.arguments().weight_dropout == 0
    assert characters.build_model(6, "min_gru", 4, 1)[0].count_params() > 0
    monkeypatch.setattr("sys.argv", [*argv, "--weight-dropout", "0.1"])
    with pytest.raises(SystemExit, match=r"^2$"):
        characters.arguments()
    assert "min_gru has none. Received: 0.1. Leave it out" in capsys.readouterr().err


@pytest.mark.slow
def test_dynamic_evaluation_is_the_loss_before_learning_and_learns_from_what_was_read():
    ids = np.tile([2, 3, 5, 2, 4, 6, 7, 3, 2, 5], 100)
    model, _ = characters.build_model(6, "lstm", 16, 1)
    logits = model(ids[None, :-1]).numpy()[0]
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -p[np.arange(len(p)), ids[1:] - 2]

    def read(ids, **options):
        reader, _ = characters.build_model(6, "lstm", 16, 1, dropout=0, rows=1)
        reader.set_weights(model.get_weights())
        return characters.dynamic_evaluation(reader, ids, steps=20, **options)

    # Without a step of learning, the loss of the whole text: states go on from window to window.
    assert read(ids, rate=0.0) == pytest.approx(nats[:980].mean(), rel=1e-5)
    # The first window is read with the weights of before, however fast the learning.
    assert read(ids[:21], rate=1.0) == pytest.approx(nats[:20].mean(), rel=1e-5)
    assert read(ids, rate=1e-2) < 0.9 * nats.mean()


def test_the_n_grams_judge_with_the_networks_also_piece_by_piece():
    ids = np.random.default_rng(1).integers(2, 8, 90)
    train = np.tile(ids, 3)
    counts = KneserNey(8, 4)
    counts.adapt(train)
    networks, _ = characters.build_model(6, "lstm", 8, 1, networks=2)
    both = characters.with_n_grams(networks, 8, train, 4)
    before = np.concatenate([[0, 0], ids])
    newest_first = np.stack([before[2:], before[1:-1], before[:-2]], axis=1)
    expected = (2 * networks(ids[None]).numpy() + counts(newest_first[None]).numpy()) / 3
    np.testing.assert_allclose(both(ids[None]), expected, atol=1e-5)
    assert both.trainable_variables == networks.trainable_variables

    stream = keras_gated.stream(both)
    pieces = [stream.step(piece[None]) for piece in np.split(ids, [1, 2, 30])]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, atol=1e-5)

    reader, _ = characters.build_model(6, "lstm", 8, 1, networks=2, rows=1)
    reader.set_weights(networks.get_weights())
    reader = characters.with_n_grams(reader, 8, train, 4, stateful=True)
    windows = [reader(ids[None, start : start + 30]) for start in (0, 30, 60)]
    np.testing.assert_allclose(np.concatenate(windows, axis=1), expected, atol=1e-5)


def test_padding_does_not_move_the_last_characters_on():
    networks, _ = characters.build_model(6, "lstm", 4, 1)
    both = characters.with_n_grams(networks, 8, [2, 3, 4, 5, 6, 7] * 5, 3)
    padded = both(np.array([[2, 3, 0, 4]]))
    np.testing.assert_allclose(padded[0, -1], both(np.array([[2, 3, 4]]))[0, -1], atol=1e-5)


def test_a_model_with_n_grams_is_served_with_the_last_characters_as_a_state(tmp_path):
    lookup = text.character_lookup("\nabcde")
    written = "abced\nabcdeabcabcdea"
    ids = lookup(list("\n" + written)).numpy()  # a text begins after a line break
    networks, _ = characters.build_model(6, "lstm", 4, 1)
    both = characters.with_n_grams(networks, 8, ids, 3)
    signatures = generation.characters(both, lookup)
    version = keras_gated.export_model(both, tmp_path, signatures, track=[lookup])
    served = tf.saved_model.load(version).signatures
    logits = both(ids[None]).numpy()[0]
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -p[np.arange(len(written)), ids[1:] - 2]
    scored = served["score"](text=tf.constant([written]))["nats"]
    np.testing.assert_allclose(scored, [nats.mean()], rtol=1e-5)

    states = {spec.name: spec for spec in signatures["step"].inputs[1:]}
    assert states["last_ids_hidden"].shape == (None, 2)
    states = {name: tf.zeros((1, spec.shape[1])) for name, spec in states.items()}
    for place, token in enumerate(ids - 2):
        answer = served["step"](token=tf.constant([token], tf.int64), **states)
        np.testing.assert_allclose(answer["logits"][0], logits[place], atol=1e-5)
        states = {name: answer[name] for name in states}


def test_n_grams_of_one_character_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["characters.py", "--n-grams", "1"])
    with pytest.raises(SystemExit, match=r"^2$"):
        characters.arguments()
    assert "--n-grams 1 has no context" in capsys.readouterr().err
