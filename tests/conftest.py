import atexit
import collections
import ctypes
import gc
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest.mock
import urllib.request
import zlib
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(ROOT / "examples")]
if "TF_XLA_FLAGS" not in os.environ:
    # What one test compiled is not compiled again: by no other test, worker or script.
    COMPILED = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
    os.environ["TF_XLA_FLAGS"] = (
        f"--tf_xla_persistent_cache_directory={COMPILED} --tf_xla_persistent_cache_device_types=CPU"
    )

import keras  # noqa: E402
import pytest  # noqa: E402
import scripts  # noqa: E402
from chunks import shorten_chunks  # noqa: E402
from families import FAMILIES, MASKS  # noqa: E402

import keras_gated  # noqa: E402
from keras_gated.cells import equations  # noqa: E402

# Files whose tests need the same trained models, exports or servers; the longest come first.
GROUPS = (
    ("test_demo", "test_examples", "test_look_inside"),
    (
        "test_server",
        "test_server_refuses",
        "test_query",
        "test_page_served",
        "test_serving",
        "test_without_python",
    ),
    ("test_resume",),
    ("test_results",),
)


def group(file):
    """Returns the files that share with a file: their tests are run by one worker."""
    return next((names for names in GROUPS if file in names), (file,))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    sample(items)
    order = list(GROUPS)
    items.sort(key=lambda item: [*order, group(item.path.stem)].index(group(item.path.stem)))


def sample(items):
    """Marks what is left out of each `sampled` test: of its parameters every fourth is run.

    Of the others, every twelfth is for the slow part: two places on from every fourth that is run.
    The rest is for `make test-all`. Tests begin at different places, so that together they hold
    every family.
    """
    sampled = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            sampled[item.nodeid.split("[")[0]].append(item)
    for name, every in sampled.items():
        start = zlib.crc32(name.encode()) % min(4, len(every))
        for place, item in enumerate(every):
            if (place - start) % 4:
                item.add_marker("slow")
                if (place - start) % 16 != 2:
                    item.add_marker("long")


def pytest_collection_finish():
    gc.freeze()  # what is imported stays: no collection need look at it again


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, whose own groups pytest 9.2 ignores
def pytest_xdist_make_scheduler(config, log):
    """Keeps the tests of a group together, so that its fixtures and caches are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return " ".join(group(pathlib.Path(nodeid.split("::")[0]).stem))

    config.option.loadscopereorder = False
    return ByGroup(config, log)


PEAKS = {}


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node):
    PEAKS[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak", 0)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def pytest_terminal_summary(terminalreporter):
    """Tells how many tests were skipped and why, and the memory that the tests took."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports]
    terminalreporter.section("skipped tests and peak memory")
    for reason, number in collections.Counter(reasons).most_common():
        terminalreporter.line(f"{number:4} skipped: {reason}")
    for worker, size in (PEAKS or {"the tests": peak()}).items():
        terminalreporter.line(f"{size:4.1f} GB: {worker}")


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(params=MASKS)
def mask_name(request):
    return request.param


@pytest.fixture(autouse=True)
def default_settings():
    """Every test starts from Keras's defaults and a fixed seed of Keras.

    TensorFlow's own seed is set once for each file, since that empties its cache of functions.
    """
    with unittest.mock.patch("tensorflow.random.set_seed"):
        keras.utils.set_random_seed(0)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module", autouse=True)
def dropped_after_a_file():
    """What the tests of a file built is dropped, and its memory goes back to the system."""
    keras.utils.set_random_seed(0)
    yield
    equations._shared.cache_clear()
    keras.utils.clear_session()
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc would keep it


@pytest.fixture(scope="module")
def short_turns():
    """Chunks of three steps for a whole file: five steps need two, and graphs stay small."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_chunks(patch)
        yield


@pytest.fixture
def loop_of_the_cell():
    """Cells run as they are, for tests that say nothing of loops: compiling would take longer."""
    keras_gated.set_fused(False)
    yield
    keras_gated.set_fused("auto")


@pytest.fixture
def uninstall(monkeypatch):
    """A function after which a package cannot be imported, nor any of its modules."""

    def uninstall(package):
        for name in [package, *sys.modules]:
            if name.partition(".")[0] == package:
                monkeypatch.setitem(sys.modules, name, None)

    return uninstall


@pytest.fixture
def no_network(monkeypatch):
    """A proxy refuses all connections, whatever machine runs the tests."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # the proxies are kept there, for good


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the embedded data sets are prepared, once a run."""
    return str(tmp_path_factory.mktemp("tensorflow_datasets"))


class Trained(NamedTuple):
    folder: pathlib.Path  # the scripts ran in it
    demo: subprocess.CompletedProcess  # `make demo`, which trained the classifier
    characters: dict  # what the script said last


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_dir):
    """A classifier of toy_reviews and a writer of toy_plays, trained and exported once a run."""
    folder = tmp_path_factory.mktemp("trained")
    demo = scripts.demo(folder, data_dir)
    return Trained(folder, demo, scripts.characters(folder, data_dir))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, driven as a user would."""
    webdriver = pytest.importorskip("selenium.webdriver")
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        pytest.skip("Debian's packages chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for option in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "disable-dev-shm-usage", f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(found[1]))
    driver.set_window_size(1200, 1000)
    yield driver
    driver.quit()
