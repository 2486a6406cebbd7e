"""The report of a model's inside, made by the script and used in a real browser."""

import json
import pathlib
import re
import shutil

import characters
import find_units
import keras
import look_inside
import numpy as np
import pytest
from scripts import said_here

import keras_gated
from keras_gated.datasets import toy_plays

pytestmark = pytest.mark.slow

REVIEW = 'The plot was not <b>dull</b>, it was "gripping" & zzyzx.'
LINES = "ALMA:\n</script><script>document.title='broken'</script>&amp; <i>$x$</i> \u00e9\U0001f600"


@pytest.fixture(scope="module")
def models(trained):
    """A sentiment and a character model, exported by the training scripts."""
    return trained.folder / "saved_models"


@pytest.fixture(scope="module")
def reports(models):
    """The reports of both: the pages' paths by kind."""
    long_review = " ".join(["The plot was dull, the cast was superb."] * 40)
    for name, kind, texts in (
        ("toy_reviews", "sentiment", [REVIEW, long_review, ""]),
        ("toy_plays", "characters", [LINES, "A"]),
    ):
        said = said_here("look_inside.py", models / name, *texts, "--output", models / kind)
        assert said.splitlines()[-1] == f"{models / kind}/index.html"
    return {kind: models / kind / "index.html" for kind in ("sentiment", "characters")}


def opened(browser, page):
    browser.get(page.as_uri())
    return lambda identity: browser.find_element("id", identity)


def tokens(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#text span')].map(span => span.textContent)"
    )


def numbers(browser):
    """Returns the table of the chosen token: (layer, gate) to its number."""
    assert browser.find_element("id", "values").is_displayed()
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#values tr')].map("
        "row => [...row.querySelectorAll('td')].map(cell => cell.innerText))"
    )
    found, group = {}, None
    for cells in rows:
        if len(cells) == 1:
            group = cells[0]
        else:
            found[group, cells[0]] = float(cells[1].replace("\u2212", "-"))
    return found


def keys(browser, *pressed):
    from selenium.webdriver.common.keys import Keys

    browser.find_element("id", "text").send_keys(*(getattr(Keys, name) for name in pressed))


def choose(browser, identity, visible):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", identity)).select_by_visible_text(visible)


def test_the_page_shows_the_tokens_and_the_numbers_of_the_model(models, reports, browser):
    element = opened(browser, reports["sentiment"])
    model, reader = look_inside.load(models / "toy_reviews")
    written, ids = look_inside.read(reader, REVIEW)
    assert tokens(browser) == written
    assert [w for w in written if "<" in w] == []  # HTML is cleaned away, as in training
    assert element("text-title").text.startswith(("Text: positive", "Text: negative"))
    gates = keras_gated.trace_gates(model, ids)["bidirectional"]
    probability = model.predict(ids, verbose=0)[0, 0]
    assert f"{probability:.3f}" in element("said").text  # the last token is chosen at first

    keys(browser, "HOME")
    assert element("token").text == f'Token 1 of {len(written)}: "the"'
    for number in range(len(written)):
        shown = numbers(browser)
        for direction in ("forward", "backward"):
            for name, values in gates[direction].items():
                received = shown[f"bidirectional/{direction}, mean of |values|", name]
                assert received == pytest.approx(np.mean(np.abs(values[0, number])), abs=1e-3)
        keys(browser, "ARROW_RIGHT")
    assert element("token").text.startswith(f"Token {len(written)} of {len(written)}")
    first = model.predict(ids[:, :1], verbose=0)[0, 0]
    keys(browser, "HOME")
    assert f"{first:.3f}" in element("said").text
    unknown = [s.text for s in browser.find_elements("css selector", "#text .unknown")]
    assert "zzyzx" in unknown and "plot" not in unknown


def test_a_gate_a_unit_and_a_token_can_be_chosen_by_mouse_and_keyboard(models, reports, browser):
    from selenium.webdriver.common.action_chains import ActionChains

    element = opened(browser, reports["sentiment"])
    model, reader = look_inside.load(models / "toy_reviews")
    _, ids = look_inside.read(reader, REVIEW)
    forget = keras_gated.trace_gates(model, ids)["bidirectional"]["forward"]["forget"][0]

    def colours():
        spans = browser.find_elements("css selector", "#text span")
        return [s.value_of_css_property("background-color") for s in spans]

    by_prediction = colours()
    choose(browser, "colour", "bidirectional/forward: forget")
    by_mean = colours()
    element("unit").send_keys("3")
    by_unit = colours()
    assert by_prediction != by_mean != by_unit
    strengths = [float(re.findall(r"[\d.]+", c)[3]) for c in by_unit]
    np.testing.assert_allclose(strengths, 0.55 * forget[:, 3], atol=0.01)
    assert element("map-title").text.startswith("bidirectional/forward: forget, 32 units")

    third = browser.find_elements("css selector", "#text span")[2]
    ActionChains(browser).move_to_element(third).perform()
    assert element("token").text.startswith("Token 3 of")
    shown = numbers(browser)["bidirectional/forward, unit 3", "forget"]
    assert shown == pytest.approx(float(forget[2, 3]), abs=1e-3)

    ActionChains(browser).move_to_element_with_offset(
        element("map"),
        -element("map").size["width"] // 2 + 2,
        element("map").size["height"] // 2 - 2,
    ).click().perform()
    assert element("token").text.startswith("Token 1 of")
    assert element("unit").get_attribute("value") == "31"


def test_the_gradient_of_the_page_is_that_of_the_models_own_answer(models, reports, browser):
    opened(browser, reports["sentiment"])
    model, reader = look_inside.load(models / "toy_reviews")
    _, ids = look_inside.read(reader, REVIEW)
    model.compile(loss="binary_crossentropy")
    answer = np.round(model.predict(ids, verbose=0))
    flow = keras_gated.gradient_flow(model, ids, answer)["bidirectional"]["forward"]
    keys(browser, "HOME")
    shown = numbers(browser)
    for name, norms in (("h", flow.hidden), ("c", flow.memory)):
        received = shown["bidirectional/forward, mean of |values|", f"norm of dL/d{name}"]
        assert received == pytest.approx(float(norms[0, 0]), rel=1e-2)
    lines = browser.find_elements("css selector", "#gradient polyline")
    assert len(lines) == 4
    assert all(len(line.get_attribute("points").split()) == ids.shape[1] for line in lines)


def test_what_a_text_holds_is_shown_and_never_run(models, reports, browser):
    element = opened(browser, reports["characters"])
    assert "".join(tokens(browser)).replace("⏎", "") == LINES
    assert browser.title == "Inside a recurrent model"
    assert "Expected next" in element("said").text
    source = reports["characters"].read_text()
    assert source.count("</script>") == 2  # the data's and the page's own


def test_the_expectations_of_a_character_model_are_its_probabilities(models, reports, browser):
    element = opened(browser, reports["characters"])
    model, reader = look_inside.load(models / "toy_plays")
    _, ids = look_inside.read(reader, LINES)
    logits = model.predict(ids, verbose=0)[0]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    keys(browser, "HOME", "ARROW_RIGHT", "ARROW_RIGHT")
    assert f"Was expected with {p[1, ids[0, 2] - 2]:.3f}." in element("said").text
    best = reader["vocabulary"][p[2].argmax() + 2]
    assert f"Expected next: {best!r} {p[2].max():.2f}" in element("said").text


def test_pages_need_no_network_and_report_no_error(reports, browser):
    for page in reports.values():
        opened(browser, page)
        source = page.read_text()
        assert not re.findall(r"""(?:src|href)=|url\(|@import|fetch\(""", source)
        requests = browser.execute_script("return performance.getEntriesByType('resource').length")
        assert requests == 0
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [1200, 420])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_long_and_short_texts_fit_the_window(reports, browser, width, place, tmp_path):
    browser.set_window_size(width, 1000)
    opened(browser, reports["sentiment"])
    options = browser.find_elements("css selector", "#which option")
    options[place].click()
    assert len(tokens(browser)) == (14, 400, 1)[place]
    inner, outer = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert inner <= outer
    size = browser.execute_script("return getComputedStyle(document.getElementById('t0')).fontSize")
    assert float(size.removesuffix("px")) >= 14
    assert browser.save_screenshot(str(tmp_path / "page.png"))
    browser.set_window_size(1200, 1000)


def test_light_and_dark_follow_the_system_and_the_button(reports, browser):
    element = opened(browser, reports["sentiment"])

    def ground():
        body = browser.find_element("tag name", "body")
        colours = [body.value_of_css_property(p) for p in ("background-color", "color")]
        return [sum(map(int, re.findall(r"\d+", c)[:3])) for c in colours]

    def system(theme):
        feature = {"name": "prefers-color-scheme", "value": theme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    system("light")
    page, ink = ground()
    assert page > 600 > 200 > ink
    system("dark")
    page, ink = ground()
    assert page < 200 < 600 < ink
    element("theme").click()  # light
    assert element("theme").text == "Theme: light" and ground()[0] > 600
    element("theme").click()
    system("light")
    assert element("theme").text == "Theme: dark" and ground()[0] < 200


def test_every_text_has_a_plot(reports):
    from matplotlib import pyplot as plt

    for page, number in ((reports["sentiment"], 3), (reports["characters"], 2)):
        plots = sorted(page.parent.glob("text-*.png"))
        assert len(plots) == number
        for plot in plots:
            picture = plt.imread(plot)
            assert min(picture.shape[:2]) > 300 and picture.std() > 0.1


def test_a_model_without_its_keras_model_says_where_one_comes_from(models, tmp_path):
    version = tmp_path / "old" / "1"
    shutil.copytree(pathlib.Path(models / "toy_reviews" / "1"), version)
    shutil.rmtree(version / "assets.extra")
    with pytest.raises(SystemExit, match=r"`examples/sentiment\.py`"):
        look_inside.load(tmp_path / "old")
    with pytest.raises(SystemExit, match="nowhere holds no exported model"):
        look_inside.load(tmp_path / "nowhere")


def test_units_of_a_character_model_are_listed_and_drawn(models, tmp_path, data_dir):
    # An LSTM: its memory counts more clearly than what a GRU puts out.
    options = ["--dataset", "toy_plays", "--data-dir", data_dir, "--output", tmp_path / "units.png"]
    said = said_here("find_units.py", models / "toy_plays", *options)
    found = json.loads(said.splitlines()[-1])["units"]
    assert {"position in the line", "in the name of who speaks"} <= set(found)
    # Two epochs of 64 units: what a character class gives away is there, by more than chance.
    assert all(abs(unit["correlation"]) > 0.1 for unit in found.values())
    assert max(abs(unit["held_out"]) for unit in found.values()) > 0.5
    assert (tmp_path / "units.png").stat().st_size > 10_000


def test_a_unit_is_drawn_with_the_memory_of_its_own_network(monkeypatch, data_dir):
    letters = sorted(set(toy_plays.generate("train")))
    model, _ = characters.build_model(len(letters), "lstm", 8, 1, networks=2)
    drawn = {}
    monkeypatch.setattr(
        find_units, "load", lambda path: (model, {"vocabulary": ["", "[UNK]", *letters]})
    )
    monkeypatch.setattr(
        find_units, "picture", lambda draw, text, found, path: drawn.update(found, text=text)
    )
    names = iter([layer.name for layer in model.layers if isinstance(layer, keras.layers.RNN)])
    monkeypatch.setattr(  # the best unit of one network, then of the other
        find_units, "find_units", lambda *given, top: keras_gated.find_units(*given, next(names))
    )
    monkeypatch.setattr(find_units, "PROPERTIES", dict(list(find_units.PROPERTIES.items())[:2]))
    options = ["--dataset", "toy_plays", "--data-dir", data_dir]
    monkeypatch.setattr("sys.argv", ["find_units.py", "two networks", *options])
    find_units.main()
    held_out = toy_plays.generate("validation")[: find_units.STEPS]
    start = len(held_out) - len(drawn.pop("text"))
    ids = np.array([[letters.index(letter) + 2 for letter in held_out]])
    traced = keras_gated.trace_gates(model, ids)
    assert {unit.layer for unit, _ in drawn.values()} == set(traced)  # one of each network
    for unit, memory in drawn.values():
        expected = traced[unit.layer]["memory"][0, start:, unit.unit]
        np.testing.assert_allclose(memory, expected, atol=1e-6)
