"""Requests that a server answers before it is ready. The first ones are slow; no caller waits."""

import reprlib

import numpy as np
import tensorflow as tf

from keras_gated.serve.records import predict_record

FILE = "tf_serving_warmup_requests"


def write(version, name, examples):
    """Writes requests and the expected responses into `assets.extra` of a SavedModel.

    Args:
        version: The directory of the SavedModel, which is loaded and answers the requests.
        name: The model's name on the server.
        examples: Signature name to a list of requests, each a dict of arrays by input.

    Raises:
        ValueError: If a request does not fit its signature or cannot be answered, or the answer
            holds NaN.
    """
    if not any(examples.values()):
        return
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
                try:
                    values = {k: tf.constant(v, inputs[k].dtype) for k, v in given.items()}
                    answer = ask(**values)
                except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
                    expected = {k: f"{x.dtype.name} {x.shape}" for k, x in inputs.items()}
                    raise ValueError(
                        f"export_model: a request among the `examples` of {signature!r} cannot be "
                        f"answered: {str(error).splitlines()[0]} Received: "
                        f"{reprlib.repr(given)}. The inputs are {expected}."
                    ) from error
                for key, value in answer.items():
                    if value.dtype.is_floating and np.isnan(value.numpy().astype(float)).any():
                        raise ValueError(
                            f"export_model: {key!r} of {signature!r} holds NaN for an example "
                            "request. Are the weights finite? Received: "
                            f"{ {k: tf.shape(v).numpy().tolist() for k, v in values.items()} } "
                            "(shapes)."
                        )
                tensors = (
                    {k: tf.make_tensor_proto(v.numpy()) for k, v in side.items()}
                    for side in (values, answer)
                )
                file.write(predict_record(name, signature, *tensors))
