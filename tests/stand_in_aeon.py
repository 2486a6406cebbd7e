"""A package named aeon that holds the two files of `japanese_vowels`, with made-up series."""

import numpy as np

HEAD = "#made up\n@problemName JapaneseVowels\n@equalLength false\n@classLabel true 1 2 3\n@data\n"


def write(folder, of_each=5):
    """Writes the package into a folder of the module search path: 9 speakers, 7 to 29 steps."""
    data = folder / "aeon" / "datasets" / "data" / "JapaneseVowels"
    data.mkdir(parents=True)
    (folder / "aeon" / "__init__.py").write_text("raise ImportError('nothing imports it')\n")
    rng = np.random.default_rng(1)
    for split in ("TRAIN", "TEST"):
        lines = []
        for speaker in np.repeat(range(1, 10), of_each):
            series = rng.normal(speaker, 1, (12, rng.integers(7, 30))).round(3)
            channels = [",".join(map(str, channel)) for channel in series]
            lines.append(":".join([*channels, str(speaker)]))
        (data / f"JapaneseVowels_{split}.ts").write_text(HEAD + "\n".join(lines) + "\n")
