"""The cards, in a real browser: what was answered for a picture and what that rests on, or why there is no answer."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from playwright.sync_api import FilePayload, Page, Route, expect

from tests.browser.conftest import BLUE, BROKEN, NO_PICTURE, NOTES, RED, caught, opened
from tests.conftest import write_colour_model
from tests.processes import Convoy, running


def test_pictures_become_cards_in_their_order(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED, BLUE])
    cards = page.locator("article")
    expect(cards).to_have_count(2)
    expect(cards.nth(0).locator("h2")).to_contain_text("red, ")
    expect(cards.nth(1).locator("h2")).to_contain_text("blue, ")
    expect(cards.nth(1).locator(".note")).to_have_text("<b>blue</b>.png, by colours, version 2")
    expect(cards.nth(0).locator("meter")).to_have_count(3)
    expect(cards.nth(0).locator("canvas")).to_have_attribute("width", "8")
    expect(page.locator("#status")).to_contain_text("1 × red; 1 × blue. Answered in")


def test_a_row_is_called_by_its_label_and_its_probability_alone(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.get_by_role("row").first).to_have_accessible_name(re.compile(r"^red \d\d\.\d %$"))


def test_it_shows_what_an_answer_rests_on_and_what_each_stage_makes_of_the_picture(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    page.click("article button")
    expect(page.locator("article .pictures figcaption").nth(1)).to_contain_text("the more “red” depends on it")
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
    expect(page.locator("article .told")).to_have_text("")


def test_who_asks_with_the_keyboard_is_led_to_what_comes_of_it(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    page.press("article button", "Enter")
    expect(page.get_by_role("group", name="The stages, in their order")).to_be_visible()
    expect(page.locator("figure:focus")).to_contain_text("the more “red” depends on it")


def test_what_can_not_be_explained_is_told_and_may_be_tried_again(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED])
    page.route("**/v1/explain*", lambda route: route.fulfill(status=503, json={"detail": "Too many are waiting."}))
    page.click("article button")
    expect(page.locator("article .told.error")).to_have_text("Too many are waiting.")
    page.unroute("**/v1/explain*")
    page.click("article button")
    expect(page.locator("article .stages img")).to_have_count(3)


def test_a_picture_that_has_changed_since_is_told_where_it_was_to_be_explained(
    page: Page, convoy: Convoy, tmp_path: Path
) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(RED["buffer"])
    opened(page, convoy).set_input_files("#files", [file])
    expect(page.locator("article button")).to_have_count(1)
    file.write_bytes(BLUE["buffer"])
    os.utime(file, (0, 0))  # browsers know it by this, in whole seconds
    page.click("article button")
    expect(page.locator("article .told.error")).to_contain_text("This can't be read")


def test_a_bad_picture_is_told_on_its_card_alone_or_among_others(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [BROKEN, RED])
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("article").nth(0).locator(".error")).to_contain_text("damaged or cut off")
    page.set_input_files("#files", [BROKEN])
    expect(page.locator("article")).to_have_count(1)
    expect(page.locator("article .error")).to_contain_text("damaged or cut off")


def test_where_all_are_bad_each_is_told(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [BROKEN, BROKEN])
    expect(page.locator("article .error")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("2 refused.")


def test_a_picture_that_is_too_large_does_not_take_the_others_with_it(page: Page, models_dir: Path) -> None:
    large: FilePayload = {**RED, "name": "large.png", "buffer": RED["buffer"] + bytes(8 << 20)}
    with running(models_dir, workers="1", max_body_bytes="100000") as convoy:
        opened(page, convoy).set_input_files("#files", [RED, large, BLUE])
        cards = page.locator("article")
        expect(cards).to_have_count(3)
    expect(cards.nth(0).locator("h2")).to_contain_text("red, ")
    expect(cards.nth(1)).to_contain_text("large.png")
    expect(cards.nth(1).locator(".error")).to_have_count(1)
    expect(cards.nth(2).locator("h2")).to_contain_text("blue, ")


def test_a_file_that_is_no_picture_has_a_card_among_those_that_are(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [RED, NOTES, BLUE])
    expect(page.locator("article h2")).to_contain_text(["red, ", "notes.txt", "blue, "])
    expect(page.locator("article .error")).to_have_text(NO_PICTURE)


def test_another_model_answers_for_the_pictures_that_are_shown(page: Page, models_dir: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(models_dir, models)
    write_colour_model(models / "shades" / "7", scale=0.001)
    with running(models, workers="1") as convoy:
        opened(page, convoy).set_input_files("#files", [RED])
        expect(page.locator("article .note")).to_have_text("red.png, by colours, version 2")
        page.select_option("#model", "shades")
        expect(page.locator("#facts")).to_contain_text("Version 7")
        expect(page.locator("article .note")).to_have_text("red.png, by shades, version 7")


def test_pictures_go_on_coming_in_while_one_is_explained(page: Page, convoy: Convoy) -> None:
    """Of two requests for predictions the second is answered only after the explanation."""
    asked: list[Route] = []

    def answer(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.continue_()

    page.route("**/v1/predict*", answer)
    many: list[FilePayload] = [{**RED, "name": f"{i}.png"} for i in range(65)]
    opened(page, convoy).set_input_files("#files", many)
    page.locator("article button").first.click()
    expect(page.locator("article .stages img")).to_have_count(3)
    caught(page, asked, 1).continue_()
    expect(page.locator("article")).to_have_count(65)
    expect(page.locator("#status")).to_contain_text("65 × red. Answered in")


def test_the_example_is_one_click_away(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).click("#example")
    expect(page.locator("article .note")).to_contain_text("example.png")


def test_more_pictures_than_fit_into_a_request_are_all_shown(page: Page, convoy: Convoy) -> None:
    many: list[FilePayload] = [{**RED, "name": f"{i}.png"} for i in range(130)]
    opened(page, convoy).set_input_files("#files", many)
    expect(page.locator("article")).to_have_count(130)
    expect(page.locator("article .note").nth(129)).to_contain_text("129.png")
