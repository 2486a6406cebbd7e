"""What is used of Keras and TensorFlow and is not public: it is there, and does its work.

A failure here says which name another version of theirs has changed, and `keras_private.py` is
the place to mend it.
"""

import pathlib
import re

import keras
import pytest

import keras_gated
from keras_gated import keras_private

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
SOURCES = pathlib.Path(keras_gated.__file__).parent


def test_no_other_file_names_what_is_not_public():
    private = re.compile(r"keras\.src|tensorflow\.python|_flatten_layers|_keras_mask")
    named = [
        str(path.relative_to(SOURCES))
        for path in SOURCES.rglob("*.py")
        if private.search(path.read_text())
    ]
    assert named == ["keras_private.py"]


def test_a_cell_of_dropout_rnn_cell_is_given_its_masks_once_a_sequence():
    drawn = []

    class Cell(keras_gated.SimpleRNNCell):
        def get_dropout_mask(self, step_input):
            drawn.append(step_input)
            return super().get_dropout_mask(step_input)

    assert issubclass(Cell, keras_private.DropoutRNNCell)
    layer = keras.layers.RNN(Cell(2, dropout=0.5))
    layer(keras.ops.ones((1, 7, 3)), training=True)
    # Before the loop; and our step asks Keras's own method, which holds the mask until the end.
    assert len(drawn) == 1


def test_the_loop_of_keras_runs_a_cell_over_a_sequence():
    class Sum:
        state_size = output_size = 2

        def __call__(self, inputs, states):
            return inputs + states[0], [inputs + states[0]]

        call = __call__

    layer = keras.layers.RNN(Sum(), return_sequences=True)
    ones = keras.ops.ones((1, 3, 2))
    last, outputs, [state] = keras_private.inner_loop(layer, ones, [ones[:, 0] * 0], None)
    assert last[0, 0] == state[0, 0] == 3.0 and outputs[0, 1, 1] == 2.0


def test_a_call_says_whether_it_trains():
    seen = []

    class Asks(keras.layers.Layer):
        def call(self, inputs, training=False):
            seen.append(keras_private.is_inference_call())
            return inputs

    Asks()(keras.ops.ones(1), training=True)
    Asks()(keras.ops.ones(1), training=False)
    assert seen == [False, True] and not keras_private.is_inference_call()


def test_a_stateless_scope_is_told():
    assert not keras_private.in_stateless_scope()
    with keras.StatelessScope():
        assert keras_private.in_stateless_scope()


def test_it_is_known_whether_lambdas_may_be_loaded():
    before = keras_private.in_safe_mode()
    assert before is not False
    keras.config.enable_unsafe_deserialization()
    now = keras_private.in_safe_mode()
    keras_private.global_state.set_global_attribute("safe_mode_saving", before)
    assert now is False


def test_layers_called_inside_get_training():
    seen = []

    class Asks(keras.layers.Layer):
        def call(self, inputs, training=None):
            seen.append(training)
            return inputs

    class Around(keras.layers.Layer):
        def call(self, inputs, training=None):
            with keras_private.training_in_calls(not training):
                asks(inputs)
            return asks(inputs)

    asks, around, ones = Asks(), Around(), keras.ops.ones(1)
    with keras_private.training_in_calls(True):
        asks(ones)
        asks(ones, training=False)
    asks(ones)
    around(ones, training=True)
    assert seen == [True, False, None, False, True]


def test_a_mask_that_is_attached_reaches_the_next_layer():
    x = keras.Input((2, 3))
    keras_private.attach_mask(x, keras.KerasTensor((None, 2), "bool"))
    assert keras_private.mask_of(keras.layers.Dense(4)(x)) is keras_private.mask_of(x)


def test_the_mask_of_a_tensor_is_found():
    x = keras.layers.Embedding(3, 2, mask_zero=True)(keras.ops.convert_to_tensor([[1, 0]]))
    assert keras_private.mask_of(x).numpy().tolist() == [[True, False]]
    assert keras_private.mask_of(x + 1) is None


def test_what_a_model_was_compiled_with_is_known():
    def loss(y_true, y_pred):
        return y_true - y_pred

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", loss, metrics=[loss])
    found = keras_private.compiled_with(model)
    assert found["loss"] is loss and found["metrics"] == [loss]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_an_optimizer_knows_the_variables_that_it_was_built_for(policy):
    layers = [keras.layers.Dense(1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    layers[0].trainable = False
    optimizer = keras.optimizers.Adam()
    if policy != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    layers[0].trainable = True
    found = keras_private.trained_by(optimizer)
    assert [id(v) for v in found] == [id(v) for v in layers[1].trainable_variables]


def test_the_parts_of_a_model_are_all_its_layers_in_order():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="inside")])
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1, name="last")])
    names = [part.name for part in keras_private.parts_of(model)]
    assert names[0] == model.name and names.index("inside") < names.index("last")


def test_a_functional_model_is_of_the_class_of_functional_models():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.ops.flip(inputs, 1) != 0)
    assert isinstance(model, keras_private.Functional)
    kinds = [type(operation) for operation in model.operations]
    assert keras_private.Flip in kinds and keras_private.NotEqual in kinds
    ops, more = keras.ops, {}
    more["Any"] = ops.any(inputs, axis=1)
    more["Concatenate"] = ops.concatenate([inputs, inputs])
    more["ConvertToTensor"] = ops.convert_to_tensor(inputs)
    more["ExpandDims"] = ops.expand_dims(inputs, 1)
    more["GetItem"] = inputs[:, -1]
    more["LogicalOr"] = ops.logical_or(inputs != 0, inputs != 1)
    more["OnesLike"] = ops.ones_like(inputs)
    more["ZerosLike"] = ops.zeros_like(inputs)
    for name, made in more.items():
        kinds = [type(operation) for operation in keras.Model(inputs, made).operations]
        assert getattr(keras_private, name) in kinds, name


# Of TensorFlow


def test_it_is_known_whether_a_derivative_may_be_taken():
    import tensorflow as tf

    assert not keras_private.could_possibly_record()
    with tf.GradientTape() as tape:
        assert keras_private.could_possibly_record()
        x = tf.constant(2.0)
        tape.watch(x)
        with keras_private.stop_recording():
            y = x * x
    assert tape.gradient(y, x) is None


def test_what_is_derived_forwards_is_known():
    import tensorflow as tf

    x = tf.constant(1.0)
    assert not keras_private.pack_tangents([x]).tangents
    with tf.autodiff.ForwardAccumulator(x, tf.constant(1.0)):
        assert keras_private.pack_tangents([x]).tangents


def test_it_is_known_whether_numbers_are_checked():
    import tensorflow as tf

    assert not keras_private.should_invoke_op_callbacks()
    tf.debugging.enable_check_numerics()
    try:
        assert keras_private.should_invoke_op_callbacks()
    finally:
        tf.debugging.disable_check_numerics()


def test_it_is_known_whether_xla_compiles_and_whether_a_loop_is_around():
    import tensorflow as tf

    seen = {}

    def note(name):
        graph = tf.compat.v1.get_default_graph()
        inside = keras_private.GraphOrParentsInXlaContext(graph)
        seen[name] = inside, isinstance(graph, keras_private.WhileBodyFuncGraph)
        return tf.constant(1)

    tf.function(lambda: note("compiled"), jit_compile=True)()
    tf.function(lambda: note("plain"))()
    tf.function(lambda: tf.while_loop(lambda i: i < 1, lambda i: i + note("loop"), [0]))()
    assert seen == {"compiled": (True, False), "plain": (False, False), "loop": (False, True)}


def test_it_is_known_whether_a_vectorized_map_is_around():
    import tensorflow as tf

    seen = []

    def row(x):
        seen.append(keras_private.vectorized_maps_around())
        return x

    @tf.function
    def mapped(x):
        row(x)
        tf.vectorized_map(row, x)
        return tf.vectorized_map(lambda x: tf.vectorized_map(row, x), x)

    mapped(tf.ones((2, 3)))
    assert seen[0] == 0 and sorted(set(seen)) == [0, 1, 2]


def test_the_seed_of_tensorflow_is_known():
    keras.utils.set_random_seed(7)
    assert keras_private.global_seed() == 7


def test_derivatives_of_a_graph_are_registered_by_name():
    import tensorflow as tf

    @tf.function
    def graph(x):
        y = tf.custom_gradient(lambda x: (x * 2, lambda d: d))(x)
        name = y.op.get_attr("_gradient_op_type").decode()
        assert name in keras_private.gradient_registry._registry
        return y

    graph(tf.constant(1.0))


def test_the_checksum_of_a_saved_model_is_computed(tmp_path):
    import tensorflow as tf
    from tensorflow.core.protobuf import fingerprint_pb2

    tf.saved_model.save(tf.Module(), str(tmp_path))
    expected = tf.saved_model.experimental.read_fingerprint(str(tmp_path)).saved_model_checksum
    found = fingerprint_pb2.FingerprintDef()
    found.ParseFromString(keras_private.fingerprinting.CreateFingerprintDef(str(tmp_path)))
    assert found.saved_model_checksum == expected != 0


def test_a_function_is_frozen():
    import tensorflow as tf

    variable = tf.Variable(2.0)
    function = tf.function(lambda x: x * variable).get_concrete_function(tf.TensorSpec([]))
    frozen = keras_private.convert_variables_to_constants_v2(function)
    assert not frozen.variables and frozen(tf.constant(3.0))[0] == 6.0
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        keras_private.unknown  # noqa: B018
