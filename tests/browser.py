"""A headless Chromium for tests of the page: Debian's, or the one that Playwright installed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

WIDE: ViewportSize = {"width": 1280, "height": 900}
ZOOMED: ViewportSize = {"width": 640, "height": 450}
"""What a window of 1280×900 has left at 200 %."""
LOOKS: list[dict[str, object]] = [
    {},
    {"color_scheme": "dark"},
    {"forced_colors": "active"},
    {"viewport": ZOOMED},
    {"viewport": {"width": 320, "height": 640}},
]
"""Contexts in which every view is looked at by axe."""

HOSTILE = [
    "<img src=x onerror=window.broken=1>",
    '"><script>window.broken=1</script>',
    "'><svg onload=window.broken=1>",
    "javascript:window.broken=1",
    "${window.broken=1}`",
    "{{window.broken=1}}",
    "&lt;svg onload=window.broken=1&gt;",
    "</title><script>window.broken=1</script>",
    "</style><script>window.broken=1</script>",
    "--><script>window.broken=1</script>",
    '" onmouseover="window.broken=1',
    "' autofocus onfocus='window.broken=1",
    "<iframe srcdoc='<script>parent.broken=1</script>'>",
    "<details open ontoggle=window.broken=1>",
    "<a href=javascript:window.broken=1>here</a>",
    "<math><mtext><style><img src=x onerror=window.broken=1></style>",
    "\\u003cscript\\u003ewindow.broken=1\\u003c/script\\u003e",
    "%3Cscript%3Ewindow.broken=1%3C%2Fscript%3E",
    "url(javascript:window.broken=1)",
    "__proto__",
]
"""Names that would like to be markup or script; run, they set `window.broken`."""

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


def opened(context: BrowserContext, address: str) -> Iterator[Page]:
    """The page; a script error, a complaint of the console or a request elsewhere fails the test."""
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if is_complaint(message) else None)
    origins = (f"{address}/", f"blob:{address}/")
    page.on("request", lambda one: None if one.url.startswith(origins) else wrong.append(one.url))
    page.goto(address)
    yield page
    context.close()
    assert not wrong, wrong


def is_complaint(message: ConsoleMessage) -> bool:
    """An error that the page did not expect: of a bad photo and a broken connection it tells the user."""
    broken = ("FAILED", "CONNECTION", "EMPTY_RESPONSE", "INCOMPLETE_CHUNKED", "CONTENT_LENGTH", "SOCKET")
    expected = ("status of 422", *(f"net::ERR_{name}" for name in broken))
    return message.type == "error" and not any(text in message.text for text in expected)


def violations(page: Page) -> list[str]:
    """What axe says against the page as it is now; and whether it is wider than the window."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}})
    is_cut = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    return [one["id"] for one in found.response["violations"]] + ["something is cut"] * is_cut


def choose(page: Page, place: int) -> list[str]:
    """Clicks a photo of the library; the names of its tags, once the panel shows it."""
    cell = page.locator(f'[data-place="{place}"]')
    cell.click()
    return chosen(page, cell)


def chosen(page: Page, cell: Locator) -> list[str]:
    """The names of the tags of the current photo, once the panel shows it: until then it has others'."""
    expect(cell).to_have_class(re.compile(r"\bcurrent\b"))
    expect(cell).not_to_have_attribute("title", "")  # its details are there
    expect(page.locator("#library-panel h3")).to_have_text(cell.get_attribute("title") or "")
    return page.locator(".decisions .name").all_inner_texts()


def undo(page: Page, times: int) -> None:
    """Takes the last decisions back, by the key."""
    status = page.locator("#library-status")
    for _ in range(times):
        page.keyboard.press("u")
        expect(status).to_have_text("Undone.")
        status.evaluate("status => status.textContent = ''")
