"""A real browser, a real service, and the pictures that the one gives the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, Page, Route, expect, sync_playwright

from tests.conftest import encode, picture
from tests.processes import Convoy, running

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RED: FilePayload = {"name": "red.png", "mimeType": "image/png", "buffer": encode(picture("red"))}
BLUE: FilePayload = {"name": "<b>blue</b>.png", "mimeType": "image/png", "buffer": encode(picture("blue"))}
BROKEN: FilePayload = {"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\nand no more"}
NOTES: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
NO_PICTURE = "That is no picture; choose a JPEG, PNG or the like."

expect.set_options(timeout=30_000)  # of a machine that is busy with other tests


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
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


def caught(page: Page, routes: list[Route], place: int) -> Route:
    """That one of the requests a handler keeps in `routes`, once it is there: a page may show that it asks before."""
    for _ in range(1500):  # 30 s
        if place < len(routes):
            return routes[place]
        page.wait_for_timeout(20)  # in which handlers are called
    raise AssertionError(f"only {len(routes)} requests have come")


def opened(page: Page, convoy: Convoy) -> Page:
    page.goto(f"http://127.0.0.1:{convoy.port}/")
    return page
