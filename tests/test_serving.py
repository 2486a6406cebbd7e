"""What exported text models answer, to any text and any number."""

import math
import os
import subprocess
import sys

import ask
import exported
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_gated
from keras_gated.paths import plain
from keras_gated.recipes import classification, generation, text
from keras_gated.serve import streaming


@pytest.fixture(scope="module")
def sentiment():
    return exported.sentiment()


@pytest.fixture(scope="module")
def characters():
    return exported.characters()


# Sentiment

TEXTS = ["a good film", "", "bad", "x" * 100_000, "good " * 20_000, "\U0001f600", b"\xff\xfe bad"]


def ids_of(sentiment, texts):
    return text.dense(text.head_and_tail(sentiment.lookup(tf.constant(texts)), 100, 200))


def test_every_text_is_answered_alone_as_in_a_batch_and_as_by_the_model(sentiment):
    together = sentiment.ask(text=TEXTS)
    assert set(together) == {"probability", "label"}
    assert together["probability"].shape == together["label"].shape == (len(TEXTS),)
    expected = sentiment.model(ids_of(sentiment, TEXTS))[:, 0]
    np.testing.assert_allclose(together["probability"], expected, atol=1e-6)
    for place, one in enumerate(TEXTS):
        alone = sentiment.ask(text=[one])["probability"]
        np.testing.assert_allclose(alone, together["probability"][place : place + 1], atol=1e-6)
        assert 0 < alone[0] < 1
    np.testing.assert_array_equal(together["label"], together["probability"] >= 0.5)


def test_tokens_are_what_was_read_with_the_probability_of_every_beginning(sentiment):
    texts = ["A good, bad Film!", "", "good " * 400, b"bad \xff"]
    answer = sentiment.ask("tokens", text=texts)
    assert answer["lengths"].tolist() == [6, 1, 300, 2]
    assert answer["tokens"][0, :6].tolist() == [b"a", b"good", b",", b"bad", b"film", b"!"]
    assert answer["known"][0, :6].tolist() == [True, True, False, True, True, True]
    assert answer["tokens"][1, 0] == b"" and not answer["known"][1].any()
    assert answer["tokens"][3, 1].decode() == "\ufffd"  # what is no UTF-8 is shown as such
    for row, end in ((0, 1), (0, 4), (2, 123)):
        expected = sentiment.model(ids_of(sentiment, texts)[row : row + 1, :end])[0, 0]
        np.testing.assert_allclose(answer["probability"][row, end - 1], expected, atol=1e-6)
    ends = answer["probability"][range(4), answer["lengths"] - 1]
    np.testing.assert_allclose(ends, sentiment.ask(text=texts)["probability"], atol=1e-6)
    for row, length in enumerate(answer["lengths"]):
        assert not answer["probability"][row, length:].any()
    for batch in ([""], texts):  # a server joins and cuts answers of one width alone
        for name, value in sentiment.ask("tokens", text=batch).items():
            assert value.shape == ((len(batch),) if name == "lengths" else (len(batch), 300))


def test_gates_of_both_directions_are_those_of_the_model(sentiment):
    answer = sentiment.ask("gates", text=["a good film", "bad"])
    assert answer.pop("lengths").tolist() == [3, 1]
    expected = keras_gated.trace_gates(sentiment.model, ids_of(sentiment, ["a good film", "bad"]))
    assert set(answer) == {f"{d}_{g}" for d, gates in expected["both"].items() for g in gates}
    found = answer["backward_forget"]
    assert found.shape == (2, 300, 3) and not found[:, 3:].any()
    np.testing.assert_allclose(found[:, :3], expected["both"]["backward"]["forget"], atol=1e-6)


# Characters


def generate(characters, *rows):
    """Asks with rows of `(prompt, length, temperature, top_k, seed)`; returns texts."""
    names = ("prompt", "length", "temperature", "top_k", "seed")
    given = dict(zip(names, zip(*rows, strict=True), strict=True))
    return [t.decode() for t in characters.ask("generate", **given)["text"]]


def vocabulary(characters):
    return characters.lookup.get_vocabulary()[text.FIRST :]


def logits(characters, written):
    return characters.model(characters.lookup(tf.constant([list(written)])))[0].numpy()


@pytest.mark.slow
def test_generation_without_temperature_takes_the_likeliest_character_each_time(characters):
    prompt = "abca"
    for _ in range(12):
        prompt += vocabulary(characters)[int(np.argmax(logits(characters, prompt)[-1]))]
    assert generate(characters, ("abca", 12, 0.0, 0, 1)) == [prompt[4:]]
    assert generate(characters, ("abca", 12, 5.0, 1, 1)) == [prompt[4:]]  # the one likeliest


@pytest.mark.sampled
@pytest.mark.parametrize("top_k", [0, 3, 99])
def test_sampled_characters_follow_the_probabilities_of_the_model(characters, top_k):
    expected = np.exp(logits(characters, "ba")[-1] / 0.7)
    if top_k == 3:
        expected[np.argsort(expected)[:-3]] = 0
    rows = [("ba", 1, 0.7, top_k, seed) for seed in range(4000)]
    drawn = "".join(generate(characters, *rows))
    counts = np.array([drawn.count(c) / 4000 for c in vocabulary(characters)])
    np.testing.assert_allclose(counts, expected / expected.sum(), atol=4 * math.sqrt(0.25 / 4000))
    assert not counts[expected == 0].any()


def test_a_row_does_not_depend_on_its_neighbours_and_repeats_with_its_seed(characters):
    rows = [
        ("ab", 20, 1.0, 0, 5),
        ("c", 3, 0.5, 2, 6),
        ("", 50, 2.0, 0, 7),
        ("abc " * 300, 0, 1.0, 0, 8),
        ("abc " * 300, 9, 1.0, 0, 8),
    ]
    together = generate(characters, *rows)
    assert together == [generate(characters, row)[0] for row in rows]
    assert [len(t) for t in together] == [20, 3, 50, 0, 9]
    assert generate(characters, ("ab", 20, 1.0, 0, 6)) != together[:1]


def test_prompts_may_be_empty_or_hold_unknown_characters(characters):
    known = generate(characters, ("ab", 9, 1.0, 0, 1), ("\n", 9, 1.0, 0, 1))
    unknown = ["a\U0001f600xyz\u00e9b", "", b"a\xff\xfeb", "\U0001f600"]
    found = generate(characters, *((prompt, 9, 1.0, 0, 1) for prompt in unknown))
    assert found == [known[0], known[1], known[0], known[1]]


def random_text(characters, length):
    return "".join(np.random.default_rng(1).choice(vocabulary(characters), length))


def test_a_long_prompt_is_read_on_from_piece_to_piece(characters):
    prompt = random_text(characters, 2 * generation.PIECE + 1)  # the last piece is one character
    written = prompt
    for _ in range(12):
        written += vocabulary(characters)[int(np.argmax(logits(characters, written)[-1]))]
    rows = [(prompt, 12, 0.0, 0, 1), (prompt[-1], 12, 0.0, 0, 1)]
    whole, forgotten = generate(characters, *rows)
    assert whole == written[len(prompt) :] != forgotten


@pytest.mark.slow
def test_a_prompt_of_100_000_characters_is_answered(characters):
    assert len(generate(characters, ("abca cb" * 14_286, 1, 0.0, 0, 1))[0]) == 1


@pytest.mark.sampled
@pytest.mark.parametrize("temperature", [1e-38, 1e-30, 1e30, 3e38])
def test_extreme_temperatures_give_characters(characters, temperature):
    [drawn] = generate(characters, ("ab", 9, temperature, 0, 1))
    assert len(drawn) == 9
    if temperature < 1:
        assert [drawn] == generate(characters, ("ab", 9, 0.0, 0, 1))


@pytest.mark.sampled
@pytest.mark.parametrize("row, name", [
    (("a", -1, 1.0, 0, 1), "length"), (("a", 10_001, 1.0, 0, 1), "length"),
    (("a", 1, -1.0, 0, 1), "temperature"), (("a", 1, math.nan, 0, 1), "temperature"),
    (("a", 1, math.inf, 0, 1), "temperature"), (("a", 1, 1.0, -1, 1), "top_k"),
])  # fmt: skip
def test_numbers_that_make_no_sense_are_errors_of_their_row_alone(characters, row, name):
    good = ("ab", 9, 1.0, 0, 3)
    names = ("prompt", "length", "temperature", "top_k", "seed")
    given = dict(zip(names, zip(good, row, good, strict=True), strict=True))
    answer = characters.ask("generate", **given)
    assert answer["error"][1].decode().startswith(f"`{name}` must be")
    [alone] = generate(characters, good)
    assert [t.decode() for t in answer["text"]] == [alone, "", alone]
    assert answer["error"].tolist() == [b"", answer["error"][1], b""]


@pytest.mark.slow
def test_scores_are_the_mean_nats_of_the_characters_the_model_knows(characters):
    texts = ["abca c", "", "b", "a\U0001f600bc", b"a\xffbc", "abc \n" * 4_000]
    answer = characters.ask("score", text=texts)
    assert answer["characters"].tolist() == [6, 0, 1, 3, 3, 20_000]
    expected = []
    for written in ("abca c", "b", "abc"):
        p = tf.nn.log_softmax(logits(characters, "\n" + written))
        places = [vocabulary(characters).index(c) for c in written]
        expected.append(-np.mean([p[t, place] for t, place in enumerate(places)]))
    nats = answer["nats"]
    np.testing.assert_allclose([nats[0], nats[2], nats[3], nats[4]], [*expected, expected[2]], 1e-5)
    assert nats[1] == 0.0
    long = random_text(characters, 3 * generation.PIECE + 7)
    p = tf.nn.log_softmax(logits(characters, "\n" + long)).numpy()
    places = [vocabulary(characters).index(c) for c in long]
    expected = -np.mean(p[np.arange(len(long)), places])
    np.testing.assert_allclose(characters.ask("score", text=[long])["nats"], [expected], rtol=1e-5)
    assert np.isfinite(nats).all()


def test_single_steps_with_the_states_are_what_the_model_says_of_the_whole_text(characters):
    names = [
        f"{layer.name}_{state}"
        for layer in characters.model.layers
        if isinstance(layer, keras_gated.LSTM)
        for state in ("hidden", "memory")
    ]
    states = {name: np.zeros((2, 16), "float32") for name in names}
    written = ["abca", "c  b"]
    for place in range(4):
        token = [vocabulary(characters).index(row[place]) for row in written]
        answer = characters.ask("step", token=token, **states)
        states = {name: answer[name] for name in names}
    expected = [logits(characters, row)[-1] for row in written]
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    named = characters.ask("vocabulary", token=range(5))["character"]
    assert [one.decode() for one in named] == vocabulary(characters)


def test_steps_in_a_loop_are_single_steps_whatever_is_read_beforehand(characters, monkeypatch):
    monkeypatch.setattr(plain, "LARGE", 1)  # as for many units
    model = keras.models.clone_model(characters.model)
    stepper = streaming.Stepper(model)
    before = {name: tf.ones((2, 16)) for name in stepper.states}
    for number in range(2):
        model.set_weights([w + number for w in characters.model.get_weights()])
        expected, after = stepper(tf.constant([[2], [4]]), before)
        found, found_after = stepper(tf.constant([[2], [4]]), before, weights=stepper.weights())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        for name, state in after.items():
            np.testing.assert_allclose(found_after[name], state, rtol=1e-5, atol=1e-6)


def test_a_step_with_rubbish_is_an_error_of_its_row_alone(characters):
    names = [
        f"{layer.name}_{state}"
        for layer in characters.model.layers
        if isinstance(layer, keras_gated.LSTM)
        for state in ("hidden", "memory")
    ]
    states = {name: np.zeros((5, 16), "float32") for name in names}
    good = characters.ask("step", token=[2] * 5, **states)
    states[names[1]][3] = np.nan
    states[names[0]][4, 7] = np.inf
    bad = characters.ask("step", token=[2, -1, 5, 2, 2], **states)
    expected = ["", *["`token` must be 0 to 4."] * 2]
    expected += [f"`{name}` must be finite." for name in (names[1], names[0])]
    assert [error.decode() for error in bad.pop("error")] == expected
    for name, value in bad.items():
        np.testing.assert_allclose(value[0], good[name][0], atol=1e-6)
        assert not np.any(value[1:])
    named = characters.ask("vocabulary", token=[1, -1, 5])
    assert named["error"].tolist() == [b"", *[b"`token` must be 0 to 4."] * 2]
    assert named["character"].tolist() == [vocabulary(characters)[1].encode(), b"", b""]


def test_the_default_of_a_character_model_is_to_generate(characters):
    given = {"prompt": ["a"], "length": [5], "temperature": [1.0], "top_k": [0], "seed": [1]}
    assert characters.ask(**given) == characters.ask("generate", **given)


def test_a_model_without_a_line_break_cannot_begin(characters):
    with pytest.raises(ValueError, match=r"must hold the line break.*Received: \['a', 'b'\]"):
        generation.characters(characters.model, text.character_lookup("ab"))


@pytest.mark.parametrize("layer", [
    keras.layers.Conv1D(3, 3, padding="causal"),
    keras.layers.Lambda(lambda x: keras.ops.cumsum(x, axis=1)),
])  # fmt: skip
def test_a_model_that_looks_at_several_steps_cannot_write_one_by_one(layer):
    ids = keras.Input((None,), dtype="int64")
    x = keras_gated.GRU(4, return_sequences=True)(layer(keras.layers.Embedding(5, 3)(ids)))
    model = keras.Model(ids, keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match=r"^characters: .* in pieces differently from the whole"):
        generation.characters(model, text.character_lookup("ab\n"))


@pytest.mark.parametrize("steps, width", [(None, 6), (None, 2), (7, 3)])
def test_a_model_of_other_characters_or_a_fixed_length_is_refused(steps, width):
    ids = keras.Input((steps,), dtype="int64")
    x = keras_gated.GRU(4, return_sequences=True)(keras.layers.Embedding(9, 3)(ids))
    model = keras.Model(ids, keras.layers.Dense(width)(x))
    with pytest.raises(ValueError, match=rf"logits of the 3 characters.* {width}\)\]\. Give"):
        generation.characters(model, text.character_lookup("ab\n"))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_models_of_any_precision_answer_in_single_precision(dtype):
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int64")
    read = keras.layers.Embedding(5, 3, mask_zero=True, dtype=dtype)(ids)
    x = keras_gated.GRU(4, return_sequences=True, dtype=dtype)(read)
    model = keras.Model(ids, keras.layers.Dense(3, dtype=dtype)(x))
    asked = generation.characters(model, text.character_lookup("ab\n"))
    logits = np.asarray(model(np.array([[2, 3, 4]]))).astype("float64")[0]  # of the break, a, b
    told = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    score = asked["score"].function(tf.constant(["ab"]))
    np.testing.assert_allclose(score["nats"], [-(told[0, 1] + told[1, 2]) / 2], rtol=1e-2)
    given = [["\nab"], [1], [0.0], [0], [1]]
    given = [tf.constant(v, s.dtype) for v, s in zip(given, asked["generate"].inputs, strict=True)]
    assert asked["generate"].function(*given)["text"] == "\nab"[np.argmax(logits[2])]
    states = [tf.zeros((1, s.shape[1]), s.dtype) for s in asked["step"].inputs[1:]]
    first = asked["step"].function(tf.constant([0], tf.int64), *states)["logits"]
    np.testing.assert_allclose(first, logits[:1], rtol=1e-2)

    words = text.word_vectorizer(tf.data.Dataset.from_tensors(["a b"]), 4)
    output = keras.layers.Dense(1, "sigmoid", dtype=dtype)(keras_gated.LSTM(4, dtype=dtype)(read))
    of_words = keras.Model(ids, output)
    asked = classification.sentiment(of_words, words, 2, 2)
    answers = [asked[name].function(tf.constant(["b"])) for name in ("serving_default", "tokens")]
    expected = np.asarray(of_words(words(tf.constant(["b"])).to_tensor()))[0, 0]
    for answer in (answers[0]["probability"], answers[1]["probability"][:, 0]):
        assert answer.dtype == "float32"
        np.testing.assert_allclose(answer, [np.float32(expected)], rtol=1e-2)


def test_steps_of_a_layer_of_any_name_have_names_that_tensorflow_allows(tmp_path):
    ids = keras.Input((None,), dtype="int64")
    gru = keras_gated.GRU(4, return_sequences=True, name="my-gru.1")
    logits = keras.layers.Dense(3)(gru(keras.layers.Embedding(5, 3)(ids)))
    model, lookup = keras.Model(ids, {"of next": logits}), text.character_lookup("ab\n")
    signatures = {"step": generation.characters(model, lookup)["step"]}
    loaded = tf.saved_model.load(keras_gated.export_model(model, tmp_path, signatures))
    state = tf.zeros((1, 4))
    answer = loaded.signatures["step"](token=tf.constant([1], tf.int64), my_gru_1_hidden=state)
    expected = model(np.array([[3]]))["of next"][:, 0]
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-6)
    assert answer["my_gru_1_hidden"].shape == (1, 4)
    bad = loaded.signatures["step"](
        token=tf.constant([1], tf.int64), my_gru_1_hidden=state + np.nan
    )
    assert bad["error"] == b"`my_gru_1_hidden` must be finite."


# In other processes


@pytest.mark.slow
def test_ask_answers_in_a_process_that_never_imports_keras_gated(sentiment, characters, tmp_path):
    asked = [
        [sentiment.directory, "good", "bad"],
        [characters.directory, "abc", "--length", "5", "--top-k", "2"],
        [str(tmp_path), "abc"],
    ]
    script = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {os.path.dirname(ask.__file__)!r})\n"
        f"for arguments in {asked!r}:\n"
        "    sys.argv = ['ask.py', *arguments]\n"
        f"    runpy.run_path({ask.__file__!r}, run_name='__main__')\n"
        "    assert 'keras_gated' not in sys.modules\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert said.returncode == 1 and "holds no exported model" in said.stderr, said.stderr
    *lines, written = said.stdout.split("\n", 2)
    assert [line.split()[-1] for line in lines] == ["good", "bad"]
    assert len(written) == len("abc") + 5 + 1
