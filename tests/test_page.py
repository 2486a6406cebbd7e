"""The page that tries the models, in a browser, before a server that answers when it is told."""

import http.server
import json
import pathlib
import re
import threading
import time

import numpy as np
import pytest
from stand_in_process import wait

PAGE = pathlib.Path(__file__).parent.parent / "examples" / "try_models.html"
CHARACTERS = ["\n", "A", "b", ":"]
LOGITS = [0, 0, 9, 0]


def answer(signature, inputs):
    """What a model with words of one letter, and a writer that always writes "b", would say."""
    if signature == "vocabulary":
        return {"character": [CHARACTERS[token] for token in inputs["token"]], "error": [""] * 4}
    if signature == "step":
        return {"logits": [LOGITS], "h": [[inputs["token"][0]]], "error": [""]}
    words = inputs["text"][0].split()
    update = [[t / 32, (t + 1) / 32] for t in range(len(words))]
    gates = {"update": [update], "hidden": [[[-0.5]] * len(words)]}
    return {
        "serving_default": {"probability": [0.9], "label": [1]},
        "tokens": {
            "tokens": [words],
            "known": [[word != "zz" for word in words]],
            "probability": [[0.9] * len(words)],
            "lengths": [len(words)],
        },
        "gates": {**gates, "lengths": [len(words)]},
    }[signature]


@pytest.fixture(scope="module")
def server():
    """A server whose `held` maps a text to the event that its answers wait for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            sizes = {"dim": [{"size": "-1"}, {"size": "4"}]}
            step = {
                "inputs": {"token": {}, "h": {"tensor_shape": {"dim": [{}, {"size": "1"}]}}},
                "outputs": {"logits": {"tensor_shape": sizes}},
            }
            metadata = {"metadata": {"signature_def": {"signature_def": {"step": step}}}}
            page = self.path == "/"
            self.send(PAGE.read_bytes() if page else json.dumps(metadata).encode(), page)

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = asked["inputs"].get("text", [""])[0]
            self.server.asked.append((asked["signature_name"], text))
            if text in self.server.held:
                self.server.held[text].wait(20)
            outputs = answer(asked["signature_name"], asked["inputs"])
            self.send(json.dumps({"outputs": outputs}).encode())

        def send(self, body, page=False):
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if page else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    server.held, server.asked = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def page(browser, server):
    server.held.clear()
    server.asked.clear()
    browser.get(f"http://localhost:{server.server_port}/")
    yield lambda identity: browser.find_element("id", identity)
    assert browser.get_log("browser") == []


def read(page, text, *keys):
    page("review").clear()
    page("review").send_keys(text, *keys)
    if not keys:
        page("review").submit()


def fill(page, **values):
    for identity, value in values.items():
        page(identity).clear()
        page(identity).send_keys(str(value))


def test_the_old_answer_is_gone_while_a_new_text_is_read(page, server, browser):
    read(page, "an old text")
    wait(lambda: browser.find_elements("css selector", "#gates canvas"))
    server.held["a new one"] = threading.Event()
    read(page, "a new one")
    wait(lambda: ("serving_default", "a new one") in server.asked)
    assert page("probability").text == "…" and page("tokens").text == ""
    assert not browser.find_elements("css selector", "#gates canvas")
    assert not page("legend").is_displayed() and not page("choose").is_displayed()
    server.held["a new one"].set()
    wait(lambda: page("tokens").text == "a new one")
    assert page("probability").text == "positive, 0.900"


def test_of_two_texts_the_later_one_is_shown_whichever_is_answered_first(page, server, browser):
    server.held["a slow text"] = threading.Event()
    read(page, "a slow text")
    wait(lambda: ("serving_default", "a slow text") in server.asked)
    read(page, "quick")
    wait(lambda: browser.find_elements("css selector", "#gates canvas"))
    server.held["a slow text"].set()
    time.sleep(0.3)
    assert page("tokens").text == "quick"
    assert ("tokens", "a slow text") not in server.asked


def test_legends_say_what_the_colours_mean(page, browser):
    from selenium.webdriver.support.ui import Select

    assert not page("legend").is_displayed()
    read(page, "a zz")
    wait(lambda: browser.find_elements("css selector", "#gates canvas"))
    legend = page("legend")
    assert legend.is_displayed()
    assert all(word in legend.text for word in ("negative", "positive", "not in the vocabulary"))
    assert page("legend").find_element("class name", "scale").size["width"] > 50
    assert (page("lowest").text, page("highest").text) == ("0", "1")
    Select(page("gate")).select_by_visible_text("hidden")
    assert (page("lowest").text, page("highest").text) == ("−1 and less", "1 and more")  # noqa: RUF001


def test_control_and_enter_read_and_write(page, browser):
    from selenium.webdriver.common.keys import Keys

    read(page, "a b", Keys.CONTROL, Keys.ENTER)
    wait(lambda: page("tokens").text == "a b")
    fill(page, prompt="A", length=3)
    page("prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    wait(lambda: page("said").text.startswith("done; the seed was "))
    assert page("text").text == "Abbb"


def drawn(seed, count, temperature):
    """Marsaglia's xorshift in 32 bits, and for each number the token where the sum exceeds it."""
    order = [2, 0, 1, 3]  # the likeliest first
    weights = np.exp(np.array(LOGITS)[order] / temperature)
    state, tokens = seed * 2654435769 % 2**32 or 1, []
    for _ in range(count):
        for shift in (13, -17, 5):
            state ^= state << shift if shift > 0 else state >> -shift
            state %= 2**32
        place = np.searchsorted(np.cumsum(weights) / weights.sum(), state / 2**32)
        tokens.append(CHARACTERS[order[place]])
    return "".join(tokens)


@pytest.mark.sampled
@pytest.mark.parametrize("seed", [0, 1, 2, 4294967295])
def test_a_seed_brings_the_same_text_again(page, seed):
    fill(page, prompt="A", length=40, temperature=10, seed=seed)
    for _ in range(2):
        page("go").click()
        wait(lambda: page("said").text == "done")
        written = page("text").get_attribute("textContent")
        assert written == "A" + drawn(seed, 40, 10)


def test_without_a_seed_the_page_says_which_one_brings_the_same_text(page):
    fill(page, prompt="A", length=40, temperature=10)
    page("go").click()
    said = wait(lambda: page("said").text)
    written = page("text").get_attribute("textContent")
    seed = re.fullmatch(r"done; the seed was (\d+)", said)[1]
    assert written == "A" + drawn(int(seed), 40, 10)


def test_the_gate_map_has_ticks_and_says_the_value_under_the_pointer(page, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    words = "a b c d e f g h i j k l".split()
    read(page, " ".join(words))
    canvas = wait(lambda: browser.find_elements("css selector", "#gates canvas"))[0]
    box = canvas.rect

    def labels(kind):
        return browser.find_elements("css selector", f"#gates .{kind}")

    assert [tick.text for tick in labels("word")] == ["1", "2", "4", "6", "8", "10", "12"]
    assert [tick.text for tick in labels("unit")] == ["0", "1"]
    for tick in labels("word"):
        middle = tick.rect["x"] + tick.rect["width"] / 2 - box["x"]
        assert middle == pytest.approx((int(tick.text) - 0.5) / 12 * box["width"], abs=1.5)
        assert tick.rect["y"] >= box["y"] + box["height"]
    for t, unit in [(0, 0), (4, 1), (11, 0)]:
        right = (t + 0.5) / 12 * box["width"] - box["width"] / 2
        down = (unit + 0.5) / 2 * box["height"] - box["height"] / 2
        ActionChains(browser).move_to_element_with_offset(canvas, right, down).perform()
        said = f"word {t + 1} “{words[t]}”, unit {unit}: {(t + unit) / 32:.3f}"
        assert page("value").text == said
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page("value").text == "word 11 “k”, unit 1: 0.344"
    read(page, "a")
    wait(lambda: [tick.text for tick in labels("word")] == ["1"])
    assert "arrow keys" in page("value").text


@pytest.mark.parametrize("prompt, read_of_it, unknown", [
    ("A:", "A:", ""), ("Aé:é", "A:", "é"), ("xAyx", "A", "x y"), ("日本", "", "日 本"),
])  # fmt: skip
def test_what_of_a_prompt_the_model_does_not_know_is_said(page, prompt, read_of_it, unknown):
    fill(page, prompt=prompt, length=2, seed=1)
    page("go").click()
    wait(lambda: page("said").text.startswith("done"))
    said = f"done; left out, since the model does not know them: {unknown}" if unknown else "done"
    assert page("said").text == said
    assert page("text").text == read_of_it + "bb"
