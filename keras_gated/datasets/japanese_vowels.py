"""`japanese_vowels`: which of nine speakers says a vowel. The package aeon holds the data."""

import importlib.util
import pathlib

import numpy as np
import tensorflow_datasets as tfds

CHANNELS = 12
SPEAKERS = tuple("123456789")
WAY_OUT = (
    "Install it with `pip install --no-deps aeon`: two of its files are read, so that what it "
    "depends on is not needed. Or set TFDS_DATA_DIR (or pass --data-dir) to a directory that holds "
    "the prepared data set."
)


def folder_of_aeon():
    """Returns the folder with the two files in the installed aeon. aeon is not imported.

    Raises:
        ModuleNotFoundError: If aeon is not installed.
        FileNotFoundError: If aeon is installed without the files.
    """
    found = importlib.util.find_spec("aeon")
    if found is None:
        raise ModuleNotFoundError(
            "The data set 'japanese_vowels' is prepared from the package aeon, which is not "
            f"installed. {WAY_OUT}",
            name="aeon",
        )
    [package, *_] = found.submodule_search_locations
    folder = pathlib.Path(package, "datasets", "data", "JapaneseVowels")
    if not folder.is_dir():
        raise FileNotFoundError(
            "The data set 'japanese_vowels' is prepared from the package aeon 1.0 or later, whose "
            f"files are missing. Received: no folder {folder}. {WAY_OUT}"
        )
    return folder


def read_ts(path):
    """Yields the series of a `.ts` file and their labels.

    A line holds a series: its channels, then its label, with `:` between, and `,` between steps.
    (aeon's own reader would need all of its dependencies, which need another NumPy than
    TensorFlow may have.)

    Args:
        path: The path of a text file with equally spaced steps and without missing values.

    Yields:
        Pairs of a float32 array `(time, channels)` and a string.

    Raises:
        ValueError: If a line is not such a series.
    """
    lines = iter(pathlib.Path(path).read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.strip().lower() == "@data":
            break
    for line in lines:
        *channels, label = line.strip().split(":")
        try:
            series = np.array([channel.split(",") for channel in channels], "float32")
        except ValueError as error:
            raise ValueError(
                f"read_ts: each line after @data must hold channels of as many numbers, and a "
                f"label. Received: {line[:80]!r} in {path}. Install the file's package again."
            ) from error
        yield series.T, label


class JapaneseVowels(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of `japanese_vowels`, prepared from the installed package aeon.

    Nine men said the vowels /ae/: 270 series for training, 30 of each speaker, and 370 for the
    test. A series has 7 to 29 steps of 12 channels, the LPC cepstrum coefficients of a frame of
    25.6 ms, every 6.4 ms. The label is the speaker.

    Kudo, Toyama and Shimbo gave the data to the UCI Machine Learning Repository in 2000. The
    package aeon (BSD 3-Clause) has them in its wheel, in the format of the archive of
    timeseriesclassification.com. Nothing is downloaded, and keras_gated holds no copy.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "series": tfds.features.Tensor(shape=(None, CHANNELS), dtype=np.float32),
                    "label": tfds.features.ClassLabel(names=SPEAKERS),
                }
            ),
            supervised_keys=("series", "label"),
            homepage="https://doi.org/10.24432/C5NS47",
            citation=(
                "M. Kudo, J. Toyama and M. Shimbo (1999). Multidimensional curve classification "
                "using passing-through regions. Pattern Recognition Letters 20(11-13), 1103-1111."
            ),
            license="CC BY 4.0 (UCI Machine Learning Repository)",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        folder = folder_of_aeon()
        return {
            split.lower(): self._generate_examples(folder / f"JapaneseVowels_{split}.ts")
            for split in ("TRAIN", "TEST")
        }

    def _generate_examples(self, path):
        for number, (series, label) in enumerate(read_ts(path)):
            yield number, {"series": series, "label": label}
