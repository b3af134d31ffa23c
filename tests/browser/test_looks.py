"""How the page looks, in a real browser: on narrow and wide windows, in light and dark, and for unusual pictures."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.browser.conftest import RED, opened
from tests.conftest import encode, picture
from tests.processes import Convoy

TERRIER = "American Staffordshire terrier, Staffordshire terrier, American pit bull terrier, pit bull terrier"
WELSH = "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"
LONG: FilePayload = {**RED, "name": f"{'very_' * 30}long.png"}
TIFF: FilePayload = {"name": "red.tif", "mimeType": "image/tiff", "buffer": encode(picture("red"), "TIFF")}
GLASS: FilePayload = {**RED, "name": "glass.png", "buffer": encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))}
LEAST_CONTRAST = 3  # of a control's border: WCAG 2.2, 1.4.11
COLOURS = """control => {
  const behind = (element) => {
    const { backgroundColor } = getComputedStyle(element);
    return backgroundColor === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : backgroundColor;
  };
  return [getComputedStyle(control).borderTopColor, behind(control), behind(control.parentElement)];
}"""
COUNT_ADDRESSES = """
  window.made = 0;
  window.kept = new Set();
  const { createObjectURL: make, revokeObjectURL: revoke } = URL;
  URL.createObjectURL = (object) => {
    const address = make.call(URL, object);
    made += 1;
    kept.add(address);
    return address;
  };
  URL.revokeObjectURL = (address) => {
    kept.delete(address);
    revoke.call(URL, address);
  };
"""


@pytest.mark.parametrize("width", [360, 545, 800, 1400])
def test_long_names_leave_room_for_bars_and_percentages(page: Page, convoy: Convoy, width: int) -> None:
    probabilities = {TERRIER: 0.6, WELSH: 0.3, "cat": 0.1}
    answer = {
        "model": {"name": "colours", "version": "2", "digest": "sha256:0"},
        "coverage": {"asked": 0.95, "measured": None},
        "predictions": [
            {"label": TERRIER, "probability": 0.6, "probabilities": probabilities, "prediction_set": [TERRIER, WELSH]},
            {"error": {"detail": WELSH * 3}},
        ],
    }
    page.route("**/v1/predict*", lambda route: route.fulfill(json=answer))
    page.set_viewport_size({"width": width, "height": 800})
    opened(page, convoy).set_input_files("#files", [LONG, LONG])
    expect(page.locator("article")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert min(page.locator("meter").evaluate_all("all => all.map(one => one.offsetWidth)")) >= 40
    ends = page.locator("td:last-child").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert max(ends) <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_borders_of_controls_stand_out(page: Page, convoy: Convoy, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    opened(page, convoy).set_input_files("#files", [RED])
    expect(page.locator("article button")).to_have_count(1)
    page.evaluate("document.getElementById('key-form').hidden = false")
    for control in ("#model", "#key", "#key-form button", "#drop", "#example", "article button"):
        border, inside, outside = page.locator(control).evaluate(COLOURS)
        assert contrast(border, inside) >= LEAST_CONTRAST, control
        assert contrast(border, outside) >= LEAST_CONTRAST, control


def contrast(one: str, other: str) -> float:
    """Of two colours as CSS tells them (WCAG 2.2, contrast ratio)."""
    darker, lighter = sorted(luminance(colour) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """How bright it is for the eye (WCAG 2.2, relative luminance)."""
    levels = [int(level) / 255 for level in re.findall(r"\d+", colour)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_network_sees_a_transparent_picture_on_white(page: Page, convoy: Convoy) -> None:
    opened(page, convoy).set_input_files("#files", [GLASS])
    expect(page.locator("article canvas")).to_have_count(1)
    pixel = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 1, 1).data"
    page.wait_for_function(f"() => {pixel}.join() === '255,255,255,255'")


@pytest.mark.parametrize("listed", [True, False])
def test_no_picture_is_kept_in_memory_once_it_is_drawn_or_can_not_be(page: Page, convoy: Convoy, listed: bool) -> None:
    if not listed:  # nor is it known what the network sees
        page.route("**/v1/models", lambda route: route.fulfill(status=503, json={"detail": "Too many are waiting."}))
    page.add_init_script(COUNT_ADDRESSES)
    opened(page, convoy).set_input_files("#files", [TIFF, RED])
    expect(page.locator("article h2")).to_contain_text(["red, ", "red, "])
    expect(page.locator("figure").first).to_be_hidden()
    page.wait_for_function("() => made === 2 && kept.size === 0")
