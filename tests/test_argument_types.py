"""Command lines of the example programs: rubbish is refused before any work is done."""

import argparse
import ast
import importlib
import os
import pathlib
import signal
import subprocess
import sys

import argument_types as types
import benchmark
import find_units
import pytest


@pytest.mark.parametrize("type_of, good, bad", [
    (types.whole, ["0", "9"], ["-1", "1.5", "x", "nan"]),
    (types.positive, ["1"], ["0"]),
    (types.port, ["0", "8501"], ["-1", "65536"]),
    (types.seed, ["0", "4294967295"], ["-1", "4294967296"]),
    (types.int32, ["-2147483648", "2147483647"], ["2147483648", "4294967299"]),
    (types.int64, ["9223372036854775807"], ["9223372036854775808", "99999999999999999999"]),
    (types.finite, ["-1", "0", "1e9"], ["nan", "inf", "-inf"]),
    (types.above_zero, ["1e-9", "3"], ["0", "-1", "nan", "inf"]),
    (types.share, ["0", "0.5", "1"], ["-0.1", "2", "nan"]),
    (types.seconds, ["0.1", "1e6"], ["0", "-1", "nan", "1e7", "1e300"]),  # of a clock
    (types.filled, ["a"], [""]),
    (types.http_address, ["http://a:1"], ["", "a:1", "http://", "https://a", "http://a:99999"]),
    (types.http_address, ["http://a:1/b"], ["http://a?b", "http://a#b"]),
    (types.web_address, ["http://a:1", "https://a/b"], ["localhost:8501", "ftp://a"]),
])  # fmt: skip
def test_a_type_takes_what_is_in_its_range_alone(type_of, good, bad):
    for given in good:
        found = type_of(given)
        assert found == (given if isinstance(found, str) else ast.literal_eval(given))
    for given in bad:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            type_of(given)


def test_bytes_of_an_argument_that_are_not_utf_8_are_replaced():
    # Python hands over byte FF of a command line as this surrogate.
    assert types.readable("caf\u00e9 \udcff") == "caf\u00e9 \ufffd"
    assert types.filled("\udcff") == "\ufffd"


def test_control_c_ends_a_program_without_a_trace():
    program = (
        "import argument_types, signal\n"
        "signal.signal(2, signal.default_int_handler)\n"  # a job in the background ignores Ctrl-C
        "argument_types.command_line('')\n"
        "signal.raise_signal(2)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(types.__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == -signal.SIGINT and not found.stderr.strip()


def test_a_folder_is_refused_where_a_file_is_in_the_way_and_none_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "lost")
    monkeypatch.chdir(tmp_path)
    for good in ("new/of/new", ".", str(tmp_path / "other")):
        assert types.folder(good) == good
    for bad in ("file", "file/below", "new/../file", "nowhere", "/proc/below"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"can be written. Received: {bad}"):
            types.folder(bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]


def test_a_picture_needs_a_folder_and_a_known_ending(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    assert types.picture_file(str(tmp_path / "units.png"))
    for bad in ("units.xyz", "file/units.png", "folder.png"):
        with pytest.raises(argparse.ArgumentTypeError):
            types.picture_file(str(tmp_path / bad))


@pytest.mark.parametrize("script, options, said", [
    ("characters", "--output file", "--output: must be a folder"),
    ("characters", "--output . --name file", "--output: must be a folder"),
    ("characters", "--output . --name a[b]", "--output: must be a folder without `[`, `]`"),
    ("characters", "--resume file", "--resume: must be a folder"),
    ("characters", "--logs file", "--logs: must be a folder"),
    ("characters", "--rate nan", "--rate: must be above 0. Received: nan"),
    ("characters", "--dropout 2", "--dropout: must be 0 to 1. Received: 2"),
    ("characters", "--epochs 1.5", "--epochs: invalid whole_number value: '1.5'"),
    ("characters", "--seed -1", "--seed: must be 0 to 4294967295. Received: -1"),
    ("sentiment", "--output file", "--output: must be a folder"),
    ("sentiment", "--exclude nowhere", "--exclude: must be a text file"),
    ("sentiment", "--exclude bytes", "--exclude: must be a text file"),
    ("sentiment", "--vocabulary 2", "--vocabulary: must be at least 3. Received: 2"),
    ("vowels", "--output file", "--output: must be a folder"),
    ("compare_cells", "--rate inf", "--rate: must be above 0. Received: inf"),
    ("long_memory", "--output file/a.png", "--output: must be a folder"),
    ("how_far_back", "--output .", "--output: must be a file"),
    ("load", "--plan 10,b", "--plan: invalid rates value: '10,b'"),
    ("load", "--plan 10,0", "--plan: must be above 0. Received: 0"),
    ("stand_in_server", "models.config --grpc-port 65536", "--grpc-port: must be 0 to 65535."),
    ("stand_in_server", "models.config --rest-port 65536", "--rest-port: must be 0 to 65535."),
    ("find_units", "model --output file/a.png", "--output: must be a folder"),
    ("look_inside", "model text --output file", "--output: must be a folder"),
])  # fmt: skip
def test_what_would_be_lost_after_the_work_is_refused_before(
    script, options, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("file").touch()
    pathlib.Path("bytes").write_bytes(b"\xff")
    monkeypatch.setattr("sys.argv", [f"{script}.py", *options.split()])
    with pytest.raises(SystemExit, match=r"^2$"):
        importlib.import_module(script).main()
    assert said in capsys.readouterr().err


def test_a_benchmark_reads_the_reviews_before_it_measures_for_the_seconds_that_are_asked_for(
    monkeypatch, tmp_path
):
    def asked(*_):
        raise LookupError("the reviews")

    def measured(rows, case, calls, seconds, **_):
        raise TimeoutError(seconds)

    options = ["benchmark.py", "--quick", "--output", str(tmp_path)]
    monkeypatch.setattr(benchmark, "padded_reviews", asked)
    monkeypatch.setattr(benchmark, "compare", measured)
    monkeypatch.setattr("sys.argv", options)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(LookupError, match="the reviews"):
        benchmark.main()
    monkeypatch.delenv("TFDS_DATA_DIR")
    for given, wanted in ([], "0.5"), (["--seconds", "0.01"], "0.01"):
        monkeypatch.setattr("sys.argv", [*options, *given])
        with pytest.raises(TimeoutError, match=f"^{wanted}$"):
            benchmark.main()


def test_units_are_looked_for_in_a_character_model_alone(monkeypatch):
    model = pathlib.Path(find_units.__file__).parent.parent / "saved_models" / "sentiment"
    monkeypatch.setattr("sys.argv", ["find_units.py", str(model)])
    with pytest.raises(SystemExit, match=r"must hold a character model. Received: a sentiment"):
        find_units.main()


def test_8_bits_are_compared_in_a_sentiment_model_alone(monkeypatch):
    monkeypatch.setattr("sys.argv", ["", str(EXAMPLES.parent / "saved_models" / "shakespeare")])
    with pytest.raises(SystemExit, match=r"must hold a sentiment model. Received: a character"):
        importlib.import_module("benchmark_litert").main()


EXAMPLES = pathlib.Path(find_units.__file__).parent


@pytest.mark.parametrize("script, status", [
    ("stand_in_server.py --help", 0),
    ("query.py classify Boring. --grpc localhost:1", 1),
])  # fmt: skip
def test_a_program_says_nothing_of_tensorflow_s_start(script, status):
    quiet = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    name, *options = script.split()
    command = [sys.executable, EXAMPLES / name, *options]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    assert "0000 " not in done.stderr and "absl::" not in done.stderr, done.stderr


def test_a_command_in_a_docstring_can_be_copied_from_its_line():
    for path in EXAMPLES.glob("*.py"):
        for line in (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines():
            assert "python examples/" not in line or line.count('"') % 2 == 0, (path.name, line)
