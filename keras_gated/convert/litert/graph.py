"""A model as a function that LiteRT's converter can read: without variables, its paths chosen."""

import functools
import types

import keras
import tensorflow as tf

from keras_gated.layers import config
from keras_gated.paths import keras_loop
from keras_gated.paths.litert import Operation
from keras_gated.serve.inputs import packed
from keras_gated.serve.signatures import outputs_by_name
from keras_gated.serve.streaming import masks_of_inputs

_MEMORY_READ = "its final memory is read, which the operation keeps to itself"
_INSIDE = "it is called inside a function, a loop or a map of TensorFlow"
# Keras's loop with every step written out: a path that needs a fixed number of steps.
_WRITTEN_OUT = types.SimpleNamespace(run=functools.partial(keras_loop.run, unroll=True))


class Graph:
    """A traced model.

    Args:
        model: The functional or sequential model.
        specs: A named `tf.TensorSpec` for each input of the model.
        stepper: Its `Stepper` if states are inputs and outputs, or None.
        eight_bits: Whether the file will compute in 8 bits throughout.
        fused: Whether an LSTM may be one operation.

    Attributes:
        function: The concrete function. Its arguments are the inputs and then the states.
        outputs: The names of the outputs, and then of the states.
        fused: The names of the recurrent layers that are one operation each.
        not_fused: The name of every other recurrent layer, and why it is not one operation.
        calls: The number of LSTM operations in the function.
    """

    def __init__(self, model, specs, stepper, eight_bits, fused):
        self._model, self._specs, self._stepper, self._may_fuse = model, specs, stepper, fused
        self._operation = Operation(constant_states=eight_bits and not stepper)
        # No converter calibrates loops. A microcontroller's steps are few, of a fixed number.
        self._loop = _WRITTEN_OUT if eight_bits or stepper else keras_loop
        self._values = [(v, keras.ops.convert_to_numpy(v)) for v in model.variables]
        self._read_memory = set()
        self._trace()
        if self._read_memory:  # known only after the whole graph was traced
            self._trace()

    def _trace(self):
        self.fused, self.not_fused, self._memories, self.outputs = [], {}, [], None
        traced = tf.function(self._answer, autograph=False)
        self.function = traced.get_concrete_function(*self._specs)
        self._read_memory |= {id(layer) for layer, memory in self._memories if memory.consumers()}
        self.calls = len(self._memories)
        self.fused = [name for name in dict.fromkeys(self.fused) if name not in self.not_fused]

    def _answer(self, *given):
        self._function_graph = tf.compat.v1.get_default_graph()
        constants = [(v, tf.constant(value)) for v, value in self._values]
        values, states = given[: len(self._model.inputs)], given[len(self._model.inputs) :]
        inputs = packed(self._model, values)
        with keras.StatelessScope(constants), config.paths_chosen_by(self._choose):
            if self._stepper:
                before = dict(zip(self._stepper.states, states, strict=True))
                answers, after = self._stepper(inputs, before)
            else:
                with masks_of_inputs():
                    answers, after = self._model(inputs, training=False), {}
        found = outputs_by_name(self._model, answers, after, "to_litert")
        self.outputs = list(found)
        return found

    def _choose(self, call):
        name, reason = call.layer.name, self._why_not(call)
        if reason:
            self.not_fused[name] = reason
            return self._loop
        self.fused.append(name)
        return _Kept(self._operation, self._memories)

    def _why_not(self, call):
        if not self._may_fuse:
            return "`fused=False` asks for loops"
        if tf.compat.v1.get_default_graph() is not self._function_graph:
            return _INSIDE
        if self._stepper or call.layer.stateful or id(call.layer) in self._read_memory:
            return self._operation.why_not(call) or _MEMORY_READ
        return self._operation.why_not(call)


class _Kept:
    """The path of an operation. Notes the final memory, to see later whether anything reads it."""

    def __init__(self, path, memories):
        self._path, self._memories = path, memories

    def run(self, call):
        results = self._path.run(call)
        self._memories.append((call.layer, results.finals[1]))
        return results
