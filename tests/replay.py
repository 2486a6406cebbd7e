"""Asks a SavedModel its warm-up requests, in a process without TensorFlow's Python.

    python tests/replay.py VERSION DESCRIPTORS

DESCRIPTORS is a FileDescriptorSet of the messages (`write_descriptors`). Prints how many answers
are the recorded ones.
"""

import pathlib
import sys

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def write_descriptors(path):
    """Writes the descriptors of PredictionLog and MetaGraphDef and of all that they use."""
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow_serving.apis import prediction_log_pb2

    found = descriptor_pb2.FileDescriptorSet()

    def add(file):
        if file.name not in {one.name for one in found.file}:
            for used in file.dependencies:
                add(used)
            file.CopyToProto(found.file.add())

    add(meta_graph_pb2.DESCRIPTOR)
    add(prediction_log_pb2.DESCRIPTOR)
    pathlib.Path(path).write_bytes(found.SerializeToString())


def compare(answer, expected):
    """Returns the largest difference of two arrays; strings, ids and NaN must be the same."""
    assert answer.shape == expected.shape, (answer.shape, expected.shape)
    assert answer.dtype == expected.dtype, (answer.dtype, expected.dtype)
    if answer.dtype.kind != "f":
        assert (answer == expected).all(), (answer, expected)
        return 0.0
    assert np.isfinite(answer).all()
    return float(np.abs(answer - expected).max(initial=0.0))


def main(version, descriptors):
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
    import c_session

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(
        pathlib.Path(descriptors).read_bytes()
    ).file:
        pool.Add(file)
    meta_graph, log = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for name in ("tensorflow.MetaGraphDef", "tensorflow.serving.PredictionLog")
    )
    session = c_session.Session(version, meta_graph)
    records = pathlib.Path(version) / "assets.extra" / "tf_serving_warmup_requests"
    count, worst = 0, 0.0
    for record in c_session.read_records(records):
        predict = log.FromString(record).predict_log
        given = {k: c_session.from_proto(v) for k, v in predict.request.inputs.items()}
        answers = session.run(predict.request.model_spec.signature_name, given)
        assert set(answers) == set(predict.response.outputs)
        for name, answer in answers.items():
            expected = c_session.from_proto(predict.response.outputs[name])
            worst = max(worst, compare(answer, expected))
        count += 1
    assert worst < 1e-5, worst
    assert not {"tensorflow", "keras", "keras_gated"} & set(sys.modules)
    print(f"{count} answers as recorded; the largest difference is {worst:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
