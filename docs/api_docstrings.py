"""Docstrings and signatures of the API reference, as the imported package has them.

Cells and layers share their arguments: constructors are made from those of a cell and of `RNN`,
and docstrings from their sections. Source code alone would show neither.
"""

import importlib
import inspect
import re
import textwrap

import griffe

from keras_gated.cells.arguments import Configurable, parameters_of

SECTIONS = ("Args", "Call arguments", "Attributes", "Returns", "Yields", "Raises")
TITLES = {"Args": "Arguments"}


class RuntimeDocstrings(griffe.Extension):
    def on_class(self, *, cls, **kwargs):
        found = _imported(cls)
        if found is None:
            return
        _document(cls, found)
        this = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        parameters = griffe.Parameters(this, *map(_parameter, _parameters(found)))
        init = griffe.Function("__init__", parameters=parameters, parent=cls)
        cls.set_member("__init__", init)

    def on_function(self, *, func, **kwargs):
        found = _imported(func)
        if found is not None and func.name != "__init__":
            _document(func, found)


def _parameters(found):
    """Returns all parameters of a function or a class, those of its bases among them."""
    if not inspect.isclass(found) or hasattr(found, "_fields"):
        parameters = inspect.signature(found).parameters.values()
    elif _shares_arguments(found):
        others = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
        parameters = [*parameters_of(found), others]
    else:
        parameters = inspect.signature(_constructor(found)).parameters.values()
    return [p for p in parameters if p.name != "self"]


def _shares_arguments(cls):
    """Whether a constructor leaves arguments to those of its bases, as a cell's may."""
    made = hasattr(cls.__init__, "__signature__")
    return issubclass(cls, Configurable) and cls is not Configurable and not made


def _constructor(cls):
    """Returns the first constructor of a class or its bases that names its arguments."""
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init and not {*inspect.signature(init).parameters} <= {"self", "args", "kwargs"}:
            return init
    return cls.__init__


def _imported(obj):
    try:
        found = importlib.import_module(obj.module.path)
        for name in obj.path.removeprefix(f"{obj.module.path}.").split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return None
    return found


def _parameter(parameter):
    return griffe.Parameter(
        parameter.name,
        annotation=_shown(parameter.annotation),
        kind=griffe.ParameterKind(parameter.kind.description),
        default=None if parameter.default is parameter.empty else repr(parameter.default),
    )


def _shown(annotation):
    if annotation is inspect.Parameter.empty:
        return None
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _document(obj, found):
    text = inspect.cleandoc(found.__doc__ or "")
    if hasattr(found, "_fields") and "\nAttributes:" not in text:
        text += _fields(found)
    if text:
        obj.docstring = griffe.Docstring(markdown(text, found), parent=obj)


def markdown(text, found):
    """Returns a docstring as Markdown, with every argument of a signature in its list."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = {p.name: p for p in _parameters(found) if p.kind not in variable}
    for name in SECTIONS:
        match = re.search(rf"(?m)^{name}:\n((?: .*\n?|\n)+)", text)
        if match is None:
            continue
        shown = textwrap.dedent(match[1]).strip()
        if name in ("Args", "Call arguments", "Attributes", "Raises"):
            shown = _list(shown, signature if name == "Args" else {})
        shown = f"**{TITLES.get(name, name)}**\n\n{shown}\n\n"
        text = text[: match.start()] + shown + text[match.end() :]
    # An equation is indented by four columns, which is code in Markdown, too.
    return re.sub(r"^(Reference|Weights|Masked steps):", r"**\1:**", text, flags=re.MULTILINE)


def _fields(named_tuple):
    """Returns the fields of a named tuple with the comments beside them in the source."""
    lines, comments = [], []
    for line in inspect.getsource(named_tuple).splitlines():
        code, _, comment = line.partition("#")
        comments += [comment.strip()] if comment else []
        field = re.fullmatch(r"    (\w+): .*", code.rstrip())
        if field and field[1] in named_tuple._fields:
            lines.append(f"- **`{field[1]}`**: {' '.join(comments)}".removesuffix(": "))
        if code.strip():
            comments = []
    return "\n\n**Fields**\n\n" + "\n".join(lines)


def _list(body, signature):
    """Returns the entries of a section as a list, and the arguments that it leaves out."""
    lines, said = [], set()
    for entry in re.split(r"\n(?=\S)", body):
        names, _, text = entry.partition(":")
        names = re.split(r",\s*", names)
        said.update(names)
        lines.append(f"- {', '.join(_name(n, signature) for n in names)}: {text.strip()}")
    lines += [f"- {_name(name, signature)}" for name in signature if name not in said]
    # Markdown takes what follows an inner list for a part of it, if no blank line is between.
    return ("\n\n" if any("\n\n" in line for line in lines) else "\n").join(lines)


def _name(name, signature):
    parameter = signature.get(name)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return f"**`{name}`**"
    return f"**`{name}`** (`{parameter.default!r}`)"
