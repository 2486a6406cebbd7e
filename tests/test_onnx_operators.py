"""Operators that stand around recurrent nodes, one by one: onnxruntime judges.

Sizes of batch and time are free, as far as an operator allows it; two of each are compared.
"""

import itertools

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from keras_gated import from_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper  # noqa: E402
from onnx_graphs import ask_onnxruntime, model_of  # noqa: E402

RNG = np.random.default_rng(0)
FREE = {"b": (2, 3), "t": (9, 14), "w": (8, 11)}


def numbers(*shape):
    return RNG.normal(size=shape).astype("float32")


def whole(*values):
    return np.array(values, "int64")


class Case:
    """A node of an input `x` and constants, which are its further inputs in order."""

    def __init__(self, op, shape, *constants, opset=17, outputs=1, kind=1, **attributes):
        self.kind, self.shape = kind, shape
        names = [f"c{n}" if c is not None else "" for n, c in enumerate(constants)]
        arrays = {n: c for n, c in zip(names, constants, strict=True) if n}
        self.outputs = [f"y{n}" for n in range(outputs)]
        node = helper.make_node(op, ["x", *names], self.outputs, name="told", **attributes)
        self.model = model_of([node], arrays, [("x", kind, shape)], self.outputs, opset)

    def given(self, seed):
        sizes = [FREE[n][seed] if isinstance(n, str) else n for n in self.shape]
        rng = np.random.default_rng(seed)
        if self.kind == 7:
            return rng.integers(-5, 9, sizes)
        if self.kind == 9:
            return rng.random(sizes) < 0.5
        return rng.normal(0, 2, sizes).astype("float32")


def check(case, path=None):
    model = from_onnx(case.model, check=False)
    if path:
        model.save(path)
        model = keras.models.load_model(path)
    for seed in (0, 1):
        x = case.given(seed)
        expected = ask_onnxruntime(case.model, {"x": x})
        received = model(x)
        received = [received[n] for n in case.outputs] if len(case.outputs) > 1 else [received]
        for a, b in zip(received, expected, strict=True):
            assert a.shape == b.shape
            assert_allclose(a, b, atol=2e-5, rtol=1e-5)


TIME, IMAGE = ["b", 4, "t"], ["b", 4, "t", "w"]
CONVOLUTIONS = {
    "plain": Case("Conv", TIME, numbers(5, 4, 3), numbers(5)),
    "no bias": Case("Conv", TIME, numbers(5, 4, 1)),
    "pads": Case("Conv", TIME, numbers(5, 4, 3), numbers(5), pads=[2, 1], strides=[2]),
    "dilated": Case("Conv", TIME, numbers(5, 4, 3), dilations=[3], pads=[3, 3]),
    "dilated strides": Case("Conv", TIME, numbers(5, 4, 3), dilations=[2], strides=[3]),
    "groups": Case("Conv", TIME, numbers(6, 2, 3), numbers(6), group=2),
    "by channel": Case("Conv", TIME, numbers(4, 1, 3), numbers(4), group=4),
    "by channel, twice": Case("Conv", TIME, numbers(8, 1, 3), numbers(8), group=4, strides=[2]),
    "same upper": Case("Conv", TIME, numbers(5, 4, 4), auto_pad="SAME_UPPER"),
    "same lower": Case("Conv", TIME, numbers(5, 4, 4), auto_pad="SAME_LOWER"),
    "same upper strides": Case(
        "Conv", ["b", 4, 13], numbers(5, 4, 4), auto_pad="SAME_UPPER", strides=[3]
    ),
    "same lower strides": Case(
        "Conv", ["b", 4, 13], numbers(5, 4, 4), auto_pad="SAME_LOWER", strides=[3]
    ),
    "valid": Case("Conv", TIME, numbers(5, 4, 4), auto_pad="VALID"),
    "image": Case("Conv", IMAGE, numbers(5, 4, 3, 2), numbers(5), pads=[1, 0, 2, 1]),
    "image strides": Case("Conv", IMAGE, numbers(5, 4, 3, 2), strides=[2, 1], group=1),
    "image by channel": Case("Conv", IMAGE, numbers(8, 1, 3, 2), numbers(8), group=4),
    "image by channel, two strides": Case(
        "Conv", IMAGE, numbers(8, 1, 3, 2), group=4, strides=[1, 2]
    ),
    "three axes": Case("Conv", ["b", 2, "t", "w", 3], numbers(3, 2, 2, 2, 2), strides=[2, 1, 1]),
    "max": Case("MaxPool", TIME, kernel_shape=[3]),
    "max pads": Case("MaxPool", TIME, kernel_shape=[3], strides=[2], pads=[1, 1]),
    "max ceil": Case("MaxPool", TIME, kernel_shape=[3], strides=[2], pads=[1, 0], ceil_mode=1),
    "max ceil sizes": Case(
        "MaxPool", ["b", 2, 7], kernel_shape=[2], strides=[3], pads=[0, 1], ceil_mode=1
    ),
    "max same": Case("MaxPool", ["b", 2, 7], kernel_shape=[3], strides=[2], auto_pad="SAME_LOWER"),
    "max image": Case("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 0, 2]),
    "average": Case("AveragePool", TIME, kernel_shape=[3], strides=[2]),
    "average pads": Case("AveragePool", TIME, kernel_shape=[3], pads=[2, 1]),
    "average with pads": Case(
        "AveragePool", TIME, kernel_shape=[3], strides=[2], pads=[1, 2], count_include_pad=1
    ),
    "average ceil": Case(
        "AveragePool", ["b", 2, 8], kernel_shape=[3], strides=[2], ceil_mode=1, opset=19
    ),
    "average ceil with pads": Case(
        "AveragePool", ["b", 2, 8], kernel_shape=[3], strides=[2], ceil_mode=1, pads=[1, 0],
        count_include_pad=1, opset=19,
    ),
    "average image": Case("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
    "average of all": Case("GlobalAveragePool", IMAGE),
    "max of all": Case("GlobalMaxPool", TIME),
    "normalised": Case(
        "BatchNormalization", TIME, *(abs(numbers(4)) for _ in range(4)), epsilon=0.01
    ),
    "normalised image": Case("BatchNormalization", IMAGE, *(abs(numbers(4)) for _ in range(4))),
    "normalised rows": Case("BatchNormalization", ["b", 4], *(abs(numbers(4)) for _ in range(4))),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_pools_look_at_the_same_windows(name, tmp_path):
    check(CONVOLUTIONS[name], tmp_path / "m.keras" if name in ("groups", "average pads") else None)


VECTORS = ["b", "t", 4]
LAST, FIRST, LEAST = 2**63 - 1, -(2**63), -(2**31)
AXES = {
    "slice": Case("Slice", VECTORS, whole(1), whole(-1), whole(1)),
    "slice all": Case("Slice", VECTORS, whole(0, 0, 1), whole(LAST, 3, 3)),
    "slice steps": Case("Slice", VECTORS, whole(1, 0), whole(LAST, 4), whole(1, -1), whole(3, 2)),
    "slice back": Case("Slice", VECTORS, whole(-1), whole(FIRST), whole(1), whole(-1)),
    "slice back by two": Case("Slice", VECTORS, whole(-2), whole(LEAST), whole(1), whole(-2)),
    "slice part back": Case("Slice", VECTORS, whole(3), whole(0), whole(2), whole(-1)),
    "slice from beyond": Case("Slice", VECTORS, whole(99), whole(1), whole(2), whole(-1)),
    "slice to before": Case("Slice", VECTORS, whole(-3), whole(-99), whole(2), whole(-1)),
    "slice beyond": Case("Slice", VECTORS, whole(-3), whole(99), whole(1)),
    "slice of old": Case("Slice", VECTORS, opset=9, starts=[1], ends=[3], axes=[1]),
    "split": Case("Split", VECTORS, whole(1, 3), axis=2, outputs=2),
    "split equally": Case("Split", VECTORS, axis=-1, outputs=2),
    "split with a rest": Case("Split", ["b", 7], axis=1, outputs=3, num_outputs=3, opset=18),
    "split time": Case("Split", ["b", 9, 2], whole(2, 3, 4), axis=1, outputs=3),
    "split of old": Case("Split", VECTORS, opset=11, axis=2, outputs=2, split=[3, 1]),
    "pad": Case("Pad", VECTORS, whole(0, 2, 0, 0, 1, 3)),
    "pad value": Case("Pad", VECTORS, whole(1, 0, 0, 0, 0, 0), np.float32(0.5)),
    "pad some": Case("Pad", VECTORS, whole(2, 1), None, whole(1), opset=18),
    "pad cut": Case("Pad", VECTORS, whole(0, -2, 1, 0, -1, 0)),
    "pad reflect": Case("Pad", VECTORS, whole(0, 2, 0, 0, 3, 1), mode="reflect"),
    "pad edge": Case("Pad", VECTORS, whole(0, 2, 0, 1, 0, 2), mode="edge"),
    "pad of old": Case("Pad", VECTORS, opset=10, pads=[0, 1, 0, 0, 0, 2], value=2.0),
    "flatten": Case("Flatten", ["b", 3, 4]),
    "flatten all": Case("Flatten", VECTORS, axis=0),
    "flatten from time": Case("Flatten", VECTORS, axis=2),
    "flatten last": Case("Flatten", VECTORS, axis=-1),
    "reshape": Case("Reshape", VECTORS, whole(0, 0, 2, -1)),
    "reshape to one": Case("Reshape", VECTORS, whole(-1)),
    "reshape both free": Case("Reshape", VECTORS, whole(0, 0, 2, 2)),
    "tile": Case("Tile", VECTORS, whole(1, 2, 3)),
    "expand": Case("Expand", ["b", 1, 4], whole(2, 1, 3, 4)),
    "squeeze": Case("Squeeze", ["b", 1, "t", 1], whole(1, -1)),
    "squeeze of old": Case("Squeeze", ["b", 1, "t"], opset=11, axes=[1]),
    "unsqueeze": Case("Unsqueeze", VECTORS, whole(0, -1)),
    "unsqueeze of old": Case("Unsqueeze", VECTORS, opset=11, axes=[1, 3]),
    "gather": Case("Gather", VECTORS, whole(-1), axis=1),
    "gather one": Case("Gather", VECTORS, np.array(2), axis=2),
    "top all": Case("TopK", ["b", 5], whole(5), outputs=2),
    "top some": Case("TopK", VECTORS, whole(2), outputs=2, axis=1, largest=0),
    "cumulated": Case("CumSum", VECTORS, np.array(1), exclusive=1, reverse=1),
    "transpose": Case("Transpose", VECTORS),
    "joined by a softmax": Case("Softmax", VECTORS, axis=1),
    "softmax of old": Case("Softmax", VECTORS, opset=11, axis=2),
}


@pytest.mark.parametrize("name", AXES)
def test_axes_and_parts_are_the_same(name, tmp_path):
    check(AXES[name], tmp_path / "m.keras" if name == "reshape both free" else None)


def around(op, *constants, **options):
    return Case(op, VECTORS, *constants, **options)


NUMBERS = {
    **{
        op: around(op)
        for op in (
            "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Neg", "Reciprocal", "Relu",
            "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Selu", "Identity", "Dropout",
        )
    },
    "Log": around("Log"),  # of numbers below zero, too
    "Sqrt": around("Sqrt"),
    "Gelu": around("Gelu", opset=20),
    "Gelu tanh": around("Gelu", opset=20, approximate="tanh"),
    "Elu": around("Elu", alpha=0.4),
    "LeakyRelu": around("LeakyRelu"),
    "HardSigmoid": around("HardSigmoid", alpha=0.3, beta=0.6),
    "PRelu": around("PRelu", numbers(4)),
    "Clip": around("Clip", np.float32(-1), np.float32(0.5)),
    "Clip above": around("Clip", None, np.float32(0.5)),
    "Clip of old": around("Clip", opset=10, min=-0.5, max=2.0),
    "Pow": around("Pow", np.float32(2)),
    "Pow 3": around("Pow", np.array(3)),
    "Pow of each": Case("Pow", VECTORS, whole(0, 1, 2, 3)),
    "Add": around("Add", numbers(4)),
    **{  # as many steps as channels
        f"{op} {shape}": Case(op, ["b", 3, 3], numbers(*shape))
        for op in ("Add", "Sum", "Mean")
        for shape in ((3, 1), (1, 3, 1), (1, 1, 3))
    },
    "Add more columns": Case("Add", ["b", 3, 1], numbers(3)),
    "Sub": around("Sub", numbers(1)),
    "Mul": around("Mul", numbers(4)),
    "Div": around("Div", numbers(4)),
    "Div whole": Case("Div", ["b", "t"], whole(3), kind=7),
    "Div whole by below": Case("Div", ["b", "t"], whole(-2), kind=7),
    "Mod": Case("Mod", ["b", "t"], whole(3), kind=7),
    "Max": around("Max", numbers(4)),
    "Min": around("Min", numbers(1), numbers(4)),
    "Mean": around("Mean", numbers(4)),
    "Less": around("Less", np.float32(0)),
    "GreaterOrEqual": around("GreaterOrEqual", np.float32(0)),
    "Not": Case("Not", ["b", "t"], kind=9),
    "Or": Case("Or", ["b", 2], np.array([True, False]), kind=9),
    "Cast": around("Cast", to=7),
    "MatMul": around("MatMul", numbers(4, 3)),
    "MatMul of a vector": around("MatMul", numbers(4)),
    "Gemm": Case("Gemm", ["b", 4], numbers(3, 4), numbers(3), transB=1, alpha=0.5, beta=2.0),
    "Gemm one bias": Case("Gemm", ["b", 4], numbers(4, 3), numbers(1, 1)),
    "Gemm no bias": Case("Gemm", ["b", 4], numbers(4, 3)),
    "ReduceL2": around("ReduceL2", axes=[2], keepdims=0),
    "ReduceL2 new": around("ReduceL2", whole(1), opset=18),
    "ReduceMin": around("ReduceMin", axes=[1]),
    "ReduceMax all": around("ReduceMax", keepdims=0),
    "ReduceMean": around("ReduceMean", axes=[-1]),
    "ReduceProd": around("ReduceProd", axes=[1], keepdims=0),
    "ReduceSum nothing": around("ReduceSum", whole(), noop_with_empty_axes=1),
    "ReduceSum empty": around("ReduceSum", whole(), keepdims=0),
    "LayerNormalization": around("LayerNormalization", numbers(4), epsilon=0.1),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_the_same(name):
    check(NUMBERS[name])


def test_a_power_of_whole_numbers_is_cut():
    case = Case("Pow", ["b", 3], np.float32(2.5), kind=7)
    [expected] = ask_onnxruntime(case.model, {"x": whole([1, 2, 3])})
    assert_array_equal(from_onnx(case.model, check=False)(whole([1, 2, 3])), expected)
    assert expected.tolist() == [[1, 5, 15]]


def computed(*nodes, **arrays):
    """Returns a case of several nodes."""
    case = Case("Identity", ["b", "t", 4])
    nodes = [helper.make_node(op, *rest, **options) for op, *rest, options in nodes]
    case.model = model_of(nodes, arrays, [("x", 1, case.shape)], ["y0"])
    return case


# What exporters compute of sizes: of the batch, the time, or both.
OF_SIZES = {
    "themselves": computed(("Shape", ["x"], ["y0"], {})),
    "their number": computed(("Size", ["x"], ["y0"], {})),
    "a mean": computed(
        ("Shape", ["x"], ["s"], {}),
        ("Gather", ["s", "one"], ["t"], {}),
        ("Cast", ["t"], ["f"], {"to": 1}),
        ("ReduceSum", ["x", "one"], ["sum"], {"keepdims": 0}),
        ("Div", ["sum", "f"], ["y0"], {}),
        one=whole(1),
    ),
    "half": computed(
        ("Shape", ["x"], ["s"], {"start": 1, "end": 2}),
        ("Cast", ["s"], ["f"], {"to": 1}),
        ("Mul", ["f", "half"], ["h"], {}),
        ("Cast", ["h"], ["y0"], {"to": 7}),
        half=np.float32(0.5),
    ),
    "ones": computed(
        ("Shape", ["x"], ["s"], {"end": 2}),
        ("ConstantOfShape", ["s"], ["y0"], {"value": onnx.numpy_helper.from_array(whole(3))}),
    ),
    "zeros that are added": computed(
        ("Shape", ["x"], ["s"], {}), ("ConstantOfShape", ["s"], ["z"], {}),
        ("Add", ["x", "z"], ["y0"], {}),
    ),
    "expanded to its own": computed(
        ("Shape", ["x"], ["s"], {}), ("Expand", ["row", "s"], ["e"], {}),
        ("Mul", ["e", "x"], ["y0"], {}), row=numbers(1, 1, 4),
    ),
    "expanded between": computed(
        ("Shape", ["x"], ["s"], {"end": 1}), ("Concat", ["s", "two", "one"], ["e"], {"axis": 0}),
        ("ReduceMax", ["x"], ["m"], {"axes": [1]}), ("Expand", ["m", "e"], ["y0"], {}),
        one=whole(1), two=whole(2),
    ),
    "counted": computed(
        ("Shape", ["x"], ["s"], {}), ("Gather", ["s", "one"], ["t"], {}),
        ("Range", ["zero", "t", "step"], ["r"], {}), ("Cast", ["r"], ["f"], {"to": 1}),
        ("Unsqueeze", ["f", "last"], ["c"], {}), ("Add", ["x", "c"], ["y0"], {}),
        one=np.array(1), zero=np.array(0), step=np.array(1), last=whole(1),
    ),
    "both into one": computed(
        ("Shape", ["x"], ["s"], {}), ("Split", ["s", "parts"], ["b", "t", "f"], {}),
        ("Mul", ["b", "t"], ["both"], {}), ("Concat", ["both", "f"], ["r"], {"axis": 0}),
        ("Reshape", ["x", "r"], ["y0"], {}), parts=whole(1, 1, 1),
    ),
    "heads": computed(
        ("Shape", ["x"], ["s"], {}), ("Slice", ["s", "zero", "two"], ["bt"], {}),
        ("Concat", ["bt", "two", "two"], ["r"], {"axis": 0}), ("Reshape", ["x", "r"], ["a"], {}),
        ("Transpose", ["a"], ["turned"], {"perm": [0, 2, 1, 3]}),
        ("Shape", ["turned"], ["again"], {}), ("Reshape", ["turned", "again"], ["y0"], {}),
        zero=whole(0), two=whole(2),
    ),
    "to its own end": computed(
        ("Shape", ["x"], ["s"], {"start": 1, "end": 2}), ("Slice", ["x", "one", "s", "one"],
        ["y0"], {}), one=whole(1),
    ),
    "a size of any": computed(
        ("Shape", ["x"], ["s"], {}), ("Equal", ["wanted", "any"], ["free"], {}),
        ("Where", ["free", "s", "wanted"], ["e"], {}), ("Expand", ["row", "e"], ["y0"], {}),
        wanted=whole(-1, -1, 4), any=whole(-1), row=numbers(1, 1, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_SIZES)
def test_sizes_that_are_known_when_a_model_runs_are_computed(name, tmp_path):
    check(OF_SIZES[name], tmp_path / "m.keras" if name in ("a mean", "heads", "ones") else None)


def test_sizes_are_computed_in_a_compiled_model_too():
    case = OF_SIZES["heads"]
    model = from_onnx(case.model)
    for seed in (0, 1):
        [expected] = ask_onnxruntime(case.model, {"x": case.given(seed)})
        assert_allclose(model.predict(case.given(seed), verbose=0), expected)


def of_two(op, *inputs, **attributes):
    """Returns a graph whose second input is an input, too, `n`."""
    node = helper.make_node(op, inputs, ["y"], name="told", **attributes)
    return model_of([node], {"one": whole(1)}, [("x", 1, VECTORS), ("n", 7, [1])])


REFUSED = {
    "starts of an input": (of_two("Slice", "x", "n", "one"), "`starts` that are known only when"),
    "pads of an input": (of_two("Pad", "x", "n"), "`pads` that are known only when"),
    "repeats of an input": (of_two("Tile", "x", "n"), "repeats that are known only when"),
    "a shape of an input": (of_two("Reshape", "x", "n"), "sizes that are computed from numbers"),
    "as many as an input": (of_two("TopK", "x", "n"), "k that are known only when|makes no output"),
    "axes of fractions": (
        Case("ReduceSum", VECTORS, np.float32(1.5)).model,
        r"`axes` that are no whole numbers: \[1.5\]",
    ),
    "a kernel of an input": (
        model_of(
            [helper.make_node("Conv", ["x", "k"], ["y"], name="told")],
            {},
            [("x", 1, TIME), ("k", 1, [5, 4, 3])],
        ),
        "weights that are no constant",
    ),
    "channels": (Case("Conv", ["b", 3, "t"], numbers(5, 4, 3)).model, "an input of 3 channels"),
    "pads of another rank": (
        Case("Conv", TIME, numbers(5, 4, 3), pads=[1]).model,
        r"pads=\[1\]",
    ),
    "strides of zero": (Case("Conv", TIME, numbers(5, 4, 3), strides=[0]).model, r"strides=\[0\]"),
    "groups of zero": (Case("Conv", TIME, numbers(5, 4, 3), group=0).model, "group=0"),
    "auto_pad": (Case("Conv", TIME, numbers(5, 4, 3), auto_pad="SAME").model, "auto_pad='SAME'"),
    "same of an unknown size": (
        Case("Conv", TIME, numbers(5, 4, 3), auto_pad="SAME_LOWER", strides=[2]).model,
        "axis of unknown size.*with sizes",
    ),
    "dilated pool": (Case("MaxPool", TIME, kernel_shape=[2], dilations=[2]).model, "dilations"),
    "no kernel_shape": (Case("MaxPool", TIME).model, r"kernel_shape=\[\]"),
    "where the pool found it": (
        Case("MaxPool", TIME, kernel_shape=[2], outputs=2).model,
        "makes no output 'y1'",
    ),
    "ceil_mode": (
        Case("MaxPool", TIME, kernel_shape=[2], strides=[3], pads=[0, 1], ceil_mode=1).model,
        "ceil_mode=1.*axis of unknown size",
    ),
    "training": (
        Case(
            "BatchNormalization", TIME, *[numbers(4)] * 4, training_mode=1, outputs=3
        ).model,
        "for inference",
    ),
    "absurd pads": (Case("Pad", VECTORS, whole(0, 0, 0, 0, 0, 2**50)).model, "makes a tensor of"),
    "absurd repeats": (Case("Tile", ["b", 4], whole(1, 2**40)).model, "makes a tensor of"),
    "wrapped": (Case("Pad", VECTORS, whole(0, 0, 0, 0, 1, 0), mode="wrap").model, "pads by 'wrap'"),
    "split time": (Case("Split", VECTORS, axis=1, outputs=2).model, "an axis of unknown size"),
    "softmax over two axes": (Case("Softmax", VECTORS, opset=11).model, "opset 13 or newer"),
    "unknown": (Case("Det", ["b", 3, 3]).model, "has no counterpart"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(name):
    model, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"^from_onnx: the \w+ node 'told' .*({message})"):
        from_onnx(model, check=False)


def test_convolutions_one_after_the_other_move_nothing():
    """Between channels-second nodes a tensor stays channels-last, as Keras has it."""
    arrays = {"k": numbers(4, 4, 3), "s": abs(numbers(4))}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"]),
        helper.make_node("BatchNormalization", ["a", *"ssss"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2]),
        helper.make_node("Conv", ["p", "k"], ["c"]),
        helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 1]),
    ]
    model = model_of(nodes, arrays, [("x", 1, TIME)])
    read = from_onnx(model)
    kinds = [type(operation).__name__ for operation in read.operations]
    assert kinds.count("Transpose") == 1
    x = numbers(2, 4, 11)
    assert_allclose(read(x), ask_onnxruntime(model, {"x": x})[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_all_windows_of_convolutions(axes, group):
    free = ["t", "w"][:axes]
    for size, stride, dilation, low, high in itertools.product(
        (1, 2, 3), (1, 2, 3), (1, 2), (0, 2), (0, 1)
    ):
        check(
            Case(
                "Conv",
                ["b", 4, *free],
                numbers(8, 4 // group, *[size] * axes),
                numbers(8),
                group=group,
                strides=[stride] * axes,
                dilations=[dilation] * axes,
                pads=[low] * axes + [high] * axes,
            )
        )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_all_windows_of_pools(kind):
    for steps, size, stride, low, high, ceil, counted in itertools.product(
        (6, 7, 8), (2, 3, 4), (1, 2, 3), (0, 1), (0, 1), (0, 1), (0, 1)
    ):
        own = {"count_include_pad": counted} if kind == "AveragePool" else {}
        options = {"kernel_shape": [size], "strides": [stride], "pads": [low, high]}
        check(Case(kind, ["b", 2, steps], ceil_mode=ceil, opset=19, **options, **own))
