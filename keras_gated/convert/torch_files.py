"""Files of PyTorch weights. Nothing in them is run. Only files of `torch.save` need torch."""

import os
import re
import warnings
import zipfile
from collections.abc import Callable

import numpy as np

from keras_gated.convert.files import check_unpacked

_OF_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".th", ".jit")
_SUFFIXES = (".npz", ".safetensors", *_OF_TORCH)


def state_dict_of(path, wanted: Callable[[str], bool], owner: str):
    """Returns the contents of a file. From `.npz` and `.safetensors`: the arrays by their names.

    Args:
        path: A `.npz`, `.safetensors`, or a file of `torch.save`: `.pt`, `.pth`, `.bin`, ...
        wanted: Takes the name of an entry and returns whether it is read. The other entries are
            None: a larger model may have many of them, and some may not be arrays.
        owner: What the errors begin with. They name the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind, is cut off, holds more than weights, or unpacks to
            far more than its own size.
        ImportError: If the package that reads it is not installed.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{owner}: there is no file {path!r}.")
    suffix = os.path.splitext(path)[1].lower()
    if not os.path.isfile(path) or suffix not in _SUFFIXES:
        raise ValueError(
            f"{owner}: the file must be one of {', '.join(_SUFFIXES)}. Received: {path!r}. Of "
            "another, pass what it holds: arrays by their names."
        )
    read = {".npz": _npz, ".safetensors": _safetensors}.get(suffix, _pt)
    try:
        _check_size(path, wanted if read is _npz else lambda name: True)
        return read(path, wanted, owner)
    except (ImportError, PermissionError):
        raise
    except Exception as error:  # a broken file makes its reader raise errors of any kind
        raise ValueError(
            f"{owner}: {path!r} is cut off, or holds more than arrays of weights. Its reader says: "
            f"{type(error).__name__}: {_reason(error)} {_WAY_OUT[read]}"
        ) from error


def _reason(error):
    """Returns the first words of an error, without advice to load a file unsafely."""
    blocked = re.search(r"GLOBAL (\S+)", str(error))
    if blocked:
        return f"it would run {blocked[1]}."
    lines = [*str(error).splitlines(), ""]
    return re.split(r"(?<=\.) |\. ?$", lines[0])[0].rstrip(".")[:200] + "."


def _check_size(path, wanted):
    """Raises if an archive would fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    unpacked = sum(e.file_size for e in entries if wanted(e.filename.removesuffix(".npy")))
    check_unpacked(unpacked, os.path.getsize(path))


def _npz(path, wanted, owner):
    del owner
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError("it is one array, and no archive of arrays by their names.")
    with file:
        return {name: file[name] if wanted(name) else None for name in file.files}


def _safetensors(path, wanted, owner):
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(
            f"{owner}: safetensors is not installed, which reads {path!r}. Install it (pip install "
            "safetensors), or pass what the file holds: arrays by their names."
        ) from error
    with safe_open(path, framework="numpy") as file:
        stored = set(file.keys())
        # `save_model` of safetensors stores a tensor with two names once. A module whose tensors
        # are all those of another one is the same module.
        modules = {name.rpartition(".")[0] for name in stored}
        also = {
            name: one
            for name, one in (file.metadata() or {}).items()
            if one in stored and name.rpartition(".")[0] in modules
        }
        names = {**also, **{name: name for name in stored}}
        return {name: file.get_tensor(one) if wanted(name) else None for name, one in names.items()}


def _pt(path, wanted, owner):
    del wanted  # a pickle is read as a whole
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{owner}: torch is not installed, which reads {path!r}. Install it (pip install "
            "'keras_gated[torch]'), or write the arrays to a .npz where torch is."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning about TorchScript; the error says the same
        return torch.load(path, map_location="cpu", weights_only=True)


_WAY_OUT = {
    _npz: "Write the state dict's arrays: numpy.savez(path, **arrays).",
    _safetensors: "Write the state dict anew: safetensors.torch.save_file(tensors, path), in "
    "float32 where NumPy lacks the dtype.",
    _pt: "Write the weights alone: torch.save(module.state_dict(), path). Of a file of "
    "torch.jit.save, pass torch.jit.load(path).",
}
