"""The stand-in server answers with the models' numbers, also while versions roll."""

import base64
import concurrent.futures
import itertools
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import exported
import grpc
import numpy as np
import pytest
import query
import small_models
import stand_in_rest
import stand_in_server
import tensorflow as tf
from stand_in_process import ROOT, curl, predict, serving, wait
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

pytest_plugins = ["stand_in_process"]


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


def test_numbers_of_less_precision_are_answered(tmp_path):
    dtypes = {"half": tf.float16, "brain": tf.bfloat16, "byte": tf.uint8, "short": tf.int16}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float16, name="x")])
    def cast(x):
        return {name: tf.cast(x, dtype) for name, dtype in dtypes.items()}

    tf.saved_model.save(tf.Module(), tmp_path / "casts" / "1", signatures=cast)
    (tmp_path / "models.config").write_text(
        f'model_config_list {{ config {{ name: "casts" base_path: "{tmp_path}/casts" '
        'model_platform: "tensorflow" } }'
    )
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "casts"
    x = np.array([1.5, 3.140625, 100], "float16")
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    with serving(tmp_path) as (_, rpc):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(rpc))
        answer = stub.Predict(request, timeout=60)
    for name, dtype in dtypes.items():
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs[name]), tf.cast(x, dtype))


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


def test_status_and_metadata_are_the_server_s(server):
    assert curl(server, "/v1/models/sentiment") == (200, {"model_version_status": [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]})  # fmt: skip
    assert curl(server, "/v1/models/sentiment/labels/stable")[0] == 200
    code, found = curl(server, "/v1/models/sentiment/versions/1/metadata")
    assert code == 200
    assert found["model_spec"] == {"name": "sentiment", "signature_name": "", "version": "1"}
    assert set(found["metadata"]["signature_def"]) == {"signature_def"}  # and no @type
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "tokens", "gates"}
    stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server[1]))
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "sentiment"
    [status] = stub.GetModelStatus(request, timeout=10).model_version_status
    assert (status.version, status.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


def test_numbers_and_bytes_are_written_as_the_server_writes_them():
    values = [0.1, 1 / 3, 16777217, 1e-30, float("nan"), float("inf"), -0.0, 0.0]
    array = np.array(values, "float32").reshape(2, 4)
    written = stand_in_rest.write({"y": array}, by_row=False)["outputs"]
    # Six digits if they are enough, else nine.
    expected = [0.1, 0.333333343, 16777216.0, 1e-30, float("nan"), float("inf"), -0.0, 0.0]
    np.testing.assert_array_equal(np.ravel(written), expected)
    np.testing.assert_array_equal(np.signbit(np.ravel(written)), np.signbit(expected))
    text = stand_in_rest.write({"y": np.array([b"\xff", b"\xc3\xa9"], object)}, True)
    assert json.dumps(text, ensure_ascii=False).encode(errors="surrogateescape") == (
        b'{"predictions": ["\xff", "\xc3\xa9"]}'
    )


def test_values_are_in_the_field_of_their_type(server):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server[1]))
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "sentiment"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(TEXTS))
    outputs = stub.Predict(request, timeout=60).outputs
    expected = exported.sentiment().ask(text=TEXTS)
    np.testing.assert_allclose(outputs["probability"].float_val, expected["probability"], 1e-6)
    assert list(outputs["label"].int64_val) == expected["label"].tolist()


@pytest.mark.parametrize("option, taken", [("--rest-port", 0), ("--grpc-port", 1)])
def test_a_port_that_is_taken_is_told(small, server, option, taken, monkeypatch):
    port = server[taken].rsplit(":", 1)[1]
    ports = {"--rest-port": "0", "--grpc-port": "0", option: port}
    arguments = [str(small / "models.config"), *(part for pair in ports.items() for part in pair)]
    monkeypatch.setattr(sys, "argv", ["stand_in_server.py", *arguments])
    with pytest.raises(SystemExit, match=f"^{option} {port}: "):
        stand_in_server.main()


@pytest.fixture
def small(tmp_path):
    """A folder of two models that load at once."""
    for name in ("sentiment", "shakespeare"):
        small_models.save_words(tmp_path / "models" / name / "1")
    shutil.copy(ROOT / "saved_models" / "models.config", tmp_path / "models")
    return tmp_path / "models"


@pytest.mark.slow
def test_a_client_that_hangs_up_leaves_no_trace(small, tmp_path):
    head = b"POST /v1/models/sentiment:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    slow = {"signature_name": "slow", "inputs": [20_000]}
    body = json.dumps(slow).encode()
    with open(tmp_path / "said", "w") as said, serving(small, stderr=said) as (rest, rpc):
        host, port = rest.removeprefix("http://").split(":")
        for sent in (head % 100 + b"{", head % len(body) + body):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                linger = struct.pack("ii", 1, 0)  # a reset, not a farewell
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.sendall(sent)
                time.sleep(0.1)  # so that the request is read
        assert predict((rest, rpc), slow)[0] == 200  # after the answer that nobody took
    assert "Traceback" not in (tmp_path / "said").read_text()


def test_a_deadline_ends_the_work(server):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server[1]))
    specs = exported.characters().loaded.signatures["generate"].structured_input_signature[1]
    given = {"prompt": ["a"], "length": [10_000], "temperature": [1.0], "top_k": [0], "seed": [1]}
    long = predict_pb2.PredictRequest()
    long.model_spec.name, long.model_spec.signature_name = "shakespeare", "generate"
    for name, value in given.items():
        long.inputs[name].CopyFrom(tf.make_tensor_proto(value, specs[name].dtype))
    for _ in range(8):
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(long, timeout=0.05)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    start = time.monotonic()
    assert predict(server, {"inputs": ["good"]})[0] == 200
    assert time.monotonic() - start < 5  # eight generations at once would take longer


ROWS = {
    "sentiment": {"text": "a good film"},
    "shakespeare": {"prompt": "ab", "length": 2, "temperature": 0.0, "top_k": 0, "seed": 1},
}


@pytest.mark.parametrize("client, rows", [
    ("rest", 65), ("grpc", 65), pytest.param("grpc", 1000, marks=pytest.mark.slow)
], indirect=["client"])  # fmt: skip
def test_large_requests_are_answered_by_every_signature(client, rows):
    for model, row in ROWS.items():
        answer = exported.sentiment() if model == "sentiment" else exported.characters()
        for signature, function in answer.loaded.signatures.items():
            inputs, _ = client.shapes(model, signature)
            specs = function.structured_input_signature[1]
            given = {}
            for name, shape in inputs.items():
                one = row.get(name, np.zeros(shape[1:], specs[name].dtype.as_numpy_dtype).tolist())
                one = "a film" if name == "text" else one
                # The longest text comes last, in the smallest piece.
                given[name] = [one] * (rows - 1) + ["a very long film" if name == "text" else one]
            found = client.predict(model, signature, given)
            expected = answer.ask(signature, **{name: value[-1:] for name, value in given.items()})
            for name, values in found.items():
                assert len(values) == rows
                if expected[name].dtype.kind == "f":
                    np.testing.assert_allclose(values[-1], expected[name][0], atol=1e-6)


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


@pytest.mark.slow
def test_a_roll_forth_and_back_under_load_fails_no_request(small, tmp_path):
    config, base = small / "models.config", small / "sentiment"

    def configure(versions, stable, canary):
        text = (ROOT / "saved_models" / "models.config").read_text()
        block, rest = text.split('name: "shakespeare"')
        block = block.replace("versions: 1", " ".join(f"versions: {v}" for v in versions))
        block = block.replace('"stable" value: 1', f'"stable" value: {stable}')
        block = block.replace('"canary" value: 1', f'"canary" value: {canary}')
        (tmp_path / "new").write_text(block + 'name: "shakespeare"' + rest)
        (tmp_path / "new").rename(config)

    def until(version, state):
        def states():
            found = curl(server, "/v1/models/sentiment")[1]["model_version_status"]
            return {one["version"]: one["state"] for one in found}

        wait(lambda: states().get(version) == state, 60)

    with serving(small) as server:
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
                configure([1, 2], 1, 1)
                until("2", "AVAILABLE")
                configure([1, 2], 1, 2)
                configure([1, 2], 2, 2)  # version 2 is stable
                path = "/v1/models/sentiment/labels/stable/metadata"
                wait(lambda: curl(server, path)[1]["model_spec"]["version"] == "2")
                configure([2], 2, 2)
                until("1", "END")
                configure([1, 2], 2, 2)  # and back
                until("1", "AVAILABLE")
                configure([1, 2], 1, 1)
                wait(lambda: curl(server, path)[1]["model_spec"]["version"] == "1")
                configure([1], 1, 1)
                until("2", "END")
                (base / "3").mkdir()  # a broken version leaves the old one serving
                (base / "3" / "saved_model.pb").write_bytes(b"no model")
                configure([1, 3], 1, 1)
                until("3", "END")
                until("1", "AVAILABLE")
                config.write_text("rubbish {")  # what is served goes on
                time.sleep(0.5)
            finally:
                stop.set()
            for one in asking:
                one.result()
        assert len(results) > 100 and set(results) == {200}
