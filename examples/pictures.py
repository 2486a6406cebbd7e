"""Pictures of an example's results. Only the pictures need matplotlib."""

import sys

# Readable on a white page and on a dark page: no background, and a grey halfway between.
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
    """Calls `draw(*found, path)`. If matplotlib is missing, prints the extra that installs it.

    Returns:
        Whether a picture was drawn.
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
    matplotlib.use("Agg")  # writes files, without a screen
    with matplotlib.rc_context(STYLE):
        draw(*found, path)
    return True
