"""The REST side of the stand-in server: paths, methods and status codes."""

import http
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
INFLATED = 100 << 20  # the most bytes of a body that came compressed
TIMEOUT = 30_000  # ms of a call, the server's --rest_api_timeout_in_ms
MODEL = r"(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
# An address in a request: with the name of a host, or without. Only `path` counts.
ADDRESS = re.compile(
    r"(?:[a-z][a-z\d+.-]*:)?(?://[^/?#]*)?(?P<path>(?:[\w.~!$&'()*+,;=:@/?#-]|%[\da-f]{2})*)",
    re.IGNORECASE | re.ASCII,
)
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
        # Not `self.path`: Python makes one slash of several at its beginning.
        address = ADDRESS.fullmatch(self.requestline.split()[1])
        if not address:
            return self._refuse(400)
        self.path = address["path"] or "/"
        if self.path == "/" and self.command == "GET":
            return self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        if self.metrics_path and self.path.split("?")[0] == self.metrics_path:
            return self._send_metrics()
        if not API.fullmatch(self.path):
            return self._refuse(404)
        if self.command == "OPTIONS":  # a browser asks this before it sends to another origin
            return self._send(200 if re.match("https?://", self.headers["Origin"] or "") else 400)
        start, code = time.monotonic(), "OK"
        pattern = {"POST": PREDICT, "GET": STATUS}.get(self.command)
        path = pattern and pattern.fullmatch(self.path)
        name = urllib.parse.unquote(path["name"] or "") if path else ""
        verb = path["verb"].lower() if path and self.command == "POST" else ""
        try:
            if not path:
                raise c_session.RequestError(f"Malformed request: {self.command} {self.path}")
            answer = self._predict(path, name, body) if verb else self._describe(path, name)
        except c_session.RequestError as error:
            code, answer = error.code, {"error": str(error)}
        except Exception as error:  # an error in this server: the caller gets to know it
            code, answer = "UNKNOWN", {"error": f"{type(error).__name__}: {error}"}
        self.metrics.record(name, code, "REST", time.monotonic() - start, verb)
        return self._send_json(HTTP_CODES[code], answer)

    # The API itself refuses most methods, with an error message.
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _handle  # noqa: N815

    def _body(self):
        """Returns the body. None: the request is answered already, or the client has hung up."""
        try:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = self._chunks()
            else:
                body = self._bytes(_size(self.headers.get("Content-Length", "0"), 10))
        except EOFError:  # the client hung up
            self.close_connection = True
            return None
        except ValueError:
            return self._refuse(400)
        except OverflowError:
            return self._refuse(413)
        if "gzip" not in self.headers.get("Content-Encoding", ""):
            return body
        inflate = zlib.decompressobj(wbits=31)
        try:
            body = inflate.decompress(body, INFLATED)
        except zlib.error:
            return b""
        return body if inflate.eof else b""

    def _chunks(self):
        body = bytearray()
        while piece := self._bytes(_size(self._line(), 16), len(body)):
            body += piece
            self._line()
        while self._line():  # further headers
            pass
        return bytes(body)

    def _line(self):
        line = self.rfile.readline(1 << 16)
        if not line.endswith(b"\n"):
            raise EOFError
        return line.strip().decode("latin-1")

    def _bytes(self, size, before=0):
        if before + size > LARGEST:
            raise OverflowError
        found = self.rfile.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def _predict(self, path, name, body):
        which, verb = _version(path), path["verb"].lower()
        request = rest.parse(body)
        if verb != "predict":
            rest.check_examples(request)
        with self.models.asked(name, *which) as (_, version):
            if verb != "predict":
                version.refuse(request.get("signature_name"), verb)
            signature, inputs, by_row = rest.read(request, version.signatures)
            return rest.write(version.run(signature, inputs, timeout_ms=TIMEOUT), by_row)

    def _describe(self, path, name):
        if not name:
            raise c_session.RequestError("Missing model name in request.")
        number, label = _version(path)
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
        # As in the server, bytes of a text that are not UTF-8 stay as they are.
        body = json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")
        self._send(code, body, "application/json")

    def _refuse(self, code):
        """Answers what is no request to the API, in the words of libevent, and hangs up."""
        self.close_connection = True
        words = http.HTTPStatus(code).phrase
        page = (
            f"<HTML><HEAD>\n<TITLE>{code} {words}</TITLE>\n</HEAD><BODY>\n<H1>{words}</H1>\n"
            "</BODY></HTML>\n"
        )
        self._send(code, page.encode(), "text/html")

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


def _size(digits, base):
    if not re.fullmatch("[0-9a-f]{1,16}", digits, re.IGNORECASE):
        raise ValueError
    return int(digits, base)


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
