"""Pictures of what an example has found. They need matplotlib; what is found does not."""

import sys

# Readable on a white page and on a dark one: no background, and a grey as far from both.
GREY = "#808080"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "figure.facecolor": "none",
    "legend.edgecolor": GREY,
    "legend.facecolor": "none",
    "savefig.dpi": 220,
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def picture(draw, *found, path):
    """Calls `draw(*found, path)`, or says which extra it takes where matplotlib is missing.

    Returns:
        Whether there is a picture.
    """
    try:
        import matplotlib
    except ImportError:
        print(
            f"No picture {path}: it needs matplotlib, which the extra `plots` installs: "
            "pip install 'keras_gated[plots]'",
            file=sys.stderr,
        )
        return False
    matplotlib.use("Agg")  # a file needs no screen
    with matplotlib.rc_context(STYLE):
        draw(*found, path)
    return True
