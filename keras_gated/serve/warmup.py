"""Requests that a server answers before it is ready, so that no caller waits for the first ones."""

import numpy as np
import tensorflow as tf

FILE = "tf_serving_warmup_requests"


def write(version, name, examples):
    """Writes requests and the expected responses into `assets.extra` of a SavedModel.

    Args:
        version: The directory of the SavedModel, which is loaded and asked.
        name: The model's name on the server.
        examples: Signature name to a list of requests, each a dict of arrays by input.

    Raises:
        ValueError: If a request does not fit its signature, or the answer holds NaN.
    """
    if not any(examples.values()):
        return
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    model = tf.saved_model.load(str(version))
    (version / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version / "assets.extra" / FILE)) as file:
        for signature, requests in examples.items():
            ask = model.signatures[signature]
            inputs = ask.structured_input_signature[1]
            for given in requests:
                if set(given) != set(inputs):
                    raise ValueError(
                        f"export_model: a request among the `examples` of {signature!r} must give "
                        f"{sorted(inputs)}. Received: {sorted(given)}."
                    )
                values = {k: tf.constant(v, inputs[k].dtype) for k, v in given.items()}
                answer = ask(**values)
                for key, value in answer.items():
                    if value.dtype.is_floating and np.isnan(value.numpy().astype(float)).any():
                        raise ValueError(
                            f"export_model: {key!r} of {signature!r} holds NaN for an example "
                            "request. Are the weights finite? Received: "
                            f"{ {k: tf.shape(v).numpy().tolist() for k, v in values.items()} } "
                            "(shapes)."
                        )
                request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
                for message in (request, response):
                    message.model_spec.name = name
                    message.model_spec.signature_name = signature
                for fields, tensors in ((request.inputs, values), (response.outputs, answer)):
                    for key, value in tensors.items():
                        fields[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request)
                log.predict_log.response.CopyFrom(response)
                file.write(log.SerializeToString())
