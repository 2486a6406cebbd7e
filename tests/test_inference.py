"""Where answers come from compiled loops, and that nothing compiled is ever exported."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import ALL, set_random
from grids import product
from numpy.testing import assert_allclose

import keras_gated
from keras_gated.cells.equations import equations_of
from keras_gated.paths import compiled, plain

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's"),
    pytest.mark.usefixtures("short_turns"),
]

FEATURES, UNITS = 3, 4
IDS = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])


def model_of(name="lstm", units=UNITS, **options):
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Embedding(9, FEATURES, mask_zero=True)(ids)
    x = keras_gated.Bidirectional(ALL[name].make(units, **options))(x)
    model = keras.Model(ids, keras.layers.Dense(1)(x))
    set_random(model)
    model.compile("sgd", "mse")
    return model


def is_compiled(graph_def):
    return any(f.attr["_XlaMustCompile"].b for f in graph_def.library.function)


def graphs_of(function):
    return [c.graph.as_graph_def() for c in function._list_all_concrete_functions()]


# Where they are compiled


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["lstm", "gru", "layer_norm_lstm", "own_Minimal"])
def test_predict_and_evaluate_and_calls_are_compiled_and_answer_as_the_cells_do(name):
    # Of a width that no other test has, since layers share what is traced.
    model, cells = model_of(name, 7), model_of(name, 7, fused=False)
    expected = cells(IDS).numpy()
    for answer in (
        model(IDS),
        model.predict(IDS, verbose=0),
        model.predict(IDS, batch_size=2, verbose=0),
        model.predict_on_batch(IDS),
    ):
        assert_allclose(answer, expected, atol=1e-6)
    for run in (model.evaluate, model.test_on_batch):
        options = {"verbose": 0} if run == model.evaluate else {}
        assert_allclose(run(IDS, expected, **options), 0, atol=1e-10)
    assert all(map(is_compiled, graphs_of(model.predict_function)))
    traced = equations_of(model.layers[-2].forward_layer.cell).functions
    traced = {key[0] for key in traced if isinstance(key, tuple)}
    assert compiled._forwards_loop in traced and plain._chunks not in traced


def test_gates_and_states_of_calls_are_those_of_the_cell():
    x = np.random.default_rng(0).normal(size=(3, 40, FEATURES)).astype("float32")
    mask = np.arange(40) < np.array([[40], [7], [0]])
    found = []
    for fused in (True, False):
        layer = keras_gated.LSTM(
            UNITS, return_gates=True, return_state=True, return_sequences=True, fused=fused
        )
        layer.build(x.shape)
        layer.set_weights(ALL["lstm"].random_weights(FEATURES, UNITS, dtype="float32"))
        found.append(tf.nest.flatten(layer(x, mask=mask)))
    for a, b in zip(*found, strict=True):
        assert_allclose(a, b, atol=1e-6)


# Every way out


def exported_by_keras(model, path):
    model.export(path / "m", verbose=False)
    return path / "m"


def saved_by_tensorflow(model, path):
    tf.saved_model.save(model, path / "m")
    return path / "m"


def saved_with_a_signature(model, path):
    answer = tf.function(lambda ids: model(ids), [tf.TensorSpec((None, None), "int32", "ids")])
    tf.saved_model.save(model, path / "m", {"serving_default": answer})
    return path / "m"


def archived_by_keras(model, path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", model.call, [tf.TensorSpec((None, None), "int32")])
    archive.write_out(path / "m", verbose=False)
    return path / "m"


def exported_by_us(model, path):
    return keras_gated.export_model(model, path / "m")


def a_module_of_ones_own(model, path):
    class Served(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None), "int32")])
        def serve(self, ids):
            return self.model(ids)

    served = Served()
    served.model = model
    tf.saved_model.save(served, path / "m")
    return path / "m"


WAYS_OUT = [
    exported_by_keras, saved_by_tensorflow, saved_with_a_signature, archived_by_keras,
    exported_by_us, a_module_of_ones_own,
]  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize(
    "way, name, before", product(WAYS_OUT, ("lstm", "mgu"), ("nothing", "all of Keras"))
)
def test_no_export_holds_a_compiled_function(way, name, before, tmp_path):
    model = model_of(name)
    expected = model(IDS).numpy()
    if before != "nothing":
        model.fit(IDS, np.zeros((3, 1)), verbose=0)
        model.predict(IDS, verbose=0)
        model.evaluate(IDS, np.zeros((3, 1)), verbose=0)
        expected = model(IDS).numpy()
    keras_gated.check_export(way(model, tmp_path))
    assert_allclose(model(IDS), expected, atol=1e-6)


def graph_of(model):
    spec = tf.TensorSpec((None, None), "int32")
    return tf.function(lambda ids: model(ids)).get_concrete_function(spec)


@pytest.mark.slow
def test_neither_does_a_function_of_ones_own_nor_what_is_made_of_it(tmp_path):
    model = model_of()
    model(IDS), model.predict(IDS, verbose=0)
    function = graph_of(model)
    assert not is_compiled(function.graph.as_graph_def())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS,
    ]  # fmt: skip
    converter._experimental_lower_tensor_list_ops = False
    assert converter.convert()
    data = tf.data.Dataset.from_tensors(tf.constant(IDS, "int32")).map(lambda ids: model(ids))
    assert_allclose(next(iter(data)), model(IDS), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["last", "both directions"])
def test_what_tf2onnx_writes_of_keras_layers_is_read(kind):
    tf2onnx = pytest.importorskip("tf2onnx")
    layer = keras.layers.LSTM(4)
    if kind != "last":
        layer = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))
    model = keras.Sequential([keras.Input((None, 3)), layer])
    spec = [tf.TensorSpec((None, None, 3))]
    proto, _ = tf2onnx.convert.from_function(tf.function(lambda x: model(x)), spec, opset=17)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    assert_allclose(keras_gated.from_onnx(proto)(x), model(x), atol=1e-5)


@pytest.mark.slow
def test_tf2onnx_reads_a_model_that_has_predicted(tmp_path):
    tf2onnx = pytest.importorskip("tf2onnx")
    model = model_of("gru")
    model.predict(IDS, verbose=0)
    spec = [tf.TensorSpec((None, None), "int32", "ids")]
    function = tf.function(lambda ids: model(ids), input_signature=spec)
    proto, _ = tf2onnx.convert.from_function(function, spec, opset=17)
    assert not [node.op_type for node in proto.graph.node if "Xla" in node.op_type]


@pytest.mark.slow
def test_whoever_asks_for_it_has_compiled_loops_in_functions_and_exports_without(tmp_path):
    model, plain = model_of(fused="compiled"), model_of()
    function = graph_of(model)
    assert is_compiled(function.graph.as_graph_def())
    assert_allclose(function(tf.constant(IDS, "int32")), plain(IDS), atol=1e-6)
    keras_gated.check_export(keras_gated.export_model(model, tmp_path / "m"))
    keras_gated.set_fused("compiled")
    try:
        assert is_compiled(graph_of(plain).graph.as_graph_def())
    finally:
        keras_gated.set_fused("auto")
    assert not is_compiled(graph_of(plain).graph.as_graph_def())
