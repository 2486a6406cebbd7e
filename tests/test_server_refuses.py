"""What the stand-in refuses, and how, is what TensorFlow Serving refuses.

Codes and words are those of its `http_rest_api_handler.cc`, `json_tensor.cc`, `predict_util.cc`.
"""

import gzip
import json
import socket
import urllib.error
import urllib.request

import grpc
import pytest
import tensorflow as tf
from stand_in_process import curl, predict
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

pytest_plugins = ["stand_in_process"]


@pytest.mark.parametrize("body, words", [
    (b"", "JSON Parse error: The document is empty"), (b" ", "The document is empty"),
    (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
    (b"[" * 100_000, "JSON Parse error"), (b"3", "JSON Value: 3 Is not object"),
    ({"instances": []}, "No values in 'instances' array"), ({}, "Missing 'inputs' or 'instances'"),
    ({"instances": ["a"], "inputs": ["a"]}, "expecting only one of 'inputs' or 'instances'"),
    ({"instances": [1]}, "JSON Value: 1 Type: Number is not of expected type: string"),
    ({"inputs": {"wrong": ["a"]}}, "Missing named input: text in 'inputs' object."),
    ({"inputs": ["a"], "signature_name": "no"}, 'name: "no" not found in signature def'),
    ({"inputs": ["a"], "signature_name": 5}, "'signature_name' key must be a string value."),
    ({"instances": [{"b64": "?"}]}, "Unable to base64 decode"),
])  # fmt: skip
def test_rubbish_is_refused_in_words_and_the_server_goes_on(server, body, words):
    code, answer = predict(server, body)
    assert code == 400 and words in answer["error"], (code, answer)
    assert predict(server, {"inputs": ["good"]})[0] == 200


@pytest.mark.parametrize("change, words", [
    ({"length": ["5"]}, 'JSON Value: "5" Type: String is not of expected type: int32'),
    ({"length": [5.5]}, "Type: Number is not of expected type: int32"),
    ({"length": [2**40]}, "is not of expected type: int32"), ({"length": [True]}, "Type: True"),
    ({"length": [10**30]}, "is not of expected type: int32"),
    ({"temperature": [10**400]}, "Number too big to be stored in double."),
    ({"length": [5, 5]}, ""), ({"seed": None}, "Type: Null"), ({"length": []}, ""),
])  # fmt: skip
def test_numbers_that_do_not_fit_are_refused_in_words(server, change, words):
    fitting = {"prompt": ["a"], "length": [5], "temperature": [1], "top_k": [0], "seed": [1]}
    assert predict(server, {"inputs": fitting}, "shakespeare")[0] == 200
    code, answer = predict(server, {"inputs": {**fitting, **change}}, "shakespeare")
    assert code == 400 and words in answer["error"], (code, answer)


def test_what_the_server_does_not_look_at_is_no_error(server):
    for body in (
        {"inputs": {"text": ["good"], "more": [1]}},
        b'{"inputs": ["good"]} and more',
        b'\xef\xbb\xbf {"inputs": ["bad \xff"]}',  # a byte order mark, a byte that is no UTF-8
        {"inputs": ["good"], "signature_name": "", "more": 1},
    ):
        assert predict(server, body)[0] == 200, body
    assert curl(server, "/V1/models/sentiment:PREDICT", b'{"inputs": ["good"]}')[0] == 200


@pytest.mark.parametrize("method, path, code, words", [
    ("GET", "/v1/models/nobody", 404, "Could not find any versions of model nobody"),
    ("GET", "/v1/models/sentiment/versions/9", 404, "Could not find version 9 of model sentiment"),
    # The status of a model is that of all its versions, whatever the label.
    ("GET", "/v1/models/sentiment/labels/no", 200, None),
    ("GET", "/v1/models/sentiment/labels/no/metadata", 400, "servable version label: no"),
    ("GET", "/v1/models/nobody/metadata", 404, "not found for request: Latest(nobody)"),
    ("GET", "/v1/models", 400, "Missing model name in request."),
    ("GET", "/v1/models/sentiment/versions/99999999999999999999", 400, "to numeric"),
    ("POST", "/v1/models/nobody:predict", 404, "not found for request: Latest(nobody)"),
    ("POST", "/v1/models/sentiment/versions/9:predict", 404, "Specific(sentiment, 9)"),
    ("POST", "/v1/models/sentiment/labels/no:predict", 400, "servable version label: no"),
    ("GET", "/v1/models/sentiment:predict", 400, "Malformed request: GET /v1/models/sentiment:p"),
    ("POST", "/v1/models/sentiment", 400, "Malformed request: POST /v1/models/sentiment"),
    ("PUT", "/v1/models/sentiment:predict", 400, "Malformed request: PUT"),
    ("DELETE", "/v1/models/sentiment", 400, "Malformed request: DELETE"),
    ("GET", "/v1/other", 400, "Malformed request: GET /v1/other"),
    ("POST", "/v1/models/sentiment:predict?a=1", 400, "Malformed request: POST"),
    ("GET", "/v1/models/sentiment?a=1", 404, "any versions of model sentiment?a=1"),
    ("GET", "/v1", 404, None), ("GET", "/other", 404, None), ("POST", "/", 404, None),
    ("OPTIONS", "/v1/models/sentiment:predict", 400, None),
])  # fmt: skip
def test_paths_and_methods_have_the_server_s_codes(server, method, path, code, words):
    body = b'{"inputs": ["good"]}' if method in ("POST", "PUT") else None
    request = urllib.request.Request(server[0] + path, body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            found, said = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        found, said = error.code, error.read().decode()
    assert found == code, said
    if words:
        assert words in json.loads(said)["error"]


def test_a_browser_may_ask_before_it_sends(server):
    request = urllib.request.Request(
        f"{server[0]}/v1/models/sentiment:predict",
        headers={"Origin": "https://example.org"},
        method="OPTIONS",
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert (response.status, response.read()) == (200, b"")


def test_an_oversized_body_is_413(server):
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = "POST /v1/models/sentiment:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"
        connection.sendall(head.format(1 << 40).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


METRICS = "/monitoring/prometheus/metrics"


def test_requests_are_counted_for_prometheus(server):
    def count(status):
        with urllib.request.urlopen(server[0] + METRICS, timeout=60) as response:
            assert response.headers["Content-Type"] == "text/plain"
            line = f':tensorflow:serving:request_count{{model_name="sentiment",status="{status}"}} '
            found = [one for one in response.read().decode().splitlines() if one.startswith(line)]
        return int(found[0].removeprefix(line)) if found else 0

    before = count("OK"), count("INVALID_ARGUMENT")
    predict(server, {"inputs": ["good"]})
    predict(server, {"inputs": [1]})
    assert (count("OK"), count("INVALID_ARGUMENT")) == (before[0] + 1, before[1] + 1)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"{server[0]}{METRICS}?a=1", timeout=60)


def grpc_error(server, request, timeout=10):
    options = [("grpc.max_send_message_length", -1)]
    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(server[1], options)
    )
    method = type(request).__name__.removesuffix("Request")
    method = {"Classification": "Classify", "Regression": "Regress"}.get(method, method)
    ask = getattr(stub, method)
    with pytest.raises(grpc.RpcError) as error:
        ask(request, timeout=timeout)
    return error.value.code().name, error.value.details()


def predict_request(name="sentiment", signature="", label=None, outputs=(), **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if label:
        request.model_spec.version_label = label
    request.output_filter.extend(outputs)
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(value)
    return request


def metadata_request(*fields):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "sentiment"
    request.metadata_field.extend(fields)
    return request


def tensor(shape):
    proto = tf.make_tensor_proto(["a"])
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    return proto


TEXT = tf.make_tensor_proto(["a"])


@pytest.mark.parametrize("request_of, code, words", [
    (lambda: predict_request("nobody", text=TEXT), "NOT_FOUND", "Latest(nobody)"),
    (lambda: predict_request("", text=TEXT), "INVALID_ARGUMENT", "ModelSpec has no name"),
    (lambda: predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (lambda: predict_request(label="no", text=TEXT), "INVALID_ARGUMENT", "version label: no"),
    (lambda: predict_request(signature="no", text=TEXT), "FAILED_PRECONDITION",
     'Serving signature key "no" not found.'),
    (lambda: predict_request(), "INVALID_ARGUMENT", "0!=1 len({}) != len({text})."),
    (lambda: predict_request(text=TEXT, more=TEXT), "INVALID_ARGUMENT", "Sent extra: {more}."),
    (lambda: predict_request(other=TEXT), "INVALID_ARGUMENT", "Signature input alias: text(feed"),
    (lambda: predict_request(text=tf.make_tensor_proto([1.0])), "INVALID_ARGUMENT", "float"),
    (lambda: predict_request(text=tf.make_tensor_proto([1 + 2j])), "INVALID_ARGUMENT", "text"),
    (lambda: predict_request(text=tensor([-2])), "INVALID_ARGUMENT", "tensor parsing error: text"),
    (lambda: predict_request(text=tensor([-3, -3])), "INVALID_ARGUMENT", "tensor parsing error"),
    (lambda: predict_request(text=tensor([1 << 50])), "INVALID_ARGUMENT", "tensor parsing error"),
    (lambda: predict_request(text=tensor([1] * 64)), "INVALID_ARGUMENT", "tensor parsing error"),
    (lambda: predict_request(text=TEXT, outputs=["no"]), "INVALID_ARGUMENT",
     "output tensor alias not found in signature: no Outputs expected to be in the set {label,pro"),
    (lambda: predict_request(text=TEXT, outputs=["label", "label"]), "INVALID_ARGUMENT",
     "duplicate output tensor alias: label"),
    (lambda: predict_request(text=tf.make_tensor_proto(["a"] * 4097)), "INVALID_ARGUMENT",
     "Task size 4097 is larger than maximum input batch size 4096"),
    (lambda: metadata_request(), "INVALID_ARGUMENT", "must specify at least one metadata_field"),
    (lambda: metadata_request("no"), "INVALID_ARGUMENT", "Metadata field no is not supported"),
])  # fmt: skip
def test_grpc_refuses_with_the_server_s_codes_and_words(server, request_of, code, words):
    found, said = grpc_error(server, request_of())
    assert found == code and words in said, (found, said)


def test_a_filter_chooses_outputs_and_a_message_may_be_larger_than_4_mib(server):
    options = [("grpc.max_send_message_length", -1)]
    stub = prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(server[1], options)
    )
    large = tf.make_tensor_proto(["good " * 1_000_000])  # 5 MB
    response = stub.Predict(predict_request(text=large, outputs=["label"]), timeout=60)
    assert set(response.outputs) == {"label"}
    assert response.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize("body, words", [
    ({"instances": [{"text": "a", "more": 1}]},
     "element: 0 key: more of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not "
     "have named input: more"),
    ({"instances": [{"b64": 1}]}, "JSON object: does not have named input: b64"),
    ({"instances": [{"b64": "YQ="}]}, "Unable to base64 decode"),  # half of its padding
    (b'{"inputs": ["a" "b"]}', "Missing a comma or ] after an array element. at offset: 16"),
    (b'{"a": [1] "b": 2}', "Missing a comma or } after an object member. at offset: 10"),
    (b' {"inputs": ["\xc3\xa9" 1]}', "an array element. at offset: 18"),  # bytes are counted
    (b'{"inputs": ["\\ud800"]}', "The surrogate pair in string is invalid. at offset: 13"),
    (b'{"inputs": ["\\udc80"]}', "The surrogate pair in string is invalid."),
    (b'{"instances": [{"\\ud800": 1}]}', "The surrogate pair in string is invalid."),
])  # fmt: skip
def test_mistakes_in_rows_and_texts_are_named_as_the_server_does(server, body, words):
    code, answer = predict(server, body)
    assert code == 400 and words in answer["error"], (code, answer)
    assert predict(server, b'{"inputs": ["\\ud83d\\ude00 \\\\ud800"]}')[0] == 200


def raw(server, head, body=b""):
    """Returns the code and the body of the answer to a request that is written by hand."""
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode("latin-1") + b"\r\nConnection: close\r\n\r\n" + body)
        found = b""
        while more := connection.recv(1 << 16):
            found += more
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


POST = "POST /v1/models/sentiment:predict HTTP/1.1\r\nHost: x"


def test_a_body_may_come_in_chunks_or_be_left_out(server):
    chunks = b'b\r\n{"inputs": \r\nA\r\n["good"]} \r\n0\r\n\r\n'
    code, body = raw(server, f"{POST}\r\nTransfer-Encoding: chunked", chunks)
    assert code == 200 and len(json.loads(body)["outputs"]["label"]) == 1
    assert raw(server, f"{POST}\r\nTransfer-Encoding: chunked", b"x\r\n")[0] == 400
    code, body = raw(server, POST)
    assert code == 400 and b"The document is empty" in body


def test_a_compressed_body_holds_at_most_100_mib(server):
    for spaces, expected in ((1, 200), (100 << 20, 400)):
        body = gzip.compress(b'{"inputs": ["good"]' + b" " * spaces + b"}", 1)
        head = f"{POST}\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}"
        assert raw(server, head, body)[0] == expected


@pytest.mark.parametrize("head, code", [
    ("GET /other HTTP/1.1", 404), ("GET //v1/models/sentiment HTTP/1.1", 404),
    ('GET /v1/models/a"b HTTP/1.1', 400), ("GET /v1/models/a%zz HTTP/1.1", 400),
    ("GET /v1/models/\u00e9 HTTP/1.1", 400), (f"{POST}\r\nContent-Length: -1", 400),
    (f"{POST}\r\nContent-Length: {'9' * 5000}", 400),
])  # fmt: skip
def test_what_is_no_request_to_the_api_is_refused_as_libevent_does(server, head, code):
    words = {400: b"Bad Request", 404: b"Not Found"}[code]
    found, said = raw(server, head)
    assert found == code and b"<H1>" + words + b"</H1>" in said


def test_an_address_may_name_the_host(server):
    assert raw(server, "GET http://x/v1/models/sentiment HTTP/1.1")[0] == 200


@pytest.mark.parametrize("model, verb, body, code, words", [
    ("sentiment", "classify", {"examples": [{}]}, 400, "No classification inputs found in Sig"),
    ("sentiment", "regress", {"examples": [{}]}, 400, "Expected one output Tensor."),
    ("shakespeare", "regress", {"examples": [{}]}, 400, "Expected one input Tensor."),
    ("sentiment", "classify", {"examples": [{}], "signature_name": "no"}, 400,
     "No signature was found with the name: no"),
    ("sentiment", "classify", {"instances": ["a"]}, 400, "key 'examples' is expected"),
    ("sentiment", "regress", {"examples": []}, 400, "'examples' value is an empty array"),
    ("sentiment", "regress", {"examples": [1]}, 400, "must be JSON object but got JSON Number"),
    ("nobody", "classify", {"examples": [{}]}, 404, "Latest(nobody)"),
    ("nobody", "classify", {}, 400, "key 'examples' is expected"),
])  # fmt: skip
def test_examples_are_refused_as_the_server_does(server, model, verb, body, code, words):
    found, said = curl(server, f"/v1/models/{model}:{verb}", json.dumps(body).encode())
    assert found == code and words in said["error"]


def test_examples_over_grpc_are_refused_as_the_server_does(server):
    for request, words in (
        (classification_pb2.ClassificationRequest(), "No classification inputs found"),
        (regression_pb2.RegressionRequest(), "Expected one output Tensor."),
    ):
        assert grpc_error(server, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
        request.model_spec.name = "sentiment"
        code, said = grpc_error(server, request)
        assert code == "INVALID_ARGUMENT" and words in said
    request = inference_pb2.MultiInferenceRequest()
    assert grpc_error(server, request) == ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
    task = request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name = "sentiment"
    assert grpc_error(server, request) == ("INVALID_ARGUMENT", "Expected one output Tensor.")
    task.method_name = "no"
    words = "Unsupported signature method_name: no"
    assert grpc_error(server, request) == ("UNIMPLEMENTED", words)


def test_every_request_to_the_api_is_counted(server):
    def count(part):
        with urllib.request.urlopen(server[0] + METRICS, timeout=60) as response:
            lines = response.read().decode().splitlines()
        return sum(int(line.split()[-1]) for line in lines if part in line)

    asked = ':tensorflow:serving:request_count{model_name="sentiment",status="OK"}'
    by_rpc = 'latency_count{model_name="sentiment",API="Predict",entrypoint="GRPC"}'
    before = count(asked), count(by_rpc)
    curl(server, "/v1/models/sentiment")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server[1]))
    stub.Predict(predict_request(text=TEXT), timeout=60)
    assert (count(asked), count(by_rpc)) == (before[0] + 2, before[1] + 1)
