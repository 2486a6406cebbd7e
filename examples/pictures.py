"""Pictures of what an example has found. They need matplotlib; what is found does not."""

import sys


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
    draw(*found, path)
    return True
