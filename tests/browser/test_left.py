"""What a request that fails leaves without an answer, in a real browser: it is told, and can be asked for again."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import FilePayload, Page, Route, expect

from tests.browser.conftest import BLUE, NOTES, RED, caught, opened
from tests.processes import Convoy, running

BUSY = "Too many are waiting."
KEY = "a-key-of-the-shop"
MANY: list[FilePayload] = [{**RED, "name": f"{i}.png"} for i in range(130)]  # in three requests


def answered_with(page: Page, *statuses: int | None) -> list[Route]:
    """Refuse the first requests for predictions with `statuses`.

    200 lets one through, as are all that follow; None leaves it to the test.
    """
    asked: list[Route] = []

    def answer(route: Route) -> None:
        status = statuses[len(asked)] if len(asked) < len(statuses) else 200
        asked.append(route)
        if status == 200:
            route.continue_()
        elif status:
            route.fulfill(status=status, json={"detail": BUSY})

    page.route("**/v1/predict*", answer)
    return asked


def test_the_pictures_that_are_left_are_told_with_their_number_and_their_names(page: Page, convoy: Convoy) -> None:
    answered_with(page, 200, 503)
    opened(page, convoy).set_input_files("#files", MANY)
    expect(page.locator("article")).to_have_count(65)
    left = page.locator("article").last
    expect(left.locator("h2")).to_have_text("66 of 130 pictures were not classified")
    expect(left.locator(".error")).to_have_text(BUSY)
    expect(left.locator(".note")).to_have_text(", ".join(f"{i}.png" for i in range(64, 130)))
    expect(page.locator("#status.error")).to_have_text(f"66 of 130 pictures were not classified: {BUSY}")


def test_a_single_picture_that_is_left_is_told_by_its_name(page: Page, convoy: Convoy) -> None:
    answered_with(page, 429)
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.locator("article h2")).to_have_text("red.png")
    expect(page.locator("#status.error")).to_have_text(BUSY)


def test_a_failure_is_told_even_while_a_picture_is_explained(page: Page, convoy: Convoy) -> None:
    """The second request for predictions fails only after the button has been clicked."""
    asked, explanations = answered_with(page, 200, None), list[Route]()
    page.route("**/v1/explain*", lambda route: explanations.append(route))
    opened(page, convoy).set_input_files("#files", MANY)
    page.locator("article button").first.click()
    told = page.locator("article .told").first
    expect(told).to_have_text("Hiding one part after the other …")
    caught(page, asked, 1).fulfill(status=503, json={"detail": BUSY})
    expect(page.locator("#status.error")).to_contain_text("66 of 130 pictures were not classified")
    expect(told).to_have_text("Hiding one part after the other …")
    caught(page, explanations, 0).continue_()
    expect(page.locator("article .stages img")).to_have_count(3)
    expect(page.locator("#status.error")).to_contain_text("66 of 130 pictures were not classified")


def test_what_is_left_can_be_tried_again_without_the_rest(page: Page, convoy: Convoy) -> None:
    asked = answered_with(page, 200, 503, 503)
    opened(page, convoy).set_input_files("#files", MANY)
    again = page.get_by_role("button", name="Try again")
    for _ in range(2):  # of which the first fails, too
        expect(page.locator("#status")).to_contain_text("were not classified")
        again.press("Enter")
        expect(page.locator("#results")).to_be_focused()
    expect(page.locator("#status")).to_contain_text("130 × red. Answered in")
    expect(again).to_have_count(0)
    expect(page.locator("article .note")).to_contain_text([f"{i}.png, by" for i in range(130)])
    assert len(asked) == 5


def test_what_was_answered_when_asked_one_by_one_stays(page: Page, convoy: Convoy) -> None:
    """One of them is too large for the request, so that each is asked about alone; the third comes at a bad time."""
    answered_with(page, 413, 200, 503)
    opened(page, convoy).set_input_files("#files", [NOTES, RED, BLUE])
    expect(page.locator("article h2")).to_contain_text(["notes.txt", "red, ", "1 of 3 pictures was not classified"])


def test_pictures_that_come_before_the_key_are_classified_after_it(
    page: Page, models_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    with running(models_dir, workers="1", api_keys_file=str(tmp_path / "keys")) as convoy:
        opened(page, convoy)
        expect(page.locator("#key-form")).to_be_visible()
        page.set_input_files("#files", [RED, BLUE])
        expect(page.locator("article h2")).to_have_text("2 of 2 pictures were not classified")
        page.fill("#key", KEY)
        page.click("#key-form button")
        expect(page.locator("article h2")).to_contain_text(["red, ", "blue, "])
        expect(page.locator("#status")).to_contain_text("1 × red; 1 × blue. Answered in")
