"""Writes SavedModels for TensorFlow Serving: whole versions or none."""

import contextlib
import os
import pathlib
import re
import shutil
import uuid

import keras
import tensorflow as tf

from keras_gated.cells.arguments import boolean, check_backend
from keras_gated.paths.path import exporting
from keras_gated.serve import warmup
from keras_gated.serve.check import check_export, is_pattern
from keras_gated.serve.signatures import Signature, allowed_name, functional

try:
    import fcntl
except ImportError:  # Windows: what a killed export leaves behind stays there
    fcntl = None

# A full disk, a file that is too large, and a folder that may not be written.
_OF_FILES = (
    tf.errors.ResourceExhaustedError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
)
_UNFINISHED = re.compile("unfinished-[0-9a-f]{32}")


def export_model(
    model: keras.Model,
    directory: str | os.PathLike,
    signatures: dict | None = None,
    *,
    lengths: bool = False,
    states: bool = False,
    gates: str | None = None,
    examples: dict | None = None,
    track=(),
    extras: dict | None = None,
) -> str:
    """Writes `directory/<version>/`, a SavedModel that a stock TensorFlow Serving loads.

    The function writes a folder `unfinished-...`, checks it with `check_export`, and runs the
    example requests. Then it renames the folder to the next free number. The requests and their
    answers are stored in it as warm-up records, `assets.extra/tf_serving_warmup_requests`, which
    a server runs before it reports that it is ready. If the process is killed, the unfinished
    folder stays. The next export into the same directory removes it.

    Args:
        model: A Keras model, functional or sequential unless `signatures` are given.
        directory: The folder of all versions of one model, as TensorFlow Serving mounts it. Its
            name is the name of the model.
        signatures: Optional dict of `serve.signatures.Signature` by name. The first one is the
            default signature. `recipes.classification` and `recipes.generation` make some.
            Default: the signatures of `serve.signatures.functional`, which the arguments
            `lengths`, `states` and `gates` choose.
        lengths: Whether an input `lengths`, `(batch,)`, takes the place of the mask.
        states: Whether the states of the recurrent layers are inputs and outputs, too.
        gates: Optional name of a layer. A signature `gates` returns all its gates.
        examples: Optional dict of lists of requests by signature name. A request is a dict of
            arrays by input name. Default: the examples of the signatures.
        track: Layers with resources that the signatures use besides those of the model, such as
            lookup tables.
        extras: Optional dict of further files by name, for `assets.extra`, which a server does not
            read. Each value is a function that writes the path that it is given. No name may be
            that of the warm-up records.

    Returns:
        The path of the new version, a string.

    Raises:
        ValueError: If Keras runs on another backend than TensorFlow; if example requests would be
            asked within `strategy.scope()`; if `directory`, `signatures`, `examples` or `extras`
            are not what they must be; if an input or output lacks a batch axis, inputs share a
            name, or a stock server cannot run the graph; if an example request fails; and for what
            `serve.signatures.functional` refuses. Nothing is left behind, and other versions do not
            change.
        OSError: If the version cannot be written. Again nothing is left behind.
    """
    check_backend("export_model")
    directory = directory_of(directory)
    _check_extras(extras or {})
    lengths = boolean("export_model", "lengths", lengths)
    states = boolean("export_model", "states", states)
    if signatures is None:
        signatures = functional(model, lengths, states, gates)
    elif lengths or states or gates is not None:
        raise ValueError(
            "export_model: `lengths`, `states` and `gates` choose the signatures of a functional "
            "model. Received: `signatures` as well. Give one or the other."
        )
    else:
        _check_signatures(signatures)
    requests = _requests(signatures, examples or {})
    if any(requests.values()) and tf.distribute.has_strategy():
        raise ValueError(
            "export_model: the version is loaded and asked, which TensorFlow cannot do within "
            "`strategy.scope()`. Received: a call within the scope of "
            f"{type(tf.distribute.get_strategy()).__name__}. Call export_model after the scope, "
            "or without requests: `examples={name: []}` for every signature."
        )
    archive = _archive_of((model, *track), signatures)
    directory.mkdir(parents=True, exist_ok=True)
    with _unfinished(directory) as unfinished:
        try:
            with exporting():
                archive.write_out(str(unfinished), verbose=False)
        except _OF_FILES as error:  # TensorFlow does not raise OSError
            raise OSError(
                f"export_model: no version could be written into {directory}: {error.message}. "
                "Nothing is left of it."
            ) from error
        check_export(unfinished)
        warmup.write(unfinished, directory.resolve().name, requests)
        for name, write in (extras or {}).items():
            (unfinished / "assets.extra").mkdir(exist_ok=True)
            write(str(unfinished / "assets.extra" / name))
        return str(_rename_to_next_version(unfinished, directory))


def directory_of(directory):
    """Returns the folder of a model's versions as a path, checked before any work for it begins.

    Raises:
        ValueError: If there could be no such folder; the message says why.
    """
    reason = None
    if not isinstance(directory, (str, os.PathLike)) or not os.fspath(directory):
        reason = f"of type {type(directory).__name__}" if directory != "" else "an empty path"
    elif is_pattern(directory):
        reason = "which TensorFlow reads as a pattern. Name it without `[`, `]` and `\\`"
    else:
        place = pathlib.Path(os.path.abspath(directory))
        while not os.path.lexists(place):
            place = place.parent
        if not place.exists():
            reason = f"and {str(place)!r} is a link to what does not exist"
        elif not place.is_dir():
            reason = f"and {str(place)!r} is a file"
        elif not os.access(place, os.W_OK):
            reason = f"and {str(place)!r} may not be written"
    if reason:
        raise ValueError(
            "export_model: `directory` must be the folder of a model's versions, which is created "
            f"if it does not exist. Received: {directory!r}, {reason}."
        )
    return pathlib.Path(directory)


def _check_signatures(signatures):
    good = isinstance(signatures, dict) and all(
        isinstance(name, str) and isinstance(signature, Signature)
        for name, signature in signatures.items()
    )
    if not good or not signatures:
        raise ValueError(
            "export_model: `signatures` must be a dict of `keras_gated.serve.signatures.Signature` "
            f"by name. Received: {signatures!r}. Without it, a functional model gets its own."
        )


def _check_extras(extras):
    good = isinstance(extras, dict) and all(
        isinstance(name, str)
        and name not in ("", ".", "..", warmup.FILE)
        and name == os.path.basename(name)
        and callable(write)
        for name, write in extras.items()
    )
    if not good:
        raise ValueError(
            "export_model: `extras` must be a dict of functions that write a file, by the file's "
            f"name in `assets.extra`, which may not be {warmup.FILE!r}. Received: {extras!r}."
        )


def _requests(signatures, examples):
    if not isinstance(examples, dict) or not all(
        isinstance(requests, (list, tuple)) and all(isinstance(x, dict) for x in requests)
        for requests in examples.values()
    ):
        raise ValueError(
            "export_model: `examples` must be a dict of lists of requests by signature name, each "
            f"request a dict of arrays by input name. Received: {examples!r}."
        )
    if not set(examples) <= set(signatures):
        raise ValueError(
            f"export_model: `examples` must be for signatures of the model, {sorted(signatures)}. "
            f"Received: {sorted(examples)}."
        )
    return {name: examples.get(name, s.examples) for name, s in signatures.items()}


def _archive_of(resources, signatures):
    """Returns an archive of the signatures, traced, and of the resources that they use."""
    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    for name, signature in signatures.items():
        _check_names(name, [x.name for x in signature.inputs if x.name is not None])
        for spec in signature.inputs:
            if spec.shape.rank == 0 or spec.shape[0] is not None:
                raise ValueError(
                    f"export_model: every input of signature {name!r} must have a batch axis of "
                    f"unknown size first. Received: {spec}. Use TensorSpec((None, ...), ...)."
                )
        with exporting():
            archive.add_endpoint(name, _traced(signature), input_signature=list(signature.inputs))
    _name_variables_once(archive)
    return archive


def _check_names(signature, names):
    """Raises unless a server could tell the inputs of a signature apart by their names."""
    lower = [name.lower() for name in names]  # TensorFlow takes `X` and `x` for the same
    if len(set(lower)) < len(names):
        twice = sorted({name for name in names if lower.count(name.lower()) > 1})
        raise ValueError(
            f"export_model: every input of signature {signature!r} must have a name of its own. "
            f"Received: {twice} more than once, of {names}. (`lengths=True` adds an input "
            "`lengths`, `states=True` adds one for each state.) Give inputs or layers other names."
        )
    for name in names:
        if name != allowed_name(name):
            raise ValueError(
                f"export_model: the names of the inputs of signature {signature!r} must be ASCII "
                "letters, digits and `_`, with a letter first, and no word of Python. Received: "
                f"{name!r}. Call it {allowed_name(name)!r}, for example."
            )


@contextlib.contextmanager
def _unfinished(directory):
    """Yields a new directory to write a version into; removes it, unless it was renamed.

    The server ignores names that are not numbers, so it never sees half a version. The process
    that writes holds a lock on its directory. When a process ends in any way, its lock ends, too.
    So an unlocked directory was left behind, and is removed.
    """
    path = directory / f"unfinished-{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        with _locked(directory):  # no other process may see `path` before it is locked
            path.mkdir()
            stack.enter_context(_locked(path))
            for other in directory.iterdir():
                if other != path and _UNFINISHED.fullmatch(other.name) and other.is_dir():
                    _remove_if_left_behind(other)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory, wait=True):
    """Holds a lock on a directory. Yields whether the lock could be taken."""
    if fcntl is None:
        yield False
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:  # another process holds it, or the file system has no locks
            held = False
        yield held
    finally:
        os.close(descriptor)


def _remove_if_left_behind(path):
    with contextlib.suppress(FileNotFoundError), _locked(path, wait=False) as held:
        if held:
            shutil.rmtree(path, ignore_errors=True)


def _name_variables_once(archive):
    """Lets an archive hold TensorFlow's variables. Keras's wrappers would store a second copy."""
    held = archive._tf_trackable
    for name in ("variables", "trainable_variables", "non_trainable_variables"):
        setattr(held, name, [getattr(v, "value", v) for v in list(getattr(held, name))])


def _traced(signature):
    """Returns the traced function. Saving traces again, but then it traces only a call."""
    inputs = list(signature.inputs)
    function = tf.function(signature.function, input_signature=inputs, autograph=False)
    concrete = function.get_concrete_function()
    return lambda *given: concrete(*given)


def _rename_to_next_version(unfinished, directory):
    versions = [int(p.name) for p in directory.iterdir() if p.name.isdecimal()]
    version = max(versions, default=0) + 1
    while True:
        try:
            os.rename(unfinished, directory / str(version))
            return directory / str(version)
        except OSError:  # another export took the number; a directory with files is not replaced
            if not (directory / str(version)).exists():
                raise
            version += 1
