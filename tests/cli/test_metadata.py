from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anytag.cli.metadata import to_write
from tests import xmp
from tests.command import run
from tests.tiny import make_tiny_model

pytestmark = xmp.NEEDS_EXIFTOOL
EXAMPLES = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(3):
        xmp.photo(tmp_path / "photos" / f"{i}.jpg", seed=i)
    xmp.tag(tmp_path / "photos" / "0.jpg", f"-{xmp.IPTC}=mine")
    return tmp_path / "photos"


def all_tags(model: Path) -> tuple[str | Path, ...]:
    return ("--model", model, "--threshold", "0")


def test_rows_of_changes_are_replaced_by_the_next_ones(model: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("changes.txt", "changes.jsonl"):
        for _ in range(2):
            done = run(
                "tag",
                photos,
                *all_tags(model),
                "--write",
                "sidecar",
                "--dry-run",
                "--output",
                tmp_path / name,
            )
            assert done.exit_code == 0, done.stderr
    run("tag", photos, *all_tags(model), "--write", "sidecar", "--output", tmp_path / "tags.jsonl")
    for _ in range(2):
        assert run("tag", photos, "--undo", "--output", tmp_path / "changes.jsonl").exit_code == 0
    refused = run("tag", photos, "--undo", "--output", tmp_path / "tags.jsonl")
    assert refused.exit_code == 2 and "not an earlier result" in refused.stderr
    table = run("tag", photos, *all_tags(model), "--write", "sidecar", "--dry-run", "--format", "csv")
    assert (table.exit_code, table.stdout) == (2, "")
    again = run("tag", photos, "--undo", "--resume", "--output", tmp_path / "changes.jsonl")
    assert again.exit_code == 2 and "--undo cannot be resumed" in again.stderr


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tags_are_written_beside_the_users_words_and_shown_as_ever(model: Path, photos: Path) -> None:
    plain = run("tag", photos, *all_tags(model))
    done = run("tag", photos, *all_tags(model), "--write", "sidecar", "--flat")
    assert (done.exit_code, done.stdout) == (0, plain.stdout)
    tags = [one.rsplit(" ", 1)[0] for one in plain.stdout.splitlines()[0].split("\t")[1].split(", ")]
    assert xmp.one_list(photos / "0.jpg.xmp", xmp.SUBJECT) == ["mine", *tags]
    before = {path: path.read_bytes() for path in photos.iterdir()}
    assert run("tag", photos, *all_tags(model), "--write", "sidecar", "--flat").exit_code == 0
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


def test_a_dry_run_shows_the_difference_and_writes_nothing(model: Path, photos: Path) -> None:
    options = (*all_tags(model), "--tags", "red, my thing", "--write", "sidecar", "--dry-run")
    done = run("tag", photos / "0.jpg", *options)
    path, words, files = done.stdout.rstrip("\n").split("\t")
    assert (path, files) == (str(photos / "0.jpg"), str(photos / "0.jpg.xmp"))
    assert set(words.split(", ")) == {"+mine", "+red", "+my thing"}
    row = json.loads(run("tag", photos / "0.jpg", *options, "--format", "jsonl").stdout)
    assert (row["files"], row["error"]) == ([str(photos / "0.jpg.xmp")], None)
    assert names(photos) == ["0.jpg", "1.jpg", "2.jpg"]
    assert run("tag", photos / "0.jpg", *options, "--format", "csv").exit_code == 2


def test_undo_takes_back_what_was_written(model: Path, photos: Path) -> None:
    before = {path: xmp.lists(path).get(xmp.IPTC) for path in photos.iterdir()}
    run("tag", photos, *all_tags(model), "--write", "embed")
    assert xmp.one_list(photos / "1.jpg", xmp.SUBJECT)
    done = run("tag", photos, "--undo")
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 3)
    assert {path: xmp.lists(path).get(xmp.IPTC) for path in photos.iterdir()} == before
    assert xmp.one_list(photos / "1.jpg", xmp.SUBJECT) == []
    assert run("tag", photos, "--undo").stdout == ""


def test_a_prefix_and_the_vocabularys_own_tree(photos: Path) -> None:
    options = ("--tags", "dog", "--threshold", "0", "--write", "sidecar")
    run("tag", photos / "1.jpg", *options, "--prefix", "AI|objects", "--language", "de")
    found = xmp.lists(photos / "1.jpg.xmp")
    assert found[xmp.SUBJECT] == ["Hund"]
    assert found[xmp.TAGS_LIST] == ["AI/objects/Tier/Hund"]
    assert found[xmp.TREE] == ["AI|objects|Tier|Hund"]


def test_tags_of_low_scores_are_shown_and_not_written(model: Path, photos: Path) -> None:
    options = (*all_tags(model), "--write", "sidecar", "--min-score", "1", "--sidecar-name", "stem")
    assert run("tag", photos / "1.jpg", *options).stdout.count("\t") == 1
    assert names(photos) == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_photo_that_cannot_be_written_is_a_row_and_the_rest_is_done(model: Path, photos: Path) -> None:
    (photos / "1.jpg.xmp").write_text("<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RD")
    done = run("tag", photos, *all_tags(model), "--write", "sidecar", "--format", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert rows[1]["error"]["type"] == "MetadataError"
    assert rows[1]["tags"]
    assert "1.jpg.xmp" in done.stderr
    assert (photos / "2.jpg.xmp").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--prefix", "AI"), "--prefix needs --write"),
        (("--min-score", "0"), "--min-score needs --write"),
        (("--dry-run", "--touch"), "--touch, --dry-run needs --write"),
        (("--write", "sidecar", "--undo"), "give one of them"),
        (("--undo", "--prefix", "AI"), "--undo, which writes no tags"),
        (("--write", "paper"), "'paper' is not one of"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_use(
    photos: Path, options: tuple[str, ...], said: str
) -> None:
    done = run("tag", photos, *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_without_exiftool_nothing_is_begun(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = run("tag", photos, "--write", "sidecar")
    assert done.exit_code == 2
    assert "libimage-exiftool-perl" in done.stderr
    assert done.stdout == ""


CAPTION = "XMP-dc:Description"


def caption_of(file: Path) -> list[str]:
    return xmp.one_list(file, CAPTION) if file.exists() else []


def test_captions_are_written_where_the_user_has_none_and_taken_back_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("cat.jpg", "flower.jpg"):
        shutil.copy(EXAMPLES / name, photos)
    xmp.tag(photos / "flower.jpg", f"-{CAPTION}=my own words")
    run("tag", photos / "cat.jpg", "--write", "sidecar", "--flat")
    tags = xmp.one_list(photos / "cat.jpg.xmp", xmp.SUBJECT)
    dry = run("caption", photos, "--write", "sidecar", "--dry-run")
    assert "caption: " in dry.stdout and caption_of(photos / "cat.jpg.xmp") == []
    done = run("caption", photos, "--write", "sidecar")
    sentences = dict(line.split("\t") for line in done.stdout.splitlines())
    assert done.exit_code == 0 and len(sentences) == 2
    assert caption_of(photos / "cat.jpg.xmp") == [sentences[str(photos / "cat.jpg")]]
    assert xmp.one_list(photos / "cat.jpg.xmp", xmp.SUBJECT) == tags
    assert names(photos) == ["cat.jpg", "cat.jpg.xmp", "flower.jpg"]
    assert caption_of(photos / "flower.jpg") == ["my own words"]
    assert run("caption", photos, "--write", "sidecar", "--dry-run").stdout == ""  # all is as it shall be
    assert run("caption", photos, "--undo").stdout.count("-caption") == 1
    assert caption_of(photos / "cat.jpg.xmp") == []
    assert xmp.one_list(photos / "cat.jpg.xmp", xmp.SUBJECT) == tags
    run("tag", photos, "--undo")
    assert names(photos) == ["cat.jpg", "flower.jpg"]


def test_a_caption_alone_makes_a_sidecar_that_undo_removes(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path)
    assert run("caption", tmp_path, "--write", "sidecar", "--sidecar-name", "stem").exit_code == 0
    assert names(tmp_path) == ["cat.jpg", "cat.xmp"] and caption_of(tmp_path / "cat.xmp")
    run("caption", tmp_path, "--undo")
    assert names(tmp_path) == ["cat.jpg"]
    run("caption", tmp_path, "--write", "embed")
    assert names(tmp_path) == ["cat.jpg"] and caption_of(tmp_path / "cat.jpg")
    run("caption", tmp_path, "--undo")
    assert caption_of(tmp_path / "cat.jpg") == []


@pytest.mark.parametrize(
    ("caption", "written"),
    [(None, None), ("", None), ("a photo", None), ("a photo of a cup", "a photo of a cup")],
)
def test_a_caption_that_says_nothing_is_not_written(caption: str | None, written: str | None) -> None:
    assert to_write(caption) == written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--write", "sidecar", "--undo"), "give one of them"),
        (("--touch",), "--touch needs --write"),
        (("--dry-run",), "--dry-run needs --write"),
        (("--write", "sidecar", "--ray=local"), "cannot be used with --ray"),
        (("--write", "sidecar", "--prefix", "AI"), "No such option"),
    ],
)
def test_options_of_captions_that_do_not_go_together(
    photos: Path, options: tuple[str, ...], said: str
) -> None:
    done = run("caption", photos, *options)
    assert done.exit_code == 2 and said in done.stderr
