from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from anytag.library.library import Library
from tests.browser import HOSTILE, WIDE, ZOOMED, choose, chosen, opened, undo, violations
from tests.cli.test_serve import process
from tests.http_service import Served, serving
from tests.libraries import write_photo

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"


def test_a_tag_is_said_of_all_that_are_selected(library_page: Page) -> None:
    page = library_page
    page.locator(".cell").first.click()
    page.keyboard.press("Shift+End")
    page.keyboard.press("t")
    page.keyboard.type("holiday")
    page.keyboard.press("Enter")
    expect(page.locator("#library-status")).to_contain_text("holiday added in 6 photos")
    undo(page, 1)


def test_what_is_typed_while_a_photo_is_loading_is_no_shortcut(browser: Browser, library: Served) -> None:
    context, waiting = browser.new_context(viewport=WIDE), list[Route]()
    context.route("**/v1/photos?*", lambda route: waiting.append(route))
    for page in opened(context, library.address):
        page.locator(".cell").first.click()
        page.keyboard.press("t")
        page.keyboard.type("holiday")  # y accepts the marked tag
        page.keyboard.press("Enter")
        expect(page.locator("#library-status")).to_contain_text("holiday added in 1 photo")
        for route in waiting:
            route.continue_()
        undo(page, 1)


def test_a_photo_whose_details_failed_with_others_in_view_shows_the_error(
    browser: Browser, library: Served
) -> None:
    context, of_many = browser.new_context(viewport=WIDE), list[Route]()
    context.route(
        "**/v1/photos?*",
        lambda route: of_many.append(route) if "&" in route.request.url else route.continue_(),
    )
    for page in opened(context, library.address):
        while not of_many:
            page.wait_for_timeout(10)
        page.locator(".cell").nth(2).click()
        of_many[0].abort()
        expect(page.locator("#library-status")).to_contain_text("does not respond")


def test_sidecars_are_written_after_a_look_at_what_changes(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("[d-z]*"))
    (folder / "coffee.jpg.xmp").mkdir()
    with Library.open(tmp_path / "library.db") as made:
        made.sync(folder)
        made.add(folder / "cat.jpg", HOSTILE[0])
    with serving(has_library=True, library=tmp_path / "library.db") as served:
        for page in opened(browser.new_context(viewport=ZOOMED), served.address):
            page.locator(".cell").first.focus()
            page.keyboard.press("Shift+End")
            page.keyboard.press("w")
            dialog = page.get_by_role("dialog", name="Write sidecars")
            count = page.locator(".cell").count()
            status = dialog.get_by_role("status")
            expect(status).to_have_text(f"{count - 1} photos would change, 1 failed.")
            row = dialog.locator("li", has_text="cat.jpg.xmp")
            expect(row).to_contain_text(f"+{HOSTILE[0]}")
            expect(dialog.locator("li", has_text="coffee.jpg").locator(".error")).not_to_be_empty()
            assert violations(page) == []
            assert not (folder / "cat.jpg.xmp").exists()
            page.keyboard.press("Enter")
            expect(status).to_have_text(f"{count - 1} photos written.")
            assert "onerror" in (folder / "cat.jpg.xmp").read_text()
            page.keyboard.press("Enter")
            expect(dialog).to_have_count(0)
            page.keyboard.press("w")
            expect(status).to_have_text("Nothing to write, 1 failed.")
            page.keyboard.press("Escape")
            expect(page.locator(".cell.current")).to_be_focused()


def test_what_the_server_did_not_keep_is_not_shown(library_page: Page) -> None:
    page = library_page
    page.route("**/v1/decisions", lambda route: route.abort())
    names = choose(page, 0)
    page.keyboard.press("n")
    expect(page.locator("#library-status")).to_contain_text("Not saved")
    assert page.locator(".decisions .name").all_inner_texts() == names
    expect(page.locator(".decisions .rejected")).to_have_count(0)
    expect(page.locator(".decisions li").first).to_contain_text("not saved")


@pytest.fixture
def killable(tmp_path: Path, browser: Browser) -> Iterator[tuple[Page, Popen[bytes], Path]]:
    """The page of a library of two photos, the process that serves it, and its database."""
    for number in (1, 2):
        write_photo(tmp_path / "photos" / f"{number}.jpg", number)
    database = tmp_path / "library.db"
    with Library.open(database) as made:
        made.sync(tmp_path / "photos")
    with process("--library", str(database)) as (served, address):
        for page in opened(browser.new_context(viewport=WIDE), address):
            yield page, served, database


def test_a_killed_server_loses_nothing_and_the_page_marks_what_it_did_not_keep(
    killable: tuple[Page, Popen[bytes], Path],
) -> None:
    page, served, database = killable
    confirmed = list[str]()
    page.on("response", lambda one: confirmed.append(one.url) if "/decisions" in one.url else None)
    page.locator(".cell").first.click()
    said = [f"mark {number:02}" for number in range(50)]
    for number, tag in enumerate(said):
        if number == 25:
            served.kill()
        page.keyboard.press("t")
        page.keyboard.insert_text(tag)
        page.keyboard.press("Enter")
        if number == 0:
            expect(page.locator("#library-status")).to_contain_text("added in 1 photo")
    unsaved = page.locator(".decisions li", has_text="not saved")
    expect(unsaved.filter(has_text=said[-1])).to_have_count(1)
    expect(page.locator("#library-unsaved")).to_contain_text("not saved")
    expect(page.locator(".cell.unsaved")).to_have_count(1)
    marked = unsaved.locator(".name").all_inner_texts()
    with Library.open(database) as library:
        kept = [tag for photo in library.photos() for tag in photo.added]
    assert violations(page) == []
    assert 0 < len(confirmed) <= len(kept) < 50
    assert sorted({*kept, *marked}) == said


def test_what_was_not_saved_is_saved_when_the_server_is_there_again(library_page: Page) -> None:
    page = library_page
    page.route("**/v1/decisions", lambda route: route.abort())
    page.locator(".cell").first.click()
    for tag in ("first", "second", "third"):
        page.keyboard.press("t")
        page.keyboard.type(tag)
        page.keyboard.press("Enter")
        expect(page.locator(".decisions li", has_text="not saved").filter(has_text=tag)).to_have_count(1)
    page.keyboard.press("u")
    expect(page.locator("#library-unsaved")).to_contain_text("2 corrections not saved")
    page.unroute("**/v1/decisions")
    page.get_by_role("button", name="Save again").click()
    expect(page.locator("#library-unsaved")).to_be_hidden()
    names = page.locator(".decisions li", has_text="added by you").locator(".name")
    expect(names).to_have_text(["second", "first"])
    page.locator(".cell").first.focus()
    undo(page, 2)


def test_judging_a_tag_marks_the_next_and_moves_no_other(library_page: Page) -> None:
    page = library_page
    names = choose(page, 1)  # the cat, which has many tags
    rows = page.locator(".decisions li")
    assert len(names) > 2
    page.keyboard.press("n")
    page.keyboard.press("y")
    expect(rows.nth(0)).to_contain_text("rejected")
    expect(rows.nth(1)).to_contain_text("accepted")
    expect(rows.nth(2)).to_have_class("marked")
    assert rows.locator(".name").all_inner_texts() == names
    undo(page, 2)


def test_the_whole_task_by_keyboard_alone(browser: Browser, tmp_path: Path) -> None:
    """Search, look, reject two tags, add one, undo, write sidecars, and never a pointer."""
    folder = tmp_path / "photos"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("[d-z]*"))
    with Library.open(tmp_path / "library.db") as made:
        made.sync(folder)
    with serving(has_library=True, library=tmp_path / "library.db") as served:
        for page in opened(browser.new_context(viewport=WIDE), served.address):
            status, press = page.locator("#library-status"), page.keyboard.press
            expect(status).to_contain_text("photos")
            tab_to(page, "#library-text")
            page.keyboard.type("a cat")
            press("Enter")
            expect(status).to_have_text("1 photo")
            tab_to(page, ".cell")
            press("Enter")
            expect(page.locator("dialog.preview img")).to_be_visible()
            press("Escape")
            expect(page.locator(".cell").first).to_be_focused()
            names = chosen(page, page.locator(".cell").first)
            for tag in names[:2]:
                press("n")
                expect(status).to_contain_text(f"{tag} rejected in 1 photo")
            press("t")
            page.keyboard.type("whiskers")
            press("Enter")
            expect(status).to_contain_text("whiskers added in 1 photo")
            press("u")
            expect(status).to_have_text("Undone.")
            press("w")
            dialog = page.get_by_role("dialog", name="Write sidecars").get_by_role("status")
            expect(dialog).to_have_text("1 photo would change.")
            press("Enter")
            expect(dialog).to_have_text("1 photo written.")
            press("Enter")
            expect(page.locator(".cell").first).to_be_focused()
    sidecar = (folder / "cat.jpg.xmp").read_text()
    assert names[2] in sidecar
    assert f">{names[0]}<" not in sidecar
    assert "whiskers" not in sidecar


def tab_to(page: Page, selector: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_the_skip_link_stays_in_the_view(library_page: Page) -> None:
    library_page.keyboard.press("Tab")
    library_page.keyboard.press("Enter")
    expect(library_page.locator("#main")).to_be_focused()
    expect(library_page.locator("#library-view")).to_be_visible()
