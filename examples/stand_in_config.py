"""The configuration of the stand-in server: the files that compose.yaml gives TensorFlow Serving.

The command line names `models.config`; `batching.config` and `monitoring.config` are read if they
lie beside it. Errors that the server refuses are refused with the same words.
"""

import pathlib

import c_session
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401, in the pool for the messages below
)
from tensorflow_serving.config import model_server_config_pb2

PLATFORM = "tensorflow"
METRICS = "/monitoring/prometheus/metrics"
MOST_ROWS = 1000  # of a batch, if batching.config does not give it


def _messages():
    """Returns BatchingParameters and MonitoringConfig, which tensorflow-serving-api does not hold.

    Their fields are those of session_bundle_config.proto and monitoring_config.proto.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="not_in_the_api.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, **fields):
        found = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            field = found.field.add(name=key, number=number, label=kinds.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = kinds.TYPE_MESSAGE, kind
            else:
                field.type = kind
        return found

    integer, boolean, text = (
        f".google.protobuf.{kind}Value" for kind in ("Int64", "Bool", "String")
    )
    batching = message(
        "BatchingParameters",
        max_batch_size=(1, integer),
        batch_timeout_micros=(2, integer),
        max_enqueued_batches=(3, integer),
        num_batch_threads=(4, integer),
        thread_pool_name=(5, text),
        allowed_batch_sizes=(6, kinds.TYPE_INT64),
        pad_variable_length_inputs=(7, kinds.TYPE_BOOL),
        enable_large_batch_splitting=(8, boolean),
        max_execution_batch_size=(9, integer),
    )
    batching.field[5].label = kinds.LABEL_REPEATED
    message("PrometheusConfig", enable=(1, kinds.TYPE_BOOL), path=(2, kinds.TYPE_STRING))
    message("MonitoringConfig", prometheus_config=(1, ".tensorflow.serving.PrometheusConfig"))
    pool = descriptor_pool.Default()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))
        for name in ("BatchingParameters", "MonitoringConfig")
    )


BatchingParameters, MonitoringConfig = _messages()


def _parse(file, message_class):
    try:
        return text_format.Parse(file.read_text(), message_class())
    except (OSError, ValueError, text_format.ParseError) as error:
        name = message_class.DESCRIPTOR.name
        raise c_session.RequestError(f"Failed to read {name} file: {error}") from None


def read_models(file):
    """Returns the `ModelServerConfig` of a file.

    Raises:
        RequestError: With the server's words, if the file cannot be read or is refused as a whole.
    """
    config = _parse(pathlib.Path(file), model_server_config_pb2.ModelServerConfig)
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise c_session.RequestError(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        if not pathlib.PurePosixPath(model.base_path).is_absolute():
            raise c_session.RequestError(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()="
                f"{model.base_path}"
            )
        if model.model_type and model.model_platform:
            raise c_session.RequestError(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        if model.model_type == model_server_config_pb2.TENSORFLOW:
            continue
        if not model.model_platform:
            raise c_session.RequestError(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        if model.model_platform != PLATFORM:
            raise c_session.RequestError(
                f"Model {model.name} requests unsupported platform {model.model_platform}"
            )
    return config


def read_batching(file):
    """Returns the `BatchingParameters` of a file, or None if there is no file."""
    if not file.exists():
        return None
    found = _parse(file, BatchingParameters)
    most, most_at_once = sizes(found)
    if most < most_at_once:
        raise c_session.RequestError(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater "
            f"than or equal to max_execution_batch_size. {file} gives {most} and {most_at_once}"
        )
    if found.allowed_batch_sizes and found.allowed_batch_sizes[-1] != most:
        raise c_session.RequestError(
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
            f"{found.allowed_batch_sizes[-1]}; expected {most}"
        )
    return found


def sizes(batching):
    """Returns the most rows of a request, and the most that run at once."""
    most = batching.max_batch_size.value if batching.HasField("max_batch_size") else MOST_ROWS
    if not batching.enable_large_batch_splitting.value:
        return most, most
    at_once = batching.HasField("max_execution_batch_size")
    return most, batching.max_execution_batch_size.value if at_once else most


def metrics_path(file):
    """Returns the path that Prometheus reads, or None if a monitoring.config switches it off."""
    if not file.exists():
        return METRICS
    found = _parse(file, MonitoringConfig).prometheus_config
    return (found.path or METRICS) if found.enable else None
