"""The page at /, in a real browser: pictures in, cards out, and a sentence where something is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, Page, Route, expect, sync_playwright

from tests.conftest import encode, picture
from tests.processes import Convoy, running

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEY = "a-key-of-the-shop"
RED: FilePayload = {"name": "red.png", "mimeType": "image/png", "buffer": encode(picture("red"))}
BLUE: FilePayload = {"name": "<b>blue</b>.png", "mimeType": "image/png", "buffer": encode(picture("blue"))}
BROKEN: FilePayload = {"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\nand no more"}
NOTES: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}

expect.set_options(timeout=30_000)  # of a machine that is busy with other tests
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def convoy(models_dir: Path) -> Iterator[Convoy]:
    with running(models_dir, workers="1") as convoy:
        yield convoy


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page on which no script fails."""
    with browser.new_context() as context:
        page, failed = context.new_page(), list[str]()
        page.on("pageerror", lambda error: failed.append(str(error)))
        yield page
        assert not failed


def opened(page: Page, convoy: Convoy) -> Page:
    page.goto(f"http://127.0.0.1:{convoy.port}/")
    return page


def held_back(page: Page) -> list[Route]:
    """The requests for the list of models, which are answered only when told to go on."""
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    return held


def test_it_says_which_model_answers(page: Page, convoy: Convoy) -> None:
    opened(page, convoy)
    expect(page.locator("#model")).to_have_value("colours")
    expect(page.locator("#facts")).to_contain_text("Version 2, fp32 on CPU. 3 classes: red, green, blue.")


def test_pictures_become_cards_in_their_order(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED, BLUE])
    cards = page.locator("article")
    expect(cards).to_have_count(2)
    expect(cards.nth(0).locator("h2")).to_contain_text("red, ")
    expect(cards.nth(1).locator("h2")).to_contain_text("blue, ")
    expect(cards.nth(1).locator(".note")).to_have_text("<b>blue</b>.png")
    expect(cards.nth(0).locator("meter")).to_have_count(3)
    expect(cards.nth(0).locator("canvas")).to_have_attribute("width", "8")
    expect(page.locator("#status")).to_contain_text("Answered in")


def test_it_shows_what_an_answer_rests_on_and_what_each_stage_makes_of_the_picture(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    page.click("article button")
    expect(page.locator("article .pictures figcaption").nth(1)).to_contain_text("red: what “red” rests on; at worst")
    captions = [
        "conv1, convolution: 3 × 8 × 8",
        "relu1, activation: 3 × 8 × 8",
        "mean1, pooling: 3 × 1 × 1",
    ]
    expect(page.locator("article .stages figcaption")).to_have_text(captions)
    for shown in (*page.locator("article .stages img").all(), page.locator("article .pictures img.pixels")):
        expect(shown).to_have_js_property("complete", True)
        assert shown.evaluate("image => image.naturalWidth") > 0
    expect(page.locator("article button")).to_have_count(0)
    expect(page.locator("#status")).to_have_text("")


def test_what_can_not_be_explained_is_told_and_may_be_tried_again(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    page.route("**/v1/explain*", lambda route: route.fulfill(status=503, json={"detail": "Too many are waiting."}))
    page.click("article button")
    expect(page.locator("#status")).to_have_text("Too many are waiting.")
    page.unroute("**/v1/explain*")
    page.click("article button")
    expect(page.locator("article .stages img")).to_have_count(3)


def test_a_bad_picture_is_told_on_its_card_alone_or_among_others(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [BROKEN, RED])
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("article").nth(0).locator(".error")).to_contain_text("damaged or cut off")
    page.set_input_files("#files", [BROKEN])
    expect(page.locator("article")).to_have_count(1)
    expect(page.locator("article .error")).to_contain_text("damaged or cut off")


def test_what_is_no_picture_is_not_sent(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [NOTES])
    expect(page.locator("#status")).to_have_text("That is no picture; choose a JPEG, PNG or the like.")


def test_what_was_begun_before_does_not_take_the_last_word(page: Page, convoy: Convoy) -> None:
    """The list of models comes in only after the picture has been refused."""
    listed = held_back(page)
    opened(page, convoy).set_input_files("#files", [NOTES])
    expect(page.locator("#status")).to_contain_text("That is no picture")
    listed[0].continue_()
    expect(page.locator("#facts")).not_to_be_empty()
    expect(page.locator("#status")).to_contain_text("That is no picture")


def test_a_picture_that_comes_before_the_models_are_known_waits_for_them(page: Page, convoy: Convoy) -> None:
    listed = held_back(page)
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.locator("#status")).to_have_text("Classifying a picture …")
    listed[0].continue_()
    expect(page.locator("article canvas")).to_have_attribute("width", "8")


def test_the_example_is_one_click_away(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).click("#example")
    expect(page.locator("article .note")).to_have_text("example.png")


def test_more_pictures_than_fit_into_a_request_are_all_shown(page: Page, convoy: Convoy) -> None:
    many: list[FilePayload] = [{**RED, "name": f"{i}.png"} for i in range(130)]
    opened(page, convoy).set_input_files("#files", many)
    expect(page.locator("article")).to_have_count(130)
    expect(page.locator("article .note").nth(129)).to_have_text("129.png")


def test_where_keys_are_asked_for_it_asks_for_one(page: Page, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    with running(models_dir, workers="1", api_keys_file=str(tmp_path / "keys")) as convoy:
        opened(page, convoy)
        expect(page.locator("#key-form")).to_be_visible()
        for key, told in (("wrong", "This key is not known here"), (KEY, "")):
            page.fill("#key", key)
            page.click("#key-form button")
            expect(page.locator("#status")).to_contain_text(told)
        expect(page.locator("#key-form")).to_be_hidden()
        page.set_input_files("#files", [RED])
        expect(page.locator("article h2")).to_contain_text("red, ")
        page.click("article button")
        expect(page.locator("article .stages img")).to_have_count(3)


def test_a_service_that_is_gone_is_told(page: Page, models_dir: Path) -> None:
    with running(models_dir, workers="1") as convoy:
        opened(page, convoy)
        expect(page.locator("#facts")).not_to_be_empty()
        convoy.stop()
    gone = "The service can't be reached; is it still running?"
    page.set_input_files("#files", [RED])
    expect(page.locator("#status")).to_have_text(gone)
    page.set_input_files("#files", [NOTES])
    expect(page.locator("#status")).not_to_have_text(gone)
    page.click("#example")
    expect(page.locator("#status")).to_have_text(gone)
