"""How many rows a request may have: TensorFlow Serving's rules, and the file that is shipped.

Expected words are those of `shared_batch_scheduler.h` and `batching_session.cc`.
"""

import pathlib

import numpy as np
import pytest
import small_models
import stand_in_batching
import stand_in_config
from c_session import RequestError
from google.protobuf import text_format
from stand_in_models import Version

SHIPPED = pathlib.Path(__file__).parent.parent / "saved_models" / "batching.config"


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "1"
    small_models.save_words(path)
    return path


def parameters(text):
    return text_format.Parse(text, stand_in_config.BatchingParameters())


def ask(version, batching, rows, **options):
    texts = np.array([b"two words"] * rows, object)
    return Version(version, batching).run("serving_default", {"text": texts}, **options)


class Unchecked:
    def check(self, *_):
        pass


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 129, 1000, 4096])
def test_the_shipped_file_lets_any_ordinary_number_of_rows_through(version, rows):
    answer = ask(version, stand_in_config.read_batching(SHIPPED), rows)
    assert answer["count"].tolist() == [2] * rows


def test_a_request_runs_in_batches_of_the_size_that_was_measured_best(version):
    class Session(Unchecked):
        def run(self, signature, inputs, *_):
            sizes.append(len(inputs["x"]))
            return {"y": inputs["x"] * 2}

    sizes, rows = [], np.arange(130)
    batching = stand_in_config.read_batching(SHIPPED)
    answer = stand_in_batching.run(Session(), batching, "any", {"x": rows})
    np.testing.assert_array_equal(answer["y"], rows * 2)
    assert sizes == [64, 64, 2]


@pytest.mark.parametrize("text, rows, most", [
    ("max_batch_size { value: 64 }", 65, 64),
    ("max_batch_size { value: 64 } enable_large_batch_splitting { value: true }", 65, 64),
    ("", 1001, 1000),
])  # fmt: skip
def test_more_rows_than_the_file_allows_are_refused(version, text, rows, most):
    words = f"^Task size {rows} is larger than maximum input batch size {most}$"
    with pytest.raises(RequestError, match=words) as error:
        ask(version, parameters(text), rows)
    assert error.value.code == "INVALID_ARGUMENT"
    assert len(ask(version, parameters(text), most)["count"]) == most


def test_inputs_of_unequal_rows_and_answers_without_rows_are_refused():
    class Session(Unchecked):
        def __init__(self, answer):
            self.answer = answer

        def run(self, *_):
            return {"y": np.array(self.answer)}

    batching = parameters("")
    for inputs, answer, words in (
        ({"x": np.zeros(2), "y": np.zeros(3)}, [1, 2], "must have equal 0th-dimension size"),
        ({"x": np.zeros(())}, [1], "must have at least one dimension"),
        ({"x": np.zeros(2)}, 1, "Batched output tensor has 0 dimensions"),
        ({"x": np.zeros(2)}, [1, 2, 3], "does not equal the sum of the 0th dimension sizes"),
    ):
        with pytest.raises(RequestError, match=words):
            stand_in_batching.run(Session(answer), batching, "any", inputs)


def test_pieces_of_different_widths_are_an_error_since_the_server_would_end(version):
    """TensorFlow's `tensor::Concat`, 2.21, ends the process here, or reads past the end."""
    batching = stand_in_config.read_batching(SHIPPED)
    texts = np.array([b"two words"] * 64 + [b"more than two"], object)
    with pytest.raises(RequestError, match="'words' has another shape in each piece") as error:
        Version(version, batching).run("serving_default", {"text": texts})
    assert error.value.code == "INTERNAL"
    found = Version(version, batching).run("serving_default", {"text": texts}, ["count"])
    assert found["count"].tolist() == [2] * 64 + [3]


@pytest.mark.parametrize("text, words", [
    ("enable_large_batch_splitting { value: true } max_batch_size { value: 64 } "
     "max_execution_batch_size { value: 65 }", "greater than or equal to max_execution_batch_size"),
    ("max_batch_size { value: 64 } allowed_batch_sizes: 32", "must match max_batch_size"),
])  # fmt: skip
def test_a_file_that_contradicts_itself_is_refused_at_the_start(tmp_path, text, words):
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(RequestError, match=words):
        stand_in_config.read_batching(tmp_path / "batching.config")


def test_work_ends_with_its_deadline(version):
    turns = {"turns": np.array([2**30], np.int32)}  # hours
    with pytest.raises(RequestError) as error:
        Version(version, None).run("slow", turns, timeout_ms=300)
    assert error.value.code == "DEADLINE_EXCEEDED"
    # The processor is free again.
    assert Version(version, None).run("slow", {"turns": np.array([3], np.int32)})["y"].shape == (1,)
