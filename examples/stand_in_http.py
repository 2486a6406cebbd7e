"""The REST side of the stand-in server: paths, methods and status codes."""

import gzip
import http.server
import json
import pathlib
import re
import sys
import time
import urllib.parse
import zlib

import c_session
import stand_in_rest as rest
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

PAGE = pathlib.Path(__file__).with_name("try_models.html")
LARGEST = (1 << 31) - 1  # the most bytes of a request, as of a gRPC message
TIMEOUT = 30_000  # ms of a call, the server's --rest_api_timeout_in_ms
MODEL = r"(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
# The server's patterns. Case does not matter. A query string counts as part of the path, and so of
# the last name in it.
API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
PREDICT = re.compile(rf"/v1/models/{MODEL}:(?P<verb>predict|classify|regress)", re.IGNORECASE)
STATUS = re.compile(rf"/v1/models(?:/{MODEL})?(?P<metadata>/metadata)?", re.IGNORECASE)
HTTP_CODES = {
    "OK": 200, "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400, "ABORTED": 409, "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501, "INTERNAL": 500, "UNAVAILABLE": 503, "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}  # fmt: skip


def signatures_of(version):
    """Returns every signature with its inputs and outputs."""
    found = get_model_metadata_pb2.SignatureDefMap()
    for key, signature in version.signatures.items():
        found.signature_def[key].CopyFrom(signature)
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    """One thread a connection. A subclass sets `models`, `metrics` and `metrics_path`."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be silent
    # With the algorithm, an answer's body waits until the client has confirmed its head: 40 ms.
    disable_nagle_algorithm = True

    def _handle(self):
        body = self._body()
        if body is None:
            return None
        if self.path == "/" and self.command == "GET":
            return self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        if self.metrics_path and self.path.split("?")[0] == self.metrics_path:
            return self._send_metrics()
        if not API.fullmatch(self.path):
            return self._send_json(404, {"error": "Not Found"})
        if self.command == "OPTIONS":  # a browser asks this before it sends to another origin
            return self._send(200 if re.match("https?://", self.headers["Origin"] or "") else 400)
        start, code = time.monotonic(), "OK"
        predict = self.command == "POST" and PREDICT.fullmatch(self.path)
        name = urllib.parse.unquote(predict["name"]) if predict else None
        try:
            answer = self._predict(predict, name, body) if predict else self._describe()
        except c_session.RequestError as error:
            code, answer = error.code, {"error": str(error)}
        except Exception as error:  # an error in this server: the caller gets to know it
            code, answer = "UNKNOWN", {"error": f"{type(error).__name__}: {error}"}
        if predict:
            self.metrics.record(name, code, "REST", time.monotonic() - start)
        return self._send_json(HTTP_CODES[code], answer)

    # The API itself refuses most methods, with an error message.
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _handle  # noqa: N815

    def _body(self):
        """Returns the body. None: the request is answered already, or the client has hung up."""
        length = self.headers.get("Content-Length", "" if self.command == "POST" else "0")
        if not length.isdecimal():
            self.close_connection = True
            return self._send_json(411, {"error": "a request must say its Content-Length"})
        if int(length) > LARGEST:
            self.close_connection = True
            return self._send_json(
                413, {"error": f"the request holds {length} bytes; at most {LARGEST} are taken"}
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the client hung up
            self.close_connection = True
            return None
        if "gzip" in self.headers.get("Content-Encoding", ""):
            try:
                return gzip.decompress(body)
            except (OSError, EOFError, zlib.error):
                return b""
        return body

    def _predict(self, path, name, body):
        if path["verb"].lower() != "predict":
            raise c_session.RequestError("The stand-in answers :predict alone.", "UNIMPLEMENTED")
        request = rest.parse(body)
        with self.models.asked(name, *_version(path)) as (_, version):
            signature, inputs, by_row = rest.read(request, version.signatures)
            return rest.write(version.run(signature, inputs, timeout_ms=TIMEOUT), by_row)

    def _describe(self):
        path = STATUS.fullmatch(self.path) if self.command == "GET" else None
        if not path:
            raise c_session.RequestError(f"Malformed request: {self.command} {self.path}")
        if not path["name"]:
            raise c_session.RequestError("Missing model name in request.")
        name, (number, label) = urllib.parse.unquote(path["name"]), _version(path)
        if path["metadata"]:
            with self.models.asked(name, number, label) as (number, version):
                found = get_model_metadata_pb2.GetModelMetadataResponse()
                found.model_spec.name, found.model_spec.version.value = name, number
                return {
                    "model_spec": _to_dict(found.model_spec),
                    "metadata": {"signature_def": _to_dict(signatures_of(version))},
                }
        return {  # a label does not matter: all versions are returned
            "model_version_status": [
                {
                    "version": str(one),
                    "state": state,
                    "status": {"error_code": code, "error_message": message},
                }
                for one, (state, code, message) in self.models.status(name, number).items()
            ]
        }

    def _send_metrics(self):
        if self.path != self.metrics_path:
            message = f"Unexpected path: {self.path}. Should be {self.metrics_path}"
            return self._send(400, message.encode(), "text/plain")
        return self._send(200, self.metrics.page().encode(), "text/plain")

    def _send_json(self, code, content):
        self._send(code, json.dumps(content).encode(), "application/json")

    def _send(self, code, content=b"", kind=None):
        self.send_response(code)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        """Prints nothing. A line for each request would hide all other messages."""


def _version(path):
    """Returns the number and the label of a path, each None if it is not given."""
    number = path["version"] and int(path["version"])
    if number and number >= 1 << 63:
        raise c_session.RequestError(f"Failed to convert version: {path['version']} to numeric.")
    return number, path["label"] and urllib.parse.unquote(path["label"])


def _to_dict(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


class HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Ignores clients that hang up: they are no error of the server."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
