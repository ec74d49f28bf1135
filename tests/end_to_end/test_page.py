"""The page in a real browser: strokes are drawn, and the right digit is seen."""

import itertools
import math
import shutil

import PIL.Image
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.digits import read_idx
from tests.serving import models
from tests.serving.server_process import Server

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

# Digits as a person draws them: points of the 280 by 280 pad.


def arc(x, y, width, height, start, end):
    """Points of an ellipse's arc; degrees, clockwise from the right."""
    turns = [math.radians(start + (end - start) * step / 12) for step in range(13)]
    return [(x + width * math.cos(turn), y + height * math.sin(turn)) for turn in turns]


DIGITS = {
    "0": arc(140, 140, 55, 85, -90, 270),
    "1": [(140, 50), (140, 230)],
    "3": [*arc(130, 95, 50, 42, -150, 90), *arc(130, 185, 58, 48, -90, 150)],
    "7": [(80, 60), (195, 60), (165, 120), (130, 230)],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory, mnist):
    folder = tmp_path_factory.mktemp("page")
    models.trained(folder / "mnist" / "1", mnist)
    flags = ["--model_name=mnist", f"--model_base_path={folder / 'mnist'}", "--enable_batching"]
    with Server(folder / "log", *flags) as running:
        yield running


@pytest.fixture(params=[(1200, 1000), (360, 740)], ids=["wide", "phone"])
def browser(request, server, tmp_path):
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    width, height = request.param
    for argument in (*QUIET, f"--window-size={width},{height}", f"--user-data-dir={tmp_path}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        driver.get(server.rest)
        WebDriverWait(driver, 30).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#model option"))
        yield driver
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def draw(browser, points) -> None:
    pad = browser.find_element(By.ID, "pad")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    scale = pad.size["width"] / 280
    places = [(round((x - 140) * scale), round((y - 140) * scale)) for x, y in points]
    actions = ActionChains(browser, duration=20).move_to_element_with_offset(pad, *places[0]).click_and_hold()
    for before, after in itertools.pairwise(places):
        actions.move_by_offset(after[0] - before[0], after[1] - before[1])
    actions.release().perform()


def best(browser) -> str:
    return browser.find_element(By.ID, "best").text.strip()


def answered(browser, digit: str) -> None:
    WebDriverWait(browser, 20).until(lambda d: best(d) == digit, f"the page says {best(browser)!r}, not {digit}")


def test_drawn_digits_are_recognized(browser):
    for digit, points in DIGITS.items():
        browser.find_element(By.ID, "clear").click()
        assert best(browser) == ""
        draw(browser, points)
        answered(browser, digit)
    assert "mnist version 1 answered in" in browser.find_element(By.ID, "answered").text
    # At once: an answer to the last stroke may come in between, and make the rows anew.
    read = (
        "return [...document.querySelectorAll('#scores tr')].map(r => [r.querySelector('th').innerText, r.className])"
    )
    rows = browser.execute_script(read)
    assert [name for name, _ in rows] == [str(i) for i in range(10)]
    assert rows[7][1] == "best"


def test_kernels_and_maps_are_shown_for_the_picture(browser):
    draw(browser, DIGITS["1"])
    answered(browser, "1")
    titles = [title.text for title in browser.find_elements(By.CSS_SELECTOR, ".sheet h3")]
    assert titles == [
        "first kernels 32 of 5×5×1",
        "convolution 5×5, 32 filters 32 maps of 28×28",
        "max pooling 2×2 32 maps of 14×14",
        "convolution 5×5, 64 filters 64 maps of 14×14",
        "max pooling 2×2 64 maps of 7×7",
    ]
    sheets = "return [...document.querySelectorAll('.sheet canvas')].map(c => c.toDataURL())"
    first = browser.execute_script(sheets)
    browser.find_element(By.ID, "clear").click()
    draw(browser, DIGITS["0"])
    WebDriverWait(browser, 20).until(best, "the page does not answer")  # what, the test before looks at
    second = browser.execute_script(sheets)
    assert first[0] == second[0], "the kernels are the network's"
    assert all(one != other for one, other in zip(first[1:], second[1:], strict=True)), "the maps are the picture's"


def test_keyboard_alone_draws(browser):
    pad = browser.find_element(By.ID, "pad")
    browser.execute_script("arguments[0].focus()", pad)
    ActionChains(browser).send_keys(Keys.ARROW_UP * 10, Keys.SPACE, Keys.ARROW_DOWN * 20, Keys.SPACE).perform()
    answered(browser, "1")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert best(browser) == ""


def test_a_picture_of_a_file_is_recognized(browser, mnist, tmp_path):
    images, labels = read_idx(mnist, "t10k", 1)
    PIL.Image.fromarray(images[0]).resize((300, 300)).save(tmp_path / "digit.png")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "digit.png"))
    answered(browser, str(labels[0]))
    assert "the whole picture" in browser.find_element(By.ID, "seen-caption").text
    (tmp_path / "text.png").write_text("no picture")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "text.png"))
    said = "text.png: expected PNG, JPEG, GIF, BMP or WebP, found something else"
    WebDriverWait(browser, 10).until(lambda d: said in d.find_element(By.ID, "answered").text)
    (refused,) = browser.get_log("browser")  # the browser notes it too
    assert "400" in refused["message"]


def test_nothing_is_wider_than_the_screen(browser):
    draw(browser, DIGITS["7"])
    answered(browser, "7")
    inner, content = browser.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert content <= inner
