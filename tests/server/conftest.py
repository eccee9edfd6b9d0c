from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from anytag.library.library import Library
from tests.browser import WIDE, browsing, opened
from tests.http_service import Served, serving

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as one:
        yield one


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Six photos."""
    folder = tmp_path_factory.mktemp("library")
    photos = folder / "photos"
    photos.mkdir()
    for name in ("astronaut.jpg", "cat.jpg", "coffee.jpg", "flower.jpg"):
        shutil.copy(EXAMPLES / name, photos)
    for name in ("temple 1.jpg", "temple 2.jpg"):
        shutil.copy(EXAMPLES / "temple.jpg", photos / name)
    with Library.open(folder / "library.db") as made:
        made.sync(photos)
    with serving(has_library=True, library=folder / "library.db") as one:
        yield one


@pytest.fixture
def library_page(browser: Browser, library: Served) -> Iterator[Page]:
    for page in opened(browser.new_context(viewport=WIDE), library.address):
        expect(page.locator(".cell")).to_have_count(6)
        yield page
