"""The files in saved_models/ that a TensorFlow Serving is started with."""

import pathlib
import re

import pytest
import tensorflow as tf
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401, in the pool for the messages below
)
from tensorflow_serving.config import model_server_config_pb2

import keras_gated

FOLDER = pathlib.Path(__file__).parent.parent / "saved_models"


def server_messages():
    """BatchingParameters and MonitoringConfig, which tensorflow-serving-api does not hold.

    The fields, as session_bundle_config.proto and monitoring_config.proto define them.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="not_in_the_api.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, **fields):
        found = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(fields.items(), start=1):
            own = found.field.add(name=key, number=number, label=field.LABEL_OPTIONAL)
            if isinstance(kind, str):
                own.type, own.type_name = field.TYPE_MESSAGE, kind
            else:
                own.type = kind

    number = ".google.protobuf.Int64Value"
    message(
        "BatchingParameters",
        max_batch_size=number,
        batch_timeout_micros=number,
        max_enqueued_batches=number,
        num_batch_threads=number,
        pad_variable_length_inputs=field.TYPE_BOOL,
    )
    message("PrometheusConfig", enable=field.TYPE_BOOL, path=field.TYPE_STRING)
    message("MonitoringConfig", prometheus_config=".tensorflow.serving.PrometheusConfig")
    pool = descriptor_pool.Default()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))
        for name in ("BatchingParameters", "MonitoringConfig")
    )


def models_config():
    text = (FOLDER / "models.config").read_text()
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list


def arguments(command):
    return dict(one.removeprefix("--").split("=", 1) for one in command)


def test_the_models_are_those_of_the_folder_with_a_stable_and_a_canary_version():
    for config in models_config().config:
        assert config.base_path == f"/models/{config.name}"
        assert set(config.version_labels) == {"stable", "canary"}
        specific = set(config.model_version_policy.specific.versions)
        assert set(config.version_labels.values()) <= specific
    assert [c.name for c in models_config().config] == ["sentiment", "shakespeare"]


def test_batching_and_monitoring_are_what_the_server_reads():
    batching, monitoring = server_messages()
    found = text_format.Parse((FOLDER / "batching.config").read_text(), batching())
    assert found.max_batch_size.value == 64
    assert found.batch_timeout_micros.value == 2000
    assert not found.pad_variable_length_inputs  # it pads with a row's first entry
    found = text_format.Parse((FOLDER / "monitoring.config").read_text(), monitoring())
    assert found.prometheus_config.enable
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch { value: 1 }", batching())


def test_compose_and_kubernetes_start_the_same_server_on_files_that_are_there():
    serving = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serving"]
    deployment, service = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == serving["image"]
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", container["image"])
    assert container["args"] == serving["command"]
    for name, value in arguments(container["args"]).items():
        if name.endswith("_file"):
            assert (FOLDER / pathlib.Path(value).relative_to("/models")).exists()
    assert serving["volumes"] == [".:/models:ro"]
    assert container["volumeMounts"][0]["mountPath"] == "/models"
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    probed = container["readinessProbe"]["httpGet"]["path"]
    assert probed == f"/v1/models/{models_config().config[0].name}/labels/stable"
    monitoring = (FOLDER / "monitoring.config").read_text()
    path = deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]
    assert f'path: "{path}"' in monitoring


@pytest.mark.parametrize("name", ["sentiment", "shakespeare"])
def test_a_trained_model_lies_there_small_with_its_card_and_answers(name):
    version = FOLDER / name / "1"
    size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
    assert size < 12e6
    card = (FOLDER / name / "model_card.md").read_text()
    for heading in ("Data", "Licence of the data", "Training", "Figures", "Limits", "Not for"):
        assert f"\n## {heading}\n" in card
    keras_gated.check_export(version)
    served = tf.saved_model.load(str(version))
    if name == "sentiment":
        texts = tf.constant(
            ["A wonderful film, superb acting, moving.", "The worst film, a waste of time."]
        )
        found = served.signatures["serving_default"](text=texts)["probability"].numpy().ravel()
        assert found[0] > 0.5 > found[1]
    else:
        # Each of 65 characters alike would cost 4.2 nats.
        text = tf.constant(["ROMEO:\nWhat light through yonder window breaks?\n"])
        assert served.signatures["score"](text=text)["nats"].numpy()[0] < 2.2
