"""Exported models: whole versions, named answers, nothing a stock server cannot run."""

import math
import pathlib
import subprocess
import sys

import ask
import characters as example
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_gated
from keras_gated import export, serving, text


def graph_ops(directory):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    return {n.op for n in [*graph.node, *(n for f in graph.library.function for n in f.node_def)]}


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory):
    """A small classifier with random weights, exported: `(model, read, directory)`."""
    keras.utils.set_random_seed(1)
    vectorizer = text.word_vectorizer(tf.data.Dataset.from_tensors(["a good film .", "bad !"]), 20)
    ids = keras.Input((None,), dtype="int64")
    hidden = keras.layers.Embedding(20, 4, mask_zero=True)(ids)
    hidden = keras.layers.Bidirectional(keras_gated.LSTM(3, return_sequences=True))(hidden)
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(ids, keras.layers.Dense(1, "sigmoid")(hidden))

    def read(texts):
        return text.dense(text.head_and_tail(vectorizer(texts), 100, 200))

    directory = tmp_path_factory.mktemp("sentiment")
    signatures = {"serving_default": serving.classify(model, read)}
    version = export.export_signatures(directory, signatures, [model, vectorizer])
    return model, read, directory, version


TEXTS = ["a good film", "", "bad", "x" * 100_000, "good " * 20_000, "\U0001f600", b"\xff\xfe bad"]


def test_every_text_is_answered_alone_as_in_a_batch_and_as_by_the_model(sentiment):
    model, read, _, version = sentiment
    ask_model = tf.saved_model.load(version).signatures["serving_default"]
    together = ask_model(text=tf.constant(TEXTS))
    assert set(together) == {"probability", "label"}
    assert together["probability"].shape == together["label"].shape == (len(TEXTS),)
    expected = model(read(tf.constant(TEXTS)))[:, 0]
    np.testing.assert_allclose(together["probability"], expected, atol=1e-6)
    for place, one in enumerate(TEXTS):
        alone = ask_model(text=tf.constant([one]))["probability"].numpy()
        np.testing.assert_allclose(alone, together["probability"][place : place + 1], atol=1e-6)
        assert 0 < alone[0] < 1
    np.testing.assert_array_equal(together["label"], together["probability"].numpy() >= 0.5)


def test_an_export_answers_in_a_process_that_never_imports_keras_gated(sentiment, tmp_path):
    *_, directory, version = sentiment
    script = (
        "import sys, tensorflow as tf\n"
        f"ask = tf.saved_model.load({version!r}).signatures['serving_default']\n"
        "assert 0 < float(ask(text=tf.constant(['good film']))['probability'][0]) < 1\n"
        "assert 'keras_gated' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    answer = subprocess.run(
        [sys.executable, ask.__file__, directory, "good", "bad"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert [line.split()[-1] for line in answer.stdout.splitlines()] == ["good", "bad"]


def test_versions_count_up_and_stay_as_they_are(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    specs = [tf.TensorSpec((None, 2), name="x")]
    signatures = {"serving_default": (lambda x: {"y": model(x)}, specs)}
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "saved_model.pb").write_bytes(b"mine")
    versions = [export.export_signatures(tmp_path, signatures, [model]) for _ in range(2)]
    assert versions == [str(tmp_path / "8"), str(tmp_path / "9")]
    assert (tmp_path / "7" / "saved_model.pb").read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7", "8", "9"]


def test_files_beside_a_model_appear_with_it_or_not_at_all(tmp_path):
    def twice(x):
        return {"y": 2 * x}

    signatures = {"serving_default": (twice, [tf.TensorSpec((None,), tf.float32, name="x")])}
    extras = {"notes.txt": lambda path: pathlib.Path(path).write_text("two")}
    version = export.export_signatures(tmp_path, signatures, [], extras)
    assert (pathlib.Path(version) / "assets.extra" / "notes.txt").read_text() == "two"
    extras["broken.txt"] = lambda path: 1 / 0
    with pytest.raises(ZeroDivisionError):
        export.export_signatures(tmp_path, signatures, [], extras)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_what_a_stock_server_cannot_run_is_refused_and_nothing_is_left(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    specs = [tf.TensorSpec((None, 2), name="x")]

    def compiled(x):
        return {"y": tf.function(model, jit_compile=True)(x)}

    def python(x):
        return {"y": tf.numpy_function(np.sin, [model(x)], tf.float32)}

    for function, words in ((compiled, "compiled by XLA"), (python, "calls Python")):
        with pytest.raises(ValueError, match=words):
            export.export_signatures(tmp_path, {"serving_default": (function, specs)}, [model])
    scalar = {"serving_default": (lambda x: {"y": model(x)}, [tf.TensorSpec((), name="x")])}
    with pytest.raises(ValueError, match="must have a batch axis"):
        export.export_signatures(tmp_path, scalar, [model])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A character model with random weights, exported: `(model, stepper, lookup, signature)`."""
    keras.utils.set_random_seed(2)
    lookup = text.character_lookup("abc \n")
    model, stepper = example.build_models(5, "gru", 16, 2)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * 5, bias])
    directory = tmp_path_factory.mktemp("characters")
    signatures = {"serving_default": serving.generate(stepper, lookup)}
    version = export.export_signatures(directory, signatures, [stepper, lookup])
    assert not {op for op in graph_ops(directory / "1") if op.startswith("Random")}
    loaded = tf.saved_model.load(version)  # a signature does not keep its model alive
    return model, lookup, loaded, directory


def ask_generator(generator, *rows):
    """Asks with rows of `(prompt, length, temperature, seed)`; returns texts."""
    names = ("prompt", "length", "temperature", "seed")
    columns = zip(*rows, strict=True)
    dtypes = (tf.string, tf.int32, tf.float32, tf.int64)
    inputs = {
        n: tf.constant(c, d, (len(rows),)) for n, c, d in zip(names, columns, dtypes, strict=True)
    }
    texts = generator[2].signatures["serving_default"](**inputs)["text"].numpy()
    return [t.decode() for t in texts]


def test_generation_without_temperature_takes_the_likeliest_character_each_time(generator):
    model, lookup, *_ = generator
    prompt = "abca"
    for _ in range(12):
        logits = model(lookup(tf.constant([list(prompt)])))
        prompt += lookup.get_vocabulary()[text.FIRST + int(np.argmax(logits[0, -1]))]
    assert ask_generator(generator, ("abca", 12, 0.0, 1)) == [prompt[4:]]


def test_sampled_characters_follow_the_probabilities_of_the_model(generator):
    model, lookup, *_ = generator
    expected = tf.nn.softmax(model(lookup(tf.constant([["b", "a"]])))[0, -1] / 0.7).numpy()
    drawn = "".join(ask_generator(generator, *[("ba", 1, 0.7, seed) for seed in range(4000)]))
    counts = [drawn.count(c) / 4000 for c in lookup.get_vocabulary()[text.FIRST :]]
    np.testing.assert_allclose(counts, expected, atol=4 * math.sqrt(0.25 / 4000))


def test_a_row_does_not_depend_on_its_neighbours_and_repeats_with_its_seed(generator):
    rows = [("ab", 20, 1.0, 5), ("c", 3, 0.5, 6), ("", 50, 2.0, 7), ("abc " * 200, 0, 1.0, 8)]
    together = ask_generator(generator, *rows)
    assert together == [ask_generator(generator, row)[0] for row in rows]
    assert [len(t) for t in together] == [20, 3, 50, 0]
    assert ask_generator(generator, ("ab", 20, 1.0, 6)) != together[:1]


def test_prompts_may_be_empty_or_hold_unknown_characters(generator):
    known = ask_generator(generator, ("ab", 9, 1.0, 1), ("\n", 9, 1.0, 1))
    unknown = [("a\U0001f600xyz\u00e9b", 9, 1.0, 1), ("", 9, 1.0, 1), (b"a\xff\xfeb", 9, 1.0, 1)]
    assert ask_generator(generator, *unknown) == [*known, known[0]]


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_extreme_temperatures_give_characters(generator, temperature):
    assert len(ask_generator(generator, ("ab", 9, temperature, 1))[0]) == 9


@pytest.mark.parametrize("row", [
    ("a", -1, 1.0, 1), ("a", 1, -1.0, 1), ("a", 1, math.nan, 1), ("a", 1, math.inf, 1),
])  # fmt: skip
def test_lengths_and_temperatures_that_make_no_sense_are_errors(generator, row):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`(length|temperature)` must be"):
        ask_generator(generator, row)


def test_ask_continues_a_prompt_and_explains_an_empty_directory(
    generator, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["ask.py", str(generator[3]), "abc", "--length", "5"])
    ask.main()
    assert len(capsys.readouterr().out) == len("abc") + 5 + 1
    monkeypatch.setattr(sys, "argv", ["ask.py", str(tmp_path), "abc"])
    with pytest.raises(SystemExit, match="holds no exported model"):
        ask.main()


def test_a_stateful_model_is_refused_since_callers_would_share_its_state(tmp_path):
    inputs = keras.Input(batch_shape=(2, None, 3))
    model = keras.Model(inputs, keras_gated.LSTM(4, stateful=True)(inputs))
    spec = tf.TensorSpec((None, None, 3), name="x")
    signatures = {"serving_default": (lambda x: {"y": model(x)}, [spec])}
    with pytest.raises(ValueError, match=r"Assign\w+: a state that all .*`stateful=True` \(take"):
        export.export_signatures(tmp_path, signatures, [model])
    assert not list(tmp_path.iterdir())
