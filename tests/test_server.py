"""The stand-in server and the clients, as processes on loopback."""

import base64
import concurrent.futures
import contextlib
import itertools
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import exported
import grpc
import numpy as np
import pytest
import query
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

ROOT = pathlib.Path(__file__).parent.parent


@contextlib.contextmanager
def serving(folder):
    """Starts a server for the models of a folder; yields `(REST address, gRPC address)`."""
    command = [sys.executable, ROOT / "examples" / "stand_in_server.py", folder / "models.config"]
    command += ["--rest-port", "0", "--grpc-port", "0", "--poll", "0.1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline()
        rest, rpc = re.search(r"(http://\S+:\d+)/ and gRPC at (\S+:\d+)", line).groups()
        yield rest, rpc
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models")
    shutil.copy(ROOT / "saved_models" / "models.config", folder)
    shutil.copytree(exported.sentiment().version, folder / "sentiment" / "1")
    shutil.copytree(exported.characters().version, folder / "shakespeare" / "1")
    return folder


@pytest.fixture(scope="module")
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


def predict(server, body, model="sentiment"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return curl(server, f"/v1/models/{model}:predict", body)


TEXTS = ["a good film", "bad", "", '\U0001f600 "good" \\ \u0000']


def test_rows_and_columns_are_answered_with_the_model_s_numbers(server):
    expected = exported.sentiment().ask(text=TEXTS)
    code, answer = predict(server, {"instances": [{"text": text} for text in TEXTS]})
    assert code == 200
    found = [row["probability"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, expected["probability"], atol=1e-6)
    for inputs in ({"text": TEXTS}, TEXTS):
        code, answer = predict(server, {"inputs": inputs})
        np.testing.assert_allclose(answer["outputs"]["probability"], expected["probability"])
        assert answer["outputs"]["label"] == expected["label"].tolist()
    coded = {"b64": base64.b64encode(b"bad \xff").decode()}
    alone = exported.sentiment().ask(text=[b"bad \xff"])["probability"]
    for instances in ([coded], [{"text": coded}]):
        _, answer = predict(server, {"instances": instances})
        np.testing.assert_allclose(answer["predictions"][0]["probability"], alone[0], atol=1e-6)


def test_curl_is_answered(server):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    command = ["curl", "-s", "-d", '{"instances": ["good", "bad"]}']
    found = subprocess.run(
        [*command, f"{server[0]}/v1/models/sentiment:predict"], capture_output=True, check=True
    )
    assert len(json.loads(found.stdout)["predictions"]) == 2


def test_both_clients_get_the_model_s_numbers(client):
    model = exported.sentiment()
    answer = client.predict("sentiment", "tokens", {"text": TEXTS[:2]})
    expected = model.ask("tokens", text=TEXTS[:2])
    np.testing.assert_allclose(answer["probability"], expected["probability"], atol=1e-6)
    assert answer["lengths"] == expected["lengths"].tolist()
    said = list(query.classify(client, "sentiment", TEXTS[:2]))
    probability = model.ask(text=TEXTS[:2])["probability"]
    assert [f"{p:.3f}" for p in probability] == [line.split()[1] for line in said]


def test_a_streamed_text_is_the_one_generated_at_once(client):
    at_once = query.generate(client, "shakespeare", ["ab\u00e9c"], 30, 0.0, 0, 1)
    assert "".join(query.stream(client, "shakespeare", "ab\u00e9c", 30, 0.0, 0, 1)) == at_once[0]
    sampled = ["".join(query.stream(client, "shakespeare", "", 20, 1.0, 3, s)) for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_what_the_graph_refuses_is_the_client_s_error_in_words(client):
    with pytest.raises(query.QueryError, match=r"refused row 0: `length` must be 0 to 10000"):
        query.generate(client, "shakespeare", ["a"], -1, 1.0, 0, 1)
    with pytest.raises(query.QueryError, match=r"refused \((404|NOT_FOUND)\).*nobody"):
        client.predict("nobody", "serving_default", {"text": ["a"]})


def test_status_and_metadata_are_the_server_s(server):
    assert curl(server, "/v1/models/sentiment") == (200, {"model_version_status": [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]})  # fmt: skip
    assert curl(server, "/v1/models/sentiment/labels/stable")[0] == 200
    code, found = curl(server, "/v1/models/sentiment/versions/1/metadata")
    assert (code == 200 and found["model_spec"] == {
        "name": "sentiment", "signature_name": "", "version": "1",
    }) or found["model_spec"] == {"name": "sentiment", "version": "1"}  # fmt: skip
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "tokens", "gates"}
    stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server[1]))
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "sentiment"
    [status] = stub.GetModelStatus(request, timeout=10).model_version_status
    assert (status.version, status.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


@pytest.mark.parametrize("body, words", [
    (b"", "JSON Parse error"), (b"{", "JSON Parse error"), (b"\xff\xfe", "JSON Parse error"),
    (b"[" * 100_000, "JSON Parse error"), (b"3", "must be a JSON object"),
    ({"instances": []}, "at least one row"), ({}, "one of 'instances' and 'inputs'"),
    ({"instances": ["a"], "inputs": ["a"]}, "one of 'instances' and 'inputs'"),
    ({"instances": [1]}, "cannot be read as strings"), ({"instances": [["a"]]}, "of shape"),
    ({"inputs": {"wrong": ["a"]}}, "cannot be read as strings"),
    ({"inputs": ["a"], "signature_name": "no"}, "'no' not found"),
    ({"instances": [{"b64": "?"}]}, "cannot be read as strings"),
])  # fmt: skip
def test_rubbish_is_refused_in_words_and_the_server_goes_on(server, body, words):
    code, answer = predict(server, body)
    assert code == 400 and words in answer["error"], (code, answer)
    assert predict(server, {"inputs": ["good"]})[0] == 200


@pytest.mark.parametrize("change, words", [
    ({"length": ["5"]}, "'length' cannot be read"), ({"length": [5.5]}, "'length' cannot be read"),
    ({"length": [2**40]}, "out of range"), ({"length": [10**30]}, "'length' cannot be read"),
    ({"length": [5, 5]}, ""), ({"seed": None}, "'seed'"), ({"length": []}, ""),
])  # fmt: skip
def test_numbers_that_do_not_fit_are_refused_in_words(server, change, words):
    fitting = {"prompt": ["a"], "length": [5], "temperature": [1], "top_k": [0], "seed": [1]}
    assert predict(server, {"inputs": fitting}, "shakespeare")[0] == 200
    code, answer = predict(server, {"inputs": {**fitting, **change}}, "shakespeare")
    assert code == 400 and words in answer["error"], (code, answer)


def test_what_is_not_there_is_404_and_an_oversized_body_413(server):
    for path in (
        "nobody",
        "nobody/metadata",
        "sentiment/versions/9",
        "sentiment/labels/unheard-of",
    ):
        code, answer = curl(server, f"/v1/models/{path}")
        assert code == 404 and answer["error"], path
    assert curl(server, "/v1/models/nobody:predict", b"{}")[0] == 404
    assert curl(server, "/v1/other")[0] == 400
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = "POST /v1/models/sentiment:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"
        connection.sendall(head.format(1 << 40).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_grpc_refuses_with_the_server_s_codes(server):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server[1]))

    def code(name="sentiment", signature="", **inputs):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(value)
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(request, timeout=10)
        return error.value.code()

    text = tf.make_tensor_proto(["a"])
    half = tf.make_tensor_proto(np.ones(1, np.float32))
    half.tensor_content = b"123"
    huge = tf.make_tensor_proto(["a"])
    huge.tensor_shape.dim[0].size = 1 << 50
    assert code("nobody", text=text) == grpc.StatusCode.NOT_FOUND
    for wrong in (
        {"signature": "no", "text": text}, {}, {"text": half}, {"text": huge},
        {"text": tf.make_tensor_proto([1.0])}, {"other": text},
        {"text": tf.make_tensor_proto([1 + 2j])},
    ):  # fmt: skip
        assert code(**wrong) == grpc.StatusCode.INVALID_ARGUMENT, wrong


def test_32_clients_at_once_each_get_their_own_answer(server):
    texts = [" ".join(["good", "bad", "film"][: n % 3 + 1] * (n + 1)) for n in range(32)]
    expected = exported.sentiment().ask(text=texts)["probability"]
    barrier = threading.Barrier(32)

    def ask(number):
        transport = query.Rest(server[0], 60) if number % 2 else query.Grpc(server[1], 60)
        barrier.wait()
        return [
            transport.predict("sentiment", "serving_default", {"text": [texts[number]]})
            for _ in range(5)
        ]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for number, answers in enumerate(pool.map(ask, range(32))):
            for answer in answers:
                np.testing.assert_allclose(answer["probability"], expected[number], atol=1e-6)


def test_a_roll_forth_and_back_under_load_fails_no_request(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "models")
    config, base = tmp_path / "models" / "models.config", tmp_path / "models" / "sentiment"

    def configure(versions, stable, canary):
        text = (ROOT / "saved_models" / "models.config").read_text()
        block, rest = text.split('name: "shakespeare"')
        block = block.replace("versions: 1", " ".join(f"versions: {v}" for v in versions))
        block = block.replace('"stable" value: 1', f'"stable" value: {stable}')
        block = block.replace('"canary" value: 1', f'"canary" value: {canary}')
        (tmp_path / "new").write_text(block + 'name: "shakespeare"' + rest)
        (tmp_path / "new").rename(config)

    def until(path, code):
        end = time.monotonic() + 60
        while curl(server, path)[0] != code:
            assert time.monotonic() < end, path
            time.sleep(0.05)

    with serving(tmp_path / "models") as server:
        stop, results = threading.Event(), []

        def ask(path):
            body = json.dumps({"inputs": ["good"]}).encode()
            for _ in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
                results.append(curl(server, f"/v1/models/sentiment{path}:predict", body)[0])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, path) for path in ("", "/labels/stable") * 4]
            try:
                shutil.copytree(base / "1", tmp_path / "2")
                (tmp_path / "2").rename(base / "2")
                configure([1, 2], 1, 2)
                until("/v1/models/sentiment/versions/2", 200)
                configure([1, 2], 2, 2)  # version 2 is stable
                configure([2], 2, 2)
                until("/v1/models/sentiment/versions/1", 404)
                configure([1, 2], 2, 2)  # and back
                until("/v1/models/sentiment/versions/1", 200)
                configure([1], 1, 1)
                until("/v1/models/sentiment/versions/2", 404)
                (base / "3").mkdir()  # a broken version leaves the old one serving
                (base / "3" / "saved_model.pb").write_bytes(b"no model")
                configure([1, 3], 1, 1)
                until("/v1/models/sentiment/versions/3", 200)
                states = curl(server, "/v1/models/sentiment")[1]["model_version_status"]
                assert [one["state"] for one in states] == ["AVAILABLE", "END"]
                config.write_text("rubbish {")  # what is served goes on
                time.sleep(0.5)
            finally:
                stop.set()
            for one in asking:
                one.result()
        assert len(results) > 100 and set(results) == {200}


def test_the_command_asks_and_explains(server, tmp_path):
    def run(*arguments):
        command = [sys.executable, ROOT / "examples" / "query.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    rest = ("--rest", server[0])
    said = run("classify", "good", "bad", *rest)
    assert [line.split()[-1] for line in said.stdout.splitlines()] == ["good", "bad"]
    texts = [
        run(what, "abc", "--length", "20", "--temperature", "0", *where).stdout
        for what in ("generate", "stream")
        for where in (rest, ("--grpc", server[1]))
    ]
    assert len(set(texts)) == 1 and len(texts[0]) == 24
    refused = run("generate", "a", "--length", "-1", *rest)
    assert refused.returncode == 1 and refused.stderr.startswith("The model refused row 0: ")
    assert "Traceback" not in refused.stderr


def test_a_server_that_is_away_is_asked_again_and_then_reported(monkeypatch):
    pauses = []
    monkeypatch.setattr(query.time, "sleep", pauses.append)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # nobody listens
        for transport in (
            query.Rest(f"http://127.0.0.1:{port}", 1),
            query.Grpc(f"127.0.0.1:{port}", 1),
        ):
            with pytest.raises(query.QueryError, match=r"No answer from .* after 5 attempts"):
                transport.predict("sentiment", "serving_default", {"text": ["a"]})
    assert pauses == [0.2, 0.4, 0.8, 1.6] * 2


# The page


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture
def page(browser, server):
    browser.get(server[0] + "/")
    yield lambda identity: browser.find_element("id", identity)
    assert browser.get_log("browser") == []


def test_a_review_is_read_on_the_page(page, browser):
    page("review").clear()
    page("review").send_keys("A good <b>film</b> & zzz!")
    page("review").submit()
    answer = exported.sentiment().ask("tokens", text=["A good <b>film</b> & zzz!"])
    expected = answer["probability"][0, -1]
    label = "positive" if expected >= 0.5 else "negative"
    wait(lambda: page("probability").text == f"{label}, {expected:.3f}")
    canvas = wait(lambda: browser.find_elements("css selector", "#gates canvas"))[0]
    words = browser.find_elements("css selector", "#tokens span")
    assert [one.text.encode() for one in words] == answer["tokens"][0].tolist()
    for word, probability in zip(words, answer["probability"][0], strict=True):
        assert word.get_attribute("title").startswith(f"so far {probability:.3f}")
    assert "unknown" in words[-2].get_attribute("class")
    assert canvas.get_attribute("width") == str(len(words))
    options = [one.text for one in browser.find_elements("css selector", "#gate option")]
    assert "forward_forget" in options and "backward_memory" in options


def test_a_text_streams_in_on_the_page_and_can_be_stopped(page):
    page("prompt").clear()
    page("prompt").send_keys("abc")
    for name, value in (("length", "25"), ("temperature", "0")):
        page(name).clear()
        page(name).send_keys(value)
    page("go").click()
    wait(lambda: page("said").text == "done")
    given = {"prompt": ["abc"], "length": [25], "temperature": [0.0], "top_k": [0], "seed": [1]}
    expected = exported.characters().ask("generate", **given)["text"][0].decode()
    assert page("text").get_attribute("textContent") == "abc" + expected
    page("length").clear()
    page("length").send_keys("10000")
    page("go").click()
    seen = [wait(lambda n=n: len(page("text").get_attribute("textContent")) > n) for n in (4, 9)]
    assert all(seen)
    page("stop").click()
    wait(lambda: page("said").text == "stopped")
    assert len(page("text").get_attribute("textContent")) < 10_000


@pytest.mark.parametrize("width", [420, 1200])
def test_nothing_on_the_page_is_wider_than_the_screen(page, browser, width):
    browser.set_window_size(width, 900)
    wide = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 0
