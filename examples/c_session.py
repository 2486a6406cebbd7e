"""Run a SavedModel through TensorFlow's C library, without importing TensorFlow.

The library inside the wheel loads a model as the C++ server does (`TF_LoadSessionFromSavedModel`),
so what runs here needs no Python. Used by the stand-in server, the benchmark and the tests.
"""

import ctypes
import importlib.util
import pathlib

import numpy as np

STRING = 7
DTYPES = {  # TensorFlow's numbers of types
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    STRING: np.dtype(object),
}
FIELDS = {1: "float_val", 2: "double_val", 3: "int_val", 9: "int64_val", 10: "bool_val"}
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
LARGEST = 1 << 26  # values of a tensor that is read
STRING_BYTES = 24  # of a TF_TString


class RequestError(ValueError):
    """A request that does not fit the signature, or that the graph itself refuses."""


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
        "TF_GraphOperationByName TF_AllocateTensor TF_TensorData TF_StringGetDataPointer"
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
        # One that begins with __ initialises the model.
        self.signatures = {
            name: signature
            for name, signature in found.signature_def.items()
            if not name.startswith("__")
        }

    def run(self, signature, inputs):
        """Returns the outputs of a signature, name to array (of bytes objects for strings).

        Args:
            signature: Its name.
            inputs: Name to array.

        Raises:
            RequestError: With the message of the C library, or naming what does not fit.
        """
        if signature not in self.signatures:
            raise RequestError(
                f"Serving signature name not found: {signature!r}. There are: "
                f"{', '.join(sorted(self.signatures))}"
            )
        definition, library = self.signatures[signature], self._library
        if set(inputs) != set(definition.inputs):
            raise RequestError(
                f"input names must be {sorted(definition.inputs)}; received: {sorted(inputs)}"
            )
        status, given = ctypes.c_void_p(library.TF_NewStatus()), []
        names = list(definition.outputs)
        results = (ctypes.c_void_p * len(names))()
        try:
            for name, array in inputs.items():
                number = definition.inputs[name].dtype
                if np.asarray(array).dtype != DTYPES[number]:
                    raise RequestError(
                        f"input {name!r} must be of type {DTYPES[number]}; received: "
                        f"{np.asarray(array).dtype}"
                    )
                given.append(self._to_tensor(array))
            library.TF_SessionRun(
                self._session,
                None,
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
            status = None
            return {n: self._to_array(t) for n, t in zip(names, results, strict=True)}
        finally:
            for tensor in given:
                self._free_input(ctypes.c_void_p(tensor))
            for tensor in filter(None, results):
                library.TF_DeleteTensor(ctypes.c_void_p(tensor))

    def close(self):
        """Frees the model; nobody may be asking it."""
        status = ctypes.c_void_p(self._library.TF_NewStatus())
        self._library.TF_DeleteSession(self._session, status)
        self._library.TF_DeleteGraph(self._graph)
        self._raise_for(status)

    def _output(self, info):
        name, index = info.name.split(":")
        return Output(self._library.TF_GraphOperationByName(self._graph, name.encode()), int(index))

    def _raise_for(self, status):
        code, message = self._library.TF_GetCode(status), self._library.TF_Message(status).decode()
        self._library.TF_DeleteStatus(status)
        if code:
            raise RequestError(message)

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
        if self._library.TF_TensorType(tensor) == STRING:  # long strings stand elsewhere
            data = self._library.TF_TensorData(tensor)
            for place in range(int(np.prod(self._shape(tensor), dtype=int))):
                self._library.TF_StringDealloc(ctypes.c_void_p(data + place * STRING_BYTES))
        self._library.TF_DeleteTensor(tensor)


def from_proto(proto):
    """Returns the array of a `TensorProto`, strings as bytes objects."""
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.dtype not in DTYPES:
        raise RequestError(f"tensors of type number {proto.dtype} are not taken")
    count = int(np.prod(shape, dtype=float))
    if not 0 <= count <= LARGEST:
        raise RequestError(f"a tensor of shape {shape} is not taken")
    if proto.dtype == STRING:
        values = np.array([*proto.string_val, None], object)[:-1]
    elif proto.tensor_content or not count:
        if len(proto.tensor_content) % DTYPES[proto.dtype].itemsize:
            raise RequestError(f"a tensor of shape {shape} came with half a value")
        values = np.frombuffer(proto.tensor_content, DTYPES[proto.dtype])
    else:
        values = np.array(getattr(proto, FIELDS[proto.dtype]), DTYPES[proto.dtype])
    if 0 < len(values) < count:  # the last one stands for the rest
        values = np.concatenate([values, np.repeat(values[-1:], count - len(values))])
    if len(values) != count:
        raise RequestError(f"a tensor of shape {shape} came with {len(values)} values")
    return values.reshape(shape)


def to_proto(array, proto):
    """Writes an array into a `TensorProto`."""
    proto.dtype = NUMBERS[array.dtype]
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if proto.dtype == STRING:
        proto.string_val.extend(array.ravel())
    else:
        proto.tensor_content = np.ascontiguousarray(array).tobytes()


def read_records(path):
    """Yields the records of a TFRecord file; checksums are left to the server."""
    with open(path, "rb") as file:
        while header := file.read(12):
            yield file.read(int.from_bytes(header[:8], "little"))
            file.read(4)
