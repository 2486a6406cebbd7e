"""`examples/cluster.py`: workers of this machine, which live and die together."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import scripts
from scripts import run

# Worker 1 dies the first times, once worker 0 is there, which then waits for what does not come.
PROGRAM = """
import json, os, pathlib, sys, time
def text(path):
    return path.read_text() if path.exists() else ""
config = json.loads(os.environ["TF_CONFIG"])
index = config["task"]["index"]
print(json.dumps(config), sys.argv[1:])
tries = pathlib.Path(f"tries-{index}")
tries.write_text(text(tries) + ".")
pathlib.Path(f"process-{index}").write_text(str(os.getpid()))
while index == 1 and len(text(pathlib.Path("tries-0"))) < len(text(tries)):
    time.sleep(0.05)
if len(text(tries)) <= int(sys.argv[1]):
    time.sleep(60) if index == 0 else sys.exit(3)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def test_workers_get_one_cluster_and_an_index_each(program, tmp_path):
    done = run("cluster.py", "--workers", 3, program, 0, "--units", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert all(line.endswith(" ['0', '--units', '4']") for line in printed)
    found = {line[1]: json.loads(line[4:].partition(" ['0'")[0]) for line in printed}
    assert sorted(found) == ["0", "1", "2"]
    assert all(config["task"] == {"type": "worker", "index": int(n)} for n, config in found.items())
    [addresses] = {tuple(config["cluster"]["worker"]) for config in found.values()}
    assert len(set(addresses)) == 3


@pytest.mark.parametrize("again, status", [(2, 0), (1, 1)])
def test_all_are_started_again_where_one_dies(again, status, program, tmp_path):
    started = time.time()
    done = run("cluster.py", "--again", again, program, 2, cwd=tmp_path)
    assert done.returncode == status and time.time() - started < 30
    assert done.stdout.count("worker 1 ended with 3") == 2
    tries = [len((tmp_path / f"tries-{index}").read_text()) for index in range(2)]
    assert tries == [again + 1, again + 1]
    if status:
        assert "A worker ended with 3, and all were started 2 times" in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_it(sent, program, tmp_path):
    program.write_text(PROGRAM.replace("sys.exit(3)", "time.sleep(60)"))
    command = [sys.executable, scripts.EXAMPLES / "cluster.py", program, "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    files = [tmp_path / "process-0", tmp_path / "process-1"]
    while not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(timeout=20) == 128 + sent
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_no_workers_are_refused(program, tmp_path):
    done = run("cluster.py", "--workers", 0, program, cwd=tmp_path)
    assert done.returncode == 2 and "--workers must be at least 1. Received: 0" in done.stderr


@pytest.mark.parametrize("options, said", [
    (("--again", "-1", "program.py"), "--again: must be at least 0. Received: -1"),
    (("nothing.py",), "PROGRAM must be a file of Python. Received: nothing.py"),
])  # fmt: skip
def test_what_cannot_be_started_is_refused(options, said, program, tmp_path):
    done = run("cluster.py", *options, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr


def test_a_program_that_refuses_its_options_is_not_started_again(tmp_path):
    (tmp_path / "program.py").write_text("import argparse; argparse.ArgumentParser().parse_args()")
    done = run("cluster.py", "program.py", "--rubbish", cwd=tmp_path)
    assert done.returncode == 1 and "the status of a wrong option" in done.stderr
    assert done.stdout.count("ended with 2") == 1


@pytest.mark.long
@pytest.mark.slow
def test_the_chief_alone_writes_what_training_programs_write(tmp_path, data_dir):
    options = "--dataset toy_reviews --units 4 --buckets 1009 --epochs 2 --resume state".split()
    options += ["--data-dir", data_dir]
    program = scripts.EXAMPLES / "sentiment.py"
    done = run("cluster.py", "--again", 0, program, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    said = [line for line in done.stdout.splitlines() if line.startswith("[0] {")]
    answer = json.loads(said[-1].removeprefix("[0] "))
    assert answer["saved_model"] == "saved_models/toy_reviews/1" and answer["epochs"] == 2
    assert [path.name for path in (tmp_path / "saved_models/toy_reviews").iterdir()] == ["1"]
    [logs] = pathlib.Path(tmp_path / "logs/toy_reviews").iterdir()
    assert len((logs / "history.csv").read_text().splitlines()) == 3
    assert not (tmp_path / "state").exists()  # what it was kept for is done
