"""The gRPC side of the stand-in server."""

import concurrent.futures
import time

import c_session
import grpc
from stand_in_http import signatures_of
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

OPTIONS = [
    ("grpc.max_receive_message_length", (1 << 31) - 1),
    ("grpc.so_reuseport", 0),  # two servers would share a port, and its callers
]
LONGEST = 1024  # the most characters of an error


def explained(function):
    """Turns errors of a call into the server's status codes."""

    def call(self, request, context):
        try:
            if hasattr(request, "model_spec") and not request.HasField("model_spec"):
                raise c_session.RequestError("Missing ModelSpec")
            return function(self, request, context)
        except c_session.RequestError as error:
            message = str(error)
            if len(message) > LONGEST:
                message = message[:LONGEST] + "...TRUNCATED"
            context.abort(grpc.StatusCode[error.code], message)

    return call


def counted(function):
    """Counts the calls of a method for the metrics."""

    def call(self, request, context):
        start, code = time.monotonic(), "UNKNOWN"
        try:
            answer = function(self, request, context)
            code = "OK"
            return answer
        except c_session.RequestError as error:
            code = error.code
            raise
        finally:
            name, seconds = request.model_spec.name, time.monotonic() - start
            self.metrics.record(name, code, "GRPC", seconds, function.__name__)

    return call


def _which(spec):
    version = spec.version.value if spec.HasField("version") else None
    return spec.name, version, spec.version_label if spec.HasField("version_label") else None


class Service(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    def __init__(self, models, metrics):
        self.models, self.metrics = models, metrics

    @explained
    @counted
    def Predict(self, request, context):  # noqa: N802
        spec, left = request.model_spec, context.time_remaining()
        signature = spec.signature_name or "serving_default"
        with self.models.asked(*_which(spec)) as (number, version):
            inputs = {k: c_session.from_proto(v, k) for k, v in request.inputs.items()}
            # The graph stops at the deadline, because no caller waits any longer.
            timeout_ms = 0 if left is None else max(1, int(left * 1000))
            answer = version.run(signature, inputs, list(request.output_filter), timeout_ms)
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = spec.name, signature
        response.model_spec.version.value = number
        for name, array in answer.items():
            c_session.to_proto(array, response.outputs[name])
        return response

    @explained
    @counted
    def Classify(self, request, context):  # noqa: N802
        self._refuse(request.model_spec, "classify")

    @explained
    @counted
    def Regress(self, request, context):  # noqa: N802
        self._refuse(request.model_spec, "regress")

    @explained
    def MultiInference(self, request, context):  # noqa: N802
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self.models.asked(*_which(spec)) as (_, version):
            method = request.tasks[0].method_name
            name = spec.signature_name or "serving_default"
            if name not in version.signatures:
                raise c_session.RequestError(
                    f"Requested signature not found in model graph: {name}"
                )
            verb = method.removeprefix("tensorflow/serving/")
            if verb == method or verb not in ("classify", "regress"):
                raise c_session.RequestError(
                    f"Unsupported signature method_name: {method}", "UNIMPLEMENTED"
                )
            version.refuse(name, verb)

    def _refuse(self, spec, verb):
        with self.models.asked(*_which(spec)) as (_, version):
            version.refuse(spec.signature_name, verb)

    @explained
    def GetModelMetadata(self, request, context):  # noqa: N802
        if not request.metadata_field:
            raise c_session.RequestError(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise c_session.RequestError(f"Metadata field {field} is not supported")
        found = get_model_metadata_pb2.GetModelMetadataResponse()
        with self.models.asked(*_which(request.model_spec)) as (number, version):
            found.model_spec.name = request.model_spec.name
            found.model_spec.version.value = number
            found.metadata["signature_def"].Pack(signatures_of(version))
        return found

    @explained
    def GetModelStatus(self, request, context):  # noqa: N802
        response = get_model_status_pb2.GetModelStatusResponse()
        name, number, _ = _which(request.model_spec)  # the server does not look at a label here
        for one, (state, code, message) in self.models.status(name, number).items():
            status = response.model_version_status.add(version=one)
            status.state = get_model_status_pb2.ModelVersionStatus.State.Value(state)
            status.status.error_code = c_session.CODES.index(code)
            status.status.error_message = message
        return response


def server(models, metrics):
    """Returns a `grpc.Server` that is not started yet."""
    made = grpc.server(concurrent.futures.ThreadPoolExecutor(32), options=OPTIONS)
    service = Service(models, metrics)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, made)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, made)
    return made
