from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from anytag.library.library import Library
from tests.browser import HOSTILE, LOOKS, WIDE, choose, chosen, opened, undo, violations
from tests.http_service import Served, serving
from tests.libraries import write_photo

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"


def test_a_library_is_searched_and_corrected_by_keyboard_alone(library_page: Page) -> None:
    page, status = library_page, library_page.locator("#library-status")
    page.locator("#library-text").focus()
    page.keyboard.type("a cat")
    page.keyboard.press("Enter")
    expect(status).to_have_text("1 photo")
    cell = page.locator(".cell").first
    cell.focus()
    names = chosen(page, cell)
    page.keyboard.press("y")
    expect(status).to_contain_text(f"{names[0]} accepted in 1 photo")
    page.keyboard.press("n")
    expect(status).to_contain_text("rejected in 1 photo")
    page.keyboard.press("t")
    page.keyboard.type("whiskers & co <b>")
    page.keyboard.press("Enter")
    expect(status).to_contain_text("whiskers & co <b> added in 1 photo")
    expect(page.locator(".decisions .name").first).to_have_text("whiskers & co <b>")
    undo(page, 3)
    expect(page.locator(".decisions .name")).to_have_text(names)


def test_nothing_fits_is_said(library_page: Page) -> None:
    library_page.fill("#library-text", "a submarine reactor")
    library_page.keyboard.press("Enter")
    expect(library_page.locator("#library-status")).to_contain_text("No photo fits")


def test_a_photo_is_seen_large(library_page: Page) -> None:
    page = library_page
    page.locator(".cell").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog.preview img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".cell").first).to_be_focused()


def test_of_a_photo_that_is_gone_the_page_says_so(browser: Browser, tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "gone.jpg", 1)
    with Library.open(tmp_path / "library.db") as made:
        made.sync(tmp_path / "photos")
    (tmp_path / "photos" / "gone.jpg").unlink()
    with serving(has_library=True, library=tmp_path / "library.db") as served:
        for page in opened(browser.new_context(viewport=WIDE), served.address):
            page.locator(".cell").first.focus()
            page.keyboard.press("Enter")
            expect(page.locator("#library-status")).to_contain_text("gone.jpg: no such file")


def test_a_search_that_finds_no_photo_says_so(library_page: Page) -> None:
    for tag, says in (
        ("car", "0 photos"),
        ("nothing of this name", "'nothing of this name' is neither a tag"),
    ):
        library_page.fill("#library-text", "a submarine reactor")
        library_page.fill("#library-tag", tag)
        library_page.keyboard.press("Enter")
        expect(library_page.locator("#library-status")).to_contain_text(says)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A library whose files, tags, captions and keywords would all like to be markup."""
    for number, name in enumerate(HOSTILE):
        write_photo(tmp_path / "photos" / f"{name.replace('/', '-')}.jpg", number)
    with Library.open(tmp_path / "library.db") as made:
        made.sync(tmp_path / "photos")
        photos = list(made.photos())
        for photo, name in zip(photos, HOSTILE, strict=True):
            made.add(photo.path, name)
        with made.database.transaction() as connection:
            for photo, name in zip(photos, reversed(HOSTILE), strict=True):
                connection.execute("UPDATE photos SET caption = ? WHERE id = ?", (name, photo.id))
                connection.execute("INSERT INTO keywords VALUES (?, ?, 'test')", (photo.id, name))
    return tmp_path / "library.db"


def test_names_in_the_library_are_text(browser: Browser, hostile: Path) -> None:
    with serving(has_library=True, library=hostile) as served:
        for page in opened(browser.new_context(viewport=WIDE), served.address):
            expect(page.locator(".cell")).to_have_count(len(HOSTILE))
            shown = set()
            for place in range(len(HOSTILE)):
                shown |= set(choose(page, place))
                expect(page.locator(f'[data-place="{place}"]')).to_be_focused()
                expect(page.locator(".decisions .rejected")).to_have_count(0)
                page.keyboard.press("n")
                expect(page.locator(".decisions .rejected")).to_have_count(1)
                expect(page.locator("#library-status")).to_contain_text("rejected in 1 photo")
            assert set(HOSTILE) <= shown
            page.locator("#library-add").press_sequentially("window.broken")
            expect(page.locator(".suggestions li")).to_have_count(18)
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            page.keyboard.press("Enter")
            expect(page.locator("#library-status")).to_contain_text("added in 1 photo")
            page.keyboard.press("Enter")
            expect(page.locator("dialog.preview img")).to_be_visible()
            assert page.evaluate("window.broken") is None


@pytest.mark.parametrize("look", LOOKS)
def test_nobody_is_shut_out_of_the_library(
    browser: Browser, library: Served, look: dict[str, object]
) -> None:
    for page in opened(browser.new_context(**look), library.address):  # type: ignore[arg-type]
        page.locator(".cell").first.click()
        expect(page.locator(".decisions li")).not_to_have_count(0)
        assert violations(page) == []
        page.keyboard.press("Enter")
        expect(page.locator("dialog.preview")).to_be_visible()
        assert violations(page) == []


def test_a_large_library_keeps_few_elements(browser: Browser, library: Served) -> None:
    """The grid is made of what is in view, wherever that is."""
    ids = library.client.get("/v1/search").json()["ids"]
    many = {
        "total": 100_000,
        "ids": [ids[n % len(ids)] for n in range(100_000)],
        "scores": None,
        "fits": True,
    }
    for page in opened(browser.new_context(viewport=WIDE), library.address):
        page.route("**/v1/search?*", lambda route: route.fulfill(json=many))
        page.reload()
        expect(page.locator("#library-status")).to_have_text("100,000 photos")
        for share in (0.0, 0.37, 1.0):
            page.locator("#library-grid").evaluate(
                "(grid, share) => grid.scrollTop = share * grid.scrollHeight", share
            )
            page.wait_for_function(
                "share => { const place = document.querySelector('.row:last-child')?.dataset.row;"
                " const rows = Number(document.querySelector('#library-grid').getAttribute('aria-rowcount'));"
                " return Math.abs(place / rows - share) < 0.01; }",
                arg=share,
            )
            assert page.evaluate("document.querySelectorAll('*').length") < 2000


def test_thumbnails_in_view_come_first_and_those_scrolled_away_are_given_up(
    browser: Browser, library: Served
) -> None:
    many = {"total": 5000, "ids": list(range(1, 5001)), "scores": None, "fits": True}
    asked, given_up = list[int](), set[int]()

    def number(url: str) -> int:
        return int(url.split("/")[-2])

    def cells(page: Page, where: str) -> set[int]:
        return set(
            page.evaluate(
                f"""() => {{
                    const grid = document.querySelector("#library-grid").getBoundingClientRect();
                    return [...document.querySelectorAll(".cell")].filter((cell) => {{
                        const {{ top, bottom }} = cell.parentElement.getBoundingClientRect();
                        return {where};
                    }}).map((cell) => Number(cell.dataset.place) + 1);
                }}"""
            )
        )

    def settled(page: Page, count: int) -> tuple[set[int], set[int]]:
        """What is in view, once so many have been asked for, and what was asked first."""
        for _ in range(1000):
            if len(asked) >= count:
                break
            page.wait_for_timeout(20)
        in_view = cells(page, "bottom > grid.top + 2 && top < grid.bottom - 2")
        assert 0 < len(in_view) < len(asked) == count
        return in_view, set(asked[: len(in_view)])

    for page in opened(browser.new_context(viewport=WIDE), library.address):
        expect(page.locator(".cell")).to_have_count(6)
        page.route("**/v1/search?*", lambda route: route.fulfill(json=many))
        page.route("**/thumbnail", lambda route: asked.append(number(route.request.url)))  # and no answer
        page.reload()
        expect(page.locator("#library-status")).to_have_text("5,000 photos")
        in_view, first = settled(page, page.locator(".cell").count())
        assert first == in_view
        before, kept = set(asked), cells(page, "cell.parentElement.dataset.row === '0'")  # has the focus
        page.on("requestfailed", lambda request: given_up.add(number(request.url)))
        asked.clear()
        page.locator("#library-grid").evaluate("grid => grid.scrollTop = grid.scrollHeight / 2")
        expect(page.locator(f"[data-place='{len(kept)}']")).to_have_count(0)
        in_view, first = settled(page, page.locator(".cell").count() - len(kept))
        assert first == in_view
        for _ in range(1000):
            if len(given_up) >= len(before - kept):
                break
            page.wait_for_timeout(20)
        assert given_up == before - kept
        page.unroute_all(behavior="ignoreErrors")


# --- type-ahead


def test_tags_are_suggested_by_their_names_in_other_languages(library_page: Page) -> None:
    page, field = library_page, library_page.locator("#library-tag")
    field.press_sequentially("animal, Katz")
    option = page.locator(".suggestions li").first
    expect(option).to_have_text("cat Katze")
    assert violations(page) == []
    page.keyboard.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    assert field.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("Enter")
    expect(field).to_have_value("animal, cat")
    expect(field).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Enter")
    expect(page.locator("#library-status")).to_have_text("1 photo")


def test_suggestions_are_left_by_escape_and_by_leaving_the_field(library_page: Page) -> None:
    page, field = library_page, library_page.locator("#library-exclude")
    for key in ("Escape", "Tab"):
        field.fill("")
        field.press_sequentially("a")
        expect(page.locator(".suggestions li")).to_have_count(20)
        page.keyboard.press("ArrowUp")
        expect(page.locator(".suggestions li").last).to_have_attribute("aria-selected", "true")
        page.keyboard.press(key)
        expect(page.locator(".suggestions li")).to_have_count(0)
        expect(field).to_have_value("a")


def test_a_suggestion_is_taken_by_a_click_and_own_tags_are_suggested(library_page: Page) -> None:
    page, status = library_page, library_page.locator("#library-status")
    page.locator(".cell").first.click()
    for typed in ("Tom's 50th", "tom"):
        page.keyboard.press("t")
        page.keyboard.type(typed)
        if typed == "tom":
            page.locator(".suggestions li", has_text="Tom's 50th").click()
            expect(page.locator("#library-add")).to_have_value("Tom's 50th")
        page.keyboard.press("Enter")
        expect(status).to_contain_text("Tom's 50th added in 1 photo")
        page.keyboard.press("ArrowRight")
    undo(page, 2)


# --- the address


def test_a_reload_and_the_back_button_show_what_was_there(library_page: Page) -> None:
    page, status = library_page, library_page.locator("#library-status")
    page.fill("#library-text", "a cat")
    page.keyboard.press("Enter")
    expect(status).to_have_text("1 photo")
    page.fill("#library-text", "")
    page.fill("#library-exclude", "cat, car")
    page.select_option("#library-order", "unsure")
    expect(status).to_have_text("5 photos")
    choose(page, 3)
    name = page.locator("#library-panel h3").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("dialog.preview")).to_be_visible()
    page.reload()
    expect(page.locator("dialog.preview")).to_be_visible()
    expect(page.locator("#library-panel h3")).to_have_text(name)
    expect(page.locator("#library-exclude")).to_have_value("cat, car")
    expect(page.locator("#library-order")).to_have_value("unsure")
    page.go_back()
    expect(page.locator("dialog.preview")).to_have_count(0)
    expect(page.locator("#library-panel h3")).to_have_text(name)
    page.go_back()
    expect(status).to_have_text("1 photo")
    expect(page.locator("#library-text")).to_have_value("a cat")
    expect(page.locator("#library-exclude")).to_have_value("")
    page.go_forward()
    expect(status).to_have_text("5 photos")
    page.get_by_role("link", name="Tag photos").click()
    expect(page.locator("#drop")).to_be_visible()
    page.go_back()
    expect(page.locator("#library-exclude")).to_have_value("cat, car")
    page.get_by_role("button", name="Show all").click()
    expect(status).to_have_text("6 photos")


def test_photos_like_one_are_a_step_of_their_own(library_page: Page) -> None:
    page, status = library_page, library_page.locator("#library-status")
    page.locator(".cell").nth(1).click()
    page.keyboard.press("s")
    expect(status).to_contain_text("similar to the selected one")
    page.go_back()
    expect(status).to_have_text("6 photos")
    expect(page.locator(".cell").nth(1)).to_have_attribute("tabindex", "0")


def test_no_address_breaks_the_page(library_page: Page) -> None:
    page = library_page
    texts = [*HOSTILE, "%E0%A4%A&text=%00%ff&&&==", "x" * 100_000]
    for address in (
        *(f"library?text={text}&tag={text}&photo={text}&large={text}" for text in texts),
        "library?like=javascript:window.broken=1",
        "library?photo=999999999999999999999",
        "library?photo=-1&order=constructor&after=<b>&before=2024-99-99",
        "__proto__",
        "?",
    ):
        page.evaluate("address => { location.hash = address }", address)
        expect(page.locator("#library-status")).not_to_have_text("Searching …")
        assert page.evaluate("window.broken") is None
    page.reload()
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#library-status")).to_have_text("6 photos")
