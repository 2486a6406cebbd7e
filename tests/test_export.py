"""Exporting: whole versions or none, functional models as they are, nothing a server cannot run."""

import pathlib
import resource
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import keras_gated
from keras_gated import check_export, export_model
from keras_gated.serve.signatures import Signature

pytestmark = pytest.mark.usefixtures("short_turns")

X = tf.TensorSpec((None, 2), tf.float32, name="x")


def dense():
    return keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1, name="y")])


def answering(function, spec=X):
    return {"serving_default": Signature(function, [spec])}


# Versions


def test_versions_count_up_and_stay_as_they_are(tmp_path):
    model = dense()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "saved_model.pb").write_bytes(b"mine")
    versions = [export_model(model, tmp_path) for _ in range(2)]
    assert versions == [str(tmp_path / "8"), str(tmp_path / "9")]
    assert (tmp_path / "7" / "saved_model.pb").read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7", "8", "9"]


def test_files_beside_a_model_appear_with_it_or_not_at_all(tmp_path):
    extras = {"notes.txt": lambda path: pathlib.Path(path).write_text("two")}
    version = export_model(dense(), tmp_path, extras=extras)
    assert (pathlib.Path(version) / "assets.extra" / "notes.txt").read_text() == "two"
    extras["broken.txt"] = lambda path: 1 / 0
    with pytest.raises(ZeroDivisionError):
        export_model(dense(), tmp_path, extras=extras)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


# Functional models


def test_a_weight_is_written_once(tmp_path):
    x = keras.Input((None, 3))
    model = keras.Model(x, keras_gated.LSTM(100)(x))
    file = tf.train.load_checkpoint(export_model(model, tmp_path / "m") + "/variables/variables")
    shapes = [s for n, s in file.get_variable_to_shape_map().items() if "VALUE" in n]
    seed = 2  # numbers of the state of its dropout
    assert sum(map(np.prod, shapes)) == model.count_params() + seed


def test_the_graph_of_a_masked_layer_is_hardly_larger_than_that_of_keras_layers(tmp_path):
    """A server loads a graph and optimises it before it answers, so its size costs time."""
    sizes = {}
    for module in (keras_gated, keras.layers):
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(9, 2, mask_zero=True)(ids)
        model = keras.Model(ids, keras.layers.Bidirectional(module.LSTM(3))(x))
        model.export(tmp_path / module.__name__, verbose=False)
        sizes[module] = (tmp_path / module.__name__ / "saved_model.pb").stat().st_size
    assert sizes[keras_gated] < 2 * sizes[keras.layers]


def test_a_functional_model_answers_under_its_own_names(tmp_path):
    left, right = keras.Input((None, 2), name="left"), keras.Input((3,), name="right")
    hidden, state = keras_gated.GRU(4, return_state=True, name="gru")(left)
    top = keras.layers.Dense(2, name="top")(keras.layers.Concatenate()([hidden, right]))
    model = keras.Model({"left": left, "right": right}, [top, state])
    ask = tf.saved_model.load(export_model(model, tmp_path)).signatures["serving_default"]
    given = {"left": np.ones((5, 7, 2), "float32"), "right": np.ones((5, 3), "float32")}
    answers = ask(**{name: tf.constant(value) for name, value in given.items()})
    for name, expected in zip(("top", "gru"), model(given), strict=True):
        np.testing.assert_allclose(answers[name], expected, atol=1e-6)


def test_outputs_in_a_dict_keep_its_keys_and_equal_names_are_numbered(tmp_path):
    x = keras.Input((None, 2), name="x")
    output, state = keras_gated.GRU(4, return_state=True, name="gru")(x)
    for outputs, names in (
        ({"a": output, "b": state}, {"a", "b"}),
        ([output, state], {"gru", "gru_1"}),
    ):
        version = export_model(keras.Model(x, outputs), tmp_path)
        signature = tf.saved_model.load(version).signatures["serving_default"]
        assert set(signature.structured_outputs) == names


@pytest.fixture(params=["words", "numbers"])
def reader(request):
    """A recurrent model of two layers: `(model, name of the input, a batch of 3 times 6 steps)`."""
    keras.utils.set_random_seed(1)
    if request.param == "words":
        x = keras.Input((None,), dtype="int32", name="ids")
        hidden = keras.layers.Embedding(9, 4, mask_zero=True)(x)
        batch = np.random.randint(1, 9, (3, 6)).astype("int32")
    else:
        x = hidden = keras.Input((None, 2), name="numbers")
        batch = np.random.normal(size=(3, 6, 2)).astype("float32")
    hidden = keras_gated.LSTM(3, return_sequences=True, name="first")(hidden)
    hidden = keras_gated.GRU(5, return_sequences=True, name="second")(hidden)
    return keras.Model(x, keras.layers.Dense(2, name="out")(hidden)), x.name, batch


def asking(version, signature="serving_default"):
    model = tf.saved_model.load(version)

    def ask(**given):
        return {k: v.numpy() for k, v in model.signatures[signature](**given).items()}

    return ask


@pytest.mark.sampled
def test_states_in_and_out_let_a_sequence_come_in_pieces(reader, tmp_path):
    model, name, batch = reader
    ask = asking(export_model(model, tmp_path, states=True))
    states = {"first_hidden": 3, "first_memory": 3, "second_hidden": 5}
    states = {key: np.zeros((3, units), "float32") for key, units in states.items()}
    found = []
    for piece in (batch[:, :2], batch[:, 2:3], batch[:, 3:]):
        answer = ask(**{name: tf.constant(piece)}, **{k: tf.constant(v) for k, v in states.items()})
        found.append(answer.pop("out"))
        assert set(answer) == set(states)
        states = answer
    np.testing.assert_allclose(np.concatenate(found, 1), model(batch), atol=1e-6)


@pytest.mark.sampled
def test_lengths_stand_for_the_mask_whatever_the_padding_holds(reader, tmp_path):
    model, name, batch = reader
    version = export_model(model, tmp_path, lengths=True, gates="first")
    padded = batch.copy()
    padded[0, 4:], padded[1] = padded[0, 0], (np.nan if batch.dtype == np.float32 else 7)
    given = {name: tf.constant(padded), "lengths": tf.constant([4, 0, 6])}
    ask = asking(version)
    answer, gates = ask(**given)["out"], asking(version, "gates")(**given)
    np.testing.assert_allclose(answer[2], model(batch[2:])[0], atol=1e-6)
    np.testing.assert_allclose(answer[0, :4], model(batch[:1, :4])[0], atol=1e-6)
    assert np.isfinite(answer).all()
    assert set(gates) == {"forget", "input", "candidate", "output", "memory", "hidden"}
    alone = keras_gated.trace_gates(model, batch[:1, :4])["first"]
    np.testing.assert_allclose(gates["forget"][0, :4], alone["forget"][0], atol=1e-6)
    for lengths, nearest in (([-1, 6, 6], [0, 6, 6]), ([7, 6, 6], [6, 6, 6])):  # out of range
        found, expected = (
            ask(**{name: tf.constant(batch)}, lengths=tf.constant(n))["out"]
            for n in (lengths, nearest)
        )
        np.testing.assert_array_equal(found, expected)


def test_what_cannot_have_lengths_or_states_is_refused(tmp_path):
    ids = keras.Input((None,), dtype="int32", name="ids")
    hidden = keras.layers.Embedding(9, 4)(ids)  # drops the mask
    plain = keras.Model(ids, keras_gated.LSTM(3, name="reader")(hidden))
    for states in (False, True):
        with pytest.raises(ValueError, match=r"`lengths` do not reach 'reader'.*mask_zero=True"):
            export_model(plain, tmp_path, lengths=True, states=states)
    with pytest.raises(ValueError, match="needs an input with an unknown number of steps"):
        export_model(dense(), tmp_path, lengths=True)
    with pytest.raises(ValueError, match="has no states"):
        export_model(dense(), tmp_path, states=True)
    both = keras_gated.Bidirectional(keras_gated.LSTM(3), name="both")
    with pytest.raises(ValueError, match="reads the sequence from its end"):
        export_model(keras.Model(ids, both(hidden)), tmp_path, states=True)
    with pytest.raises(ValueError, match=r"'theirs' cannot be inputs.*not a layer of keras_gated"):
        theirs = keras.layers.GRU(3, name="theirs")
        export_model(keras.Model(ids, theirs(hidden)), tmp_path, states=True)
    with pytest.raises(ValueError, match=r"one of \['reader'\]\. Received: gates='other'"):
        export_model(plain, tmp_path, gates="other")
    with pytest.raises(ValueError, match=r"Received: `signatures` as well"):
        export_model(plain, tmp_path, answering(lambda x: {"y": x}), states=True)
    with pytest.raises(ValueError, match="functional or sequential model whose inputs are known"):
        export_model(keras_gated.GRU(2), tmp_path)
    assert not [path for path in tmp_path.iterdir()]


def test_a_layer_that_is_called_twice_cannot_carry_one_state(tmp_path):
    x, layer = keras.Input((None, 3)), keras_gated.GRU(3, return_sequences=True)
    with pytest.raises(ValueError, match="must be called once"):
        export_model(keras.Model(x, layer(layer(x))), tmp_path, states=True)


@pytest.mark.parametrize("around", [
    lambda x: keras_gated.GRU(3)(keras.layers.Conv1D(4, 3, padding="causal")(x)),
    lambda x: keras.layers.GlobalMaxPooling1D()(keras_gated.GRU(3, return_sequences=True)(x)),
], ids=["convolution", "pool"])  # fmt: skip
def test_a_model_that_looks_at_several_steps_cannot_carry_states(around, tmp_path):
    x = keras.Input((None, 3))
    with pytest.raises(ValueError, match=r"export_model: .*looks at more than one step"):
        export_model(keras.Model(x, around(x)), tmp_path, states=True)
    assert not list(tmp_path.iterdir())


def decoder():
    x, read = keras.Input((None, 3), name="x"), keras.Input((None, 4), name="read")
    hidden = keras_gated.GRU(4, return_sequences=True)(x)
    return keras.Model([x, read], keras.layers.Attention()([hidden, read]))


def turned():
    x = keras.Input((None, 3))
    hidden = keras_gated.GRU(4, return_sequences=True)(x)
    last = keras_gated.LSTM(2)(hidden)
    return keras.Model(x, [keras.layers.Permute((2, 1))(hidden), last > 0.1])


def at_random():
    x = keras.Input((None, 3))
    return keras.Model(x, keras_gated.GRU(4)(keras.layers.Dropout(0.5)(x, training=True)))


def in_16_bits():
    x = keras.Input((None, 3))
    layer = keras_gated.GRU(64, return_sequences=True, dtype="mixed_float16")
    return keras.Model(x, keras.layers.Dense(5, dtype="mixed_float16")(layer(x)))


@pytest.mark.parametrize("model", [decoder, turned, at_random, in_16_bits])
def test_a_model_that_can_be_read_in_pieces_is_not_refused(model, tmp_path):
    assert export_model(model(), tmp_path, states=True)


# What an answer depends on


def steps_of(read=lambda hidden: hidden, name="x"):
    x = keras.Input((None, 3), name=name)
    return keras.Model(x, read(keras_gated.GRU(4, return_sequences=True, name="gru")(x)))


@pytest.mark.parametrize("read, words", [
    (lambda h: {"y": h, "mean": keras.ops.mean(h)}, r"batch axis first.*'mean' of shape \(\)"),
    (lambda h: keras.ops.mean(h, axis=0), r"batch axis first.*'mean\w*' of shape \(8, 4\)"),
    (lambda h: h - keras.ops.mean(h, axis=0, keepdims=True), "if a row is asked alone"),
], ids=["scalar", "no rows", "mixed rows"])  # fmt: skip
def test_an_answer_that_is_not_of_each_row_alone_is_refused(read, words, tmp_path):
    with pytest.raises(ValueError, match=f"export_model: .*{words}"):
        export_model(steps_of(read), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_checker_finds_outputs_without_a_batch_axis(tmp_path):
    model = dense()
    for function in (
        lambda x: {"y": model(x), "mean": tf.reduce_mean(model(x))},
        lambda x: {"y": model(x), "mean": tf.zeros([3]) + tf.reduce_sum(model(x))},
    ):
        with pytest.raises(ValueError, match=r": mean \(an output without a batch axis\)"):
            export_model(model, tmp_path, answering(function))
    with pytest.raises(ValueError, match=r"must be the path of one version.*Received: None"):
        check_export(None)


@pytest.mark.parametrize("read", [
    lambda h: keras.ops.mean(h, axis=1),
    lambda h: keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(2, 3)(h)),
    lambda h: keras.ops.flip(h, axis=1)[:, :2],
], ids=["mean", "convolution and pool", "last steps"])  # fmt: skip
def test_padding_that_reaches_an_answer_is_refused_with_lengths(read, tmp_path):
    with pytest.raises(ValueError, match=r"`lengths=True` the padding of a row must not reach"):
        export_model(steps_of(read), tmp_path, lengths=True)


@pytest.mark.parametrize("read", [
    lambda h: keras.layers.GlobalAveragePooling1D()(h),
    lambda h: [h, keras_gated.GRU(4, go_backwards=True, return_sequences=True, name="back")(h)],
], ids=["mean of valid steps", "both orders"])  # fmt: skip
def test_answers_to_valid_steps_are_not_refused_with_lengths(read, tmp_path):
    assert export_model(steps_of(read), tmp_path, lengths=True)


class Positions(keras.layers.Layer):
    """Knows ten positions: rows of twelve steps are refused."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, inputs):
        return inputs + tf.gather(tf.range(10.0), tf.range(tf.shape(inputs)[1]))[None, :, None]

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_model_that_reads_few_steps_is_not_refused_with_lengths(tmp_path):
    x = keras.Input((None, 3), name="x")
    model = keras.Model(x, keras_gated.GRU(4)(Positions()(x)))
    assert export_model(model, tmp_path, lengths=True)


def test_an_answer_that_loses_its_batch_axis_for_a_row_alone_is_refused(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.ops.squeeze(keras.layers.Dense(1)(x)))
    with pytest.raises(ValueError, match=r"must have a batch axis first.*1 row\(s\)"):
        export_model(model, tmp_path)


# Names


@pytest.mark.parametrize("name, served", [
    ("x-y", "x_y"), ("1x", "arg_1x"), ("my input", "my_input"), ("class", "arg_class"),
    ("self", "arg_self"), ("naïve", "na_ve"), ("_x", "arg__x"),
])  # fmt: skip
def test_an_input_is_served_under_a_name_that_tensorflow_allows(name, served, tmp_path):
    x = keras.Input((3,), name=name)
    model = keras.Model(x, keras.layers.Dense(1, name="y-1")(x))
    ask = asking(export_model(model, tmp_path))
    given = np.ones((2, 3), "float32")
    np.testing.assert_allclose(ask(**{served: tf.constant(given)})["y-1"], model(given), atol=1e-6)


def test_a_state_has_the_same_name_as_input_and_output(tmp_path):
    x = keras.Input((None, 3), name="x")
    model = keras.Model(x, keras_gated.GRU(4, name="my-gru")(x))
    given = tf.ones((2, 5, 3))
    version = export_model(model, tmp_path, states=True)
    answer = asking(version)(x=given, my_gru_hidden=tf.zeros((2, 4)))
    np.testing.assert_allclose(answer["my_gru_hidden"], model(given), atol=1e-6)


def test_an_input_of_the_model_may_be_called_lengths(tmp_path):
    x, lengths = keras.Input((None, 3), name="x"), keras.Input((1,), name="lengths")
    y = keras.layers.Concatenate(name="y")([keras_gated.GRU(4)(x), keras.layers.Dense(2)(lengths)])
    model = keras.Model([x, lengths], y)
    loaded = tf.saved_model.load(export_model(model, tmp_path))
    given = np.ones((2, 5, 3), "float32"), np.array([[2], [5]], "float32")
    answer = loaded.signatures["serving_default"](x=given[0], lengths=given[1])
    np.testing.assert_allclose(answer["y"], model(given), atol=1e-6)


def test_names_that_differ_in_upper_case_alone_are_refused(tmp_path):
    upper, lower = keras.Input((None, 3), name="X"), keras.Input((None, 3), name="x")
    model = keras.Model([upper, lower], keras_gated.GRU(4)(upper + lower))
    with pytest.raises(ValueError, match=r"a name of its own. Received: \['X', 'x'\]"):
        export_model(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_that_two_inputs_or_an_output_and_a_state_share_are_refused(tmp_path):
    for name, options in (("lengths", {"lengths": True}), ("gru_hidden", {"states": True})):
        with pytest.raises(ValueError, match=rf"name of its own. Received: \['{name}'\] more than"):
            export_model(steps_of(name=name), tmp_path, **options)
    two = [keras.Input((2,), name=name) for name in ("x-y", "x_y")]
    with pytest.raises(ValueError, match=r"\['x_y'\] more than once, of \['x_y', 'x_y'\]"):
        export_model(keras.Model(two, keras.layers.Add()(two)), tmp_path)
    spec = tf.TensorSpec((None, 2), name="x y")
    with pytest.raises(ValueError, match=r"Received: 'x y'\. Call it 'x_y', for example"):
        export_model(dense(), tmp_path, answering(lambda x: {"y": x}, spec))
    model = steps_of(lambda h: {"gru_hidden": h, "y": h})
    with pytest.raises(
        ValueError, match=r"export_model: .*\['gru_hidden'\] are outputs and states"
    ):
        export_model(model, tmp_path, states=True)
    with pytest.raises(ValueError, match=r"to_litert: .*\['gru_hidden'\] are outputs and states"):
        keras_gated.to_litert(model, tmp_path / "m.tflite", states=True)
    with pytest.raises(ValueError, match=r"to_litert: every input .*'gru_hidden', 'gru_hidden'"):
        keras_gated.to_litert(steps_of(name="gru_hidden"), tmp_path / "m.tflite", states=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["words"], indirect=True)
def test_keras_loads_an_export_as_a_layer_and_the_command_line_tool_runs_it(reader, tmp_path):
    model, name, batch = reader
    version = export_model(model, tmp_path)
    layer = keras.layers.TFSMLayer(version, call_endpoint="serving_default")
    np.testing.assert_allclose(layer(batch)["out"], model(batch), atol=1e-6)
    tool = shutil.which("saved_model_cli", path=str(pathlib.Path(sys.executable).parent))
    np.save(tmp_path / "batch.npy", batch)
    asked = ["--dir", version, "--tag_set", "serve", "--signature_def", "serving_default"]
    given = ["--inputs", f"{name}={tmp_path / 'batch.npy'}", "--outdir", tmp_path]
    subprocess.run([tool, "run", *asked, *given], capture_output=True, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model(batch), atol=1e-6)


# Examples


def test_examples_must_fit_and_must_be_answered_with_numbers(tmp_path):
    model = dense()
    with pytest.raises(ValueError, match=r"must give \['x'\]\. Received: \['z'\]"):
        export_model(model, tmp_path, examples={"serving_default": [{"z": [[1.0, 2.0]]}]})
    with pytest.raises(ValueError, match="must be for signatures of the model"):
        export_model(model, tmp_path, examples={"other": []})
    model.set_weights([np.full((2, 1), np.nan), np.zeros(1)])
    with pytest.raises(ValueError, match="'y' of 'serving_default' holds NaN"):
        export_model(model, tmp_path)
    assert not [path for path in tmp_path.iterdir()]


@pytest.mark.parametrize("options, words", [
    ({"examples": [{"x": [[1.0, 2.0]]}]}, "`examples` must be a dict of lists"),
    ({"examples": {"serving_default": {"x": [[1.0, 2.0]]}}}, "`examples` must be a dict of lists"),
    ({"examples": {"serving_default": [[1.0]]}}, "`examples` must be a dict of lists"),
    ({"examples": {"serving_default": [{"x": "a"}]}}, r"cannot be answered: .*'x': 'float32 \("),
    ({"examples": {"serving_default": [{"x": [[1.0] * 3]}]}}, r"cannot be answered.*\(None, 2\)"),
    ({"signatures": {}}, "`signatures` must be a dict of"),
    ({"signatures": [Signature(None, [X])]}, "`signatures` must be a dict of"),
    ({"signatures": {"serving_default": dense}}, "`signatures` must be a dict of"),
    ({"extras": ["notes.txt"]}, "`extras` must be a dict of functions"),
    ({"extras": {"notes.txt": "words"}}, "`extras` must be a dict of functions"),
    ({"extras": {"../notes.txt": print}}, "`extras` must be a dict of functions"),
    ({"extras": {"tf_serving_warmup_requests": print}}, "may not be 'tf_serving_warmup_requests'"),
])  # fmt: skip
def test_signatures_examples_and_files_of_other_kinds_are_refused(options, words, tmp_path):
    with pytest.raises(ValueError, match=f"export_model: .*{words}"):
        export_model(dense(), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_one_is_refused_before_the_model_is_looked_at(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for directory, words in (
        ("", "an empty path"),
        (None, "of type NoneType"),
        (tmp_path / "file", "file' is a file"),
        (tmp_path / "file" / "model", "file' is a file"),
        (tmp_path / "link", "is a link to what does not exist"),
        (tmp_path / "models [2]", r"reads as a pattern. Name it without `\[`, `\]` and"),
        (tmp_path / "a\\b", "reads as a pattern"),
    ):
        with pytest.raises(ValueError, match=rf"export_model: `directory` must be.*{words}"):
            export_model(None, directory)
    (tmp_path / "nowhere").mkdir()
    assert export_model(dense(), tmp_path / "link") == str(tmp_path / "link" / "1")


def test_within_the_scope_of_a_strategy_it_is_refused_and_after_it_not(tmp_path):
    """TensorFlow loads a model for all devices there, and does not run it."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = dense()
        with pytest.raises(ValueError, match=r"scope\(\)`.*MirroredStrategy. Call .*after"):
            export_model(model, tmp_path)
        assert not list(tmp_path.iterdir())
        without = {"serving_default": []}
        assert export_model(model, tmp_path, examples=without) == str(tmp_path / "1")
    assert export_model(model, tmp_path) == str(tmp_path / "2")


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(4096)])
    first = export_model(model, tmp_path)  # what XLA compiles goes to the disk, too
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # a larger file fails half-way
    try:
        with pytest.raises(OSError, match=r"^export_model: no version .*File too large"):
            export_model(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [str(path) for path in tmp_path.iterdir()] == [first]
    check_export(first)


# What a stock server cannot run


def test_what_a_stock_server_cannot_run_is_refused_and_nothing_is_left(tmp_path):
    model = dense()
    count = tf.Variable(0.0)
    model.count = count  # tracked

    def compiled(x):
        return {"y": tf.function(model, jit_compile=True)(x)}

    def python(x):
        return {"y": tf.numpy_function(np.sin, [model(x)], tf.float32)}

    def unseeded(x):
        return {"y": x + tf.random.uniform(tf.shape(x))}

    def counting(x):
        return {"y": x + count.assign_add(1.0)}

    for function, words in (
        (compiled, "compiled by XLA"),
        (python, "calls Python"),
        (unseeded, r"RandomUniform: a random number that nobody seeds.*stateless_uniform"),
        (counting, r"Assign\w+: a state that all callers would share"),
    ):
        with pytest.raises(ValueError, match=words):
            export_model(model, tmp_path, answering(function))
    with pytest.raises(ValueError, match="must have a batch axis"):
        scalar = tf.TensorSpec((), name="x")
        export_model(model, tmp_path, answering(lambda x: {"y": model(x)}, scalar))
    assert not list(tmp_path.iterdir())


def test_a_stateful_model_is_refused_since_callers_would_share_its_state(tmp_path):
    inputs = keras.Input(batch_shape=(2, None, 3), name="x")
    model = keras.Model(inputs, keras_gated.LSTM(4, stateful=True)(inputs))
    spec = tf.TensorSpec((None, None, 3), name="x")
    with pytest.raises(ValueError, match=r"Assign\w+: a state that all .*`stateful=True` \(take"):
        export_model(model, tmp_path, answering(lambda x: {"y": model(x)}, spec))
    with pytest.raises(ValueError, match="batch axis of unknown size"):
        export_model(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_checker_finds_custom_ops_and_missing_batch_axes_in_anyone_s_model(tmp_path):
    version = pathlib.Path(export_model(dense(), tmp_path / "ours"))
    check_export(version)
    path = version / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = saved.meta_graphs[0]
    next(n for n in graph.graph_def.node if n.op == "Placeholder").op = "MyLSTM"
    graph.signature_def["serving_default"].inputs["x"].tensor_shape.dim[0].size = 4
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(
        ValueError, match=r"x \(an input without a batch axis\), .*MyLSTM: a custom op"
    ):
        check_export(version)
    with pytest.raises(ValueError, match=r"must be one version.*no saved_model\.pb"):
        check_export(tmp_path)
