"""Rolling versions out and back: labels and versions as TensorFlow Serving applies them.

Expected words and orders are those of TensorFlow Serving's `server_core.cc`.
"""

import numpy as np
import pytest
import small_models
from c_session import RequestError
from stand_in_models import Models

REFUSED = (
    "Request to assign label to version 2 of model {}, which is not currently available for "
    "inference"
)


class Folder:
    """A folder of models, each version of which answers its number."""

    def __init__(self, path):
        self.path = path
        self.write(first=[1], second=[1])

    def add(self, model, number):
        small_models.save_number(self.path / model / str(number), number)

    def write(self, labels=None, **versions):
        """Writes the configuration; labels: model to label to version."""
        blocks = []
        for name, numbers in versions.items():
            wanted = " ".join(f"versions: {n}" for n in numbers)
            given = {"stable": 1, "canary": 1} if labels is None else labels.get(name, {})
            placed = "".join(
                f'version_labels {{ key: "{k}" value: {v} }} ' for k, v in given.items()
            )
            blocks.append(
                f'config {{ name: "{name}" base_path: "/models/{name}" '
                f'model_platform: "tensorflow" '
                f"model_version_policy {{ specific {{ {wanted} }} }} {placed} }}"
            )
        self.write_text(f"model_config_list {{ {' '.join(blocks)} }}")

    def write_text(self, text):
        (self.path / "models.config").write_text(text)

    def models(self, **options):
        return Models(self.path / "models.config", **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("models"))
    for model in ("first", "second"):
        folder.add(model, 1)
        folder.add(model, 2)
    return folder


@pytest.fixture
def folder(saved):
    saved.write(first=[1], second=[1])
    return saved


def answer(models, name, **which):
    with models.asked(name, **which) as (_, version):
        return version.run("serving_default", {"x": np.zeros(1, np.float32)})["y"][0]


def states(models, name):
    return {number: state for number, (state, *_) in models.status(name).items()}


def test_three_edits_roll_a_version_out_and_two_roll_it_back(folder):
    models = folder.models()

    def edit(versions, stable, canary):
        folder.write({"first": {"stable": stable, "canary": canary}}, first=versions)
        models.refresh()
        found = [answer(models, "first", label=label) for label in ("stable", "canary")]
        assert found == [stable, canary]

    edit([1, 2], 1, 1)
    assert states(models, "first") == {2: "AVAILABLE", 1: "AVAILABLE"}
    edit([1, 2], 1, 2)
    edit([1, 2], 2, 2)
    edit([1, 2], 1, 1)  # back
    edit([1], 1, 1)
    assert states(models, "first") == {2: "END", 1: "AVAILABLE"}


@pytest.mark.parametrize("label", ["stable", "canary"])
def test_a_label_in_use_does_not_move_to_a_version_that_the_same_edit_adds(folder, label):
    models = folder.models()
    labels = {"stable": 1, "canary": 1, label: 2}
    folder.write({"first": labels, "second": {"new": 1}}, first=[1, 2], second=[1, 2])
    for _ in range(2):  # however often the server looks
        with pytest.raises(RequestError) as error:
            models.refresh()
        assert str(error.value) == REFUSED.format("first")
        assert error.value.code == "FAILED_PRECONDITION"
    # Nothing of the file holds, for the other model neither.
    assert answer(models, "first", label=label) == 1
    assert states(models, "first") == states(models, "second") == {1: "AVAILABLE"}
    with pytest.raises(RequestError, match="Unrecognized servable version label: new"):
        answer(models, "second", label="new")


def test_a_label_does_not_move_back_to_a_version_that_is_gone(folder):
    folder.write({"first": {"stable": 2}}, first=[2])
    models = folder.models()
    folder.write({"first": {"stable": 1}}, first=[1, 2])
    with pytest.raises(RequestError, match="assign label to version 1 of model first"):
        models.refresh()
    assert answer(models, "first", label="stable") == 2


def test_a_new_label_waits_for_its_version_only_where_the_server_is_told_so(folder):
    folder.write({"first": {"stable": 1}}, first=[1])
    with pytest.raises(RequestError, match="assign label to version 1 of model first"):
        folder.models(labels_first=False)
    models = folder.models(labels_first=True)
    folder.write({"first": {"stable": 1, "next": 2}}, first=[1, 2])
    models.refresh()
    assert answer(models, "first", label="next") == 2
    folder.write({"first": {"stable": 1, "none": 7}}, first=[1])
    models.refresh()
    with pytest.raises(RequestError, match=r"not found for request: Specific\(first, 7\)"):
        answer(models, "first", label="none")


def test_the_only_version_goes_when_the_next_is_there_and_not_before(folder):
    folder.write({}, first=[1])
    models = folder.models()
    (folder.path / "first" / "3").mkdir(exist_ok=True)
    folder.write({}, first=[3])  # no model lies there
    models.refresh()
    assert states(models, "first") == {3: "END", 1: "AVAILABLE"}
    _, code, message = models.status("first")[3]
    assert code == "NOT_FOUND" and "Could not find SavedModel" in message
    folder.write({}, first=[2])
    models.refresh()
    assert states(models, "first") == {3: "END", 2: "AVAILABLE", 1: "END"}
    assert answer(models, "first") == 2


def test_a_version_that_failed_is_tried_again_once_it_was_taken_out(folder):
    models = folder.models()
    broken = folder.path / "first" / "4"
    broken.mkdir()
    folder.write(first=[1, 4])
    models.refresh()
    assert states(models, "first") == {4: "END", 1: "AVAILABLE"}
    broken.rmdir()
    folder.add("first", 4)
    models.refresh()
    assert states(models, "first")[4] == "END"
    folder.write(first=[1])
    models.refresh()
    folder.write(first=[1, 4])
    models.refresh()
    assert answer(models, "first") == 4


def test_a_model_that_is_taken_out_is_answered_no_more(folder):
    models = folder.models()
    folder.write(first=[1])
    models.refresh()
    with pytest.raises(RequestError, match=r"Servable not found for request: Latest\(second\)"):
        answer(models, "second")
    assert states(models, "second") == {1: "END"}


BLOCK = 'config { name: "first" base_path: "/models/first" model_platform: "tensorflow" }'


@pytest.mark.parametrize("text, words", [
    ("rubbish {", "Failed to read ModelServerConfig file"),
    (f"model_config_list {{ {BLOCK} {BLOCK} }}", "Illegal to list model first multiple times"),
    (f"model_config_list {{ {BLOCK.replace('/models/', '')} }}", "to have an absolute path or URI"),
    (f"model_config_list {{ {BLOCK.replace('tensorflow', '')} }}", "Illegal setting neither"),
    (f"model_config_list {{ {BLOCK.replace('tensorflow', 'torch')} }}", "unsupported platform"),
    (f"model_config_list {{ {BLOCK.replace('/models/first', '/models/none')} }}",
     "Could not find base path /models/none for servable first"),
])  # fmt: skip
def test_a_file_that_cannot_be_applied_leaves_all_as_it_was(folder, text, words):
    models = folder.models()
    folder.write_text(text)
    with pytest.raises(RequestError, match=words):
        models.refresh()
    assert answer(models, "first") == answer(models, "second") == 1


def test_an_empty_file_changes_nothing(folder):
    models = folder.models()
    folder.write_text("# nothing\n")
    with pytest.raises(RequestError, match="Cannot transition to requested config"):
        models.refresh()
    assert answer(models, "first") == 1
    folder.write_text("model_config_list {}")
    models.refresh()
    assert states(models, "first") == {1: "END"}
    folder.write_text("")
    empty = folder.models()  # a server may start without models
    folder.write(first=[1])
    empty.refresh()
    assert answer(empty, "first") == 1


def test_the_deprecated_type_is_a_platform(folder):
    old = BLOCK.replace('model_platform: "tensorflow"', "model_type: TENSORFLOW")
    folder.write_text(f"model_config_list {{ {old[:-1]} model_version_policy {{ all {{}} }} }} }}")
    assert states(folder.models(), "first")[2] == "AVAILABLE"
    folder.write_text(f"model_config_list {{ {old[:-1]} model_platform: 'tensorflow' }} }}")
    with pytest.raises(RequestError, match="Illegal setting both"):
        folder.models()


def test_folders_that_are_no_version_are_left_out(tmp_path):
    folder = Folder(tmp_path)
    folder.add("first", 7)
    for name in ("99999999999999999999", "\u0669", "9x", "-9"):  # too large, Arabic 9
        (tmp_path / "first" / name).mkdir()
    folder.write_text(f"model_config_list {{ {BLOCK} }}")
    assert states(folder.models(), "first") == {7: "AVAILABLE"}


def test_a_server_does_not_start_with_a_model_that_does_not_load(tmp_path):
    folder = Folder(tmp_path)
    folder.add("first", 1)
    broken = tmp_path / "first" / "2"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"rubbish")
    folder.write_text(f"model_config_list {{ {BLOCK} }}")  # the latest version alone
    words = r"1 servable\(s\) did not become available: {{{name: first version: 2} due to error: "
    with pytest.raises(RequestError, match=words):
        folder.models()
    every = BLOCK[:-1] + "model_version_policy { all {} } }"
    folder.write_text(f"model_config_list {{ {every} }}")
    assert answer(folder.models(), "first") == 1
