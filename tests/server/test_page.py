from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from anytag import Captioner, Tagger, server
from tests.browser import HOSTILE, LOOKS, WIDE, opened, violations
from tests.http_service import Served, serving
from tests.tiny import make_tiny_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"
PAGE = Path(server.__file__).parent / "page"
CAT, COFFEE = EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    for page in opened(browser.new_context(viewport=WIDE), served.address):
        expect(page.locator("#captions")).to_be_visible()
        yield page


def rows(page: Page, photo: int = 0) -> list[tuple[str, str]]:
    """Names and scores of a photo's tags as they are shown."""
    card = page.locator(".photo").nth(photo)
    names = card.locator(".name").evaluate_all("names => names.map((name) => name.firstChild.textContent)")
    return list(zip(names, card.locator(".score").all_inner_texts(), strict=True))


def test_chosen_photos_are_tagged(page: Page) -> None:
    page.set_input_files("#files", [CAT, COFFEE])
    expect(page.locator("#status")).to_have_text("2 photos tagged")
    tags = Tagger.load().tag(CAT).tags
    assert rows(page) == [(tag.name, f"{tag.score:.2f}") for tag in tags]


def test_photos_are_not_lost_while_the_server_has_not_described_its_model(
    browser: Browser, served: Served
) -> None:
    context, waiting = browser.new_context(), list[Route]()
    context.route("**/v1/models", lambda route: waiting.append(route))
    for page in opened(context, served.address):
        page.set_input_files("#files", [CAT])
        expect(page.locator("#status")).to_have_text("1 photo tagged")
        expect(page.locator("#captions")).not_to_be_visible()
        waiting.pop().continue_()
        page.check("#captions")
        expect(page.locator(".result > p")).to_have_text(Captioner.load().caption(CAT).text)


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
    expect(page.locator("button.custom", has_text="submarine")).to_have_count(1)  # not "subm" any more
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
    expect(page.locator(".frame img")).to_have_js_property("complete", True)  # and moves nothing any more
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
    page.fill("#custom", ", ".join(HOSTILE[:2]))
    expect(page.locator("button.custom")).not_to_have_count(0)
    expect(page.locator("h3")).to_have_text(HOSTILE)
    assert page.evaluate("window.broken") is None


def test_tags_and_captions_are_text(page: Page) -> None:
    tags = [{"id": name, "name": name, "score": 0.5, "parents": [name]} for name in HOSTILE]
    row = {"width": 9, "height": 9, "tags": tags, "text": " ".join(HOSTILE), "error": None}
    for path in ("tag", "caption"):
        page.route(f"**/v1/{path}", lambda route: route.fulfill(json={"photos": [row]}))
    page.check("#captions")
    page.set_input_files("#files", [CAT])
    expect(page.locator(".result > p")).to_have_text(" ".join(HOSTILE))
    assert [name for name, _ in rows(page)] == HOSTILE
    page.locator(".tags button").first.hover()
    assert page.evaluate("window.broken") is None


def test_thousands_of_files_wait_four_are_sent_and_the_rest_can_be_stopped(page: Page) -> None:
    running, most = set[Request](), 0

    def begun(request: Request) -> None:
        nonlocal most
        if "/v1/tag" in request.url:
            running.add(request)
            most = max(most, len(running))

    page.on("request", begun)
    page.on("requestfinished", lambda request: running.discard(request))
    page.on("requestfailed", lambda request: running.discard(request))
    page.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            for (let number = 0; number < 5000; number += 1) {
                transfer.items.add(new File([new Uint8Array(bytes)], `${number}.jpg`, {type: "image/jpeg"}));
            }
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
        }""",
        list(CAT.read_bytes()),
    )
    expect(page.locator("#status")).to_contain_text("of 5,000 photos tagged")
    expect(page.locator(".tags")).not_to_have_count(0)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_contain_text("Stopped: ")
    told = page.locator("#status").inner_text()
    page.wait_for_timeout(500)
    assert page.locator("#status").inner_text() == told
    assert not running
    assert most == 4
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#status")).not_to_contain_text("Stopped")
    page.get_by_role("button", name="Stop").click()


def test_all_scripts_are_asked_for_at_once() -> None:
    """The page would find them one in the other else, a round trip each."""
    scripts = {f"/page/{path.name}" for path in PAGE.glob("*.js")}
    assert set(re.findall(r'(?:href|src)="(/page/\w+\.js)"', (PAGE / "index.html").read_text())) == scripts


def test_the_page_is_used_by_keyboard_alone(page: Page) -> None:
    page.set_input_files("#files", [CAT])
    expect(page.locator("#status")).to_have_text("1 photo tagged")
    page.locator("#custom").focus()
    page.keyboard.type("sleeping cat")
    expect(page.locator("button.custom", has_text="sleeping cat")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#captions")).to_be_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.tags') !== null")


@pytest.mark.parametrize("look", LOOKS)
def test_nobody_is_shut_out(browser: Browser, served: Served, look: dict[str, object]) -> None:
    for page in opened(browser.new_context(**look), served.address):  # type: ignore[arg-type]
        assert violations(page) == []
        page.set_input_files("#files", [CAT])
        page.fill("#custom", "sleeping cat")
        expect(page.locator("button.custom")).to_have_count(1)
        assert violations(page) == []


def test_a_server_with_a_key_is_asked_with_it(browser: Browser, tmp_path: Path) -> None:
    with serving(model=str(make_tiny_model(tmp_path / "tiny")), key="open sésame ☂") as served:
        page = browser.new_page()
        page.goto(served.address)
        page.fill("#key", "wrong ☂")
        page.keyboard.press("Enter")
        expect(page.locator("#key-dialog")).to_be_visible()
        assert violations(page) == []
        page.fill("#key", "open sésame ☂")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("tags")
        page.close()
