"""`anytag library` as users type it, with real processes where they are killed or meet."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anytag import Library
from tests.command import run, start
from tests.libraries import rows, write_photo
from tests.tiny import make_tiny_model

NEEDS_SIGNALS = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for number in range(4):
        write_photo(tmp_path / f"photos/{number}.jpg", number)
    return tmp_path


def sync(place: Path, model: Path, *more: str | Path) -> Any:
    return run("library", "sync", "--database", place / "l.db", "--model", model, *more)


def test_thumbnails_of_a_library_among_the_photos_are_no_photos(place: Path, model: Path) -> None:
    database = place / "photos" / "l.db"
    for said in ("4 photos: 4 new, 4 tagged\n", "4 photos: 4 unchanged\n"):
        done = run("library", "sync", place / "photos", "--database", database, "--model", model)
        assert (done.exit_code, done.stdout) == (0, said)
    assert any(database.with_name("l.db.thumbnails").rglob("*.jpg"))


def test_an_export_replaces_only_an_export(place: Path, model: Path) -> None:
    sync(place, model, place / "photos")
    mine = place / "mine.jsonl"
    for labels in ((), ("--labels",)):
        for text in ('{"path": "a.jpg", "tags": []}\n', '{"image": "a.jpg", "source": "mine"}\n'):
            mine.write_text(text)
            done = run("library", "export", mine, "--database", place / "l.db", *labels)
            assert done.exit_code == 2 and mine.read_text() == text
    for _ in range(2):
        assert run("library", "export", place / "all.jsonl", "--database", place / "l.db").exit_code == 0
    done = run("tag", place / "photos", "--model", model, "--output", place / "all.jsonl")
    assert done.exit_code == 2 and "all.jsonl exists already" in done.stderr


def test_sync_status_list_and_export_tell_one_story(place: Path, model: Path) -> None:
    done = sync(place, model, place / "photos")
    assert (done.exit_code, done.stdout) == (0, "4 photos: 4 new, 4 tagged\n")
    again = sync(place, model)
    assert (again.exit_code, again.stdout) == (0, "4 photos: 4 unchanged\n")
    database = ("--database", place / "l.db")
    status = json.loads(run("library", "status", "--format", "json", *database).stdout)
    assert status["folders"] == [{"path": str(place / "photos"), "states": {"done": 4}}]
    assert "4 done" in run("library", "status", *database).stdout
    listed = [
        json.loads(line)
        for line in run("library", "list", "--format", "jsonl", *database).stdout.splitlines()
    ]
    assert [Path(row["path"]).name for row in listed] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    text = run("library", "list", place / "photos", *database).stdout.splitlines()
    assert [line.split("\t")[1] for line in text] == [", ".join(row["tags"]) for row in listed]
    assert run("library", "export", place / "all.jsonl", *database).exit_code == 0
    exported = [json.loads(line) for line in (place / "all.jsonl").read_text().splitlines()]
    assert exported == listed
    assert run("library", "export", place / "all.jsonl", *database).exit_code == 0  # an earlier export may go


def test_what_the_user_says_stays_and_comes_out_as_labels(place: Path, model: Path) -> None:
    sync(place, model, place / "photos")
    database = ("--database", place / "l.db")
    photo = place / "photos/0.jpg"
    assert "mine" in run("library", "add", photo, "mine", *database).stdout
    run("library", "reject", photo, "dog", *database)
    run("library", "accept", photo, "red", *database)
    assert run("library", "export", "--labels", place / "labels.jsonl", *database).stdout.startswith(
        "1 photo ->"
    )
    row = json.loads((place / "labels.jsonl").read_text())
    assert (row["image"], row["tags"], row["absent"][-1]) == (str(photo), ["red", "mine"], "dog")
    inspected = run("data", "inspect", place / "labels.jsonl")
    assert inspected.exit_code == 0 and "mine" in inspected.stdout
    refused = run("library", "forget", place / "photos", *database)
    assert refused.exit_code == 2 and "--decisions" in refused.stderr
    forgotten = run("library", "forget", place / "photos", "--decisions", *database)
    assert forgotten.stdout == "4 photos removed\n"


def test_decisions_on_photos_that_have_gone_are_not_lost_unasked(place: Path, model: Path) -> None:
    sync(place, model, place / "photos")
    database = ("--database", place / "l.db")
    run("library", "add", place / "photos/0.jpg", "mine", *database)
    (place / "photos/0.jpg").unlink()
    sync(place, model)
    refused = run("library", "forget", "--gone", *database)
    assert refused.exit_code == 2 and "Your decisions about 1 photo would be lost" in refused.stderr
    forgotten = run("library", "forget", "--gone", "--decisions", *database)
    assert forgotten.stdout == "1 photo removed\n"


def test_rows_failures_and_exit_codes(place: Path, model: Path) -> None:
    (place / "photos/empty.jpg").touch()
    done = sync(place, model, place / "photos", "--format", "jsonl")
    found = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.exit_code == 1 and found["0.jpg"]["action"] == "tagged"
    assert found["empty.jpg"]["action"] == "failed" and "is empty" in found["empty.jpg"]["error"]["message"]
    assert "1 of 5 photos failed" in done.stderr
    known = sync(place, model)  # and not tried again
    assert (known.exit_code, known.stdout) == (1, "5 photos: 4 unchanged, 1 failed\n")
    assert "1 failed before" in known.stderr and "list --state failed" in known.stderr
    left_out = sync(place, model, "--exclude", "empty.jpg")
    assert (left_out.exit_code, left_out.stdout) == (0, "4 photos: 4 unchanged, 1 gone\n")
    assert sync(place, model).exit_code == 1
    listed = run("library", "list", "--state", "failed", "--database", place / "l.db")
    assert "empty.jpg\t(is empty" in listed.stdout
    (place / "photos").rename(place / "away")
    missing = sync(place, model)
    assert missing.exit_code == 1 and "5 missing but kept" in missing.stdout
    assert "does not exist" in missing.stderr and "Traceback" not in missing.stderr
    assert sync(place, model, "--accept-missing").stdout == "0 photos: 5 gone\n"


def test_a_dry_run_writes_nothing(place: Path, model: Path) -> None:
    done = sync(place, model, place / "photos", "--dry-run")
    assert done.stdout == "4 photos: 4 to be tagged, 4 new\n" and not (place / "l.db").exists()
    sync(place, model, place / "photos")
    before = (place / "l.db").read_bytes()
    write_photo(place / "photos/4.jpg", 4)
    (place / "photos/0.jpg").unlink()
    done = sync(place, model, "--dry-run", "--format", "jsonl")
    actions = {Path(row["path"]).name: row["action"] for row in map(json.loads, done.stdout.splitlines())}
    assert actions == {"4.jpg": "pending", "0.jpg": "gone"} and (place / "l.db").read_bytes() == before
    assert sync(place, model).stdout == "4 photos: 1 new, 3 unchanged, 1 tagged, 1 gone\n"
    for number in (1, 2, 3):
        (place / f"photos/{number}.jpg").unlink()
    assert sync(place, model, "--dry-run", "--format", "jsonl").stdout == "", "most are kept"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status"], "There is no library"),
        (["list"], "There is no library"),
        (["sync"], "has no folder yet"),
        (["sync", "nowhere"], "does not exist: correct the name"),
        (["sync", ""], "an empty name was given"),
        (["sync", "photos/0.jpg"], "is a file: name its folder"),
        (["sync", "photos", "--database", "photos/new.jpg"], "suffix of a photo"),
        (["forget"], "one of the two"),
        (["forget", "--gone", "x"], "one of the two"),
        (["export", "photos/0.jpg"], "suffix of a photo"),
    ],
)
def test_wrong_use_says_what_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(place)
    done = run("library", arguments[0], "--database", place / "l.db", *arguments[1:])
    assert done.exit_code == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert not (place / "l.db").exists()


@pytest.mark.parametrize("command", ["list", "write", "keywords"])
def test_a_folder_that_the_library_has_not_is_named(place: Path, model: Path, command: str) -> None:
    sync(place, model, place / "photos")
    (place / "other").mkdir()
    database = ("--database", place / "l.db")
    for name, says in (("away", "does not exist"), ("other", "is not in the library"), ("l.db", "is a file")):
        done = run("library", command, place / name, *database)
        assert done.exit_code == 2 and f"{place / name} {says}" in done.stderr
    assert run("library", "list", place, *database).stdout.count("\n") == 4


def test_an_output_of_others_is_not_replaced(place: Path, model: Path) -> None:
    sync(place, model, place / "photos")
    (place / "diary.jsonl").write_text("dear diary\n")
    done = run("library", "export", place / "diary.jsonl", "--database", place / "l.db")
    assert done.exit_code == 2 and (place / "diary.jsonl").read_text() == "dear diary\n"


def test_the_library_lies_in_the_users_data_folder(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYTAG_HOME", str(place / "home"))
    assert run("library", "sync", place / "photos", "--model", model).exit_code == 0
    assert (place / "home/library.db").is_file() and not list((place / "photos").glob("*.db*"))


def test_captions_are_written_on_request(place: Path) -> None:
    shutil.rmtree(place / "photos")
    photo = Path(__file__).parents[2] / "examples/photos/cat.jpg"
    (place / "photos").mkdir()
    shutil.copy(photo, place / "photos")
    database = ("--database", place / "l.db")
    assert run("library", "sync", place / "photos", *database).stdout == "1 photo: 1 new, 1 tagged\n"
    for count in ("1 unchanged, 1 tagged", "1 unchanged"):
        assert run("library", "sync", "--captions", *database).stdout == f"1 photo: {count}\n"
    with Library.open(place / "l.db") as library:
        (one,) = library.photos()
        assert one.caption and library.database.query("SELECT caption FROM words") == [(one.caption,)]


def _begin(place: Path, model: Path, name: str, *more: str) -> subprocess.Popen[bytes]:
    options = ("--batch-size", "2", "--workers", "1", "--format", "jsonl", *more)
    return start("library", "sync", place / "photos", "--database", place / name, "--model", model, *options)


@NEEDS_SIGNALS
def test_a_kill_costs_a_batch_and_the_end_is_as_if_there_was_none(place: Path, model: Path) -> None:
    for number in range(4, 40):
        write_photo(place / f"photos/sub{number % 3}/{number}.png", number)
    dice, done = random.Random(5), 0
    for _ in range(3):
        process = _begin(place, model, "killed.db")
        assert process.stdout is not None
        for _ in range(dice.randrange(1, 10)):
            process.stdout.readline()
        process.kill()
        process.communicate()
        with sqlite3.connect(place / "killed.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            query = "SELECT count(*) FROM photos WHERE state = 'done'"
            (now,) = connection.execute(query).fetchone()
            (found,) = connection.execute("SELECT count(*) FROM words").fetchone()
        connection.close()
        assert now == found and now > done  # what was said is there
        done = now
    rest = _begin(place, model, "killed.db").communicate()[0].splitlines()
    assert len(rest) == 40 - done
    _begin(place, model, "whole.db").communicate()
    with Library.open(place / "killed.db") as killed, Library.open(place / "whole.db") as whole:
        assert rows(killed) == rows(whole) and len(rows(whole)) == 40
        slots = [photo.slot for photo in killed.photos()]
        assert len(set(slots)) == 40 and None not in slots


def _stop_between_transactions(process: subprocess.Popen[bytes], database: Path) -> None:
    """Stop a process while another connection holds the write lock, so that it does not keep the lock."""
    connection = sqlite3.connect(database, timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)  # it stops later than the signal is sent
    connection.rollback()
    connection.close()


@NEEDS_SIGNALS
def test_two_syncs_at_once_one_works_and_the_other_says_who(place: Path, model: Path) -> None:
    for number in range(4, 60):
        write_photo(place / f"photos/{number}.png", number)
    first = _begin(place, model, "l.db")
    assert first.stdout is not None and first.stdout.readline()
    _stop_between_transactions(first, place / "l.db")
    try:
        second = sync(place, model, place / "photos")
        assert second.exit_code == 2 and f"process {first.pid} on " in second.stderr
        assert "is locked" not in second.stderr
        added = run("library", "add", place / "photos/0.jpg", "mine", "--database", place / "l.db")
        assert added.exit_code == 0, added.stderr
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate()
    assert first.returncode == 0
    with Library.open(place / "l.db") as library:
        assert all(photo.state == "done" for photo in library.photos())
        assert library.find(place / "photos/0.jpg").added == ("mine",)


@NEEDS_SIGNALS
def test_an_interrupt_keeps_what_was_done(place: Path, model: Path) -> None:
    for number in range(4, 60):
        write_photo(place / f"photos/{number}.png", number)
    process = _begin(place, model, "l.db")
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and b"Traceback" not in error
    with Library.open(place / "l.db") as library:
        assert sum(photo.state == "done" for photo in library.photos()) >= 1


def test_thumbnails_are_kept_beside_the_database_unless_they_are_not_wanted(place: Path, model: Path) -> None:
    kept = place / "l.db.thumbnails"
    sync(place, model, place / "photos", "--no-thumbnails")
    assert not kept.exists()
    write_photo(place / "photos/4.jpg", 4)
    sync(place, model)
    assert len(list(kept.rglob("*.jpg"))) == 1


def test_a_folder_that_cannot_be_read_is_no_photo(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir, closed = os.scandir, str(place / "photos" / "closed")

    def refuse(path: Any) -> Any:
        if str(path).rstrip("/") == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    Path(closed).mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    done = sync(place, model, place / "photos")
    assert (done.exit_code, done.stdout) == (1, "4 photos: 4 new, 4 tagged, 1 unreadable folder\n")
    assert "cannot be read (Permission denied)" in done.stderr and "photos failed" not in done.stderr
