"""The graph of ONNX that is being written: its tensors, nodes and constants."""

import dataclasses

import numpy as np

# More steps than any row has. Twice this number is exact in float32, too. Whole numbers of
# OpenVINO have 32 bits at most.
_MOST_STEPS = 2**23


@dataclasses.dataclass(frozen=True)
class Wire:
    """A tensor of the graph that is being written."""

    name: str
    shape: tuple  # None for an unknown size
    dtype: str
    backwards: bool = False  # whether the steps are in reverse order


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where the valid steps of rows stand once they are moved to the start. All fields are names.

    A recurrent node writes zeros after a row's end. Index -1 therefore reads a zero: any row with
    a masked step leaves its last place empty.
    """

    order: str  # (batch, time): the step that moves to each place
    lengths: str  # int32 (batch,): the number of valid steps
    through: str  # (batch, time): the place of the last valid step up to this step, -1: none
    before: str  # (batch, time): the place of the first valid step from this step on, or of a zero


class Graph:
    """Collects the nodes and constants of a graph.

    Attributes:
        lengths: Optional wire, `(batch,)`, the number of steps of each row. It masks the layers
            that have no mask.
        before: The wires of the states of each recurrent layer, by its name, if they are inputs.
        after: The names of its states after the last step.
    """

    def __init__(self, taken=()):
        self.nodes, self.constants = [], {}
        self._taken = set(taken)  # names of inputs and outputs
        self.lengths, self._packings = None, {}
        self.before, self.after = {}, {}

    def add(self, op, inputs, outputs=1, **attributes):
        """Adds a node. Returns the names of its outputs, or the one name.

        Args:
            op: The operator's name.
            inputs: Names, wires, or arrays, which become constants; None is left out.
            outputs: The number of outputs.
        """
        from onnx import helper

        inputs = ["" if i is None else self._name_of(i) for i in inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        number = len(self.nodes)
        names = [f"{op.lower()}_{number}.{n}" for n in range(outputs)]
        while self._taken & {*names}:
            names = [f"_{name}" for name in names]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"node_{number}", **attributes))
        return names[0] if outputs == 1 else names

    def _name_of(self, value):
        if isinstance(value, str):
            return value
        if isinstance(value, Wire):
            return value.name
        name = f"constant_{len(self.constants)}"
        while name in self._taken:
            name = f"_{name}"
        self.constants[name] = _tensor(np.array(value, order="C"), name)
        return name

    def mask_of(self, mask, sequences):
        """Returns a layer's mask, `(batch, time)`: `mask`, or that of the lengths, or None."""
        if mask is not None or self.lengths is None:
            return mask
        shape = self.add("Shape", [sequences], start=0, end=2)
        ones = self.add("ConstantOfShape", [shape], value=_tensor(np.ones(1, "int32")))
        first_to_last = dict(reverse=1) if sequences.backwards else {}
        steps = self.add("CumSum", [ones, np.array(1)], **first_to_last)
        lengths = self.add("Unsqueeze", [self.lengths, np.array([1])])
        return Wire(self.add("LessOrEqual", [steps, lengths]), (None, None), "bool")

    def packing_of(self, mask):
        """Returns the `Packing` that moves the valid steps of a mask to the start of their rows."""
        if mask not in self._packings:
            ones = self.add("Cast", [mask], to=element_type("int64"))
            read = self.add("CumSum", [ones, np.array(1)])
            masked = self.add("CumSum", [self.add("Sub", [np.array(1), ones]), np.array(1)])
            later = self.add("Add", [masked, np.array(_MOST_STEPS)])
            key = self.add("Where", [mask, read, later])
            time = self.add("Shape", [key], start=1, end=2)
            _, order = self.add("TopK", [key, time], outputs=2, axis=1, largest=0, sorted=1)
            steps = self.add("Cast", [mask], to=element_type("int32"))
            lengths = self.add("ReduceSum", [steps, np.array([1])], keepdims=0)
            before = self.add("Sub", [read, ones])
            through = self.add("Sub", [read, np.array(1)])
            self._packings[mask] = Packing(order, lengths, through, before)
        return self._packings[mask]

    def steps_at(self, x, places):
        """Returns the steps of each row at places of that row, both `(batch, time, ...)`."""
        places = self.add("Unsqueeze", [places, np.array([2])])
        return self.add("GatherND", [x, places], batch_dims=1)


def _tensor(array, name=None):
    from onnx import numpy_helper

    return numpy_helper.from_array(array, name)


def element_type(dtype):
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
