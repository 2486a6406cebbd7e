"""LiteRT files, asked and looked into by its interpreter."""

import collections
import functools

import families
import numpy as np

set_random = functools.partial(families.set_random, scale=0.3)


class File:
    """A file in the interpreter, which stays the same from call to call."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        # Without a delegate, behind which operations would be hidden.
        kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self.interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=kind)
        self.inputs = self.interpreter.get_input_details()
        self.outputs = self.interpreter.get_output_details()

    def operations(self):
        return collections.Counter(op["op_name"] for op in self.interpreter._get_ops_details())

    def resize(self, *shapes):
        for detail, shape in zip(self.inputs, shapes, strict=True):
            self.interpreter.resize_tensor_input(detail["index"], shape)
        self.interpreter.allocate_tensors()

    def __call__(self, *inputs):
        """Returns the answers, as they are stored."""
        for detail, value in zip(self.inputs, inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], np.asarray(value, detail["dtype"]))
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(d["index"]) for d in self.outputs]


def asked(path, *inputs):
    file = File(path)
    file.resize(*(value.shape for value in inputs))
    return file(*inputs)


def stored(value, detail):
    """Returns numbers in the 8 bits that an input has."""
    scale, zero = detail["quantization"]
    return np.clip(np.round(value / scale + zero), -128, 127).astype("int8")


def read(value, detail):
    """Returns the numbers that 8 bits of an output stand for."""
    scale, zero = detail["quantization"]
    return (value.astype("float64") - zero) * scale
