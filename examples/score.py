"""Score a corpus with an exported model: rows of text in, lines of JSON out, on Apache Beam.

    make beam                                 # Beam needs a separate environment: .venv-beam
    python examples/score.py --model saved_models/sentiment/1 --input 'reviews/*.jsonl' \\
        --output scores
    python examples/score.py --model saved_models/sentiment/1 --input tfds:imdb_reviews/test \\
        --label label --output scores --direct_num_workers 2 \\
        --direct_running_mode multi_processing

OUTPUT gets `scores-*.jsonl`, with a line for each row: its name and the outputs of the signature.
If a row has no text, or the model refuses it, its line with the reason is in `failed-*.jsonl`. A
row's name is its file and its number. The written files are read again and compared with the input;
lost or doubled rows are an error. The last printed line is one JSON object.

Rows of about the same number of words share a batch (`--boundaries`; without boundaries rows share
a batch in their order). Options that are not listed here are Beam's own, such as `--flink_master`.
The workers need TensorFlow and Beam (and TFDS for its data sets), and paths that all of them reach.
They need no code of this package.
"""

import codecs
import collections
import gzip
import importlib.util
import json
import logging
import os
import pathlib
import shutil
import sys
import time
import zlib

import quiet_tensorflow  # noqa: F401
import tensorflow as tf
from argument_types import command_line, positive, whole
from ask import DAMAGED, newest_version
from locks import lock

try:
    import apache_beam as beam
except ModuleNotFoundError:
    sys.exit(
        "Apache Beam is not installed. It wants protobuf < 7, so give it an environment of its "
        "own: `make beam`, or pip install 'keras_gated[beam]' there."
    )
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.portability import flink_runner, spark_runner
from apache_beam.transforms.util import WaitOn
from google.protobuf.message import DecodeError

SUFFIXES = {".txt": "text", ".jsonl": "jsonl", ".tfrecord": "tfrecord"}
RUNNERS = {name: name for name in ("FlinkRunner", "SparkRunner", "DataflowRunner")}
# For this pipeline Beam's DirectRunner would choose an older runner, which has one process only.
RUNNERS["DirectRunner"] = "FnApiRunner"
PART = 1000  # rows of a TFDS split that are read at a time
BOUNDARIES = [64, 128, 160, 192, 256, 320, 448, 640]  # a film review has 230 words


def records(path, format, split, first):
    """Returns the records of a file, bytes, or `PART` rows of a prepared data set, dicts."""
    if format == "tfds":
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(path)
        last = min(first + PART, builder.info.splits[split].num_examples)
        dataset = builder.as_dataset(split=f"{split}[{first}:{last}]", shuffle_files=False)
    else:
        zipped, lines = path.endswith(".gz"), format in ("text", "jsonl")
        if zipped and lines:
            return unzipped_lines(path)
        if not lines:
            return whole_records(path, zipped)
        dataset = tf.data.TextLineDataset(path)
    return dataset.as_numpy_iterator()


def whole_records(path, zipped):
    """Yields the records of a TFRecord file. TensorFlow ends without an error at a cut header."""
    read = 0
    for record in tf.data.TFRecordDataset(path, "GZIP" if zipped else "").as_numpy_iterator():
        yield record
        read += len(record) + 16  # its length and two checksums
    with tf.io.gfile.GFile(path, "rb") as file:
        there = file.size()
        if zipped:
            with gzip.GzipFile(fileobj=file) as unzipped:
                there = sum(map(len, iter(lambda: unzipped.read(1 << 20), b"")))
    if there > read:
        raise EOFError("the file ends within a record")


def unzipped_lines(path):
    """Yields the lines of a gzip file. TensorFlow would end at a cut without an error."""
    with tf.io.gfile.GFile(path, "rb") as file, gzip.GzipFile(fileobj=file) as lines:
        for line in lines:
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def fields_of(record, format, field):
    """Returns the fields of a record.

    Raises:
        ValueError: If the record has no fields; the message is the reason.
    """
    if format == "jsonl":
        try:
            found = json.loads(record)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
    if format == "examples":
        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError as error:
            raise ValueError("no tf.train.Example") from error
        values = {k: getattr(v, v.WhichOneof("kind") or "bytes_list") for k, v in features.items()}
        return {k: v.value[0] if len(v.value) == 1 else list(v.value) for k, v in values.items()}
    return record if format == "tfds" else {field: record}


def plain(value):
    """Returns the value in types that JSON has."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [plain(v) for v in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def read(source, format, field, copied):
    """Yields the rows of a source: name, text and copied fields, or name, None and a reason."""
    name, path, split, first = source
    number = first - 1
    try:
        for number, record in enumerate(records(path, format, split, first), first):
            if number == 0 and format in ("text", "jsonl"):
                record = record.removeprefix(codecs.BOM_UTF8)
            try:
                found = fields_of(record, format, field)
                text = found.get(field)
                text = text.encode() if isinstance(text, str) else text
                if not isinstance(text, bytes):
                    raise ValueError(f"no text in the field {field!r}")
                if not text.strip():
                    raise ValueError("the text is empty")
                if missing := set(copied) - set(found):
                    raise ValueError(f"no field {min(missing)!r}")
                yield f"{name}:{number}", text, {key: plain(found[key]) for key in copied}
            except ValueError as error:
                yield f"{name}:{number}", None, str(error)
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        yield f"{name}:{number + 1}", None, f"damaged from here on: {error.message}"
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield f"{name}:{number + 1}", None, f"damaged from here on: {error}"


def answers(ask, texts):
    """Returns for each text a dict of the signature's outputs, or why the model refused it.

    If the model refuses a batch, each half is tried, and so on, until the refused rows are found.
    Any other error is not caused by a row. It ends the bundle, which the runner may try again.
    """
    [name] = ask.structured_input_signature[1]
    try:
        outputs = ask(**{name: tf.constant(texts)})
    except tf.errors.InvalidArgumentError as error:
        half = len(texts) // 2
        if not half:
            return [f"refused by the model: {error.message}"]
        return answers(ask, texts[:half]) + answers(ask, texts[half:])
    outputs = {name: plain(value.numpy()) for name, value in outputs.items()}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return [row["error"] if row.get("error") else row for row in rows]


class SavedModelHandler(ModelHandler):
    """Asks a signature of a SavedModel, with batches of rows of about the same length.

    Yields pairs: "scored" or "failed" and a line of JSON, and "batch" and counts.
    """

    def __init__(self, path, signature, batch_size, boundaries, max_words):
        self.path, self.signature, self.max_words = path, signature, max_words
        by_length = {
            "batch_length_fn": self.words,
            "batch_bucket_boundaries": boundaries,
            # Beam batches by length only in a stateful step, which needs a limit of time.
            "max_batch_duration_secs": 60,
        }
        super().__init__(
            min_batch_size=batch_size,
            max_batch_size=batch_size,
            **(by_length if boundaries else {}),
        )

    def words(self, row):
        return max(1, min(len(row[1].split()), self.max_words))

    def load_model(self):
        return tf.saved_model.load(self.path)  # a signature alone does not keep the model alive

    def run_inference(self, batch, model, inference_args=None):
        start = time.perf_counter()
        found = answers(model.signatures[self.signature], [text for _, text, _ in batch])
        words = [self.words(row) for row in batch]
        counts = {"words": sum(words), "slots": len(words) * max(words)}
        results = [("batch", {**counts, "seconds": time.perf_counter() - start})]
        for (name, _, given), answer in zip(batch, found, strict=True):
            results.append(line(name, given, answer))
        return results


def line(name, given, answer):
    """Returns the output that a row's line belongs to, and the line."""
    if isinstance(answer, dict):
        try:
            row = {"row": name, **({"given": given} if given else {}), **answer}
            return "scored", json.dumps(row, allow_nan=False)
        except ValueError:
            answer = "a value is not a number"
    return "failed", json.dumps({"row": name, "reason": answer})


def compared(times, label):
    """Yields the counts of a row. A row that is not read once and written once is an error."""
    _, found = times
    read, written = len(list(found["read"])), list(found["written"])
    yield "rows", read
    yield "lost", max(0, read - len(written))
    yield "doubled", max(0, read - 1, len(written) - read)
    for row in written:
        yield "failed" if "reason" in row else "scored", 1
        if label and "reason" not in row:
            given, answered = row["given"][label], row.get("label")
            yield "right", int(given == answered or str(given) == str(answered))  # "1" is 1


def scoring(pipeline, args, sources):
    """Builds the pipeline, which ends with the counts in OUTPUT/counts.jsonl."""
    handler = SavedModelHandler(
        args.model, args.signature, args.batch_size, args.boundaries, args.max_words
    )
    rows = (
        pipeline
        | beam.Create(sources)
        | "share the sources out" >> beam.Reshuffle()
        | beam.FlatMap(read, args.format, args.field, copied(args))
    )
    found = (
        rows
        | "with a text" >> beam.Filter(lambda row: row[1] is not None)
        | "share the rows out" >> beam.Reshuffle()
        | RunInference(handler)
        | beam.Map(lambda result: beam.pvalue.TaggedOutput(*result)).with_outputs()
    )
    unread = (
        rows
        | "without a text" >> beam.Filter(lambda row: row[1] is None)
        | "reasons" >> beam.Map(lambda row: line(row[0], None, row[2])[1])
    )
    failed = (found.failed, unread) | "all that failed" >> beam.Flatten()
    files = [
        lines | f"write {name}" >> beam.io.WriteToText(f"{args.output}/{name}", ".jsonl", **shards)
        for lines, name, shards in (
            (found.scored, "scores", {"num_shards": args.shards}),
            (failed, "failed", {"num_shards": 1}),
        )
    ]
    # By pattern: if the step that renames the files runs again, it returns no names.
    written = (
        pipeline
        | "files" >> beam.Create([f"{args.output}/scores-*", f"{args.output}/failed-*"])
        | WaitOn(*files)
        | beam.io.ReadAllFromText()
        | "as read" >> beam.Map(json.loads)
        | "by their names" >> beam.Map(lambda row: (row["row"], row))
    )
    read_once = rows | "names" >> beam.Map(lambda row: (row[0], 1))
    of_rows = (
        {"read": read_once, "written": written}
        | beam.CoGroupByKey()
        | "counts of rows" >> beam.FlatMap(compared, args.label)
    )
    of_batches = found.batch | "counts of batches" >> beam.FlatMap(lambda counts: counts.items())
    (
        (of_rows, of_batches)
        | "all counts" >> beam.Flatten()
        | beam.CombinePerKey(sum)
        | "as lines" >> beam.Map(json.dumps)
        | "write counts" >> beam.io.WriteToText(
            f"{args.output}/counts", ".jsonl", num_shards=1, shard_name_template=""
        )
    )  # fmt: skip


def copied(args):
    return [name for name in (args.id, args.label) if name]


def summary(args, seconds):
    """Returns the last line to print, from the counts that the pipeline wrote."""
    with FileSystems.open(f"{args.output}/counts.jsonl") as file:
        counts = collections.Counter(dict(map(json.loads, file)))
    found = {name: counts[name] for name in ("rows", "scored", "failed", "lost", "doubled")}
    if args.label and counts["scored"]:
        found["accuracy"] = round(counts["right"] / counts["scored"], 4)
    return {
        **found,
        "seconds": round(seconds, 1),
        "seconds_in_model": round(counts["seconds"], 1),
        "rows_per_second": round(counts["rows"] / seconds, 1),
        "padding": round(1 - counts["words"] / max(1, counts["slots"]), 4),
    }


def check_model(args, fail):
    """Returns the path of a version whose signature takes one text a row."""
    path = args.model
    if "://" not in path:
        path = str(newest_version(path).resolve())  # workers may run elsewhere
    try:
        signatures = tf.saved_model.load(path).signatures
    except DAMAGED as error:
        fail(f"--model must be a SavedModel. Received: {path}, which does not load: {error}")
    texts = {
        name: function.structured_outputs
        for name, function in signatures.items()
        if [x.dtype for x in function.structured_input_signature[1].values()] == [tf.string]
    }
    if args.signature not in texts:
        fail(
            "--signature must be one that takes one text a row. "
            f"Received: {args.signature}. {path} has {sorted(texts) or 'none'}."
        )
    if taken := {"row", "given", "reason"} & set(texts[args.signature]):
        fail(f"--signature must have no output `{min(taken)}`. Received: {args.signature}")
    if args.label and "label" not in texts[args.signature]:
        fail(f"--label needs a signature with the output `label`. Received: {args.signature}")
    return path


def check_input(args, fail):
    """Returns the sources, (name, path, split, number of the first row), and sets the format."""
    if args.input[0].startswith("tfds:"):
        if len(args.input) > 1 or args.format:
            fail("--input tfds:NAME/SPLIT stands alone and without --format")
        args.format = "tfds"
        return check_data_set(args, fail)
    if not args.format:
        found = {SUFFIXES.get(pathlib.PurePath(x.removesuffix(".gz")).suffix) for x in args.input}
        if len(found) > 1 or found == {None}:
            fail(
                "--format must be given unless all names end alike, in .txt, .jsonl or .tfrecord. "
                f"Received: --input {' '.join(args.input)}"
            )
        [args.format] = found
    paths = set()
    for pattern in args.input:
        found = tf.io.gfile.glob(pattern)
        if not found:
            fail(f"--input must name files. Received: {pattern}, which fits none")
        paths |= set(found)
    for path in sorted(paths):
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                file.read(1)
        except tf.errors.OpError as error:
            fail(f"--input must name files that can be read. Received: {path}: {error.message}")
    return [(path, path, None, 0) for path in sorted(paths)]


def check_data_set(args, fail):
    """Returns the sources of a split. Prepares the data set first if necessary."""
    if not importlib.util.find_spec("tensorflow_datasets"):
        fail("--input tfds:NAME/SPLIT needs pip install tensorflow-datasets")
    import tensorflow_datasets as tfds

    from keras_gated import datasets

    name, _, split = args.input[0].removeprefix("tfds:").rpartition("/")
    try:
        datasets.load(name, args.data_dir)
        builder = tfds.builder(name, data_dir=args.data_dir)
    except (OSError, ValueError, tfds.core.DatasetNotFoundError) as error:
        said = " ".join(str(error).partition("Available datasets:")[0].split())
        fail(f"--input must be tfds:NAME/SPLIT of a data set. Received: {args.input[0]}. {said}")
    if split not in builder.info.splits:
        fail(f"{name} must have the split. Received: {split!r} of {sorted(builder.info.splits)}")
    for field in (args.field, *copied(args)):
        if field not in builder.info.features:
            fail(f"{name} must have the field. Received: {field!r} of {[*builder.info.features]}")
    rows = builder.info.splits[split].num_examples
    return [
        (f"{name}/{split}", str(builder.data_path), split, first) for first in range(0, rows, PART)
    ]


def check_runner(args, options, fail):
    """Checks that a runner is available before the work starts."""
    if args.runner == "DataflowRunner" and dataflow_runner.dataflow_api is None:
        fail("--runner DataflowRunner needs pip install 'apache-beam[gcp]'")
    servers = {
        "FlinkRunner": flink_runner.FlinkJarJobServer,
        "SparkRunner": spark_runner.SparkJarJobServer,
    }
    if args.runner not in servers or options.view_as(PortableOptions).job_endpoint:
        return
    try:
        if not shutil.which("java"):
            raise FileNotFoundError("java is not on the PATH")
        server = servers[args.runner](options)
        server.local_jar(server.path_to_jar())  # downloads the jar unless it is on this machine
    except (OSError, RuntimeError, ValueError) as error:
        flag = args.runner.removesuffix("Runner").lower()
        fail(
            f"--runner {args.runner} needs Java and the jar of Beam's job server: {error} Or pass "
            f"--{flag}_job_server_jar, or the --job_endpoint of a server that runs."
        )


def check_output(args, fail):
    """Makes sure that the folder can be written, and that it holds no scores and gets no others."""
    if set(args.output) & set("*?[]"):
        fail(f"--output must be a folder without `*`, `?`, `[` and `]`. Received: {args.output}")
    names = [f"{args.output}/{name}*" for name in ("scores", "failed", "counts")]
    there = [file.path for match in FileSystems.match(names) for file in match.metadata_list]
    if there:
        fail(f"--output must be a folder without scores. Received: {args.output}, with {there[0]}")
    if "://" not in args.output:
        try:
            os.makedirs(args.output, exist_ok=True)
        except OSError as error:
            fail(f"--output must be a folder. Received: {args.output}: {error}")
        if not lock(args.output):
            fail(
                "--output must be a folder of this run alone. "
                f"Received: {args.output}, in use by another"
            )


def arguments():
    """Returns the checked arguments, Beam's checked options, and the sources."""
    p = command_line(__doc__)
    p.add_argument("--model", required=True, help="a version, or the folder of all versions")
    p.add_argument("--signature", default="serving_default")
    p.add_argument("--input", nargs="+", required=True, help="files or tfds:NAME/SPLIT")
    p.add_argument(
        "--format",
        choices=["text", "jsonl", "tfrecord", "examples"],
        help="tfrecord: of texts; examples: of tf.train.Example; default: as the names end",
    )
    p.add_argument("--field", default="text", help="of JSON, tf.train.Example or TFDS")
    p.add_argument("--id", metavar="FIELD", help="is copied to the scores")
    p.add_argument("--label", metavar="FIELD", help="is copied, and compared for the accuracy")
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--output", required=True, help="a folder")
    p.add_argument("--shards", type=whole, default=0, help="of the scores; 0: the runner's choice")
    p.add_argument("--runner", choices=RUNNERS, default="DirectRunner")
    p.add_argument("--batch-size", type=positive, default=64)
    p.add_argument(
        "--boundaries", type=positive, nargs="*", default=BOUNDARIES, help="in words, ascending"
    )
    p.add_argument("--max-words", type=positive, default=1000, help="that the model reads of a row")
    args, others = p.parse_known_args()
    options = PipelineOptions(others, runner=RUNNERS[args.runner])
    known = options.get_all_options()
    if unknown := set(options.get_all_options(retain_unknown_options=True)) - set(known):
        p.error(f"neither this script nor Beam has the option --{min(unknown)}")
    if args.boundaries != sorted(set(args.boundaries)):
        p.error(f"--boundaries must ascend. Received: {args.boundaries}")
    sources = check_input(args, p.error)
    check_output(args, p.error)
    check_runner(args, options, p.error)
    args.model = check_model(args, p.error)
    return args, options, sources


def main():
    logging.getLogger().setLevel(logging.ERROR)  # without Beam's warnings about its own steps
    args, options, sources = arguments()
    start = time.time()
    with beam.Pipeline(options=options) as pipeline:
        scoring(pipeline, args, sources)
    found = summary(args, time.time() - start)
    print(json.dumps(found))
    if found["lost"] or found["doubled"]:
        sys.exit("Rows were lost or doubled: do not use these scores.")


if __name__ == "__main__":
    main()
