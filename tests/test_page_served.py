"""The page of the stand-in server, in a browser."""

import exported
import pytest
from stand_in_process import wait

pytestmark = pytest.mark.slow

pytest_plugins = ["stand_in_process"]


@pytest.fixture
def page(browser, server):
    browser.get(server[0] + "/")
    yield lambda identity: browser.find_element("id", identity)
    assert browser.get_log("browser") == []


def test_a_review_is_read_on_the_page(page, browser):
    page("review").clear()
    page("review").send_keys("A good <b>film</b> & zzz!")
    page("review").submit()
    answer = exported.sentiment().ask("tokens", text=["A good <b>film</b> & zzz!"])
    read = answer["lengths"][0]
    expected = answer["probability"][0, read - 1]
    label = "positive" if expected >= 0.5 else "negative"
    wait(lambda: page("probability").text == f"{label}, {expected:.3f}")
    canvas = wait(lambda: browser.find_elements("css selector", "#gates canvas"))[0]
    words = browser.find_elements("css selector", "#tokens span")
    assert [one.text.encode() for one in words] == answer["tokens"][0, :read].tolist()
    for word, probability in zip(words, answer["probability"][0, :read], strict=True):
        assert word.get_attribute("title").startswith(f"so far {probability:.3f}")
    assert "unknown" in words[-2].get_attribute("class")
    assert canvas.get_attribute("width") == str(len(words))
    options = [one.text for one in browser.find_elements("css selector", "#gate option")]
    assert "forward_forget" in options and "backward_memory" in options


def test_a_text_streams_in_on_the_page_and_can_be_stopped(page):
    page("prompt").clear()
    page("prompt").send_keys("abc")
    for name, value in (("length", "25"), ("temperature", "0")):
        page(name).clear()
        page(name).send_keys(value)
    page("go").click()
    wait(lambda: page("said").text == "done")
    given = {"prompt": ["abc"], "length": [25], "temperature": [0.0], "top_k": [0], "seed": [1]}
    expected = exported.characters().ask("generate", **given)["text"][0].decode()
    assert page("text").get_attribute("textContent") == "abc" + expected
    page("length").clear()
    page("length").send_keys("10000")
    page("go").click()
    seen = [wait(lambda n=n: len(page("text").get_attribute("textContent")) > n) for n in (4, 9)]
    assert all(seen)
    page("stop").click()
    wait(lambda: page("said").text == "stopped")
    assert len(page("text").get_attribute("textContent")) < 10_000


@pytest.mark.parametrize("width", [420, 1200])
def test_nothing_on_the_page_is_wider_than_the_screen(page, browser, width):
    browser.set_window_size(width, 900)
    wide = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 0
