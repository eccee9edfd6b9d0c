from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from anytag import Captioner, Tagger
from anytag.library.library import Library
from tests.browser import browsing
from tests.http_service import Served, serving
from tests.tiny import make_tiny_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"
CAT, COFFEE = EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"
HOSTILE = [
    "<img src=x onerror=window.broken=1>.jpg",
    '"><script>window.broken=1<',
    "javascript:window.broken=1.jpg",
    "${window.broken=1}`.jpg",
    "&lt;svg onload=window.broken=1&gt;.jpg",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as one:
        yield one


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page; a script error, a complaint of the console or a request elsewhere fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield from opened(context, served)


def opened(context: BrowserContext, served: Served) -> Iterator[Page]:
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if is_complaint(message) else None)
    origins = (f"http://127.0.0.1:{served.port}/", f"blob:http://127.0.0.1:{served.port}/")
    page.on("request", lambda one: None if one.url.startswith(origins) else wrong.append(one.url))
    page.goto(origins[0])
    yield page
    context.close()
    assert not wrong


def is_complaint(message: ConsoleMessage) -> bool:
    """An error that the page did not expect: of a bad photo and a broken connection it tells the user."""
    expected = ("status of 422", "net::ERR_FAILED")
    return message.type == "error" and not any(text in message.text for text in expected)


def rows(page: Page, photo: int = 0) -> list[tuple[str, str]]:
    """Names and scores of a photo's tags as they are shown."""
    card = page.locator(".photo").nth(photo)
    names = card.locator(".name").evaluate_all("names => names.map((name) => name.firstChild.textContent)")
    return list(zip(names, card.locator(".score").all_inner_texts(), strict=True))


def violations(page: Page) -> list[str]:
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}})
    return [one["id"] for one in found.response["violations"]]


def test_chosen_photos_are_tagged(page: Page) -> None:
    page.set_input_files("#files", [CAT, COFFEE])
    expect(page.locator("#status")).to_have_text("2 photos tagged")
    tags = Tagger.load().tag(CAT).tags
    assert rows(page) == [(tag.name, f"{tag.score:.2f}") for tag in tags]


def test_dropped_photos_are_tagged_and_do_not_navigate_away(page: Page) -> None:
    data = list(CAT.read_bytes())
    dropped = page.evaluate_handle(
        """data => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], "dropped.jpg", {type: "image/jpeg"}));
            return transfer;
        }""",
        data,
    )
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    expect(page.locator("#status")).to_have_text("1 photo tagged")
    expect(page.locator("h3")).to_have_text("dropped.jpg")


def test_custom_tags_are_scored_as_they_are_typed(page: Page) -> None:
    page.set_input_files("#files", [COFFEE])
    page.locator("#custom").press_sequentially("red saucer: a small round plate in red, submarine")
    expect(page.locator("button.custom")).to_have_count(2)
    found = Tagger.load().tag(COFFEE, ["red saucer: a small round plate in red", "submarine"])
    shown = dict(rows(page))
    assert {tag.name: shown[tag.name] for tag in found.tags} == {
        tag.name: f"{tag.score:.2f}" for tag in found.tags
    }


def test_captions_are_written_when_wanted(page: Page) -> None:
    page.check("#captions")
    page.set_input_files("#files", [CAT])
    expect(page.locator(".result > p")).to_have_text(Captioner.load().caption(CAT).text)


def test_where_a_tag_is_appears_on_hover_and_on_focus(page: Page) -> None:
    page.set_input_files("#files", [CAT])
    tag = page.locator(".tags button").nth(1)
    painted = """() => {
        const canvas = document.querySelector("canvas");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.some((value, place) => place % 4 === 3 && value > 0);
    }"""
    for show, leave in ((tag.hover, page.locator("h1").hover), (tag.focus, tag.blur)):
        show()
        assert page.evaluate(painted)
        leave()
        assert not page.evaluate(painted)


def test_a_file_that_is_no_photo_says_so_and_the_others_go_on(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    page.set_input_files("#files", [broken, CAT])
    expect(page.locator("#status")).to_have_text("2 photos tagged, 1 failed")
    expect(page.locator(".photo").first.locator(".error")).to_contain_text("not a photo")


def test_names_of_files_and_tags_are_text(page: Page) -> None:
    photo = CAT.read_bytes()
    files = [{"name": name, "mimeType": "image/jpeg", "buffer": photo} for name in HOSTILE]
    page.set_input_files("#files", files)  # type: ignore[arg-type]
    page.fill("#custom", ", ".join(name.replace(",", "") for name in HOSTILE[:2]))
    expect(page.locator("button.custom")).not_to_have_count(0)
    assert page.locator("h3").all_inner_texts() == HOSTILE
    assert page.evaluate("window.broken") is None


def test_the_page_is_used_by_keyboard_alone(page: Page) -> None:
    page.set_input_files("#files", [CAT])
    expect(page.locator("#status")).to_have_text("1 photo tagged")
    page.locator("#custom").focus()
    page.keyboard.type("sleeping cat")
    expect(page.locator("button.custom")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#captions")).to_be_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.tags') !== null")


@pytest.mark.parametrize(
    "look",
    [{}, {"color_scheme": "dark"}, {"forced_colors": "active"}, {"viewport": {"width": 320, "height": 640}}],
)
def test_nobody_is_shut_out(browser: Browser, served: Served, look: dict[str, object]) -> None:
    for page in opened(browser.new_context(**look), served):  # type: ignore[arg-type]
        assert violations(page) == []
        page.set_input_files("#files", [CAT])
        page.fill("#custom", "sleeping cat")
        expect(page.locator("button.custom")).to_have_count(1)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "something is cut"


def test_a_server_with_a_key_is_asked_with_it(browser: Browser, tmp_path: Path) -> None:
    with serving(model=str(make_tiny_model(tmp_path / "tiny")), key="open sésame ☂") as served:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.fill("#key", "wrong ☂")
        page.keyboard.press("Enter")
        expect(page.locator("#key-dialog")).to_be_visible()
        page.fill("#key", "open sésame ☂")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("tags")
        page.close()


# --- the library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Six photos, two of them with names that would like to be markup."""
    folder = tmp_path_factory.mktemp("library")
    photos = folder / "photos"
    photos.mkdir()
    for name in ("astronaut.jpg", "cat.jpg", "coffee.jpg", "flower.jpg"):
        shutil.copy(EXAMPLES / name, photos)
    for name in (HOSTILE[0], HOSTILE[3]):
        shutil.copy(EXAMPLES / "temple.jpg", photos / name.replace("/", ""))
    with Library.open(folder / "library.db") as made:
        made.sync(photos)
    with serving(has_library=True, library=folder / "library.db") as one:
        yield one


@pytest.fixture
def library_page(browser: Browser, library: Served) -> Iterator[Page]:
    for page in opened(browser.new_context(viewport={"width": 1280, "height": 900}), library):
        expect(page.locator(".cell")).to_have_count(6)
        yield page


def test_a_library_is_searched_and_corrected_by_keyboard_alone(library_page: Page) -> None:
    page, status = library_page, library_page.locator("#library-status")
    page.locator("#library-text").focus()
    page.keyboard.type("a cat")
    page.keyboard.press("Enter")
    expect(status).to_have_text("1 photo")
    page.locator(".cell").first.focus()
    expect(page.locator("#library-panel h3")).to_have_text("cat.jpg")
    names = page.locator(".decisions .name").all_inner_texts()
    page.keyboard.press("y")
    expect(status).to_contain_text(f"{names[0]} accepted in 1 photo")
    page.keyboard.press("n")
    expect(status).to_contain_text("rejected in 1 photo")
    page.keyboard.press("t")
    page.keyboard.type("whiskers & co <b>")
    page.keyboard.press("Enter")
    expect(status).to_contain_text("whiskers & co <b> added in 1 photo")
    expect(page.locator(".decisions .name").first).to_have_text("whiskers & co <b>")
    for _ in range(3):
        page.keyboard.press("u")
        expect(status).to_have_text("Undone.")
        status.evaluate("status => status.textContent = ''")
    expect(page.locator(".decisions .name")).to_have_text(names)


def test_a_tag_is_said_of_all_that_are_selected(library_page: Page) -> None:
    page = library_page
    page.locator(".cell").first.click()
    page.keyboard.press("Shift+End")
    page.keyboard.press("t")
    page.keyboard.type("holiday")
    page.keyboard.press("Enter")
    expect(page.locator("#library-status")).to_contain_text("holiday added in 6 photos")
    page.keyboard.press("u")
    expect(page.locator("#library-status")).to_have_text("Undone.")


def test_sidecars_are_written_after_a_look_at_what_changes(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("[f-z]*"))
    (folder / "coffee.jpg.xmp").mkdir()
    with Library.open(tmp_path / "library.db") as made:
        made.sync(folder)
        made.add(folder / "cat.jpg", HOSTILE[0])
    with serving(has_library=True, library=tmp_path / "library.db") as served:
        for page in opened(browser.new_context(viewport={"width": 640, "height": 450}), served):
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
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert not (folder / "cat.jpg.xmp").exists()
            page.keyboard.press("Enter")
            expect(status).to_have_text(f"{count - 1} photos written.")
            assert "onerror" in (folder / "cat.jpg.xmp").read_text()
            page.keyboard.press("Enter")
            expect(dialog).to_have_count(0)
            page.keyboard.press("w")
            expect(status).to_have_text("Nothing to write, 1 failed.")
            page.keyboard.press("Escape")
            assert page.evaluate("document.activeElement.matches('.cell')")


def test_what_the_server_did_not_keep_is_not_shown(library_page: Page) -> None:
    page = library_page
    page.route("**/v1/decisions", lambda route: route.abort())
    page.locator(".cell").first.click()
    before = page.locator(".decisions li").all_inner_texts()
    page.keyboard.press("n")
    expect(page.locator("#library-status")).to_contain_text("Not saved")
    assert page.locator(".decisions li").all_inner_texts() == before


def test_nothing_fits_is_said(library_page: Page) -> None:
    library_page.fill("#library-text", "a submarine reactor")
    library_page.keyboard.press("Enter")
    expect(library_page.locator("#library-status")).to_contain_text("Nothing fits")


def test_a_photo_is_seen_large_or_why_not(library_page: Page) -> None:
    page = library_page
    page.locator(".cell").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog.preview img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".cell").first).to_be_focused()
    gone = {"error": {"type": "ImageError", "message": "cat.jpg: no such file"}}
    page.route("**/preview", lambda route: route.fulfill(status=422, json=gone))
    page.keyboard.press("Enter")
    expect(page.locator("#library-status")).to_have_text("cat.jpg: no such file")


def test_a_search_that_finds_no_photo_says_so(library_page: Page) -> None:
    library_page.fill("#library-text", "a submarine reactor")
    library_page.fill("#library-tag", "nothing of this name")
    library_page.keyboard.press("Enter")
    expect(library_page.locator("#library-status")).to_have_text("0 photos")


def test_names_in_the_library_are_text(library_page: Page) -> None:
    for place in range(6):
        library_page.locator(".cell").nth(place).click()
        expect(library_page.locator("#library-panel h3")).not_to_be_empty()
    assert library_page.evaluate("window.broken") is None


@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 640, "height": 400}}])
def test_nobody_is_shut_out_of_the_library(
    browser: Browser, library: Served, look: dict[str, object]
) -> None:
    for page in opened(browser.new_context(**look), library):  # type: ignore[arg-type]
        page.locator(".cell").first.click()
        expect(page.locator(".decisions li")).not_to_have_count(0)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "something is cut"


def test_a_large_library_keeps_few_elements(browser: Browser, library: Served) -> None:
    """The grid is made of what is in view, wherever that is."""
    ids = library.client.get("/v1/search").json()["ids"]
    many = {
        "total": 100_000,
        "ids": [ids[n % len(ids)] for n in range(100_000)],
        "scores": None,
        "fits": True,
    }
    for page in opened(browser.new_context(viewport={"width": 1280, "height": 900}), library):
        page.route("**/v1/search?*", lambda route: route.fulfill(json=many))
        page.reload()
        expect(page.locator("#library-status")).to_have_text("100,000 photos")
        for share in (0.0, 0.37, 1.0):
            page.locator("#library-grid").evaluate(
                "(grid, share) => grid.scrollTop = share * grid.scrollHeight", share
            )
            page.wait_for_function(
                "share => { const place = document.querySelector('.row')?.dataset.row;"
                " const rows = Number(document.querySelector('#library-grid').getAttribute('aria-rowcount'));"
                " return Math.abs(place / rows - share) < 0.01; }",
                arg=share,
            )
            assert page.evaluate("document.querySelectorAll('*').length") < 2000
