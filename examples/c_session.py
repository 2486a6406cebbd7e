"""Run a SavedModel through TensorFlow's C library, without importing TensorFlow.

The library inside the wheel loads a model as the C++ server does (`TF_LoadSessionFromSavedModel`).
So a model that runs here needs no Python. The stand-in server, the benchmark and the tests use it.
"""

import ctypes
import importlib.util
import math
import pathlib

import ml_dtypes
import numpy as np

STRING = 7
DTYPES = {  # TensorFlow's number of a type
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16),
    19: np.dtype(np.float16),
    STRING: np.dtype(object),
}
FIELDS = {
    1: "float_val",
    2: "double_val",
    9: "int64_val",
    10: "bool_val",
    **dict.fromkeys((3, 4, 5, 6), "int_val"),
    **dict.fromkeys((14, 19), "half_val"),  # the bits of each number
}
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
LARGEST = 1 << 26  # the most values of a tensor that is read
MOST_AXES = 64  # of a NumPy array
STRING_BYTES = 24  # the size of a TF_TString
CODES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
    "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED "
    "INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split()  # status codes of TensorFlow and gRPC, in the order of their numbers


class RequestError(ValueError):
    """A request that does not fit the signature, or that the graph itself refuses.

    Attributes:
        code: The name of the status, one of `CODES`.
    """

    def __init__(self, message, code="INVALID_ARGUMENT"):
        super().__init__(message)
        self.code = code


class Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


def _load_library():
    folder = pathlib.Path(importlib.util.find_spec("tensorflow").origin).parent
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    for name in (
        "TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_NewBuffer TF_LoadSessionFromSavedModel "
        "TF_GraphOperationByName TF_AllocateTensor TF_TensorData TF_StringGetDataPointer "
        "TF_NewBufferFromString"
    ).split():
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("TF_StringGetSize", "TF_TensorByteSize"):
        getattr(library, name).restype = ctypes.c_size_t
    library.TF_Dim.restype = ctypes.c_int64
    library.TF_Message.restype = ctypes.c_char_p
    return library


class Session:
    """A loaded SavedModel.

    Args:
        directory: A version, which holds `saved_model.pb`.
        meta_graph_class: The message class `tensorflow.MetaGraphDef`.

    Attributes:
        signatures: Signature name to its `SignatureDef`.
    """

    _library = None

    def __init__(self, directory, meta_graph_class):
        if Session._library is None:
            Session._library = _load_library()
        library, pointer = self._library, ctypes.c_void_p
        graph, status = pointer(library.TF_NewGraph()), pointer(library.TF_NewStatus())
        options, meta_graph = library.TF_NewSessionOptions(), library.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = pointer(
            library.TF_LoadSessionFromSavedModel(
                pointer(options),
                None,
                str(directory).encode(),
                tags,
                1,
                graph,
                pointer(meta_graph),
                status,
            )
        )
        self._raise_for(status)
        buffer = Buffer.from_address(meta_graph)
        found = meta_graph_class.FromString(ctypes.string_at(buffer.data, buffer.length))
        library.TF_DeleteBuffer(pointer(meta_graph))
        library.TF_DeleteSessionOptions(pointer(options))
        self._graph = graph
        # A signature whose name begins with __ initialises the model.
        self.signatures = {
            name: signature
            for name, signature in found.signature_def.items()
            if not name.startswith("__")
        }

    def run(self, signature, inputs, outputs=(), timeout_ms=0):
        """Returns the outputs of a signature, name to array (of bytes objects for strings).

        Args:
            signature: The name of the signature.
            inputs: Name to array.
            outputs: The names of the wanted outputs. Default: all.
            timeout_ms: The most milliseconds that the call may take; 0: no limit.

        Raises:
            RequestError: With the message of the C library, or the name that does not fit.
        """
        library, status, given = self._library, None, []
        definition, names = self.check(signature, inputs, outputs)
        results, options = (ctypes.c_void_p * len(names))(), None
        try:
            for array in inputs.values():
                given.append(self._to_tensor(array))
            status = ctypes.c_void_p(library.TF_NewStatus())
            options = self._run_options(timeout_ms)
            library.TF_SessionRun(
                self._session,
                options,
                (Output * len(given))(*(self._output(definition.inputs[n]) for n in inputs)),
                (ctypes.c_void_p * len(given))(*given),
                len(given),
                (Output * len(names))(*(self._output(definition.outputs[n]) for n in names)),
                results,
                len(names),
                None,
                0,
                None,
                status,
            )
            self._raise_for(status)
            return {n: self._to_array(t) for n, t in zip(names, results, strict=True)}
        finally:
            if options:
                library.TF_DeleteBuffer(options)
            for tensor in given:
                self._free_input(ctypes.c_void_p(tensor))
            for tensor in filter(None, results):
                library.TF_DeleteTensor(ctypes.c_void_p(tensor))

    def check(self, signature, inputs, outputs=()):
        """Returns the definition of a signature and the outputs that are wanted, or raises."""
        if signature not in self.signatures:
            message = f'Serving signature key "{signature}" not found.'
            raise RequestError(message, "FAILED_PRECONDITION")
        definition = self.signatures[signature]
        expected, sent = set(definition.inputs), set(inputs)
        if len(sent) != len(expected):
            extra, missing = (_listed(names) for names in (sent - expected, expected - sent))
            raise RequestError(
                f"input size does not match signature: {len(sent)}!={len(expected)} "
                f"len({_listed(sent)}) != len({_listed(expected)}). Sent extra: {extra}. "
                f"Missing but required: {missing}."
            )
        for name in sorted(expected - sent):
            raise RequestError(
                f"Signature input alias: {name}(feed name: {definition.inputs[name].name}) not "
                "found in request and no default value provided. Inputs expected to be in the "
                f"request {_listed(sent)}, or default input alias set: "
            )
        for place, name in enumerate(outputs):
            if name not in definition.outputs:
                raise RequestError(
                    f"output tensor alias not found in signature: {name} Outputs expected to be "
                    f"in the set {_listed(definition.outputs)}."
                )
            if name in outputs[:place]:
                raise RequestError(f"duplicate output tensor alias: {name}")
        return definition, list(outputs) or list(definition.outputs)

    def _run_options(self, timeout_ms):
        """Returns a `tensorflow.RunOptions` whose field 2, `timeout_in_ms`, is set; or None."""
        if not timeout_ms:
            return None
        written = b"\x10"
        while timeout_ms > 127:
            written += bytes([timeout_ms & 127 | 128])
            timeout_ms >>= 7
        written += bytes([timeout_ms])
        new = self._library.TF_NewBufferFromString
        return ctypes.c_void_p(new(written, ctypes.c_size_t(len(written))))

    def close(self):
        """Frees the model. No call may be running."""
        status = ctypes.c_void_p(self._library.TF_NewStatus())
        self._library.TF_DeleteSession(self._session, status)
        self._library.TF_DeleteGraph(self._graph)
        self._raise_for(status)

    def _output(self, info):
        name, index = info.name.split(":")
        return Output(self._library.TF_GraphOperationByName(self._graph, name.encode()), int(index))

    def _raise_for(self, status):
        code, message = self._library.TF_GetCode(status), self._library.TF_Message(status)
        self._library.TF_DeleteStatus(status)
        if code:
            raise RequestError(message.decode(errors="replace"), CODES[code])

    def _to_tensor(self, array):
        library, array = self._library, np.asarray(array, order="C")
        number, dims = NUMBERS[array.dtype], (ctypes.c_int64 * array.ndim)(*array.shape)
        size = array.size * STRING_BYTES if number == STRING else array.nbytes
        tensor = library.TF_AllocateTensor(number, dims, array.ndim, ctypes.c_size_t(size))
        data = library.TF_TensorData(ctypes.c_void_p(tensor))
        if number != STRING:
            ctypes.memmove(data, array.ctypes.data, array.nbytes)
            return tensor
        for place, value in enumerate(array.ravel()):
            slot = ctypes.c_void_p(data + place * STRING_BYTES)
            library.TF_StringInit(slot)
            library.TF_StringCopy(slot, ctypes.c_char_p(value), ctypes.c_size_t(len(value)))
        return tensor

    def _shape(self, tensor):
        return [self._library.TF_Dim(tensor, i) for i in range(self._library.TF_NumDims(tensor))]

    def _to_array(self, tensor):
        library, tensor = self._library, ctypes.c_void_p(tensor)
        number, shape = library.TF_TensorType(tensor), self._shape(tensor)
        data, count = library.TF_TensorData(tensor), int(np.prod(shape, dtype=int))
        if number != STRING:
            found = ctypes.string_at(data, library.TF_TensorByteSize(tensor)) if count else b""
            return np.frombuffer(found, DTYPES[number]).reshape(shape)
        values = np.empty(count, object)
        for place in range(count):
            slot = ctypes.c_void_p(data + place * STRING_BYTES)
            values[place] = ctypes.string_at(
                library.TF_StringGetDataPointer(slot), library.TF_StringGetSize(slot)
            )
        return values.reshape(shape)

    def _free_input(self, tensor):
        if self._library.TF_TensorType(tensor) == STRING:  # long strings are outside the tensor
            data = self._library.TF_TensorData(tensor)
            for place in range(int(np.prod(self._shape(tensor), dtype=int))):
                self._library.TF_StringDealloc(ctypes.c_void_p(data + place * STRING_BYTES))
        self._library.TF_DeleteTensor(tensor)


def _listed(names):
    return "{" + ",".join(sorted(names)) + "}"


def from_proto(proto, name=""):
    """Returns the array of a `TensorProto`, strings as bytes objects.

    As in TensorFlow, missing values are filled with the last value, or with 0 if there is none.

    Raises:
        RequestError: With the name, if the values do not fit the shape.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    no_tensor = RequestError(f"tensor parsing error: {name}")
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > MOST_AXES:
        raise no_tensor
    count = math.prod(shape)
    if proto.dtype not in DTYPES or count > LARGEST:
        raise no_tensor
    dtype = DTYPES[proto.dtype]
    if proto.tensor_content:
        if proto.dtype == STRING or len(proto.tensor_content) != count * dtype.itemsize:
            raise no_tensor
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    field = "string_val" if proto.dtype == STRING else FIELDS[proto.dtype]
    values = list(getattr(proto, field)[:count]) or [b"" if proto.dtype == STRING else 0]
    if field == "half_val":
        values = np.array(values, np.uint16).view(dtype)
    array = np.full(count, values[-1], dtype)
    array[: len(values)] = values[:count]
    return array.reshape(shape)


def to_proto(array, proto):
    """Writes an array into a `TensorProto`, its values into the field of their type."""
    proto.dtype = NUMBERS[array.dtype]
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    field = "string_val" if proto.dtype == STRING else FIELDS[proto.dtype]
    values = array.ravel().view(np.uint16) if field == "half_val" else array.ravel()
    getattr(proto, field).extend(values.tolist())


def read_records(path):
    """Yields the records of a TFRecord file. The server checks the checksums, not this function."""
    with open(path, "rb") as file:
        while header := file.read(12):
            yield file.read(int.from_bytes(header[:8], "little"))
            file.read(4)
