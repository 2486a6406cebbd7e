"""A stand-in for TensorFlow Serving, to try and test clients where it cannot be had.

    python examples/stand_in_server.py saved_models/models.config

NOT for production: no batching, no TLS, no limits but the size of a request. It speaks the same
REST (port 8501) and gRPC (port 8500) calls, on the same C++ runtime, reads the same configuration
and rolls versions the same way. `http://localhost:8501/` is a page to try the examples' models.
"""

import argparse
import concurrent.futures
import http.server
import json
import pathlib
import re
import threading

import c_session
import grpc
import stand_in_rest as rest
from google.protobuf import json_format
from stand_in_models import Models, NotFoundError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

PAGE = pathlib.Path(__file__).with_name("try_models.html")
LARGEST = 16 << 20  # bytes of a request
PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<verb>/metadata|:\w+)?"
)


def metadata(name, number, session):
    """Returns a model's metadata: every signature's inputs and outputs."""
    found = get_model_metadata_pb2.GetModelMetadataResponse()
    found.model_spec.name, found.model_spec.version.value = name, number
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, signature in session.signatures.items():
        signatures.signature_def[key].CopyFrom(signature)
    found.metadata["signature_def"].Pack(signatures)
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    """REST, one thread a connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be silent
    models: Models

    def do_GET(self):
        if self.path == "/":
            return self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        return self._answer(b"")

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            return self._send_json(411, {"error": "a request must say its Content-Length"})
        if int(length) > LARGEST:
            self.close_connection = True
            return self._send_json(
                413, {"error": f"the request holds {length} bytes; at most {LARGEST} are taken"}
            )
        return self._answer(self.rfile.read(int(length)))

    def _answer(self, body):
        try:
            self._send_json(200, self._result(body))
        except NotFoundError as error:
            self._send_json(404, {"error": error.args[0]})
        except c_session.RequestError as error:
            self._send_json(400, {"error": str(error)})
        except Exception as error:  # a mistake of ours: the caller shall know
            self._send_json(500, {"error": f"{type(error).__name__}: {error}"})

    def _result(self, body):
        found = PATH.fullmatch(self.path)
        verb = found and found["verb"]
        if not found or (self.command, verb) not in (
            ("GET", None),
            ("GET", "/metadata"),
            ("POST", ":predict"),
        ):
            raise c_session.RequestError(f"Malformed request: {self.command} {self.path}")
        which = found["name"], found["version"] and int(found["version"]), found["label"]
        if verb is None:
            return {
                "model_version_status": [
                    {
                        "version": str(number),
                        "state": state,
                        "status": {
                            "error_code": "UNKNOWN" if message else "OK",
                            "error_message": message,
                        },
                    }
                    for number, (state, message) in sorted(self.models.status(*which).items())
                ]
            }
        with self.models.asked(*which) as (number, session):
            if verb == "/metadata":
                return json.loads(
                    json_format.MessageToJson(
                        metadata(which[0], number, session), preserving_proto_field_name=True
                    )
                )
            signature, inputs, by_row = rest.read_request(body, session)
            return rest.write_answer(session.run(signature, inputs), by_row)

    def _send_json(self, code, content):
        self._send(code, json.dumps(content).encode(), "application/json")

    def _send(self, code, content, kind):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Says nothing: a line a request would be all there is to see."""


class HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def explained(function):
    """Makes errors of a gRPC call the server's codes."""

    def call(self, request, context):
        try:
            return function(self, request)
        except NotFoundError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, error.args[0])
        except c_session.RequestError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    return call


class Grpc(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    def __init__(self, models):
        self.models = models

    @staticmethod
    def _which(spec):
        version = spec.version.value if spec.HasField("version") else None
        return spec.name, version, spec.version_label or None

    @explained
    def Predict(self, request):  # noqa: N802
        spec = request.model_spec
        with self.models.asked(*self._which(spec)) as (number, session):
            inputs = {k: c_session.from_proto(v) for k, v in request.inputs.items()}
            answer = session.run(spec.signature_name or "serving_default", inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(spec)
        response.model_spec.version.value = number
        for name, array in answer.items():
            if not request.output_filter or name in request.output_filter:
                c_session.to_proto(array, response.outputs[name])
        return response

    @explained
    def GetModelMetadata(self, request):  # noqa: N802
        with self.models.asked(*self._which(request.model_spec)) as (number, session):
            return metadata(request.model_spec.name, number, session)

    @explained
    def GetModelStatus(self, request):  # noqa: N802
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, (state, message) in self.models.status(
            *self._which(request.model_spec)
        ).items():
            status = response.model_version_status.add(version=number)
            status.state = get_model_status_pb2.ModelVersionStatus.State.Value(state)
            status.status.error_message = message
        return response


class Server:
    """Both servers and the thread that looks for new versions; for `with`.

    Args:
        config_file: The path of a `models.config`.
        rest_port, grpc_port: 0 for any that is free; attributes hold those taken.
        host: The address to listen at; default: only this machine can ask.
        poll: Seconds between two looks at the configuration and the versions.
    """

    def __init__(self, config_file, rest_port=0, grpc_port=0, host="127.0.0.1", poll=1.0):
        self.models, self._poll, self._stopped = Models(config_file), poll, threading.Event()
        handler = type("BoundHandler", (Handler,), {"models": self.models})
        self._http = HttpServer((host, rest_port), handler)
        self._grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(32))
        servicer = Grpc(self.models)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, self._grpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, self._grpc)
        self.rest_port = self._http.server_address[1]
        self.grpc_port = self._grpc.add_insecure_port(f"{host}:{grpc_port}")

    def __enter__(self):
        self._grpc.start()
        for run in (self._http.serve_forever, self._look_for_versions):
            threading.Thread(target=run, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(1).wait()

    def wait(self):
        self._stopped.wait()

    def _look_for_versions(self):
        while not self._stopped.wait(self._poll):
            try:
                self.models.refresh()
            except Exception as error:  # a file half written: what is served goes on
                print(f"The configuration cannot be read: {error}", flush=True)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("config", help="models.config")
    p.add_argument("--rest-port", type=int, default=8501)
    p.add_argument("--grpc-port", type=int, default=8500)
    p.add_argument("--poll", type=float, default=1.0, help="seconds between looks for versions")
    args = p.parse_args()
    with Server(args.config, args.rest_port, args.grpc_port, poll=args.poll) as server:
        print(
            f"A stand-in for TensorFlow Serving, for development only: "
            f"http://localhost:{server.rest_port}/ and gRPC at localhost:{server.grpc_port}",
            flush=True,
        )
        try:
            server.wait()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
