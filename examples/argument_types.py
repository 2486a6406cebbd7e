"""Command lines, and types of arguments that refuse what is out of range before work is lost."""

import argparse
import math
import os
import pathlib
import sys
import tempfile
import urllib.parse

LONGEST = 1e6  # seconds to wait; the system's clocks refuse far more
_print_error = sys.excepthook


def command_line(text):
    """Returns a parser that shows the text of a program as it is. Ctrl-C ends without a trace."""
    sys.excepthook = _without_trace_on_ctrl_c
    return argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _without_trace_on_ctrl_c(kind, error, trace):
    if issubclass(kind, KeyboardInterrupt):
        print(file=sys.stderr)
    else:
        _print_error(kind, error, trace)


def require(good, given, wanted):
    if not good:
        raise argparse.ArgumentTypeError(f"must be {wanted}. Received: {given}")


def integer(least, most=math.inf):
    """Returns the type of the integers from `least` to `most`."""
    wanted = f"at least {least}" if most == math.inf else f"{least} to {most}"

    def whole_number(given):  # argparse says "invalid whole_number value"
        require(least <= int(given) <= most, given, wanted)
        return int(given)

    return whole_number


whole, positive = integer(0), integer(1)
port = integer(0, 65535)
seed = integer(0, 2**32 - 1)  # NumPy takes no others
int32, int64 = (integer(-(2**bits), 2**bits - 1) for bits in (31, 63))


def finite(given):
    require(math.isfinite(float(given)), given, "a finite number")
    return float(given)


def above_zero(given):
    require(0 < float(given) < math.inf, given, "above 0")
    return float(given)


def seconds(given):
    require(0 < float(given) <= LONGEST, given, f"above 0, at most {LONGEST:g}")
    return float(given)


def share(given):
    require(0 <= float(given) <= 1, given, "0 to 1")
    return float(given)


def readable(given):
    """Text, with replacement characters for bytes that are not UTF-8."""
    return given.encode(errors="surrogateescape").decode(errors="replace")


def filled(given):
    require(given, repr(given), "more than an empty text")
    return readable(given)


def http_address(given, schemes=("http",)):
    parts = urllib.parse.urlsplit(given)
    alone = not (parts.query or parts.fragment)
    require(
        parts.scheme in schemes and parts.hostname and parts.port != 0 and alone,
        given,
        "http://HOST:PORT",
    )
    return given


def web_address(given):
    return http_address(given, schemes=("http", "https"))


def text_file(given):
    try:
        pathlib.Path(given).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"must be a text file, UTF-8: {error}") from None
    return given


def folder(given):
    """A folder that can be written, or made. It is made when there is something to write."""
    path = pathlib.Path(os.path.abspath(given))
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        require(False, f"{given}. {there}: {error.strerror}", "a folder that can be written")
    return given


def picture_file(given):
    path = pathlib.Path(given)
    require(path.suffix.lower() in (".png", ".svg", ".pdf"), given, "a file .png, .svg or .pdf")
    require(not path.is_dir(), given, "a file, not a folder")
    folder(path.parent)
    return given


def require_folder(parser, *parts):
    """Ends the program if a folder in that of --output could not be written, or read as a model."""
    from keras_gated.serve.check import is_pattern  # not every script needs the package

    path = os.path.join(*parts)
    try:
        require(not is_pattern(path), path, "a folder without `[`, `]` and `\\` in its name")
        folder(path)
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --output: {error}")
