"""Makes docs/images/page.png: a screenshot of the page of `anytag serve` with tags of example photos.

python scripts/screenshot_page.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "page.png"
PHOTOS = [ROOT / "examples" / "photos" / f"{name}.jpg" for name in ("cat", "coffee")]


def main() -> None:
    command = [sys.executable, "-m", "anytag", "serve", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = re.findall(r"http://\S+", server.stderr.readline())[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 1010})
        page.goto(address)
        page.fill("#custom", "red saucer: a small round plate in red, sleeping cat")
        page.set_input_files("#files", PHOTOS)
        expect(page.locator("#status")).to_have_text("2 photos tagged", timeout=20_000)
        page.locator(".photo").nth(1).locator(".tags button").first.focus()
        page.screenshot(path=PICTURE)
        browser.close()
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
