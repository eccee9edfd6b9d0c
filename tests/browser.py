"""A headless Chromium for tests of the page: Debian's, or the one that Playwright installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Error, expect, sync_playwright

expect.set_options(timeout=20_000)  # other tests run beside these


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser until the end of the block; the test is skipped where there is none."""
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
        except Error as error:
            if os.environ.get("ANYTAG_TEST_TOOLS"):
                raise
            pytest.skip(f"no Chromium: apt install chromium, or playwright install chromium ({error})")
        yield browser
        browser.close()
