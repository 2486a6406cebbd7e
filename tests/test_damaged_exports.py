"""Damaged and unfinished exports: refused in words, or cleaned away."""

import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import keras
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_gated import check_export, export_model

INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
WARM_UP = "assets.extra/tf_serving_warmup_requests"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A SavedModel with a weight, an asset and a record of warm-up."""
    path = tmp_path_factory.mktemp("whole")
    (path / "words.txt").write_text("a\nb\n")
    module = tf.Module()
    module.weight = tf.Variable(tf.random.normal([64, 64]))
    initializer = tf.lookup.TextFileInitializer(
        str(path / "words.txt"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    module.ask = tf.function(
        lambda x: {"y": tf.gather(module.weight, module.table.lookup(x) % 64)},
        input_signature=[tf.TensorSpec([None], tf.string, name="x")],
    )
    tf.saved_model.save(module, str(path / "model" / "1"), signatures=module.ask)
    (path / "model" / "1" / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "model" / "1" / WARM_UP)) as file:
        file.write(b"a request and its answer")
    check_export(path / "model" / "1")
    return path / "model" / "1"


@pytest.fixture
def version(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole, tmp_path / "model" / "1"))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def rubbish(path):
    path.write_bytes(b"<html>404</html>")


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("damage, file, words", [
    (empty, "saved_model.pb", r"saved_model\.pb holds no graph for serving \(0 bytes\)"),
    (cut, "saved_model.pb", r"saved_model\.pb cannot be read as a SavedModel"),
    (zero, "saved_model.pb", r"saved_model\.pb cannot be read as a SavedModel"),
    (rubbish, "saved_model.pb", r"saved_model\.pb (cannot be read as|holds no graph)"),
    (remove, "saved_model.pb", "one version of a model"),
    (remove, "variables", "variables do not hold the weights, whole"),
    *((damage, file, "variables do not hold the weights, whole")
      for file in (INDEX, DATA) for damage in (remove, empty, cut, zero, rubbish)),
    (flip, DATA, "variables do not hold the weights, whole"),
    *((damage, WARM_UP, "tf_serving_warmup_requests cannot be read as records")
      for damage in (cut, zero, flip, rubbish)),
    (remove, "assets", r"words\.txt is missing, though the graph reads it"),
    (remove, "assets/words.txt", r"words\.txt is missing, though the graph reads it"),
])  # fmt: skip
def test_a_damaged_version_is_refused_in_words(version, damage, file, words):
    damage(version / file)
    with pytest.raises(ValueError, match=f"check_export: `directory` must be .*{words}") as error:
        check_export(version)
    assert str(version.parent.parent) in str(error.value)


def test_a_changed_number_in_the_graph_is_found_by_its_checksum(version):
    """TensorFlow would load it, and a server would answer otherwise."""
    path = version / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    [function] = (
        f for f in saved.meta_graphs[0].graph_def.library.function
        if any(node.op == "FloorMod" for node in f.node_def)
    )  # fmt: skip
    [y] = (n for n in function.node_def if n.op == "Const" and n.attr["value"].tensor.int64_val[:])
    y.attr["value"].tensor.int64_val[0] = 63  # x % 63 in place of x % 64
    path.write_bytes(saved.SerializeToString())
    tf.saved_model.load(str(version))
    with pytest.raises(ValueError, match=r"saved_model\.pb has not the checksum"):
        check_export(version)
    (version / "fingerprint.pb").write_bytes(b"\xff" * 9)
    with pytest.raises(ValueError, match=r"fingerprint\.pb cannot be read"):
        check_export(version)
    (version / "fingerprint.pb").unlink()
    check_export(version)


def test_weights_of_another_graph_and_a_graph_not_for_serving_are_refused(version, tmp_path):
    module = tf.Module()
    module.other = tf.Variable(1.0)
    module.ask = tf.function(lambda x: x, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(tmp_path / "other"))
    shutil.rmtree(version / "variables")
    shutil.copytree(tmp_path / "other" / "variables", version / "variables")
    with pytest.raises(ValueError, match=r"lack weights that the graph restores: .'weight/"):
        check_export(version)
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    (version / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(ValueError, match="holds no graph for serving"):
        check_export(version)


def test_what_is_no_version_is_refused_with_the_way_out(version, tmp_path):
    with pytest.raises(ValueError, match=r"one of the versions in it: 1\.$"):
        check_export(version.parent)
    with pytest.raises(ValueError, match=r"a pattern. Received: '.*\[2\]/1'. Rename the folder"):
        check_export(version.parent.rename(version.parent.with_name("models [2]")) / "1")
    for nothing in (tmp_path / "none", version / "saved_model.pb"):
        with pytest.raises(ValueError, match="must be one version of a model"):
            check_export(nothing)


def test_a_model_without_weights_is_whole_without_their_files(tmp_path):
    module = tf.Module()
    module.ask = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(tmp_path), signatures=module.ask)
    check_export(tmp_path)
    shutil.rmtree(tmp_path / "variables")
    check_export(tmp_path)


# Exports that were killed


def model():
    x = keras.Input((2,), name="x")
    return keras.Model(x, keras.layers.Dense(1)(x))


def names(path):
    return sorted(one.name for one in path.iterdir())


KILLED = """
    import sys, time, test_damaged_exports as here
    def wait(path):
        print("writing", flush=True)
        time.sleep(600)
    here.export_model(here.model(), sys.argv[1], extras={"wait": wait})
"""


@pytest.mark.slow
def test_the_next_export_removes_what_a_killed_one_left(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parent,
    )
    assert process.stdout.readline() == "writing\n"
    [left] = names(tmp_path)
    (tmp_path / "unfinished-draft").mkdir()  # somebody's own
    export_model(model(), tmp_path)  # while the other is at work: it stays
    assert names(tmp_path) == sorted(["1", left, "unfinished-draft"])
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert left in names(tmp_path)
    export_model(model(), tmp_path)
    assert names(tmp_path) == ["1", "2", "unfinished-draft"]


def test_exports_at_the_same_time_leave_each_other_alone(tmp_path):
    at_work, go_on = threading.Event(), threading.Event()

    def wait(path):
        pathlib.Path(path).write_text("")
        at_work.set()
        assert go_on.wait(60)

    first = threading.Thread(
        target=export_model, args=(model(), tmp_path), kwargs={"extras": {"a": wait}}
    )
    first.start()
    assert at_work.wait(60)
    assert export_model(model(), tmp_path) == str(tmp_path / "1")
    go_on.set()
    first.join(60)
    assert names(tmp_path) == ["1", "2"]
    check_export(tmp_path / "2")
