"""Loads TFDS data sets, and fails early if a data set must be downloaded and cannot be."""

import errno
import os
import threading
import urllib.error
import urllib.parse
import urllib.request

import tensorflow_datasets as tfds
from absl import logging

from keras_gated.datasets.japanese_vowels import JapaneseVowels
from keras_gated.datasets.toy_plays import ToyPlays
from keras_gated.datasets.toy_reviews import ToyReviews

EMBEDDED = {
    "toy_reviews": ToyReviews,
    "toy_plays": ToyPlays,
    "japanese_vowels": JapaneseVowels,
}

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC)


def load(name, data_dir=None, offline=None):
    """Returns the splits of a data set. Prepares the data set first if necessary.

    Args:
        name: One of `EMBEDDED`, or any TFDS data set.
        data_dir: Where TFDS keeps prepared data sets. Default: the environment variable
            `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
        offline: Name of the embedded data set that the error names if a download is impossible.

    Returns:
        A dict of split name to `tf.data.Dataset` of feature dicts.

    Raises:
        ConnectionError: If the data set must be downloaded and its source does not answer.
        ModuleNotFoundError: If `japanese_vowels` must be prepared and aeon is not installed.
        OSError: If it must be prepared and `data_dir` cannot be written: a `PermissionError`, a
            `NotADirectoryError`, or another that fits the reason.
    """
    kwargs = {"data_dir": os.path.expanduser(data_dir)} if data_dir else {}
    builder = EMBEDDED[name](**kwargs) if name in EMBEDDED else tfds.builder(name, **kwargs)
    if not _is_prepared(builder):
        if name not in EMBEDDED:
            _require_source(builder, offline)
        try:
            builder.download_and_prepare()
        except FileExistsError:  # another worker on the same directory was faster
            if not _is_prepared(builder):
                raise
            return load(name, data_dir, offline)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise OSError(
                error.errno,
                f"The data set {name!r} must be prepared first, and {builder.data_path.parent} "
                f"cannot be written: {os.strerror(error.errno)}. Pass a directory of your own with "
                "--data-dir, or set TFDS_DATA_DIR to it.",
            ) from error
    return builder.as_dataset(shuffle_files=False)


def _is_prepared(builder):
    """Whether TFDS has prepared a data set. Without the warning that TFDS prints if it has not."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        return builder.is_prepared()
    finally:
        logging.set_verbosity(before)


def _require_source(builder, offline):
    """Raises within seconds if a download is impossible. TFDS would retry for minutes."""
    unreachable = [url for url in _sources(builder) if not _answers(url)]
    if unreachable:
        host = urllib.parse.urlparse(unreachable[0]).hostname
        way_out = f", or choose `--dataset {offline}`, which needs no network" if offline else ""
        raise ConnectionError(
            f"The data set {builder.name!r} is not prepared in {builder.data_path} "
            f"and cannot be downloaded: {host} does not answer. Set TFDS_DATA_DIR (or pass "
            f"--data-dir) to a directory that holds it{way_out}."
        )


def _sources(builder):
    return sorted(builder.url_infos)


def _answers(url, seconds=5):
    """Whether the server of `url` answers within some seconds."""
    answered = []

    def ask():
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=seconds
            ):
                answered.append(True)
        except urllib.error.HTTPError as error:
            answered.append(error.code < 500)
        except OSError:
            answered.append(False)

    # Looking up a host's name has no time-out, so the thread is given only so many seconds.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return bool(answered and answered[0])
