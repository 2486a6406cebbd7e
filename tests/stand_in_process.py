"""The stand-in server, as a process on loopback, shared by the tests that ask it."""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import exported
import pytest
import query

ROOT = pathlib.Path(__file__).parent.parent


@contextlib.contextmanager
def serving(folder, stderr=subprocess.DEVNULL):
    """Starts a server for the models of a folder; yields `(REST address, gRPC address)`."""
    command = [sys.executable, ROOT / "examples" / "stand_in_server.py", folder / "models.config"]
    command += ["--rest-port", "0", "--grpc-port", "0", "--poll", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        line = process.stdout.readline()
        rest, rpc = re.search(r"(http://\S+:\d+)/ and gRPC at (\S+:\d+)", line).groups()
        yield rest, rpc
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models")
    for config in (ROOT / "saved_models").glob("*.config"):
        shutil.copy(config, folder)
    shutil.copytree(exported.sentiment().version, folder / "sentiment" / "1")
    shutil.copytree(exported.characters().version, folder / "shakespeare" / "1")
    return folder


@pytest.fixture(scope="session")
def server(folder):
    with serving(folder) as addresses:
        yield addresses


@pytest.fixture(params=["rest", "grpc"])
def client(request, server):
    rest, rpc = server
    return query.Rest(rest, 30) if request.param == "rest" else query.Grpc(rpc, 30)


def curl(server, path, body=None):
    """Returns the code and the JSON of what curl would be answered."""
    request = urllib.request.Request(server[0] + path, body)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def predict(server, body, model="sentiment"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return curl(server, f"/v1/models/{model}:predict", body)
