"""The operations of a LiteRT file, and those that LiteRT for Microcontrollers has."""

import collections
import copy

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
_STATE, _MEMORY = 18, 19  # the places of its states among its inputs
_NOTHING = 2.0**-126  # scales below it are not normal numbers of 32 bits
_FINEST = 2.0**-15  # the smallest scale of a memory, of 16 bits, whose tanh the kernel computes

# tensorflow/lite/micro/micro_mutable_op_resolver.h of github.com/tensorflow/tflite-micro at
# 90b983c2b3f1480642e040bbd2ddb37b998f3424 (20 August 2026): the operations for which a resolver
# has a method. Whether a kernel takes the types and shapes of a file, only the kernel can tell.
# (An LSTM of float32 and of 8 bits, and a GRU of both, ran in tflite-micro
# 0.dev20261023182759.)
MICROCONTROLLERS = frozenset("""
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
    BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM
    DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL
    EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER
    GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
    MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX
    REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT
    SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
    SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
""".split())  # fmt: skip


def operations_of(content):
    """Returns how often each operation stands in a file, by name, the most frequent first."""
    schema, model = _read(content)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    codes = []
    for place in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(place)
        codes.append(names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])
    graphs = [model.Subgraphs(place) for place in range(model.SubgraphsLength())]
    found = collections.Counter(
        codes[graph.Operators(place).OpcodeIndex()]
        for graph in graphs
        for place in range(graph.OperatorsLength())
    )
    return dict(found.most_common())


def in_order(content, inputs, outputs):
    """Returns a file whose inputs and outputs stand in the order of these names.

    The converter sorts the outputs, and puts the inputs in any order. The names are those of the
    file's signature.
    """
    content = bytearray(content)
    _, model = _read(content)
    graph, signature = model.Subgraphs(0), model.SignatureDefs(0)
    for names, tensors, named, length in (
        (inputs, graph.InputsAsNumpy(), signature.Inputs, signature.InputsLength()),
        (outputs, graph.OutputsAsNumpy(), signature.Outputs, signature.OutputsLength()),
    ):
        by_name = {named(n).Name().decode(): named(n).TensorIndex() for n in range(length)}
        tensors[:] = [by_name[name] for name in names]  # a view of the file's bytes
    return bytes(content)


def with_scales_of_the_kernel(content):
    """Returns a file of 8 bits whose LSTM operations have scales that their kernel computes with.

    The kernel makes outputs in the scale of its last intermediate tensor, and reads them as its
    state in the scale of the state. The converter gives the three tensors different scales where an
    operation wants one scale for all that it reads (CONCATENATION), for example. So the state gets
    the scale of the intermediate tensor, and a QUANTIZE after the LSTM makes that of the outputs.

    It leaves out the tanh of a memory whose scale holds numbers below 0.5 alone: such a memory gets
    a larger scale.
    """
    schema, _ = _read(content)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph, operators = model.subgraphs[0], []
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    kinds = schema.BuiltinOperator

    def differ(place, other):
        a, b = (graph.tensors[n].quantization for n in (place, other))
        return (a.scale[0], a.zeroPoint[0]) != (b.scale[0], b.zeroPoint[0])

    changed = False
    for operator in graph.operators:
        operators.append(operator)
        if codes[operator.opcodeIndex] != kinds.UNIDIRECTIONAL_SEQUENCE_LSTM:
            continue
        made, state = operator.intermediates[-1], operator.inputs[_STATE]
        own, [output] = graph.tensors[made].quantization, operator.outputs
        memory = graph.tensors[operator.inputs[_MEMORY]].quantization
        if memory.scale is None:  # the converter left this LSTM in 32 bits
            continue
        if memory.scale[0] < _FINEST:
            memory.scale, changed = [_FINEST], True
        if own.scale[0] < _NOTHING:  # no scale was made: outputs were always zero
            continue
        if differ(state, made):
            graph.tensors[state].quantization, changed = own, True
        if differ(output, made):
            if kinds.QUANTIZE not in codes:  # version 2: also from 8 bits to 8 bits
                code = schema.OperatorCodeT(kinds.QUANTIZE, None, 2, kinds.QUANTIZE)
                model.operatorCodes.append(code)
                codes.append(kinds.QUANTIZE)
            tensor = copy.copy(graph.tensors[output])
            tensor.quantization, tensor.name = own, tensor.name + b"_of_lstm"
            tensor.buffer = 0  # as that of every tensor without constant numbers
            operator.outputs = [len(graph.tensors)]
            graph.tensors.append(tensor)
            rescaled = schema.OperatorT(codes.index(kinds.QUANTIZE), operator.outputs, [output])
            operators.append(rescaled)
            changed = True
    graph.operators = operators
    return _packed(model, len(content)) if changed else content


def _packed(model, size):
    """Returns the bytes of a file, weights at multiples of 16 as the format has them."""
    import flatbuffers

    class Aligned(flatbuffers.Builder):
        def StartVector(self, size, number, alignment):  # noqa: N802 (flatbuffers calls it)
            return super().StartVector(size, number, 16 if size == 1 else alignment)

    builder = Aligned(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _read(content):
    from ai_edge_litert import schema_py_generated as schema

    return schema, schema.Model.GetRootAs(content, 0)
