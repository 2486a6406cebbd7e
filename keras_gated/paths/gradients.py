"""Derivatives by hand that are deleted together with their graph."""

import functools
import weakref

import tensorflow as tf

from keras_gated.keras_private import gradient_registry


def custom_gradient(function):
    """As `tf.custom_gradient`, for a function of tensors that reads no variable.

    TensorFlow keeps a registered derivative, and the whole graph around it, for as long as the
    process runs. Here the graph holds its derivatives. The registry forgets them with the graph.
    """

    def with_sizes(*tensors):
        results, gradient = function(*tensors)
        shapes = [result.shape for result in tf.nest.flatten(results)]

        def own(*d):
            # A derivative that TensorFlow built may have lost its sizes: that of a slice, for one.
            d = [tf.convert_to_tensor(one) for one in d]
            for one, shape in zip(d, shapes, strict=True):
                one.set_shape(shape)
            return gradient(*d)

        return results, own

    with_gradient = tf.custom_gradient(with_sizes)

    @functools.wraps(function)
    def call(*tensors):
        results = with_gradient(*tensors)
        if not tf.executing_eagerly():
            operation = tf.nest.flatten(results)[0].op
            _release(operation.get_attr("_gradient_op_type").decode(), operation.graph)
        return results

    return call


def _release(name, graph):
    entry = gradient_registry._registry[name]
    [(tag, derivative)] = [(tag, value) for tag, value in entry.items() if callable(value)]
    graph._derivatives_by_hand = [*getattr(graph, "_derivatives_by_hand", ()), derivative]
    known = weakref.ref(derivative)
    entry[tag] = lambda operation, *gradients: known()(operation, *gradients)
    weakref.finalize(graph, gradient_registry._registry.pop, name, None)
