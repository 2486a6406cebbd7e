"""The report of `look_inside.py`: the parts of a prediction, directions, phones, pictures.

The model is small and untrained: its numbers are random, and each must stand where it belongs.
"""

import pathlib
import re
import sys

import keras
import look_inside
import numpy as np
import pytest
import sentiment
from pictures import picture
from test_look_inside import choose, keys, numbers, opened

import keras_gated

pytestmark = pytest.mark.usefixtures("short_turns")

REVIEW = "the plot was not dull , it was gripping zzyzx ."
VOCABULARY = ["", "[UNK]", *sorted(set(REVIEW.split()) - {"zzyzx"})]
READER = {"kind": "sentiment", "vocabulary": VOCABULARY, "head": 90, "tail": 90}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    classifier, _ = sentiment.build_model(len(VOCABULARY), "lstm", 5, 1, buckets=31)
    for layer in ("network", "n_grams"):
        rng = np.random.default_rng(1)
        own = classifier.get_layer(layer)
        own.set_weights(
            [rng.normal(size=w.shape) if "float" in w.dtype else w for w in own.weights]
        )
    return classifier


@pytest.fixture(scope="module")
def ids(model):
    return look_inside.read(READER, REVIEW)[1]


@pytest.fixture(scope="module")
def report(model, tmp_path_factory):
    """The page of one text, written as the script writes it."""
    page = tmp_path_factory.mktemp("report") / "index.html"
    page.write_text(
        look_inside.page("small", "sentiment", [look_inside.look(model, READER, REVIEW)])
    )
    return page


def logits_of(model, ids, part):
    """The running logits of one part of a model, one beginning of the text after the other."""
    alone = keras.Model(model.input, model.get_layer(part).output)
    return np.array([float(alone(ids[:, : t + 1])[0, 0]) for t in range(ids.shape[1])])


@pytest.mark.slow
def test_both_parts_of_a_prediction_are_shown_word_by_word(model, ids, report, browser):
    opened(browser, report)
    network, runs = (logits_of(model, ids, part) for part in ("network", "n_grams"))
    probability = [float(model(ids[:, : t + 1])[0, 0]) for t in range(ids.shape[1])]
    np.testing.assert_allclose(
        1 / (1 + np.exp(-(network + 2 * runs) / 3)), probability, atol=1e-5
    )  # as docs/examples.md says, the n-grams count twice

    group = "logit of the review so far"
    keys(browser, "HOME")
    for t in range(len(network)):
        rows = {name: v for (title, name), v in numbers(browser).items() if title == group}
        expected = {
            f"33 % of the network’s {network[t]:.2f}": network[t] / 3,  # noqa: RUF001
            f"67 % of the n-grams’s {runs[t]:.2f}": runs[t] * 2 / 3,  # noqa: RUF001
            "sum": (network[t] + 2 * runs[t]) / 3,
        }
        assert rows == pytest.approx(expected, abs=0.0051)
        keys(browser, "ARROW_RIGHT")


def test_a_text_can_be_coloured_by_one_part_of_the_prediction_alone(model, ids, report, browser):
    opened(browser, report)
    for part, name in (("network", "the network alone"), ("n_grams", "the n-grams alone")):
        choose(browser, "colour", name)
        spans = browser.find_elements("css selector", "#text span")
        colours = [s.value_of_css_property("background-color") for s in spans]
        strengths = [float(re.findall(r"[\d.]+", c)[3]) for c in colours]
        expected = np.abs(np.tanh(logits_of(model, ids, part) / 2))
        np.testing.assert_allclose(strengths, 0.55 * expected, atol=0.01)


@pytest.mark.slow
def test_the_mean_over_units_is_of_absolute_values(model, ids, report, browser):
    """Signed values of many units would cancel out."""
    opened(browser, report)
    gates = keras_gated.trace_gates(model, ids)["bidirectional"]
    keys(browser, "HOME")
    for t in range(ids.shape[1]):
        shown = numbers(browser)
        for direction in ("forward", "backward"):
            for name, values in gates[direction].items():
                received = shown[f"bidirectional/{direction}, mean of |values|", name]
                assert received == pytest.approx(np.mean(np.abs(values[0, t])), abs=1e-3)
        keys(browser, "ARROW_RIGHT")
    choose(browser, "colour", "bidirectional/forward: memory")
    spans = browser.find_elements("css selector", "#text span")
    colours = [s.value_of_css_property("background-color") for s in spans]
    means = np.abs(gates["forward"]["memory"][0]).mean(-1)
    strengths = [float(re.findall(r"[\d.]+", c)[3]) for c in colours]
    np.testing.assert_allclose(strengths, 0.55 * means / means.max(), atol=0.01)
    assert browser.find_element("id", "lowest").text == "0"


def test_a_network_that_judges_alone_has_no_parts():
    classifier, _ = sentiment.build_model(9, "gru", 2, 1)
    assert look_inside.parts_of(classifier) == {}
    classifier, _ = sentiment.build_model(9, "gru", 2, 1, buckets=11, networks=2)
    shares = {name: share for name, (_, share) in look_inside.parts_of(classifier).items()}
    assert shares == {"networks": pytest.approx(1 / 3), "n_grams": pytest.approx(2 / 3)}


@pytest.mark.parametrize("layer, backwards", [
    (keras_gated.GRU(2, name="a"), {"a": False}),
    (keras_gated.GRU(2, name="a", go_backwards=True), {"a": True}),
    (keras_gated.Bidirectional(keras_gated.LSTM(2), name="a"),
     {"a/forward": False, "a/backward": True}),
    (keras_gated.Bidirectional(keras_gated.LSTM(2, go_backwards=True),
                               backward_layer=keras_gated.LSTM(2), name="a"),
     {"a/forward": True, "a/backward": False}),
])  # fmt: skip
def test_the_help_of_the_gradient_is_right_for_layers_that_read_backwards(layer, backwards):
    """By hand: what is read first is farthest from the answer, and it stands last in the text."""
    x = keras.Input((None, 3))
    model = keras.Model(x, layer(x))
    found = {name: look_inside.reads_backwards(model, name) for name in backwards}
    assert found == backwards
    layers = [{"name": name, "backwards": b} for name, b in backwards.items()]
    said = look_inside.gradient_help("sentiment", layers)
    assert ("falls to the left, what came early" in said) == (False in backwards.values())
    [late] = [name for name, b in backwards.items() if b] or [None]
    if late:
        assert f"{late} begins at the end of the text" in said
    assert ("falls to the right, what stands late" in said) == bool(late)


def test_the_page_names_the_direction_that_reads_backwards(report, browser):
    element = opened(browser, report)
    assert "bidirectional/backward begins at the end" in element("gradient-help").text
    lines = [key.text for key in browser.find_elements("css selector", "#keys > span")]
    assert len(lines) == 4
    assert all(("reads to the left" in line) == ("/backward" in line) for line in lines)


def test_on_a_phone_nothing_is_cut_off_and_the_charts_text_can_be_read(report, browser):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        opened(browser, report)
        sizes = browser.execute_script(
            "return [...document.querySelectorAll('#gradient text')].map((text) => "
            "parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"
        )
        assert len(sizes) > 3 and min(sizes) >= 11
        right = browser.execute_script(
            "return Math.max(...[...document.querySelectorAll('body *')]"
            ".map((element) => element.getBoundingClientRect().right))"
        )
        assert right <= 390
        wide = browser.execute_script(
            "const box = document.getElementById('gradient').getBoundingClientRect(); return ["
            "...document.querySelectorAll('#gradient text, #gradient polyline')].every((part) => {"
            "const own = part.getBoundingClientRect();"
            "return own.left >= box.left - 1 && own.right <= box.right + 1; })"
        )
        assert wide
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.sampled
@pytest.mark.parametrize("steps", [1, 10, 59, 200])
@pytest.mark.parametrize("layers", [["gru"], ["bidirectional/forward", "bidirectional/backward"],
                                    [f"bidirectional_{n}/forward" for n in range(5)]])  # fmt: skip
def test_the_legend_of_a_picture_covers_nothing(steps, layers, tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    norms = np.linspace(1, 1e-3, steps)
    looked = {
        "tokens": ["gripping"] * steps,
        "answer": "positive, 0.900",
        "layers": [
            {
                "name": name,
                "gates": {gate: np.ones((steps, 4)) for gate in ("input", "memory", "hidden")},
                "gradient": {"h": norms, "c": norms[::-1]},
            }
            for name in layers
        ],
    }
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    look_inside.plot(looked, tmp_path / "text-1.png")
    [figure] = figures
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    [box] = [legend.get_window_extent() for legend in legends]
    assert not [axes for axes in figure.axes if box.overlaps(axes.get_tightbbox())]
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1


@pytest.mark.slow
def test_without_matplotlib_there_is_the_page_and_a_sentence(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    monkeypatch.setattr(look_inside, "load", lambda _: (model, READER))
    command = ["look_inside.py", "small", "Good.", "Bad."]
    monkeypatch.setattr("sys.argv", [*command, "--output", str(tmp_path / "report")])
    look_inside.main()
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"{tmp_path}/report/index.html"
    assert len(re.findall(r"^(positive|negative), ", said.out, re.MULTILINE)) == 2
    sentences = said.err.splitlines()
    assert all("pip install 'keras_gated[plots]'" in sentence for sentence in sentences)
    assert [re.search(r"text-\d.png", one)[0] for one in sentences] == ["text-1.png", "text-2.png"]


def test_every_example_keeps_what_it_found_where_matplotlib_is_missing(monkeypatch, capsys):
    """All pictures are drawn through `picture`, which draws or says what is missing."""
    for path in pathlib.Path(look_inside.__file__).parent.glob("*.py"):
        source = path.read_text()
        if "import pyplot" in source:
            assert "picture(plot, " in source and not re.search(r"^ +plot\(", source, re.MULTILINE)
    drawn = []
    assert picture(lambda *given: drawn.append(given), 1, 2, path="a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not picture(lambda *given: drawn.append(given), 1, 2, path="b.png")
    assert drawn == [(1, 2, "a.png")] and "No picture b.png: " in capsys.readouterr().err
