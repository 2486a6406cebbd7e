"""Constructor arguments of cells and layers: their names, configs and checks."""

import collections
import inspect
import re

import keras
import numpy as np

KINDS = {
    "activation": keras.activations,
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}


def kind(name):
    """Returns the Keras module that resolves and serializes the argument `name`, or None."""
    return KINDS.get(name.rsplit("_", 1)[-1])


def arguments_of(scope):
    """Returns the arguments of an `__init__`, given its `locals()`, with `**kwargs` merged in.

    The signatures of cells and layers are written out for the reader and the editor. This
    function saves repeating thirty names in every body.
    """
    named = {k: v for k, v in scope.items() if k not in ("self", "kwargs", "__class__")}
    return {**named, **scope["kwargs"]}


def argument_names(cls):
    """Returns the names of the constructor arguments of a cell or layer and of its bases."""
    return [p.name for p in parameters_of(cls)]


def parameters_of(cls):
    """Returns the parameters of a cell or layer and of its bases, keyword-only parameters last."""
    found = {}
    for parameter in (p for part in _named(cls) for p in part):
        found.setdefault(parameter.name, parameter)
    return sorted(found.values(), key=lambda p: p.kind == p.KEYWORD_ONLY)


def _ours(cls):
    """Returns the class and its bases up to `GatedCell` or `RNN`: Keras's classes are left out."""
    base = next(part for part in cls.__mro__ if Configurable in part.__bases__)
    return cls.__mro__[: cls.__mro__.index(base) + 1]


def _named(cls):
    """Returns the parameters of every constructor in `_ours(cls)`, a list each, `cls` first."""
    named = []
    for part in _ours(cls):
        if "__init__" in vars(part):
            _, *parameters = inspect.signature(part.__init__).parameters.values()
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            named.append([
                p for p in parameters if p.kind not in kinds and p.name not in cls.without
            ])  # fmt: skip
    return named


class Configurable:
    """Adds configs to cells and layers. Their subclasses may add arguments.

    A config holds every argument of the class and its bases, read from the attribute of the same
    name. A value that a subclass itself passes to its base
    (`super().__init__(units, activation="relu")`) stays out: `from_config` would pass it twice.
    """

    without = ()  # names of arguments of the bases that a class does not accept

    def __new__(cls, *args, **kwargs):
        unknown = kwargs.keys() & set(cls.without)
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no argument {sorted(unknown)}. Received: "
                f"{ {name: kwargs[name] for name in sorted(unknown)} }. Its arguments are "
                f"{argument_names(cls)}."
            )
        made = super().__new__(cls, *args, **kwargs)
        parameters = [p for part in _named(cls) for p in part]
        names = dict.fromkeys(p.name for p in parameters if p.kind != p.KEYWORD_ONLY)
        made._given = frozenset([*list(names)[: len(args)], *kwargs])
        return made

    def further_config(self):
        """Returns further entries of a config, besides Keras's entries and the arguments."""
        return {}

    def get_config(self):
        """Returns the config of Keras with all arguments of the class."""
        config = {**super().get_config(), **self.further_config()}
        config = {name: value for name, value in config.items() if name not in self.without}
        named = _named(type(self))
        for name in argument_names(type(self)):
            if name not in config and self._has_argument(name):
                value = getattr(self, name)
                config[name] = kind(name).serialize(value) if kind(name) else value
        received = {*self._given, *(p.name for p in named[0])}
        defaults = {p.name: p.default for part in reversed(named) for p in part}
        for name in defaults.keys() & config.keys() - received:
            if not _is_default(name, config[name], defaults[name]):
                del config[name]
        return config

    def _has_argument(self, name):
        if hasattr(self, name):
            return True
        if any("get_config" in vars(part) for part in _ours(type(self))):
            return False  # the `get_config` of the subclass adds it
        raise NotImplementedError(
            f"{type(self).__name__}: a config would lose the constructor argument `{name}`, as "
            f"there is no attribute of that name. Keep it as `self.{name}`, or override "
            f"`get_config` to return `{{**super().get_config(), {name!r}: ...}}`."
        )

    @classmethod
    def from_config(cls, config):
        for name in argument_names(cls):
            value = config.get(name)
            if (
                isinstance(value, dict)
                and {"class_name", "config"} <= set(value)
                and not kind(name)
            ):
                config = {**config, name: keras.saving.deserialize_keras_object(value)}
        return cls(**config)


def _is_default(name, value, default):
    if kind(name) and default is not inspect.Parameter.empty:
        default = kind(name).serialize(kind(name).get(default))
    return np.array_equal(value, default)


def section(text, name):
    """Returns a section of a docstring, without its name and the indentation of its first line."""
    text = inspect.cleandoc(text or "")
    if f"\n{name}:\n" not in text:
        return ""
    body = text.split(f"\n{name}:\n")[1].split("\n\n")[0]
    return body.removeprefix("    ")


def documented(cls):
    """Fills `{arguments}` and `{call}` in a cell's docstring with the text of its base.

    The entries below `{arguments}` describe arguments that the cell adds, or replace entries of
    the base. All entries are put into the order of the constructor.
    """
    if "{arguments}" not in (cls.__doc__ or ""):
        return
    text = inspect.cleandoc(cls.__doc__)
    said = next(c.__doc__ for c in cls.__mro__[1:] if section(c.__doc__, "Call arguments"))
    before, after = text.split("{arguments}")
    own, _, after = after.partition("\n\n")
    entries = {**_entries("\n    " + section(said, "Args")), **_entries(own)}
    names = dict.fromkeys([*argument_names(cls), *_entries(own)])
    # An entry of several names stands once.
    lines = dict.fromkeys(entries[name] for name in names if name in entries)
    calls = [
        f"{name}:\n    {section(said, name)}" for name in ("Call arguments", "Returns", "Raises")
    ]
    text = before + "Args:" + "".join(lines) + "\n\n" + after
    cls.__doc__ = text.replace("{call}", "\n\n".join(calls))


def _entries(lines):
    """Returns a dict: each name that an entry of a section describes, to the text of the entry."""
    entries = [f"\n    {entry}" for entry in re.split(r"\n    (?=\S)", lines)[1:]]
    return {n: e for e in entries for n in re.split(r",\s*", e.partition(":")[0].strip())}


def tensorflow_for(name):
    """Returns the module `tensorflow`, or raises an error that says what needs it."""
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            f"`keras_gated.{name}` needs TensorFlow, which cannot be imported: {error}. "
            "`pip install tensorflow` installs it; Keras itself may run on another backend."
        ) from error
    return tensorflow


def check_backend(owner):
    """Raises unless Keras runs on TensorFlow: `owner` calls layers in TensorFlow's graphs."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"{owner}: it needs Keras's TensorFlow backend. Received: "
            f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow."
        )


def compatible(shape, expected):
    """Whether a shape can be the expected one; None fits everything."""
    return len(shape) == len(expected) and all(
        None in (a, b) or a == b for a, b in zip(shape, expected, strict=True)
    )


def number_of_rows(batch_size, inputs):
    """Returns `batch_size`, or the number of rows of `inputs`.

    Keras 2 took `inputs` as the first argument, so a tensor is accepted as `batch_size`, too.
    """
    if inputs is None and len(getattr(batch_size, "shape", ())):
        inputs = batch_size
    return batch_size if inputs is None else keras.ops.shape(inputs)[0]


_WAYS_OUT = collections.defaultdict(
    lambda: "`keras.ops.reshape` brings them into this shape.",
    {
        (3, 2): "A recurrent layer before this one needs `return_sequences=True`; "
        "`keras.layers.Embedding` turns ids into features; `keras.ops.expand_dims` makes a batch "
        "of one sequence, or features of a number a step.",
        (3, 4): "`keras.layers.TimeDistributed` runs the layer over one more axis.",
        (2, 3): "A cell computes one step; a layer (`keras.layers.RNN(cell)`) reads a sequence.",
        (2, 1): "`keras.ops.expand_dims` makes a batch of one row.",
    },
)


def check_axes(owner, axes, shape):
    if len(shape) != len(axes):
        raise ValueError(
            f"{owner}: inputs must be of shape ({', '.join(axes)}). Received: a shape of "
            f"{len(shape)} axes, {tuple(shape)}. {_WAYS_OUT[len(axes), len(shape)]}"
        )


def _number(value, kinds):
    """Returns a value as a NumPy array without axes, or None if it is no number of these kinds."""
    number = np.asarray(value)
    return number if number.ndim == 0 and number.dtype.kind in kinds else None


def positive_integer(owner, name, value):
    number = _number(value, "iu")
    if number is None or number <= 0:
        raise ValueError(
            f"{owner}: `{name}` must be a positive integer. Received: {name}={value!r} "
            f"(of type {type(value).__name__}). For example: {name}=64."
        )
    return int(number)


def boolean(owner, name, value, words=()):
    """Returns True, False or one of the words; takes 1 and 0, too, as `keras.layers` does.

    Without words, None is False, also as in `keras.layers`.
    """
    if isinstance(value, str) and value in words:
        return value
    number = _number(False if value is None and not words else value, "biuf")
    if number is None or number not in (0, 1):
        accepted = ", ".join([*map(repr, words), "True or False"])
        raise ValueError(f"{owner}: `{name}` must be {accepted}. Received: {name}={value!r}.")
    return bool(number)


def rate(owner, name, value):
    number = _number(value, "biuf")
    if number is None or not 0 <= number <= 1:
        raise ValueError(
            f"{owner}: `{name}` must be a number from 0 to 1, the fraction to drop. "
            f"Received: {name}={value!r}. Use 0 for no dropout."
        )
    return float(number)


def resolve(owner, name, value):
    """Returns the function that an identifier stands for, or raises an error that names it."""
    if name.endswith("activation") and inspect.isclass(value):
        raise ValueError(
            f"{owner}: `{name}` must be a function or an object of a class, not the class. "
            f"Received: {name}={value!r}. Make an object of it: {name}={value.__name__}()."
        )
    try:
        return kind(name).get(value)
    except (ValueError, TypeError) as error:
        module = kind(name).__name__.replace("._tf_keras", "").replace(".api", "")
        raise ValueError(
            f"{owner}: `{name}` must be a name, a config or a callable that `{module}.get` "
            f"accepts. Received: {name}={value!r}. A function of your own can be passed as it is."
        ) from error
