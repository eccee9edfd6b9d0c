"""What the command line writes, and what it never replaces: real files, real processes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anytag import Failure
from anytag.cli import stream
from anytag.cli.draw import Drawings
from tests.command import on_a_terminal, run, start
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with five photos in `photos`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        coarse = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((40, 30)).save(folder / f"{number}.jpg")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_output_replaces_a_photo_an_input_or_what_others_made(model: Path, photos: Path) -> None:
    os.link("photos/0.jpg", "hard.txt")
    Path("soft.jsonl").symlink_to("photos/1.jpg")
    Path("list.txt").write_text("dog\n")
    Path("notes.txt").write_text("mine")
    for command in (
        ["tag", "photos/0.jpg", "--output", "photos/0.jpg"],
        ["tag", "photos/0.jpg", "--output", "photos/1.jpg", "--overwrite"],
        ["tag", "--output", "photos/0.jpg", "photos/1.jpg", "--format", "csv"],
        ["tag", "photos", "--output", "hard.txt", "--overwrite"],
        ["tag", "photos/*.jpg", "--output", "soft.jsonl", "--overwrite"],
        ["tag", "photos", "--tags-from", "list.txt", "--output", "list.txt", "--overwrite"],
        ["tag", "photos", "--output", "notes.txt"],
        ["tag", "photos", "--output", "new.JPEG"],
        ["caption", "photos", "--output", "photos/0.jpg", "--format", "jsonl"],
        ["caption", "photos", "--output", "hard.txt", "--overwrite"],
        ["match", "photos", "--text", "dog", "--output", "notes.txt"],
        ["match", "photos", "--text", "dog", "--gallery", "photos/0.jpg"],
        ["match", "--text", "dog", "photos/1.jpg", "--gallery", "notes.txt"],
        ["match", "photos", "--text", "dog", "--gallery", "no/where"],
        ["tag", "photos", "--draw", "notes.txt"],
        ["tag", "photos", "--draw", "notes.txt/below"],
        ["tag", "photos", "--draw", "new", "--output", "new"],
        ["tag", "photos", "--draw", "new/below", "--output", "photos/../new"],
        ["match", "photos", "--text", "dog", "--gallery", "new", "--output", "new"],
    ):
        before = content(photos.parent)
        done = run(*command, "--model", "no-such-model")  # which is looked for later
        assert done.exit_code == 2, command
        assert "no-such-model" not in done.stderr, command
        assert content(photos.parent) == before
        assert not done.stdout


def test_what_galleries_and_models_are_made_of_is_input(model: Path, photos: Path) -> None:
    shutil.copytree(model, "model")
    words = ["match", "--text", "dog", "--model", "model", "--gallery", "g"]
    assert run(*words, "photos").exit_code == 0
    before = content(Path())
    for output in ("g/photos.jsonl", "g/tokens.f16", "g/new.txt", "g/../g/lock", "model/card.json"):
        done = run(*words, "--output", output, "--format", "text", "--overwrite")
        assert done.exit_code == 2, output
    done = run("tag", "photos", "--model", "model", "--output", "model/vocabulary.jsonl", "--overwrite")
    assert done.exit_code == 2
    assert content(Path()) == before
    assert run(*words, "--output", "ranked.txt").exit_code == 0


@pytest.mark.parametrize("words", [["tag", "--draw", ""], ["match", "--text", "dog", "--gallery", ""]])
def test_an_empty_name_is_not_the_working_folder(photos: Path, words: list[str]) -> None:
    before = content(Path())
    done = run(*words, "photos")
    assert done.exit_code == 2 and "An empty name was given" in done.stderr
    assert content(Path()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="a working folder can be removed")
@pytest.mark.parametrize("words", [["tag"], ["match", "--text", "dog"]])
def test_full_paths_do_without_a_working_folder(
    model: Path, photos: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    (photos.parent / "gone").rmdir()
    output = photos.parent / "out.jsonl"
    done = run(*words, photos, "--model", model)
    assert done.exit_code == 0 and done.stdout.count("\n") == 5
    assert run(*words, photos, "--model", model, "--output", output).exit_code == 0
    assert output.read_bytes().count(b"\n") == 5


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
@pytest.mark.parametrize("words", [["tag"], ["match", "--text", "dog"]])
def test_text_names_photos_by_their_bytes(model: Path, photos: Path, words: list[str]) -> None:
    name = b"photos/\xff\xe2\x80\xae\x1b.jpg"
    Path("photos/0.jpg").rename(os.fsdecode(name))
    process = start(*words, "photos", "--model", model)
    rows, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert name in [row.partition(b"\t")[0] for row in rows.split(b"\n")]


def test_folders_without_permission_are_refused_before_the_work(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("locked").mkdir()
    allowed = os.access  # for root all are
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and allowed(path, mode))
    for command in (
        ["tag", "photos", "--output", "locked/a.txt"],
        ["tag", "photos", "--draw", "locked/below/it"],
        ["match", "photos", "--text", "dog", "--gallery", "locked/a"],
        ["finetune", "--data", "photos/0.jpg", "--output", "locked/model"],
        ["eval", "--data", "photos/0.jpg", "--output", "locked/report"],
    ):
        done = run(*command)
        assert done.exit_code == 2 and "ermission" in done.stderr, done.output


def test_photos_of_a_list_are_held_against_the_output_as_they_come(model: Path, photos: Path) -> None:
    Path("photos/3.jpg").write_text("not a photo")
    os.link("photos/3.jpg", "out.txt")
    before = content(photos)
    paths = b"photos/0.jpg\nphotos/3.jpg\n"
    done = run("tag", "-", "--model", model, "--output", "out.txt", "--overwrite", stdin=paths)
    assert done.exit_code == 2 and "is an input" in done.stderr
    assert content(photos) == before and Path("out.txt").samefile("photos/3.jpg")


def test_an_earlier_result_of_the_same_kind_gives_way_and_others_with_overwrite(
    model: Path, photos: Path
) -> None:
    for name in ("a.txt", "a.jsonl", "a.csv", "a"):
        for _ in range(2):
            assert run("tag", "photos", "--model", model, "--output", name).exit_code == 0
    Path("b.jsonl").write_text('{"image": "mine.jpg"}\n')
    assert run("tag", "photos", "--model", model, "--output", "b.jsonl").exit_code == 2
    assert run("tag", "photos", "--model", model, "--output", "b.jsonl", "--overwrite").exit_code == 0
    assert Path("b.jsonl").read_bytes() == Path("a.jsonl").read_bytes()
    assert run("tag", "photos", "--model", model, "--output", "a.txt", "--format", "csv").exit_code == 2


def test_overwrite_replaces_only_text(model: Path, photos: Path) -> None:
    shutil.copy(photos / "1.jpg", "IMG")
    Path("1.jpg.xmp").write_text("<x:xmpmeta/>")
    before = content(Path())
    for name, says in (("IMG", "is not a text file"), ("1.jpg.xmp", "has the suffix of a sidecar")):
        options = ("--output", name, "--format", "text", "--overwrite")
        done = run("tag", "photos/0.jpg", "--model", model, *options)
        assert done.exit_code == 2 and says in done.stderr
    assert content(Path()) == before


def test_a_photo_without_permission_stops_no_other(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may read everything
    done = run("tag", "photos/0.jpg", "photos/1.jpg", "--model", model)
    assert done.exit_code == 0 and done.stdout.count("\n") == 2


@pytest.mark.parametrize(
    ("command", "known"),
    [
        (["tag", "x"], ".txt, .text, .jsonl, .csv"),
        (["caption", "x"], ".txt, .text, .jsonl"),
        (["match", "x", "--text", "dog"], ".txt, .text, .jsonl"),
    ],
)
def test_one_rule_says_the_format(photos: Path, command: list[str], known: str) -> None:
    for name in ("o.json", "o.tsv", "o.CSVX", *(() if "csv" in known else ("o.csv",))):
        done = run(*command, "--output", name)
        assert done.exit_code == 2 and f"expected {known}," in done.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["photos"]


def test_suffixes_in_any_case_and_a_format_beside_any_suffix(model: Path, photos: Path) -> None:
    wanted = run("tag", "photos", "--model", model, "--format", "jsonl").stdout
    for options in (["--output", "a.JSONL"], ["--output", "b.tags", "--format", "jsonl"]):
        assert run("tag", "photos", "--model", model, *options).exit_code == 0
        assert Path(options[1]).read_text() == wanted
    assert run("tag", "photos", "--model", model, "--format", "jsonl", "--output", "-").stdout == wanted
    done = run("match", "photos", "--text", "dog", "--model", model, "--output", "m.Jsonl")
    assert done.exit_code == 0
    assert json.loads(Path("m.Jsonl").read_text().splitlines()[0])["text"] == "dog"


def test_a_typo_never_wipes_yesterdays_result(model: Path, photos: Path) -> None:
    assert run("tag", "photos", "--model", model, "--output", "tags.jsonl").exit_code == 0
    before = Path("tags.jsonl").read_bytes()
    for typed in (["photso/"], ["photso"], ["photso", "photos/0.jpg"], ["gone.jpg"]):
        done = run("tag", *typed, "--model", model, "--output", "tags.jsonl")
        assert done.exit_code == (1 if typed == ["gone.jpg"] else 2)
        assert typed[0] in done.stderr
        assert Path("tags.jsonl").read_bytes() == before
    assert "is unchanged" in done.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "tags.jsonl"]


def test_a_killed_run_goes_on_and_gives_what_one_run_gives(model: Path, photos: Path) -> None:
    names = [f"photos/{number}.jpg" for number in (3, 1, 4, 0, 2)] + ["gone.jpg"]
    options = ("--model", model, "--format", "jsonl", "--batch-size", "1", "--workers", "2")
    process = start("tag", "-", *options, "--output", "out", stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout
    process.stdin.write("\n".join([*names[:3], "gone.jpg", ""]).encode())
    process.stdin.flush()
    part = Path("out.part")
    wait_until(lambda: part.exists() and part.read_bytes().count(b"\n") == 4)
    process.kill()
    process.wait(60)
    process.stdin.close()
    process.stdout.close()
    with part.open("ab") as file:
        file.write(b'{"path": "photos/0.jpg", "wid')
    done = run("tag", *names, *options, "--output", "out")
    assert done.exit_code == 2 and "--resume to continue" in done.stderr
    assert run("tag", *names, *options, "--output", "out", "--resume", "--top-k", "1").exit_code == 2
    other = make_tiny_model(Path("other"), seed=5)
    done = run("tag", *names, "--output", "out", "--format", "jsonl", "--resume", "--model", other)
    assert done.exit_code == 2 and "another model" in done.stderr
    assert part.read_bytes().count(b"\n") == 4
    shutil.copy("photos/0.jpg", "gone.jpg")
    done = run("tag", *names, *options, "--output", "out", "--resume")
    assert done.exit_code == 0, done.output
    assert "6 photos, 3 done before, 0 failed" in done.stderr
    assert Path("out").read_text() == run("tag", *names, *options).stdout
    assert not part.exists() and not Path("out.part.json").exists()


def test_two_processes_never_write_one_file(model: Path, photos: Path) -> None:
    process = start("tag", "-", "--model", model, "--output", "out.jsonl")
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"photos/0.jpg\n")
    process.stdin.flush()
    wait_until(lambda: Path("out.jsonl.part").exists() and Path("out.jsonl.part").stat().st_size > 0)
    for more in ([], ["--resume"]):
        done = run("tag", "photos", "--model", model, "--output", "out.jsonl", *more)
        assert done.exit_code == 2 and "another process" in done.stderr
    process.stdin.close()
    assert process.wait(60) == 0
    assert Path("out.jsonl").read_bytes().count(b"\n") == 1
    process.stdout.close()
    process.stderr.close()


def test_a_full_disk_is_exit_code_3_and_loses_nothing(model: Path, photos: Path) -> None:
    Path("out.jsonl").write_text("")
    names = [f"photos/{number % 5}.jpg" for number in range(60)]
    options = ("--model", model, "--threshold", "0", "--output", "out.jsonl")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start("tag", *names, *options, preexec_fn=limit)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert (
        b"Finished rows are in" in said
        and b"--resume" in said
        and b"out.jsonl.part cannot be written: " in said
    )
    assert Path("out.jsonl").read_text() == ""
    assert Path("out.jsonl.part").stat().st_size == 20_000
    assert run("tag", *names, *options, "--resume").exit_code == 0
    wanted = run("tag", *names, "--model", model, "--threshold", "0", "--format", "jsonl").stdout
    assert Path("out.jsonl").read_text() == wanted


def test_a_gallery_on_a_full_disk_is_exit_code_3_and_goes_on(model: Path, photos: Path) -> None:
    for number in range(60):
        shutil.copy(f"photos/{number % 5}.jpg", f"photos/more{number}.jpg")
    words = ["match", "photos", "--text", "dog", "--model", str(model), "--gallery", "g"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))

    process = start(*words, preexec_fn=limit)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3 and b"g cannot be written: " in said
    assert run(*words, "--top-k", "100").stdout.count("\n") == 65


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_part_file_that_is_none_is_not_waited_for(model: Path, photos: Path) -> None:
    os.mkfifo("out.jsonl.part")
    process = start("tag", "photos", "--model", model, "--output", "out.jsonl")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and b"out.jsonl.part is not a regular file" in said
    assert Path("out.jsonl.part").is_fifo() and not Path("out.jsonl").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "command", ["tag photos", "models", "tag photos --output /dev/full", "--help", "--version", "tag --help"]
)
def test_a_stdout_that_takes_no_more_is_exit_code_3(model: Path, photos: Path, command: str) -> None:
    words = command.split()
    with Path("/dev/full").open("w") as full:
        more = ["--model", str(model)] if "photos" in words else []
        process = start(*words, *more, stdout=full if "--output" not in words else subprocess.PIPE)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert b"No space left on device" in said and b"Traceback" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of POSIX")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("tag photos/0.jpg >&-", 2),
        ("tag - <&-", 2),
        ("tag photos/0.jpg gone.jpg 2>&-", 1),
        ("tag photos --output out.jsonl <&- >&- 2>&-", 0),
        ("caption photos >&-", 2),
        ("match photos --text dog >&-", 2),
        ("tag photos | true; exit ${PIPESTATUS[0]}", 141),
    ],
)
def test_closed_streams_are_no_tracebacks(model: Path, photos: Path, line: str, code: int) -> None:
    command, _, rest = line.partition(" ")
    script = f'"$0" -m anytag {command} --model "$1" {rest}'
    if command == "caption":
        script = script.replace('--model "$1" ', "")
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, str(model)], capture_output=True, timeout=60, check=False
    )
    if "| true" in line and done.returncode == 0:
        return  # all rows fitted into the pipe before it was closed
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if "--output" in line:
        assert Path("out.jsonl").read_bytes().count(b"\n") == 5


def test_a_photo_of_stdin_is_tagged_when_it_comes(model: Path, photos: Path) -> None:
    process = start("tag", "-", "--model", model, "--threshold", "0")
    assert process.stdin and process.stdout and process.stderr
    for number in range(3):  # each path is sent after the row of the one before
        process.stdin.write(f"photos/{number}.jpg\n".encode())
        process.stdin.flush()
        watch = threading.Timer(60, process.kill)
        watch.start()
        assert process.stdout.readline().startswith(f"photos/{number}.jpg\t".encode())
        watch.cancel()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read() == b"Stopped.\n"
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def test_failures_are_grouped_by_reason_at_the_end(model: Path, photos: Path) -> None:
    Path("bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    Path("text.jpg").write_text("hello")
    gone = [f"gone{number}.jpg" for number in range(60)]
    done = run("tag", "photos", *gone, "bad.jpg", "text.jpg", "--model", model, "--output", "a.jsonl")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert lines[-5].startswith("67 photos, 62 failed, ") and lines[-5].endswith(" photos/s")
    assert lines[-4] == "62 of 67 photos failed."
    assert lines[-3] == "  60: no such file"
    assert done.stderr.count("Failed: ") == 62  # a log has each
    assert Path("a.jsonl").read_text().count("no such file") == 60
    done = run("tag", *["photos/0.jpg"] * 50, "--model", model, "--output", "b.jsonl")
    assert done.stderr.startswith("50 photos, 0 failed, ")


@pytest.mark.parametrize(("count", "speed"), [(75, "7.5"), (2_150, "215"), (20_150, "2,015")])
def test_the_speed_is_a_plain_number(
    count: int, speed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 10.0))
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    summary = stream.Summary()
    summary.photos = count
    summary.end()
    assert capsys.readouterr().err == f"{count:,} photos, 0 failed, {speed} photos/s\n"


def test_a_reason_of_several_photos_names_none_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    summary = stream.Summary()
    for path in ("a.jpg", "b.jpg"):
        message = f"{path}.xmp cannot be written: Permission denied"
        summary.add(path, Failure("OutputError", message))
    summary.add("c.jpg", Failure("ImageError", "c.jpg: is empty"))
    with pytest.raises(SystemExit):
        summary.end()
    said = capsys.readouterr().err
    assert "  2: ….xmp cannot be written: Permission denied\n  1: is empty\n" in said


def test_a_terminal_shows_the_first_failures_and_counts_the_others(model: Path, photos: Path) -> None:
    gone = [f"gone{number}.jpg" for number in range(40)]
    code, seen, _ = on_a_terminal("tag", "photos", *gone, "--model", model)
    assert code == 1
    assert seen.count("Failed: ") == 5
    assert "45 photos, 40 failed, " in seen and "  40: no such file" in seen


def test_rows_for_a_program_are_not_glued_to_a_bar(model: Path, photos: Path) -> None:
    many = ["photos/0.jpg"] * 60
    code, seen, piped = on_a_terminal("tag", *many, "--model", model, stdout=False)
    assert code == 0 and piped.count(b"photos/0.jpg\t") == 60
    assert "\u2501" not in seen  # the program may print on this terminal
    assert seen.startswith("60 photos, 0 failed, ")


def test_no_color_reaches_every_line(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import command

    monkeypatch.setitem(command.ENVIRONMENT, "NO_COLOR", "1")
    code, seen, _ = on_a_terminal("tag", "photos", "gone.jpg", "--model", model)
    assert code == 1 and "Failed: gone.jpg" in seen
    assert "\x1b" not in seen


def test_drawings_never_touch_photos_nor_each_other(model: Path, photos: Path) -> None:
    for folder in ("a", "b", "photos"):
        Path(folder).mkdir(exist_ok=True)
        shutil.copy("photos/0.jpg", f"{folder}/x.jpg")
        shutil.copy("photos/1.jpg", f"{folder}/x-2.jpg")
    Image.open("photos/0.jpg").save("a/x.png")
    before = content(photos.parent)
    run("tag", "photos", "--draw", "photos", "--model", model, "--threshold", "0")
    folders = ("tag", "a", "b", photos / "x.jpg", "--model", model, "--threshold", "0", "--draw", "drawn")
    assert run(*folders).exit_code == 0
    assert run(*folders).exit_code == 0  # earlier drawings of the same photos give way
    after = content(photos.parent)
    assert {name: after[name] for name in before} == before
    assert sorted(str(path) for path in Path("drawn").rglob("*") if path.is_file()) == [
        "drawn/a/x-2.jpg.tags.jpg", "drawn/a/x.jpg.tags.jpg", "drawn/a/x.png.tags.jpg",
        "drawn/b/x-2.jpg.tags.jpg", "drawn/b/x.jpg.tags.jpg", "drawn/photos/x.jpg.tags.jpg",
    ]  # fmt: skip


def test_drawings_replace_nothing_but_drawings_of_the_same_photo(model: Path, photos: Path) -> None:
    mine = Path("drawn/2.jpg.tags.jpg")
    mine.parent.mkdir(parents=True)
    for kind in ("photo", "text", "link"):
        mine.unlink(missing_ok=True)
        if kind == "photo":
            shutil.copy("photos/0.jpg", mine)
        elif kind == "text":
            mine.write_text("mine")
        else:
            mine.symlink_to("nowhere")
        before = content(photos.parent)
        done = run("tag", "photos", "--draw", "drawn", "--model", model)
        assert done.exit_code == 2 and "not a drawing of photos/2.jpg" in done.stderr
        assert content(photos.parent) == before
    mine.unlink()
    Path("drawn/photos").mkdir()
    mine = Path("drawn/photos/2.jpg.tags.jpg")
    mine.write_text("mine")
    done = run("tag", "-", "--draw", "drawn", "--model", model, stdin=b"photos/1.jpg\nphotos/2.jpg\n")
    assert done.exit_code == 1 and "Not drawn: " in done.stderr and "1 drawing failed." in done.stderr
    assert mine.read_text() == "mine" and Path("drawn/photos/1.jpg.tags.jpg").exists()


def test_drawings_of_several_runs_stay_apart(model: Path, photos: Path) -> None:
    Path("other").mkdir()
    shutil.copy("photos/1.jpg", "other/0.jpg")
    for _ in range(2):
        for folder in ("photos", "other"):
            done = run("tag", f"{folder}/0.jpg", "--draw", "drawn", "--model", model)
            assert done.exit_code == 0, done.stderr
    full = Path("drawn", *photos.parent.parts[1:], "other", "0.jpg.tags.jpg")
    assert sorted(path for path in Path("drawn").rglob("*") if path.is_file()) == sorted(
        [Path("drawn/0.jpg.tags.jpg"), full]
    )


def test_the_longest_names_have_drawings(photos: Path) -> None:
    drawings = Drawings(Path("drawn"), iter(()), max_pixels=1)  # of photos that come one by one
    names = ["x" * 250 + end for end in ("1.jpg", "2.jpg")] + [f"{photos}/0.jpg", "/elsewhere/0.jpg"]
    files = [drawings.file(name) for name in names]
    assert len({*files}) == 4
    assert all(len(file.name) <= 255 for file in files)
    assert files[2:] == [Path("drawn/photos/0.jpg.tags.jpg"), Path("drawn/elsewhere/0.jpg.tags.jpg")]


def test_folders_of_models_and_reports_are_not_made_over_others(photos: Path) -> None:
    Path("data.csv").write_text("image,tags\nphotos/0.jpg,dog\n")
    Path("mine").mkdir()
    Path("mine/report.md").write_text("mine")
    before = content(photos.parent)
    for command in (
        ["finetune", "--data", "data.csv", "--output", "mine"],
        ["finetune", "--data", "data.csv", "--output", "data.csv"],
        ["calibrate", "mini", "--data", "data.csv", "--output", "mine"],
        ["calibrate", "mini", "--data", "data.csv", "--output", "."],
        ["train", "small", "--data", "data.csv", "--output", "mine"],
        ["distill", "mini", "small", "--photos", "photos", "--output", "photos"],
        ["distill", "mini", "small", "--photos", "photos", "--output", "mine"],
        ["eval", "--data", "data.csv", "--output", "mine"],
        ["convert", "data.csv", "--output", "mine"],
        ["convert", "mine", "--output", "data.csv"],
    ):
        done = run(*command)
        assert done.exit_code == 2, done.output
        assert any(word in done.stderr for word in ("exists", "not empty", "input")), done.stderr
        assert content(photos.parent) == before


def test_stdout_is_named_by_a_dash_wherever_a_file_is_written(model: Path, photos: Path) -> None:
    Path("rows.jsonl").write_text('{"image": "photos/0.jpg", "captions": ["a red dog"]}\n')
    Path("table.tsv").write_text("action\tname\tkind\nkeep\tdog\tobject\n")
    assert run("library", "sync", "photos", "--model", model, "--database", "l.db").exit_code == 0
    assert run("library", "add", "photos/0.jpg", "mine", "--database", "l.db").exit_code == 0
    commands: list[tuple[str, ...]] = [
        ("library", "export", "-", "--database", "l.db"),
        ("library", "export", "--labels", "-", "--database", "l.db"),
        ("data", "convert", "rows.jsonl", "-"),
        ("data", "undo", "rows.jsonl", "-", "--step", "parse"),
        ("data", "split", "rows.jsonl", "-"),
        ("data", "check", "rows.jsonl", "--output", "-"),
        ("describe", "dog", "--output", "-"),
        ("vocabulary", "build", "table.tsv", "--output", "-"),
    ]
    for command in commands:
        done = run(*command)
        assert done.exit_code == 0, done.stderr
        assert [json.loads(line) for line in done.stdout.splitlines()], command
    done = run("data", "check", "rows.jsonl", "--report", "-")
    assert done.exit_code == 0 and done.stdout == "" and "1 photo: 0 missing" in done.stderr
    done = run("data", "convert", "rows.jsonl", "-", "--to", "csv")
    assert done.stdout.splitlines()[0].startswith("image,tags")
    done = run("vocabulary", "candidates", "rows.jsonl", "--output", "-", "--min-count", "1")
    assert done.exit_code == 0 and "dog" in done.stdout
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("small", "--cache", "mine"), "--cache is for mini"),
        (("mini", "--tag-list", "data.csv"), "--tag-list is for published annotations"),
    ],
)
def test_training_options_without_effect(photos: Path, options: tuple[str, ...], said: str) -> None:
    Path("data.csv").write_text("image,tags\nphotos/0.jpg,dog\n")
    done = run("train", *options, "--data", "data.csv", "--output", "out")
    assert done.exit_code == 2 and said in done.stderr
    assert not Path("out").exists() and not Path("mine").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "mini", "--data", "rows.csv", "--output", "-"),
        ("finetune", "--data", "rows.csv", "--output", "-"),
        ("distill", "mini", "mini", "--photos", "photos", "--output", "-"),
        ("train", "mini", "--data", "rows.csv", "--output", "-"),
        ("convert", "rows.csv", "-o", "-"),
        ("eval", "--data", "rows.csv", "--output", "-"),
        ("match", "a dog", "photos", "--gallery", "-"),
        ("tag", "photos", "--draw", "-"),
        ("tag", "photos", "--ray=local", "--output", "-"),
        ("data", "shard", "rows.csv", "-"),
        ("data", "ray", "rows.csv", "-"),
        ("library", "sync", "photos", "--database", "-"),
        ("describe", "dog", "--llm", "http://127.0.0.1:9", "--model", "x", "--output", "-"),
        ("vocabulary", "candidates", "rows.csv", "--output", "-", "--report", "-"),
    ],
)
def test_what_is_no_text_is_not_written_under_the_name_of_stdout(
    photos: Path, command: tuple[str, ...]
) -> None:
    Path("rows.csv").write_text("image,tags\nphotos/0.jpg,dog\n")
    done = run(*command)
    assert done.exit_code == 2 and done.stdout == "" and not Path("-").exists()
    assert any(word in done.stderr for word in ("stdout", "cannot be -", "two")), done.stderr
