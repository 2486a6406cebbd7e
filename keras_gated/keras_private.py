"""Every private name of Keras and TensorFlow that this package uses, each with a test.

A release of either that renames one breaks this file and its test, and nothing else. Names of
TensorFlow are imported when they are used: Keras may run on another backend.
"""

# ruff: noqa: F401 (other modules import the names from here)

import contextlib
import copy
import importlib
import math
import re

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.layers.layer import CallContext
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell
from keras.src.models import Functional
from keras.src.ops.core import ConvertToTensor
from keras.src.ops.numpy import (
    Any,
    Concatenate,
    ExpandDims,
    Flip,
    GetItem,
    LogicalOr,
    NotEqual,
    OnesLike,
    ZerosLike,
)
from keras.src.saving.serialization_lib import in_safe_mode

# Keras's own loop over the steps of a sequence, which `keras.layers.RNN` has as a method.
inner_loop = keras.layers.RNN.inner_loop


def is_inference_call():
    """Whether a layer is being called at inference."""
    context = global_state.get_global_attribute("current_call_ctx")
    return context is not None and not context.get_value("training")


@contextlib.contextmanager
def training_in_calls(training):
    """Gives `training` to the layers that are called inside, unless a call states its own."""
    around = global_state.get_global_attribute("current_call_ctx")
    context = copy.copy(around) or CallContext(entry_layer=None)
    context.set_value("training", training)
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", around)


def elements_of(make):
    """Returns how many numbers the variables of a model would hold, without memory for them.

    Args:
        make: A function that returns the model. It must not read or set values of variables.
    """
    try:
        with keras.StatelessScope(initialize_variables=False):
            return sum(math.prod(variable.shape) for variable in make().variables)
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])


def mask_of(tensor):
    """Returns the mask that Keras attached to a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def attach_mask(tensor, mask):
    """Gives a tensor a mask, as the layers of Keras do."""
    tensor._keras_mask = mask


def parts_of(layer):
    """Yields a layer or model and all layers in it."""
    return layer._flatten_layers()


def compiled_with(model):
    """Returns the arguments of `compile`, as they were given: a dict."""
    return model._compile_config.config


def trained_by(optimizer):
    """Returns the variables that a built optimizer was built for."""
    return optimizer._trainable_variables


def vectorized_maps_around():
    """Returns how many functions of a `tf.vectorized_map` are being traced around the caller.

    In a graph, TensorFlow traces such a function once, for the first row, and then rewrites its
    operations for all rows. Nothing but the scope of their names tells it.
    """
    import tensorflow as tf  # Keras may run on another backend

    scopes = tf.get_current_name_scope().split("/")
    return sum(re.fullmatch(r"loop_body(_\d+)?", scope) is not None for scope in scopes)


# Private names of TensorFlow, and their modules below `tensorflow.python`.
_OF_TENSORFLOW = {
    # Whether a derivative may be taken of what is computed now.
    "could_possibly_record": "eager.record",
    "stop_recording": "eager.record",
    "pack_tangents": "eager.forwardprop_util",
    "should_record_backprop": "eager.record",  # whether a tape watches tensors
    # Whether the numbers of every operation are checked (`enable_check_numerics`).
    "should_invoke_op_callbacks": "framework.op_callbacks",
    # The seed that `keras.utils.set_random_seed` gave TensorFlow, or None.
    "global_seed": "eager.context",
    "gradient_registry": "framework.ops",
    "GraphOrParentsInXlaContext": "ops.control_flow_util",
    "in_save_context": "saved_model.save_context",
    "fingerprinting": "saved_model.pywrap_saved_model",  # the checksum of a SavedModel
    "WhileBodyFuncGraph": "ops.control_flow_v2_func_graphs",
    "convert_variables_to_constants_v2": "framework.convert_to_constants",
}


def __getattr__(name):
    if name not in _OF_TENSORFLOW:
        raise AttributeError(f"module 'keras_gated.keras_private' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tensorflow.python.{_OF_TENSORFLOW[name]}"), name)
