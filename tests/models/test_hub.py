from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from anytag.errors import CardError, DownloadError, FileMismatchError
from anytag.models.card import Card
from anytag.models.folder import ModelFolder
from anytag.models.hub import HUB, Remote, fetch, fetch_folder, push_folder
from anytag.progress import Progress, Reporter
from tests.hub_server import COMMIT, Hub, serving
from tests.tiny import make_tiny_model

BIG = "owner/model/resolve/main/weights.pth"
LIST = "owner/model/resolve/main/tags.txt"
CONTENT = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before a broken download goes on
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as hub:
        hub.files = {BIG: CONTENT, LIST: b"dog\ncat\n"}
        monkeypatch.setenv("ANYTAG_HUB", hub.url + "/")
        yield hub


def test_fetches_and_says_what_it_did(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    big, small = fetch([Remote(BIG), Remote(LIST, name="list.txt")], folder)
    assert big.path == folder / "weights.pth"
    assert big.path.read_bytes() == CONTENT
    assert (big.sha256, big.state, big.revision) == (SHA256, "downloaded", COMMIT)
    assert small.path == folder / "list.txt"
    assert sorted(path.name for path in folder.iterdir()) == ["list.txt", "weights.pth"]
    assert [found.state for found in fetch([Remote(BIG), Remote(LIST, name="list.txt")], folder)] == [
        "already there",
        "already there",
    ]
    assert hub.ranges(BIG) == [None]


def test_a_broken_connection_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.breaks[BIG] = [1000, 200_300]
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert hub.ranges(BIG) == [None, "bytes=1000-", "bytes=200300-"]


def test_a_broken_download_goes_on_when_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.breaks[BIG] = [70_000, *[70_000] * 9]
    with pytest.raises(
        DownloadError, match=r"was interrupted after 70,000 bytes .*repeat the command to resume"
    ):
        fetch([Remote(BIG)], tmp_path)
    assert not (tmp_path / "weights.pth").exists()
    hub.breaks.clear()
    hub.asked.clear()
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert hub.ranges(BIG) == ["bytes=70000-"]


def test_a_part_of_another_version_is_not_continued(hub: Hub, tmp_path: Path) -> None:
    hub.breaks[BIG] = [70_000] * 9
    with pytest.raises(DownloadError):
        fetch([Remote(BIG)], tmp_path)
    hub.breaks.clear()
    hub.asked.clear()
    hub.files[BIG] = CONTENT[::-1]
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert found.path.read_bytes() == CONTENT[::-1]
    assert hub.ranges(BIG) == [None]


def test_a_busy_server_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.errors[BIG] = [503, 429]
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert found.path.read_bytes() == CONTENT and len(hub.ranges(BIG)) == 3


def test_a_hash_of_any_form_is_no_path(hub: Hub, tmp_path: Path) -> None:
    hub.etags[BIG] = "../a/b+c=="
    hub.breaks[BIG] = [1000]
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_a_refusal_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    hub.breaks[BIG] = [5000]
    hub.refused.add(BIG)
    with pytest.raises(DownloadError, match=r"was interrupted after 0 bytes \(.*500"):
        fetch([Remote(BIG)], tmp_path)


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_hash_is_an_error(hub: Hub, tmp_path: Path, known: bool) -> None:
    wrong = "0" * 64
    if not known:
        hub.etags[BIG] = wrong
    with pytest.raises(DownloadError, match=f"has sha256 {SHA256}, expected {wrong}: it was damaged"):
        fetch([Remote(BIG, sha256=wrong if known else "")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_git_hash_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.etags[LIST] = "1" * 40
    with pytest.raises(DownloadError, match=f"expected {'1' * 40}"):
        fetch([Remote(LIST)], tmp_path)


def test_a_truncated_file_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.sizes[BIG] = len(CONTENT) + 100
    with pytest.raises(DownloadError, match=r"has 307,200 bytes, expected 307,300"):
        fetch([Remote(BIG)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_file_in_its_place_is_replaced(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(CONTENT[:-1] + b"!")
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert found.state == "downloaded"
    assert found.path.read_bytes() == CONTENT


def test_what_is_not_to_be_had_is_listed_with_its_place(hub: Hub, tmp_path: Path) -> None:
    none = [Remote("owner/model/resolve/main/a.pth"), Remote("owner/b.txt", "https://example.org")]
    (tmp_path / "tags.txt").write_text("mine")
    with pytest.raises(DownloadError) as caught:
        fetch([*none, Remote(LIST)], tmp_path)
    for name in ("a.pth", "b.txt"):
        assert f"-> {tmp_path / name}" in str(caught.value)
    assert f"{hub.url}/owner/model/resolve/main/a.pth" in str(caught.value)


def test_offline_a_file_that_lies_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTAG_HUB", "http://127.0.0.1:9")
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert (found.state, found.sha256) == ("already there, not checked", SHA256)
    with pytest.raises(DownloadError, match=rf"tags\.txt\n    -> {tmp_path}"):
        fetch([Remote(BIG), Remote(LIST)], tmp_path)
    (checked,) = fetch([Remote(BIG, sha256=SHA256)], tmp_path)
    assert checked.state == "already there"
    with pytest.raises(DownloadError, match=rf"weights\.pth\n    -> {tmp_path}"):
        fetch([Remote(BIG, sha256="0" * 64)], tmp_path)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_the_token_comes_from_the_environment_and_goes_to_the_hub_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch([Remote(BIG)], tmp_path)
    assert {token for *_, token in hub.asked} == {"Bearer secret"}
    hub.asked.clear()
    fetch([Remote(LIST, "https://example.org")], tmp_path)
    assert {token for *_, token in hub.asked} == {None}


def test_another_host_that_holds_a_file_is_not_shown_the_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving() as other:
        other.files["blob"] = CONTENT
        hub.elsewhere[BIG] = f"{other.url}/blob"
        (found,) = fetch([Remote(BIG)], tmp_path)
        assert found.path.read_bytes() == CONTENT
        assert other.asked == [("GET", "blob", None, None)]


def test_a_server_without_ranges_begins_again(hub: Hub, tmp_path: Path) -> None:
    hub.whole, hub.breaks[BIG] = True, [100_000]
    (found,) = fetch([Remote(BIG)], tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert hub.ranges(BIG) == [None, "bytes=100000-"]


def test_what_comes_is_reported(hub: Hub, tmp_path: Path) -> None:
    class Heard(Reporter):
        def __init__(self) -> None:
            self.all: list[Progress] = []

        def progress(self, progress: Progress) -> None:
            self.all.append(progress)

    hub.files[BIG] = CONTENT * 10
    fetch([Remote(BIG)], tmp_path, report=(heard := Heard()))
    assert heard.all[-1] == Progress("weights.pth", 3, 3, "MB")


def test_without_a_mirror_it_is_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYTAG_HUB", raising=False)
    assert Remote(BIG).url == f"{HUB}/{BIG}"


def serve_folder(hub: Hub, folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    hub.put(
        "me/tiny/resolve/main", {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    )


def test_a_model_folder_comes_whole(hub: Hub, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    serve_folder(hub, model)
    hub.breaks["me/tiny/resolve/main/image.onnx"] = [100]
    fetched = fetch_folder("me/tiny", tmp_path / "pulled")
    assert ModelFolder.open(tmp_path / "pulled", verify=True).card == Card.read(model)
    assert len(fetched) == 1 + len(Card.read(model).files)
    assert all(file.path.is_file() and file.bytes for file in fetched)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pulled", "tiny"]
    with pytest.raises(DownloadError, match="exists already"):
        fetch_folder("me/tiny", tmp_path / "pulled")


def test_a_damaged_file_of_an_earlier_try_is_not_installed(hub: Hub, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "made")
    names = [*Card.read(model / "card.json").files, "card.json"]
    hub.put("me/tiny/resolve/main", {name: (model / name).read_bytes() for name in names})
    draft = tmp_path / "cache" / ".me--tiny.new"
    draft.mkdir(parents=True)
    (draft / "queries.safetensors").write_bytes(b"damaged")
    hub.down.add("me/tiny/resolve/main/queries.safetensors")
    with pytest.raises(DownloadError, match=r"queries\.safetensors"):
        fetch_folder("me/tiny", tmp_path / "cache" / "tiny")
    assert not (tmp_path / "cache" / "tiny").exists()
    hub.down.clear()
    fetch_folder("me/tiny", tmp_path / "cache" / "tiny")
    ModelFolder.open(tmp_path / "cache" / "tiny", verify=True)


def test_a_model_folder_with_another_file_than_its_card_says_is_refused(hub: Hub, tmp_path: Path) -> None:
    serve_folder(hub, make_tiny_model(tmp_path / "tiny"))
    hub.files["me/tiny/resolve/main/image.onnx"] = b"another"
    with pytest.raises(DownloadError, match=r"image\.onnx has sha256"):
        fetch_folder("me/tiny", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_card_that_leads_outside_is_refused(hub: Hub, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    card = (model / "card.json").read_text().replace('"image.onnx"', '"../image.onnx"')
    (model / "card.json").write_text(card)
    serve_folder(hub, model)
    with pytest.raises(FileMismatchError, match="expected a relative path"):
        fetch_folder("me/tiny", tmp_path / "pulled")
    hub.files["me/tiny/resolve/main/card.json"] = b"{}"
    with pytest.raises(CardError):
        fetch_folder("me/tiny", tmp_path / "pulled")


def test_push_sends_what_the_card_lists_and_a_page(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    model = make_tiny_model(tmp_path / "tiny")
    (model / "private.txt").write_text("not listed")
    assert push_folder(model, "me/tiny").endswith("me/tiny")
    (sent,) = hub.commits
    assert set(sent) == {*Card.read(model).files, "card.json", "README.md"}
    assert sent["tags.onnx"] == (model / "tags.onnx").read_bytes()
    page = sent["README.md"].decode()
    assert page.startswith("---\nlibrary_name: anytag\n")
    assert "anytag pull hf-hub:me/tiny\nanytag tag PHOTO --model tiny" in page
    assert "license: apache-2.0" in page
    hub.put("me/tiny/resolve/main", sent)
    fetch_folder("me/tiny", tmp_path / "back")
    assert Card.read(tmp_path / "back") == Card.read(model)


def test_push_needs_a_token_a_name_and_a_whole_folder(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    with pytest.raises(DownloadError, match="set HF_TOKEN"):
        push_folder(model, "me/tiny")
    monkeypatch.setenv("HF_TOKEN", "secret")
    for name in ("tiny", "me/../tiny", "a/b/c", ""):
        with pytest.raises(DownloadError, match="expected owner/name"):
            push_folder(model, name)
    (model / "tags.onnx").write_bytes(b"")
    with pytest.raises(FileMismatchError):
        push_folder(model, "me/tiny")
    assert hub.commits == []
