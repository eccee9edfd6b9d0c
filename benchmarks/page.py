"""The page in headless Chromium, each figure beside its target.

    python benchmarks/page.py FOLDER [--many 100000] [--files 5000] [--seconds 300] [--part NAME ...]

FOLDER is created and filled with synthetic JPEGs, once. The parts:

    drop       the first photo on a fresh server and a fresh page, from its drop to its tags; a custom tag,
               from the last key to its score; the embedded model
    files      5,000 files dropped at once: the longest time that the page does not respond, concurrent
               requests, and the requests sent after Stop is pressed
    library    a library of MANY photos of 640×480: first paint, and the time from a jump to a random place
               until all thumbnails in view are loaded, with thumbnails made by the sync, and without; the
               number of elements; the memory of the tab after SECONDS of scrolling
    large      the same with photos of 12 megapixels

The network does not matter in `library` and `large`: there a model of random weights tagged the photos.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from library import Bench as LibraryBench
from library import make_photos
from measure import arguments, report
from playwright.sync_api import Browser, Page, Request, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "examples" / "photos" / "cat.jpg"
_VIEW: ViewportSize = {"width": 1280, "height": 900}

_DROPPED = """([bytes, count]) => {
    const blob = new Blob([new Uint8Array(bytes)]);
    const transfer = new DataTransfer();
    for (let number = 0; number < count; number += 1) {
        transfer.items.add(new File([blob], `${number}.jpg`, {type: "image/jpeg"}));
    }
    window.longest = 0;
    let last = performance.now();
    const beat = new MessageChannel();  // timers may come late, messages do not
    beat.port1.onmessage = () => {
        window.longest = Math.max(window.longest, performance.now() - last);
        last = performance.now();
        setTimeout(() => beat.port2.postMessage(0), 4);
    };
    beat.port2.postMessage(0);
    window.began = performance.now();
    const how = {dataTransfer: transfer, bubbles: true, cancelable: true};
    document.body.dispatchEvent(new DragEvent("drop", how));
}"""
_SHOWN = """selector => new Promise((done) => {
    const look = () => {
        if (document.querySelector(selector)) done(performance.now());
        else requestAnimationFrame(look);
    };
    look();
})"""
_IN_VIEW = """share => new Promise((done) => {
    const started = share === null ? 0 : performance.now();
    const isThere = () => {
        const grid = document.querySelector("#library-grid");
        if (!grid?.querySelector(".cell")) return false;
        const {scrollTop, clientHeight} = grid, height = grid.querySelector(".row").clientHeight;
        const bottom = Math.min(scrollTop + clientHeight, grid.firstChild.clientHeight);
        for (let row = Math.floor(scrollTop / height); row * height < bottom; row += 1) {
            const images = grid.querySelectorAll(`[data-row="${row}"] img`);
            if (!images.length) return false;
            if (![...images].every((image) => image.complete && image.naturalWidth)) return false;
        }
        return true;
    };
    const look = () => isThere() ? done(performance.now() - started) : requestAnimationFrame(look);
    if (share !== null) {
        const grid = document.querySelector("#library-grid");
        grid.scrollTop = share * (grid.scrollHeight - grid.clientHeight);
    }
    requestAnimationFrame(look);
})"""
_FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
_SCROLLED = """milliseconds => new Promise((done) => {
    const grid = document.querySelector("#library-grid"), end = performance.now() + milliseconds;
    const step = () => {
        const isEnd = grid.scrollTop + grid.clientHeight >= grid.scrollHeight - 1;
        grid.scrollTop = isEnd ? 0 : grid.scrollTop + 90;
        if (performance.now() < end) requestAnimationFrame(step);
        else done(document.querySelectorAll("*").length);
    };
    step();
})"""


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, int]]:
    """Yield a server's address and process id; stop it at the end of the block."""
    command = [sys.executable, "-m", "anytag", "serve", "--port", "0", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        yield re.findall(r"http://\S+", server.stderr.readline())[0], server.pid
    finally:
        server.terminate()
        server.wait()


def tab_memory(browser: Browser) -> float:
    """Return the memory of the largest tab in MB: its own and its part of shared memory (PSS)."""
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    tabs = [one["id"] for one in processes if one["type"] == "renderer"]
    texts = (Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8") for one in tabs)
    return max(int(re.findall(r"Pss:\s+(\d+)", text)[0]) for text in texts) / 1024


def browser_cpu(browser: Browser) -> float:
    """Return the CPU seconds of all processes of the browser."""
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return float(sum(one["cpuTime"] for one in processes))


def server_cpu(process: int) -> float:
    """Return the CPU seconds of a process and its threads."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    """The browser, the folders, and the numbers of photos and files."""

    def __init__(self, browser: Browser, options: argparse.Namespace) -> None:
        self.browser, self.options, self.folder = browser, options, Path(options.folder)
        self.libraries = LibraryBench(options.folder, many=options.many, few=0, tagged=0)

    @contextmanager
    def page(self, address: str) -> Iterator[Page]:
        context = self.browser.new_context(viewport=_VIEW)
        page = context.new_page()
        page.goto(address)
        yield page
        context.close()

    def _drop(self, page: Page, count: int) -> None:
        page.evaluate(_DROPPED, [list(PHOTO.read_bytes()), count])

    def drop(self) -> Iterator[str]:
        times = []
        for _ in range(5):
            with serving() as (address, _), self.page(address) as page:
                self._drop(page, 1)
                times.append(page.evaluate(_SHOWN, ".tags button") - page.evaluate("window.began"))
        yield f"first photo of a fresh server, drop to tags: {_summary(times)} ms; target 1,500"
        times = []
        with serving() as (address, _), self.page(address) as page:
            self._drop(page, 1)
            page.evaluate(_SHOWN, ".tags button")
            page.evaluate("addEventListener('input', () => { window.began = performance.now(); }, true)")
            for number in range(10):
                page.fill("#custom", "")
                page.wait_for_function("() => !document.querySelector('button.custom')")
                page.locator("#custom").press_sequentially(f"sleeping cat {number}")
                times.append(page.evaluate(_SHOWN, "button.custom") - page.evaluate("window.began"))
        yield f"custom tag, last key to score: {_summary(times)} ms; target 300"

    def files(self) -> Iterator[str]:
        with serving() as (address, _), self.page(address) as page:
            running, max_running, sent = set[Request](), 0, 0

            def begun(request: Request) -> None:
                nonlocal max_running, sent
                if "/v1/" not in request.url:  # the browser's own, of previews
                    return
                running.add(request)
                max_running, sent = max(max_running, len(running)), sent + 1

            page.on("request", begun)
            page.on("requestfinished", lambda request: running.discard(request))
            page.on("requestfailed", lambda request: running.discard(request))
            self._drop(page, self.options.files)
            page.wait_for_timeout(15_000)
            status, longest = page.locator("#status").inner_text(), page.evaluate("window.longest")
            page.click("#cancel")
            last = sent
            page.wait_for_timeout(3000)
            yield (
                f"{self.options.files} files dropped: the page did not respond for at most {longest:.0f} ms "
                f"(target 100); {status} after 15 s; at most {max_running} requests at once (limit 4); in "
                f"the 3 s after Stop {sent - last} were sent, and {len(running)} are open"
            )

    def library(self) -> Iterator[str]:
        database = self._synced(self.options.many, (640, 480))
        dice = random.Random(0)
        shares = [dice.random() for _ in range(30)]
        yield from self._view(database, "thumbnails of the sync", shares)
        yield from self._view(self._bare(database), "no thumbnails", shares)
        with self._served(database) as (address, _), self.page(address) as page:
            page.evaluate(_IN_VIEW, None)
            nodes = page.evaluate(_SCROLLED, 1000 * self.options.seconds)
            yield (
                f"after {self.options.seconds} s of scrolling: {nodes} elements (limit 2,000), tab "
                f"{tab_memory(self.browser):.0f} MB (limit 300)"
            )

    def large(self) -> Iterator[str]:
        database = self._synced(140, (4000, 3000))
        yield from self._view(database, "12 megapixels, thumbnails of the sync", [0.5, 1.0])
        yield from self._view(self._bare(database), "12 megapixels, no thumbnails", [0.5, 1.0])

    def _served(self, database: Path) -> AbstractContextManager[tuple[str, int]]:
        return serving("--library", str(database), "--model", str(self.libraries.tiny))

    def _view(self, database: Path, what: str, shares: list[float]) -> Iterator[str]:
        """Measure the first view of a library on a fresh server, and jumps."""
        with self._served(database) as (address, server), self.page(address) as page:
            painted = page.evaluate(_IN_VIEW, None)
            first = page.evaluate(_FIRST_PAINT)
            yield f"{what}: first paint {first:.0f} ms, all in view {painted:.0f} ms; target 1,000"
            yield f"{what}: {self._jumps(page, server, shares)}; target 300"

    def _jumps(self, page: Page, server: int, shares: list[float]) -> str:
        before = server_cpu(server), browser_cpu(self.browser)
        times = [page.evaluate(_IN_VIEW, share) for share in shares]
        after = server_cpu(server), browser_cpu(self.browser)
        spent = [1000 * (end - start) / len(shares) for start, end in zip(before, after, strict=True)]
        return (
            f"a jump to a random place {_summary(times)} ms, of which {spent[0]:.0f} ms of CPU time in the "
            f"server and {spent[1]:.0f} in the browser"
        )

    def _synced(self, count: int, size: tuple[int, int]) -> Path:
        """Return a library of `count` photos; a sync that was interrupted continues."""
        folder = self.folder / f"photos{count}of{size[0]}"
        database = folder.with_suffix(".db")
        self.libraries.sync(make_photos(folder, count, size), database)
        return database

    def _bare(self, database: Path) -> Path:
        """Return a copy of the library without thumbnails and vectors."""
        bare = self.libraries.fresh(f"{database.stem}-bare")
        with sqlite3.connect(database) as connection:
            connection.execute("VACUUM INTO ?", (str(bare),))
        return bare


def _summary(times: list[float]) -> str:
    return f"median {statistics.median(times):.0f}, maximum {max(times):.0f}"


def main() -> None:
    parts = ["drop", "files", "library", "large"]
    options = arguments(__doc__ or "", parts, many=100_000, files=5000, seconds=300)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report(Bench(browser, options), options.part)
        browser.close()


if __name__ == "__main__":
    main()
