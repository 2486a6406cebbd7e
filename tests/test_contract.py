"""One meaning of a mask, one life of a state: for every family, on every path.

The expected numbers are the NumPy oracle's, which cuts masked steps out of a row. The suite runs on
every backend of Keras (`test_backends.py`); what needs TensorFlow is skipped on the others.
"""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from families import ALL, MASKS, mask_array
from grids import grid, in_full_for
from keras import ops
from numpy.testing import assert_allclose
from stand_in import cudnn_stand_in

import keras_gated
from keras_gated.paths import cudnn
from keras_gated.serve.signatures import Signature

pytestmark = pytest.mark.usefixtures("short_turns")

FEATURES, UNITS = 2, 3
TENSORFLOW = keras.backend.backend() == "tensorflow"
CLOSE = {"rtol": 0, "atol": 1e-9 if TENSORFLOW else 1e-6}  # others take arrays in as float32
needs_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason="a path of TensorFlow")


def array(tensor):
    return ops.convert_to_numpy(tensor)


def weights_of(family, dtype="float64"):
    return family.random_weights(FEATURES, UNITS, seed=4, dtype=dtype)


def build(layer, family, features=FEATURES, batch=None, dtype="float64"):
    layer.build((batch, None, features))
    layer.set_weights(weights_of(family, dtype))
    return layer


class Cell:
    """The cell, in Keras's own loop."""

    def layer(self, family, **options):
        return keras.layers.RNN(
            family.make_cell(UNITS, dtype="float64"), dtype="float64", **options
        )

    def run(self, family, x, mask, states, training=False, **options):
        layer = build(self.layer(family, return_state=True, **options), family)
        x, *states = (ops.convert_to_tensor(a, "float64") for a in (x, *states))
        outputs, *finals = layer(x, mask=mask, initial_state=states, training=training)
        return array(outputs), [array(s) for s in finals]


class Loop(Cell):
    """Our layer, running its cell."""

    how = {"fused": False}  # noqa: RUF012 (never changed)

    def layer(self, family, **options):
        return family.make(UNITS, dtype="float64", **self.how, **options)


class Fused(Loop):
    how = {"fused": True}  # noqa: RUF012


class Cudnn(Fused):
    how = {"use_cudnn": True}  # noqa: RUF012


class Exported(Loop):
    """Our layer, exported and loaded: one SavedModel for each family and set of options."""

    how = {}  # noqa: RUF012
    directory = None
    loaded = {}  # noqa: RUF012 (a cache)

    def run(self, family, x, mask, states, training=False, **options):
        key = (str(family), str(options))
        if key not in self.loaded:
            layer = build(self.layer(family, return_state=True, **options), family)

            def answer(x, mask, *states):
                outputs, *finals = layer(x, mask=mask, initial_state=list(states))
                return {"outputs": outputs, **{f"state_{i}": s for i, s in enumerate(finals)}}

            specs = [tf.TensorSpec((None, None, FEATURES), "float64", "x")]
            specs += [tf.TensorSpec((None, None), tf.bool, "mask")]
            widths = layer.cell.state_widths()
            specs += [
                tf.TensorSpec((None, w), "float64", f"state_{i}") for i, w in enumerate(widths)
            ]
            directory = self.directory / str(len(self.loaded))
            signatures = {"serving_default": Signature(answer, specs)}
            version = keras_gated.export_model(layer, directory, signatures)
            self.loaded[key] = tf.saved_model.load(version)
        mask = np.ones(x.shape[:2], bool) if mask is None else mask
        given = {f"state_{i}": tf.constant(s) for i, s in enumerate(states)}
        ask = self.loaded[key].signatures["serving_default"]
        answers = ask(x=tf.constant(x), mask=tf.constant(mask), **given)
        return array(answers["outputs"]), [
            array(answers[f"state_{i}"]) for i in range(family.states)
        ]


PATHS = {"cell": Cell(), "loop": Loop(), "fused": Fused(), "cudnn": Cudnn(), "exported": Exported()}
CASES = [
    (path, family)
    for path in PATHS
    for family in ALL
    if (family in ("lstm", "gru") or path != "cudnn") and (TENSORFLOW or path in ("cell", "loop"))
]


def path_and_family(path, family, monkeypatch, tmp_path_factory):
    if path == "cudnn":
        monkeypatch.setattr(cudnn, "_gpu", lambda: True)
        monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", cudnn_stand_in)
    if path == "exported":
        Exported.directory = tmp_path_factory.mktemp("exported")
    return PATHS[path], ALL[family]


@pytest.fixture
def case(path, family_name, monkeypatch, tmp_path_factory):
    return path_and_family(path, family_name, monkeypatch, tmp_path_factory)


def data(family, shape=(3, 5), mask=None):
    """Random sequences and states; masked steps hold NaN and infinity."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(*shape, FEATURES))
    if mask is not None:
        x = np.where(mask[..., None], x, np.resize([np.nan, np.inf], x.shape))
    return x, family.random_states(rng, shape[0], UNITS)


OPTIONS = {
    "in order": {"return_sequences": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "zero output": {"return_sequences": True, "zero_output_for_mask": True},
    "last output": {"return_sequences": False},
}


@pytest.mark.parametrize(
    "path, family_name, mask_name, options",
    in_full_for(
        ("lstm", "gru"),
        grid((*case, mask, options) for case in CASES for mask in MASKS for options in OPTIONS),
    ),
)
def test_a_masked_step_is_as_if_it_were_not_there(case, mask_name, options):
    (path, family), options = case, OPTIONS[options]
    mask = mask_array(mask_name)
    if type(path) is Cell and not TENSORFLOW and mask is not None:
        first = -1 if options.get("go_backwards") else 0
        if not mask[:, first].all() or "zero_output_for_mask" in options:
            pytest.skip("Keras's loop on this backend puts out a state where there is no output")
    x, states = data(family, mask=mask)
    outputs, finals = path.run(family, x, mask, states, **options)
    meaning = {k: v for k, v in options.items() if k != "return_sequences"}
    expected, expected_finals = oracles.sequence(
        family.oracle, x, mask, states, weights_of(family), **meaning
    )
    last = expected if options["return_sequences"] else expected[:, -1]
    assert_allclose(outputs, last, **CLOSE)
    for a, b in zip(finals, expected_finals, strict=True):
        assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize(
    "path, family_name, shape, masked",
    in_full_for(
        ("lstm", "gru"),
        grid(
            (*case, shape, masked)
            for case in CASES
            if case[0] != "cell"  # Keras's own loop wants a step
            for shape in [(2, 0), (2, 1), *([(0, 4), (0, 0)] if TENSORFLOW else [])]
            for masked in (False, True)
        ),
    ),
)
def test_empty_batches_and_sequences_and_single_steps(case, shape, masked):
    path, family = case
    x, states = data(family, shape)
    mask = np.ones(shape, bool) if masked else None
    outputs, finals = path.run(family, x, mask, states, return_sequences=True)
    expected, expected_finals = oracles.sequence(family.oracle, x, mask, states, weights_of(family))
    assert_allclose(outputs, expected, **CLOSE)
    for a, b in zip(finals, expected_finals, strict=True):
        assert_allclose(a, b, **CLOSE)


@pytest.mark.sampled
@needs_tensorflow
@pytest.mark.parametrize("fused, training", [(False, True), ("auto", False), ("auto", True)])
def test_nothing_of_a_masked_step_reaches_a_gradient(family, fused, training):
    mask = mask_array("gaps")
    gradients = []
    for spoilt in (None, mask):
        x, states = data(family, mask=spoilt)
        layer = build(family.make(UNITS, dtype="float64", fused=fused), family)
        x, states = tf.constant(x), [tf.constant(s) for s in states]
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            last = layer(x, mask=mask, initial_state=states, training=training)
            loss = tf.reduce_sum(last**2)
        sources = [x, *states, *(v.value for v in layer.trainable_variables)]
        gradients.append(tape.gradient(loss, sources))
    for a, b in zip(*gradients, strict=True):
        assert np.abs(b).max() > 0
        assert_allclose(a, b, rtol=0, atol=1e-12)


# Where a mask comes from, and where it goes


@pytest.mark.sampled
def test_a_mask_may_come_from_masking_from_an_embedding_or_from_the_caller(family):
    layer = family.make(UNITS)
    ids = np.array([[1, 2, 0, 3], [4, 0, 0, 0]])
    embed = keras.layers.Embedding(5, FEATURES, mask_zero=True)
    by_embedding = array(layer(embed(ids)))
    vectors = np.where(ids[..., None] != 0, array(embed(ids)), 9.0).astype("float32")
    assert_allclose(array(layer(keras.layers.Masking(9.0)(vectors))), by_embedding, atol=1e-6)
    assert_allclose(array(layer(vectors, mask=ids != 0)), by_embedding, atol=1e-6)
    assert np.abs(array(layer(vectors)) - by_embedding).max() > 1e-3


@pytest.mark.sampled
@needs_tensorflow
def test_ragged_sequences_are_as_long_as_their_rows(family):
    layer = family.make(UNITS, return_sequences=True)
    rows = [np.random.default_rng(i).normal(size=(n, FEATURES)) for i, n in enumerate((3, 1, 4))]
    ragged = tf.ragged.constant(rows, ragged_rank=1, dtype=tf.float32)
    outputs = array(layer(ragged))
    for row, output in zip(rows, outputs, strict=True):
        alone = array(layer(row[None].astype("float32")))[0]
        assert_allclose(output[: len(row)], alone, atol=1e-6)
        assert_allclose(output[len(row) :], np.repeat(alone[-1:], 4 - len(row), 0), atol=1e-6)


@pytest.fixture(params=["as Keras is", "as Keras 3.16 will be"])
def keras_masks(request, monkeypatch):
    """Keras 3.16 sets `supports_masking = False` in `RNN` and `Bidirectional`."""
    if request.param != "as Keras is":
        for parent in (keras.layers.RNN, keras.layers.Bidirectional):
            before = parent.__init__

            def init(self, *args, before=before, **kwargs):
                before(self, *args, **kwargs)
                self.supports_masking = False

            monkeypatch.setattr(parent, "__init__", init)
            monkeypatch.setattr(parent, "compute_mask", lambda self, _, mask: None)


def mask_of(tensor):
    mask = getattr(tensor, "_keras_mask", None)
    return None if mask is None else array(mask)


def test_the_mask_goes_on_where_sequences_are_returned(family, keras_masks):
    ids = np.array([[1, 2, 0], [3, 0, 0]])
    x = keras.layers.Embedding(5, FEATURES, mask_zero=True)(ids)
    assert_allclose(mask_of(family.make(UNITS, return_sequences=True, fused=False)(x)), ids != 0)
    assert mask_of(family.make(UNITS, fused=False)(x)) is None
    outputs, *states = family.make(UNITS, return_sequences=True, fused=False, return_state=True)(x)
    assert_allclose(mask_of(outputs), ids != 0)
    assert [mask_of(s) for s in states] == [None] * family.states
    for mode in ("concat", "sum", None):
        both = keras_gated.Bidirectional(
            family.make(UNITS, return_sequences=True, fused=False), merge_mode=mode
        )
        for output in both(x) if mode is None else [both(x)]:
            assert_allclose(mask_of(output), ids != 0)


@pytest.mark.parametrize("mask", [np.ones((3, 4), bool), np.ones((2, 5), bool), np.ones(2, bool)])
def test_a_mask_of_another_shape_is_an_error(family, mask):
    with pytest.raises(ValueError, match=r"`mask` must be of shape \(batch, time\).*mask.shape="):
        family.make(UNITS)(np.ones((2, 4, FEATURES)), mask=mask)
