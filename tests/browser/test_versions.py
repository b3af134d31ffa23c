"""What the page knows of the model, in a real browser, when another version is active by now or it knew none before."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import RED, opened
from tests.processes import Convoy


def outdated(page: Page, times: int, thresholds: dict[str, dict[str, float]]) -> None:
    """The page is told so many times that version 1 is active, which takes 4 × 4 pixels; then it hears of version 2."""

    def smaller(route: Route) -> None:
        response = route.fetch()
        version = response.json()
        version["metadata"]["input"] |= {"height": 4, "width": 4}
        version["metadata"]["calibration"]["thresholds"] = thresholds
        route.fulfill(response=response, json=version)

    page.route("**/v1/models/colours", lambda route: route.fulfill(json={"active_version": "1"}), times=times)
    page.route("**/v1/models/colours/versions/1", smaller)


@pytest.mark.parametrize("times", [1, 2], ids=["before the pictures came", "while they are on their way"])
@pytest.mark.parametrize("thresholds", [{}, {"fp32": {"0.95": 0.5}}], ids=["without sets", "with sets"])
def test_a_version_that_became_active_is_known_with_the_next_answer(
    page: Page, convoy: Convoy, times: int, thresholds: dict[str, dict[str, float]]
) -> None:
    """With sets, the new version, which has none, refuses what would be asked of the old one."""
    outdated(page, times, thresholds)
    opened(page, convoy)
    expect(page.locator("#facts")).to_contain_text("Version 1, ")
    page.set_input_files("#files", [RED])
    expect(page.locator("article .note")).to_have_text("red.png, by colours, version 2")
    expect(page.locator("article canvas")).to_have_attribute("width", "8")
    expect(page.locator("#facts")).to_contain_text("Version 2, ")


def test_a_list_of_models_that_failed_once_is_asked_for_again(page: Page, convoy: Convoy) -> None:
    busy = {"detail": "Too many are waiting."}
    page.route("**/v1/models", lambda route: route.fulfill(status=503, json=busy), times=1)
    opened(page, convoy)
    expect(page.locator("#status.error")).to_have_text("Too many are waiting.")
    page.set_input_files("#files", [RED])
    expect(page.locator("article canvas")).to_have_attribute("width", "8")
    expect(page.locator("#model")).to_have_value("colours")
    expect(page.locator("#facts")).to_contain_text("Version 2, ")


def test_pictures_are_classified_though_the_models_can_not_be_listed(page: Page, convoy: Convoy) -> None:
    page.route("**/v1/models", lambda route: route.fulfill(status=503, json={"detail": "Too many are waiting."}))
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.locator("article .note")).to_have_text("red.png, by colours, version 2")
    expect(page.locator("article canvas")).to_have_count(0)
