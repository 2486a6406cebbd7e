"""The client `examples/query.py`."""

import concurrent.futures
import contextlib
import http.server
import socket
import sys
import threading
import time

import grpc
import pytest
import query
from scripts import run, said_here
from tensorflow_serving.apis import (
    prediction_service_pb2_grpc,
)

pytest_plugins = ["stand_in_process"]


def test_what_the_graph_refuses_is_the_client_s_error_in_words(client):
    with pytest.raises(query.QueryError, match=r"refused row 0: `length` must be 0 to 10000"):
        query.generate(client, "shakespeare", ["a"], -1, 1.0, 0, 1)
    with pytest.raises(query.QueryError, match=r"refused \((404|NOT_FOUND)\).*nobody"):
        client.predict("nobody", "serving_default", {"text": ["a"]})


def test_a_streamed_text_is_the_one_generated_at_once(client):
    at_once = query.generate(client, "shakespeare", ["ab\u00e9c"], 30, 0.0, 0, 1)
    assert "".join(query.stream(client, "shakespeare", "ab\u00e9c", 30, 0.0, 0, 1)) == at_once[0]
    sampled = ["".join(query.stream(client, "shakespeare", "", 20, 1.0, 3, s)) for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_a_model_of_another_kind_is_refused_with_the_names_that_it_has(client):
    with pytest.raises(query.QueryError, match=r"'sentiment' has no 'step'.*'serving_default'"):
        next(query.stream(client, "sentiment", "a", 3, 1.0, 0, 1))
    with pytest.raises(query.QueryError, match="refused"):
        next(query.classify(client, "shakespeare", ["a"]))


def test_an_answer_without_the_wanted_output_is_refused_with_its_outputs():
    class Other:
        def predict(self, *_):
            return {"label": [1]}

    with pytest.raises(query.QueryError, match=r"'m' has no 'probability'. It has \['label'\]"):
        next(query.classify(Other(), "m", ["a"]))


@pytest.mark.parametrize("name, values", [
    ("length", (-1, 1.0, 0)), ("temperature", (3, -1.0, 0)), ("top_k", (3, 1.0, -3)),
])  # fmt: skip
def test_a_stream_is_refused_what_the_model_refuses(client, name, values):
    with pytest.raises(query.QueryError, match=f"`{name}` must be at least 0. Received: -"):
        next(query.stream(client, "shakespeare", "a", *values, 1))


@pytest.mark.parametrize("option, value", [
    ("--length", "4294967299"), ("--top-k", "4294967297"), ("--temperature", "nan"),
    ("--seed", "18446744073709551617"), ("--timeout", "0"), ("--timeout", "-1"), ("--label", ""),
    ("--version", "-1"), ("--rest", "localhost:8501"), ("--rest", ""), ("--grpc", ""),
])  # fmt: skip
def test_rubbish_options_are_refused_by_name(option, value, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["query.py", "generate", "a", option, value])
    with pytest.raises(SystemExit, match=r"^2$"):
        query.main()
    assert f"argument {option}: must be " in capsys.readouterr().err


@pytest.mark.parametrize("what", ["generate", "stream"])
@pytest.mark.parametrize("option, place", [("--rest", 0), ("--grpc", 1)])
def test_a_text_that_is_not_utf_8_has_an_answer(what, option, place, server, monkeypatch, capsys):
    # Python hands over byte FF of a command line as this surrogate.
    arguments = [what, "a\udcffb", option, server[place], "--length", "5"]
    monkeypatch.setattr(sys, "argv", ["query.py", *arguments])
    query.main()
    said = capsys.readouterr().out
    assert said.startswith("a\ufffdb") and len(said) == 3 + 5 + 1


@pytest.mark.slow
def test_the_command_asks_and_explains(server):
    rest, rpc = ("--rest", server[0]), ("--grpc", server[1])
    said = said_here("query.py", "classify", "good", "bad", *rest)
    assert [line.split()[-1] for line in said.splitlines()] == ["good", "bad"]
    options = ("abc", "--length", 20, "--temperature", 0)
    texts = [
        said_here("query.py", what, *options, *where)
        for what in ("generate", "stream")
        for where in (rest, rpc)
    ]
    assert len(set(texts)) == 1 and len(texts[0]) == 24
    stable = said_here("query.py", "classify", "good", "--label", "stable", *rest)
    assert stable == said.splitlines(True)[0]
    with pytest.raises(SystemExit, match=r"Specific\(sentiment, 5\)"):
        said_here("query.py", "classify", "good", "--version", 5, *rest)


@pytest.mark.slow
def test_the_command_is_a_process_that_asks_and_explains(server, tmp_path):
    at_once = run("query.py", "generate", "abc", "--length", 20, "--grpc", server[1], cwd=tmp_path)
    assert at_once.stdout.startswith("abc") and len(at_once.stdout) == 24
    refused = run("query.py", "generate", "a", "--length", -1, "--rest", server[0], cwd=tmp_path)
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


@contextlib.contextmanager
def answering(code, seconds=0.0, body=b"{}"):
    """Serves one status for every request, after a while; yields the address and the requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(self.path)
            time.sleep(seconds)
            with contextlib.suppress(OSError):
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("code, attempts", [(503, 5), (504, 1), (500, 1), (429, 1), (404, 1)])
def test_only_what_no_server_took_is_sent_again(monkeypatch, code, attempts):
    monkeypatch.setattr(query.time, "sleep", lambda _: None)
    refused = pytest.raises(query.QueryError, match=str(code))
    with answering(code) as (address, requests), refused:
        query.Rest(address, 5).predict("m", "s", {"text": ["a"]})
    assert len(requests) == attempts


def test_a_request_that_takes_too_long_is_sent_once():
    too_late = pytest.raises(query.QueryError, match=r"within 0.2 s.*--timeout")
    with answering(200, seconds=1) as (address, requests), too_late:
        query.Rest(address, 0.2).predict("m", "s", {"text": ["a"]})
    assert len(requests) == 1
    asked = []

    class Slow(prediction_service_pb2_grpc.PredictionServiceServicer):
        def GetModelMetadata(self, request, context):  # noqa: N802
            asked.append(request)
            time.sleep(1)

    slow = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Slow(), slow)
    port = slow.add_insecure_port("127.0.0.1:0")
    slow.start()
    with pytest.raises(query.QueryError, match=r"within 0.2 s.*--timeout"):
        query.Grpc(f"127.0.0.1:{port}", 0.2).predict("m", "s", {"text": ["a"]})
    slow.stop(None)
    assert len(asked) == 1


@pytest.mark.parametrize("transport, place", [(query.Rest, 0), (query.Grpc, 1)])
def test_a_version_or_a_label_is_asked_by_name(server, transport, place):
    for which, found in (
        ({"version": 1}, None), ({"label": "canary"}, None),
        ({"version": 7}, r"Specific\(sentiment, 7\)"), ({"label": "no/such"}, "label: no/such"),
    ):  # fmt: skip
        client = transport(server[place], 30, **which)
        if found is None:
            client.predict("sentiment", "serving_default", {"text": ["good"]})
        else:
            with pytest.raises(query.QueryError, match=found):
                client.predict("sentiment", "serving_default", {"text": ["good"]})


@pytest.mark.parametrize("body, words", [
    (b"<html>hi</html>", "not one of TensorFlow Serving. Received: <html>hi"), (b"", "not one of"),
    (b"[]", "not one of"), (b"null", "not one of"), (b"\x1f\x8b", "not one of"),
    (b'{"predictions": []}', "has no 'outputs'. It has"),
    (b'{"outputs": {"label": [0], "probability": []}}', "no probability for each text"),
    (b'{"outputs": {"label": [0], "probability": [[0.5]]}}', "no probability for each text"),
    (b'{"outputs": {"label": 0, "probability": 0.5}}', "no probability for each text"),
])  # fmt: skip
def test_an_answer_that_is_not_the_server_s_is_refused_in_words(body, words):
    refused = pytest.raises(query.QueryError, match=words)
    with answering(200, body=body) as (address, _), refused:
        list(query.classify(query.Rest(address, 5), "sentiment", ["a"]))


def test_a_text_of_the_server_that_is_not_utf_8_is_read():
    body = b'{"outputs": {"label": ["\xff"], "probability": [0.5]}}'
    with answering(200, body=body) as (address, _):
        answer = query.Rest(address, 5).predict("sentiment", "serving_default", {"text": ["a"]})
    assert answer["label"] == ["\ufffd"]


def test_a_host_whose_name_is_too_long_is_told():
    with pytest.raises(query.QueryError, match="label"):
        query.Rest(f"http://{'a' * 300}", 5).predict("m", "s", {"text": ["a"]})
