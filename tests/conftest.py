import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(ROOT / "examples")]

import keras  # noqa: E402
import pytest  # noqa: E402
from families import FAMILIES, MASKS  # noqa: E402


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(params=MASKS)
def mask_name(request):
    return request.param


@pytest.fixture(autouse=True)
def default_settings():
    """Every test starts from Keras's defaults and a fixed seed."""
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the embedded data sets are prepared, once a run."""
    return str(tmp_path_factory.mktemp("tensorflow_datasets"))
