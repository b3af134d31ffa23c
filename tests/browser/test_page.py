"""The page at /, in a real browser: the chosen model, keys, what is sent, and a sentence where something is wrong."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import NO_PICTURE, NOTES, RED, caught, opened
from tests.processes import Convoy, running

KEY = "a-key-of-the-shop"


def held_back(page: Page) -> list[Route]:
    """The requests for the list of models, which are answered only when told to go on."""
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    return held


def test_it_says_which_model_answers(page: Page, convoy: Convoy) -> None:
    opened(page, convoy)
    expect(page.locator("#model")).to_have_value("colours")
    expect(page.locator("#facts")).to_contain_text("Version 2, fp32 on CPU. 3 classes: red, green, blue; any other")


def test_the_only_label_is_in_the_sentence_that_is_spoken(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.get_by_role("status")).to_contain_text("red, 86.5 %. Answered in")


def test_text_that_is_dropped_leaves_the_cards_alone(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.locator("article")).to_have_count(1)
    text = page.evaluate_handle(
        "() => { const it = new DataTransfer(); it.setData('text/plain', 'words'); return it; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": text})
    expect(page.locator("#status")).to_have_text(NO_PICTURE)
    expect(page.locator("article")).to_have_count(1)


def test_an_error_has_the_colour_of_errors(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [NOTES])
    expect(page.locator("#status")).to_have_text(NO_PICTURE)
    expect(page.locator("#status")).to_have_css("color", "rgb(163, 39, 31)")


def test_a_service_without_an_active_version_is_told(page: Page, convoy: Convoy) -> None:
    none = {"models": [{"name": "colours", "active_version": None, "default": True}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=none))
    opened(page, convoy)
    expect(page.locator("#status")).to_contain_text("No model of this service has an active version")


def test_a_model_that_lost_its_version_meanwhile_is_told(page: Page, convoy: Convoy) -> None:
    page.route("**/v1/models/colours", lambda route: route.fulfill(json={"name": "colours", "active_version": None}))
    opened(page, convoy)
    expect(page.locator("#status")).to_contain_text("The model colours has no active version any more")


def test_what_is_no_picture_is_not_sent(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [NOTES])
    expect(page.locator("#status")).to_have_text(NO_PICTURE)


def test_what_was_begun_before_does_not_take_the_last_word(page: Page, convoy: Convoy) -> None:
    """The list of models comes in only after the picture has been refused."""
    listed = held_back(page)
    opened(page, convoy).set_input_files("#files", [NOTES])
    expect(page.locator("#status")).to_contain_text("That is no picture")
    caught(page, listed, 0).continue_()
    expect(page.locator("#facts")).not_to_be_empty()
    expect(page.locator("#status")).to_contain_text("That is no picture")


def test_a_picture_that_comes_before_the_models_are_known_waits_for_them(page: Page, convoy: Convoy) -> None:
    listed = held_back(page)
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.locator("#status")).to_have_text("Classifying a picture …")
    caught(page, listed, 0).continue_()
    expect(page.locator("article canvas")).to_have_attribute("width", "8")


def test_a_file_that_is_gone_before_it_is_sent_does_not_take_the_others_with_it(
    page: Page, convoy: Convoy, tmp_path: Path
) -> None:
    listed, gone, there = held_back(page), tmp_path / "gone.png", tmp_path / "there.png"
    for path in (gone, there):
        path.write_bytes(RED["buffer"])
    opened(page, convoy).set_input_files("#files", [gone, there])
    expect(page.locator("#status")).to_have_text("Classifying 2 pictures …")
    gone.unlink()
    caught(page, listed, 0).continue_()
    expect(page.locator("article h2")).to_contain_text(["gone.png", "red, "])
    expect(page.locator("article .error")).to_contain_text("This can't be read")


def test_where_keys_are_asked_for_it_asks_for_one(page: Page, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    with running(models_dir, workers="1", api_keys_file=str(tmp_path / "keys")) as convoy:
        opened(page, convoy)
        expect(page.locator("#key-form")).to_be_visible()
        for key, told in (
            ("ключ", "That is no key: keys are of plain letters, digits and signs."),
            ("wrong", "This key is not known here; ask the operator of the service for one."),
            (KEY, ""),
        ):
            page.fill("#key", key)
            page.click("#key-form button")
            expect(page.locator("#status")).to_have_text(told)
        expect(page.locator("#key-form")).to_be_hidden()
        expect(page.locator("#files")).to_be_focused()
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
