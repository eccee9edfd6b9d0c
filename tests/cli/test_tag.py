from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anytag import Tagger, TagResult
from anytag.runtime.onnx import available_providers
from tests.command import ENVIRONMENT, on_a_terminal, run, start
from tests.tiny import make_tiny_model

NO_CUDA = pytest.mark.skipif("CUDAExecutionProvider" in available_providers(), reason="CUDA is here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        coarse = np.random.default_rng(i).integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((40, 30)).save(folder / f"{i}.jpg")
    return folder


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_jsonl_is_what_python_gives(model: Path, photos: Path) -> None:
    done = run("tag", photos, "--model", model, "--format", "jsonl")
    assert (done.exit_code, done.stderr) == (0, "")
    tagger = Tagger.load(model)
    assert rows(done.stdout) == [tagger.tag(path).to_dict() for path in sorted(photos.iterdir())]


def test_text_is_plain_when_piped(model: Path, photos: Path) -> None:
    done = run(
        "tag", photos / "1.jpg", photos / "0.jpg", "--model", model, "--threshold", "0", "--top-k", "2"
    )
    tagger = Tagger.load(model)

    def line(result: TagResult) -> str:
        return f"{result.path}\t{', '.join(f'{tag.name} {tag.score:.2f}' for tag in result.tags)}\n"

    wanted = [tagger.tag(photos / name, threshold=0, top_k=2) for name in ("1.jpg", "0.jpg")]
    assert done.stdout == "".join(map(line, wanted))


def test_csv_has_a_header_and_a_row_a_tag(model: Path, photos: Path) -> None:
    done = run("tag", photos / "0.jpg", "--model", model, "--format", "csv", "--threshold", "0")
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["id"] for row in found] == [
        tag.id for tag in Tagger.load(model).tag(photos / "0.jpg", threshold=0).tags
    ]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_some_fail_each_is_reported_the_rest_is_done(model: Path, photos: Path, workers: str) -> None:
    (photos / "2.jpg").write_bytes(b"\xff\xd8\xff broken")
    options = ("--model", model, "--format", "jsonl", "--workers", workers, "--batch-size", "2")
    done = run("tag", "missing.jpg", photos, *options)
    assert done.exit_code == 1
    found = rows(done.stdout)
    assert [Path(row["path"]).name for row in found] == [
        "missing.jpg",
        "0.jpg",
        "1.jpg",
        "2.jpg",
        "3.jpg",
        "4.jpg",
    ]
    assert [bool(row["error"]) for row in found] == [True, False, False, True, False, False]
    assert found[0]["error"] == {"type": "ImageError", "message": "missing.jpg: no such file"}
    assert done.stderr.count("Failed: ") == 2
    assert "missing.jpg" in done.stderr
    assert "2 of 6 photos failed." in done.stderr


@pytest.mark.parametrize("command", [("tag",), ("tag", "--where"), ("caption",), ("match", "--text", "cat")])
def test_the_limit_of_pixels_can_be_set(command: tuple[str, ...], photos: Path) -> None:
    Image.new("RGB", (60, 50)).save(photos / "large.png")
    low = run(*command, photos / "large.png", "--max-pixels", "2999")
    assert low.exit_code == 1
    assert "60×50 is 3,000 pixels, more than the limit of 2,999" in low.stderr
    assert "--max-pixels 3000" in low.stderr
    assert run(*command, photos / "large.png", "--max-pixels", "3000").exit_code == 0


def test_failures_are_not_lines_of_text(model: Path, photos: Path) -> None:
    done = run("tag", "missing.jpg", photos / "0.jpg", "--model", model)
    assert done.exit_code == 1
    assert done.stdout.startswith(str(photos))
    assert done.stdout.count("\n") == 1


def test_asked_tags(model: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "tags.txt"
    file.write_text("\ufeffpuppy\n\nblue house: walls painted blue; a house\r\n", encoding="utf-8")
    options = ("--model", model, "--format", "jsonl")
    (found,) = rows(run("tag", photos / "0.jpg", *options, "--tags", "dog, red sofa,cat").stdout)
    assert {tag["name"]: tag["source"] for tag in found["tags"]} == {
        "dog": "vocabulary",
        "red sofa": "custom",
        "cat": "vocabulary",
    }
    (found,) = rows(run("tag", photos / "0.jpg", *options, "--tags-from", file).stdout)
    wanted = ["puppy", "blue house: walls painted blue; a house"]
    assert found == Tagger.load(model).tag(photos / "0.jpg", tags=wanted).to_dict()
    (found,) = rows(run("tag", photos / "0.jpg", *options, "--tags-from", file, "--tags", "cat").stdout)
    assert {tag["name"] for tag in found["tags"]} == {"puppy", "blue house", "cat"}
    (found,) = rows(run("tag", photos / "0.jpg", *options, "--also", "red sofa", "--threshold", "0").stdout)
    assert len(found["tags"]) == len(Tagger.load(model).vocabulary) + 1


def test_repeated_options_add_up(model: Path, photos: Path, tmp_path: Path) -> None:
    for name, text in (("a.txt", "tree\n# a comment"), ("b.txt", "blue house: tall, and blue")):
        (tmp_path / name).write_text(text)
    options = ("--model", model, "--format", "jsonl")
    files = ("--tags-from", tmp_path / "a.txt", "--tags-from", tmp_path / "b.txt")
    done = run("tag", photos / "0.jpg", *options, "--tags", "dog", "--tags", "cat, red", *files)
    assert {tag["name"] for tag in rows(done.stdout)[0]["tags"]} == {
        "dog",
        "cat",
        "red",
        "tree",
        "blue house",
    }
    done = run("tag", photos / "0.jpg", *options, "--also", "zebra", "--also", "tree", "--threshold", "0")
    assert {tag["id"] for tag in rows(done.stdout)[0]["tags"]} >= {"custom:zebra", "custom:tree", "dog"}
    done = run(
        "tag",
        photos / "0.jpg",
        *options,
        "--threshold",
        "0",
        "--exclude-tags",
        "animal",
        "--exclude-tags",
        "rot",
    )
    assert {tag["id"] for tag in rows(done.stdout)[0]["tags"]} == {"beach", "running", "ice cream"}


def test_a_vocabulary_and_a_language_of_ones_own(model: Path, photos: Path, tmp_path: Path) -> None:
    few = Tagger.load(model).vocabulary.subset(["dog", "cat", "running"])
    few.rename({"dog": "hound"}).with_thresholds(0).write(tmp_path / "few.jsonl")
    options = ("--model", model, "--format", "jsonl", "--vocabulary", tmp_path / "few.jsonl")
    done = run("tag", photos / "0.jpg", *options)
    assert {tag["name"] for tag in rows(done.stdout)[0]["tags"]} == {"hound", "cat", "running"}
    done = run("tag", photos / "0.jpg", *options, "--language", "de", "--exclude-tags", "chat")
    assert {tag["name"] for tag in rows(done.stdout)[0]["tags"]} == {"Hund", "running"}


def test_custom_tags_below_the_threshold_are_said_once(model: Path, photos: Path) -> None:
    done = run("tag", photos, "--model", model, "--also", "close view, people", "--threshold", "1")
    assert done.exit_code == 0
    assert done.stderr.count("Below the threshold in every photo: ") == 1
    best = max(
        (tag.score, photo.path, tag.name)
        for photo in Tagger.load(model).tag_many(sorted(photos.iterdir()), ["close view", "people"])
        for tag in photo.tags
    )
    assert f"every photo: {best[2]} (best {best[0]:.2f}, {best[1]})" in done.stderr
    done = run("tag", photos, "--model", model, "--also", "close view", "--threshold", "0")
    assert done.stderr == ""


def test_unknown_words_are_said(model: Path, photos: Path) -> None:
    done = run("tag", photos / "0.jpg", "--model", model, "--tags", "Katze, Katzenklo, 猫 view")
    assert done.exit_code == 0
    assert "Words that the model does not know: Katzenklo, 猫." in done.stderr


def test_what_cannot_be_read_is_said_and_the_rest_is_done(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("tag", tmp_path / "empty", photos / "*.gif", photos / "0.jpg", "--model", model)
    assert done.exit_code == 1
    assert done.stdout.count("\n") == 1
    assert done.stderr.count("Failed: ") == 2


def test_lists_with_nul_and_files_of_paths(model: Path, photos: Path, tmp_path: Path) -> None:
    odd = photos / "two\nlines.jpg"
    (photos / "1.jpg").rename(odd)
    given = f"{odd}\0{photos / '0.jpg'}\0".encode()
    done = run("tag", "-", "-0", "--model", model, "--format", "jsonl", stdin=given)
    assert [row["path"] for row in rows(done.stdout)] == [str(odd), str(photos / "0.jpg")]
    (tmp_path / "list.txt").write_bytes(f"{photos / '2.jpg'}\r\n{photos / '3.jpg'}\r\n".encode("utf-16"))
    done = run(
        "tag",
        "--files-from",
        tmp_path / "list.txt",
        "--model",
        model,
        "--format",
        "jsonl",
        "--exclude",
        "3.*",
    )
    assert [row["path"] for row in rows(done.stdout)] == [str(photos / "2.jpg")]


@pytest.mark.skipif(sys.platform == "win32", reason="encodings of locales")
def test_words_typed_in_a_plain_locale(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LC_ALL", "POSIX"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setitem(ENVIRONMENT, name, value)
    master = start("tag", photos / "0.jpg", "--model", model, "--tags", "caf\udcc3\udca9 red, chien")
    out, _ = master.communicate(timeout=60)
    assert master.returncode == 0
    assert "café red" in out.decode()


def test_paths_come_from_stdin(model: Path, photos: Path) -> None:
    given = "".join(f"{photos / name}\n" for name in ("3.jpg", "1.jpg")) + "\nmissing.jpg"
    done = run("tag", "-", photos / "0.jpg", "--model", model, "--format", "jsonl", stdin=given.encode())
    assert [Path(row["path"]).name for row in rows(done.stdout)] == ["3.jpg", "1.jpg", "missing.jpg", "0.jpg"]
    assert done.exit_code == 1


def test_output_goes_to_a_file_whose_suffix_says_the_format(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    for name, format_ in (("a.jsonl", "jsonl"), ("a.csv", "csv"), ("a.txt", "text"), ("a", "text")):
        shown = run("tag", photos, "--model", model, "--format", format_).stdout
        done = run("tag", photos, "--model", model, "--output", tmp_path / name)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
        assert (tmp_path / name).read_text(encoding="utf-8") == shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.csv", "a.jsonl", "a.txt", "photos"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing argument 'PATH...'"),
        (["empty"], "The folder 'empty' has no photos"),
        (["*.nothing"], "matches no photos"),
        (["x.jpg", "--top-k", "0"], "--top-k"),
        (["x.jpg", "--threshold", "1.1"], "--threshold"),
        (["x.jpg", "--batch-size", "0"], "--batch-size"),
        (["x.jpg", "--workers", "0"], "--workers"),
        (["x.jpg", "--format", "xml"], "--format"),
        (["x.jpg", "--device", "abacus"], "--device"),
        pytest.param(["x.jpg", "--device", "cuda"], "CUDAExecutionProvider is not available", marks=NO_CUDA),
        (["x.jpg", "--tags", ""], "has no tags"),
        (["x.jpg", "--tags", ", ,"], "has no tags"),
        (["x.jpg", "--tags", "dog", "--exclude-tags", "cat"], "give one of them"),
        (["x.jpg", "--tags", 'dog, "cat'], "a double quote is not closed"),
        (["x.jpg", "--also", "tower: tall, with red walls"], "does the comma end the description"),
        (["x.jpg", "--exclude-tags", "dgo"], "did you mean 'dog'"),
        (["x.jpg", "--language", "xx"], "available: de, fr"),
        (["x.jpg", "--vocabulary", "bad.txt"], "bad.txt, line 1"),
        ([""], "An empty path was given"),
        (["nowhere/"], "The folder 'nowhere/' does not exist"),
        (["x.jpg", "--exclude", "x.*"], "All photos are excluded by --exclude"),
        (["x.jpg", "--tags", "dog", "--also", "cat"], "give one of them"),
        (["x.jpg", "--tags-from", "missing.txt"], "missing.txt"),
        (["x.jpg", "--tags-from", "blank.txt"], "no tags found"),
        (["x.jpg", "--tags-from", "bad.txt"], "bad.txt, line 2"),
        (["x.jpg", "--tags-from", "latin.txt"], "cannot be read as UTF-8"),
        (["x.jpg", "--output", "empty"], "--output"),
        (["x.jpg", "--output", "no/where.jsonl"], "Cannot write"),
        (["x.jpg", "--model", "no-such-model"], "no model 'no-such-model'"),
        (["x.jpg", "--bogus"], "--bogus"),
    ],
)
def test_wrong_use_is_exit_code_2_and_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "bad.txt").write_text("dog\n: no name\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    done = run("tag", *arguments, *(() if "--model" in arguments else ("--model", model)))
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert says in " ".join(done.stderr.split())


def test_a_broken_model_is_said_before_any_photo(model: Path, photos: Path, tmp_path: Path) -> None:
    copy = make_tiny_model(tmp_path / "copy")
    (copy / "image.onnx").write_bytes(b"")
    done = run("tag", photos, "--model", copy)
    assert done.exit_code == 2
    assert "image.onnx" in done.stderr


def test_a_closed_pipe_is_quiet(model: Path, photos: Path) -> None:
    process = start("tag", "-", "--model", model, "--threshold", "0", "--format", "jsonl")
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(f"{photos / '0.jpg'}\n".encode() * 400)
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) != 0
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_nothing_is_written_beside_the_output(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setitem(ENVIRONMENT, name, str(home))
    monkeypatch.delitem(ENVIRONMENT, "ORT_DISABLE_TELEMETRY", raising=False)
    process = start("tag", photos / "0.jpg", "--model", model)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_stops_with_130_and_keeps_what_was_done(
    model: Path, photos: Path, tmp_path: Path, times: int
) -> None:
    output, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    process = start("tag", "-", "--model", model, "--output", output, "--batch-size", "2", "--workers", "2")
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(f"{photos / '0.jpg'}\n".encode() * 30)
    process.stdin.flush()  # and it waits for more
    deadline = time.monotonic() + 60
    while not (part.exists() and part.read_bytes()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.03)
    # at the very end Python itself handles the signal again
    assert process.wait(60) in (130, *([-signal.SIGINT] if times > 1 else []))
    kept = rows(part.read_text(encoding="utf-8"))
    assert 0 < len(kept) <= 30
    assert kept[0] == Tagger.load(model).tag(photos / "0.jpg").to_dict()
    assert not output.exists()
    assert process.stderr.read().decode().splitlines() == [
        f"Finished rows are in {part}", "To continue, run the same command with --resume.", "Stopped.",
    ]  # fmt: skip
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_colours(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, seen, _ = on_a_terminal("tag", photos, "missing.jpg", "--model", model, "--threshold", "0")
    assert code == 1
    assert f"\x1b[1m{photos / '0.jpg'}\x1b[0m\n" in seen
    assert "Failed: missing.jpg: no such file" in seen
    assert "━" not in seen  # six photos need no progress bar


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_long_work_on_a_terminal_gets_a_progress_bar(model: Path, photos: Path, tmp_path: Path) -> None:
    many = [photos / "0.jpg"] * 60
    code, seen, _ = on_a_terminal("tag", *many, "missing.jpg", "--model", model, "--tags", "dog")
    assert code == 1
    assert "━" in seen
    assert "/61" in seen
    assert seen.count(f"\x1b[1m{photos / '0.jpg'}\x1b[0m") == 60
    code, seen, _ = on_a_terminal("tag", *many, "--model", model, "--output", tmp_path / "out.csv")
    assert code == 0
    assert "━" in seen
    assert str(photos) not in seen


def test_an_empty_list_of_paths_is_noted(model: Path) -> None:
    done = run("tag", "-", "--model", model, stdin=b"")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "No photos are listed, or --exclude excludes all of them.\n"


def test_escape_sequences_in_paths_stay_on_a_pipe(model: Path, photos: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[31m.jpg"
    shutil.copy(photos / "0.jpg", odd)
    assert str(odd) in run("tag", odd, "--model", model, "--format", "csv").stdout
