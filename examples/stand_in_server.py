"""A stand-in for TensorFlow Serving, to try and test clients where the server cannot run.

    python examples/stand_in_server.py saved_models/models.config

NOT for production: no batches of several requests, no TLS. It answers the same REST (port 8501) and
gRPC (port 8500) calls, on the same C++ runtime. It reads the same configuration (`batching.config`
and `monitoring.config` beside `models.config`), rolls versions the same way, and refuses what the
server refuses. It leaves out `HandleReloadConfigRequest` and the health checks of gRPC.
`http://localhost:8501/` is a page on which to try the examples' models.
"""

import argparse
import sys
import threading

import quiet_tensorflow  # noqa: F401
import c_session
import stand_in_grpc
from argument_types import command_line, port, seconds
from stand_in_config import metrics_path
from stand_in_http import Handler, HttpServer
from stand_in_metrics import Metrics
from stand_in_models import Models


class Server:
    """The REST server, the gRPC server, and the thread that looks for new versions. Use `with`.

    Args:
        config_file: The path of a `models.config`.
        rest_port, grpc_port: 0 for any free port. Attributes of the same names hold the ports.
        host: The address to listen at. Default: only this machine can connect.
        poll: Seconds between two readings of the configuration and the versions.
        labels_first: As in `Models`.
    """

    def __init__(
        self, config_file, rest_port=0, grpc_port=0, host="127.0.0.1", poll=1.0, labels_first=True
    ):
        self.models, metrics = Models(config_file, labels_first), Metrics()
        self._poll, self._stopped = poll, threading.Event()
        path = metrics_path(self.models.file.with_name("monitoring.config"))
        members = {"models": self.models, "metrics": metrics, "metrics_path": path}
        handler = type("BoundHandler", (Handler,), members)
        try:
            self._http = HttpServer((host, rest_port), handler)
        except OSError as error:
            raise c_session.RequestError(f"--rest-port {rest_port}: {error}") from None
        self._grpc = stand_in_grpc.server(self.models, metrics)
        self.rest_port = self._http.server_address[1]
        try:
            self.grpc_port = self._grpc.add_insecure_port(f"{host}:{grpc_port}")
        except RuntimeError as error:
            self._http.server_close()
            raise c_session.RequestError(f"--grpc-port {grpc_port}: {error}") from None

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
        said = None
        while not self._stopped.wait(self._poll):
            try:
                self.models.refresh()
                said = None
            except Exception as error:  # the loaded versions are still served
                if str(error) != said:  # once, not at every poll
                    said = str(error)
                    print(f"The configuration was not applied: {said}", flush=True)


def main():
    p = command_line(__doc__)
    p.add_argument("config", help="models.config")
    p.add_argument("--rest-port", type=int, default=8501)
    p.add_argument("--grpc-port", type=port, default=8500)
    p.add_argument("--poll", type=seconds, default=1.0, help="seconds between looks for versions")
    p.add_argument(
        "--allow-version-labels-for-unavailable-models",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether a new label may be given before its version is loaded",
    )
    args = p.parse_args()
    if not 0 <= args.rest_port <= 65535:
        p.error(f"argument --rest-port: must be 0 to 65535. Received: {args.rest_port}")
    labels_first = args.allow_version_labels_for_unavailable_models
    try:
        made = Server(
            args.config, args.rest_port, args.grpc_port, poll=args.poll, labels_first=labels_first
        )
    except c_session.RequestError as error:
        sys.exit(str(error))
    with made as server:
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
