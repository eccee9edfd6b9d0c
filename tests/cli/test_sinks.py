from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anytag import Failure, TagResult, TagScore
from anytag.cli import journal, writers
from anytag.cli.sinks import File
from anytag.errors import OutputError, RefusedOutputError
from anytag.library.hits import Hit
from anytag.library.photo import Photo
from anytag.results import Caption

RUN = {"anytag": "tag", "top_k": 1}


def photo(path: str, *, tags: int = 2, fails: bool = False) -> TagResult:
    if fails:
        return TagResult(path, 0, 0, "tiny", (), Failure("ImageError", f"{path}: no such file"))
    return TagResult(
        path, 4, 3, "tiny", tuple(TagScore(f"t{i}", f"t{i}", 0.5, "vocabulary") for i in range(tags))
    )


def write(file: File, format_: str, photos: list[TagResult]) -> None:
    """The photos that are left to do."""
    file.begin(writers.header(format_), RUN)
    for one in [one for one in photos if not file.is_done(one.path or "")]:
        if rows := writers.FORMATS[format_](one):
            file.write(rows, one.path, is_good=one.error is None)


def test_a_file_is_written_beside_and_renamed(tmp_path: Path) -> None:
    target, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    target.write_text("earlier")
    with File(target, "jsonl") as file:
        file.begin(run=RUN)
        file.write("row\n")
        assert part.read_text() == "row\n"  # whole rows can be read while work goes on
        assert target.read_text() == "earlier"
    assert target.read_text() == "row\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_interrupted_file_keeps_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    target.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), File(target, "jsonl") as file:
        file.begin(run=RUN)
        file.write("row\n")
        raise KeyboardInterrupt
    assert (target.read_text(), part.read_text()) == ("earlier", "row\n")
    message = capsys.readouterr().err
    assert str(part) in message and "--resume" in message
    with (
        pytest.raises(RefusedOutputError, match=r"out.jsonl.part has the rows .* --resume"),
        File(target, "jsonl"),
    ):
        raise AssertionError("not reached")
    assert part.read_text() == "row\n"


def test_what_cannot_be_resumed_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt), File(target, "jsonl") as file:
        file.begin()
        file.write("row\n")
        raise KeyboardInterrupt
    assert "To start again, remove that file." in capsys.readouterr().err
    with pytest.raises(RefusedOutputError, match="remove the file to start again"), File(target, "jsonl"):
        raise AssertionError("not reached")


@pytest.mark.parametrize("format_", ["text", "jsonl", "csv"])
def test_nothing_is_left_where_nothing_was_done(tmp_path: Path, format_: str) -> None:
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt), File(tmp_path / "out", format_, resume=resume) as file:
            file.begin(writers.header(format_), RUN)
            raise KeyboardInterrupt
        assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_a_device_is_written_directly(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    with File(tmp_path / "link", "text") as file:
        file.write("row\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "row\n"
    with File(Path(os.devnull), "text") as file:
        file.begin("head\n", RUN)
        file.write("row\n")
    assert not Path(os.devnull).is_file()


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "x", tmp_path / ("x" * 252)):
        with pytest.raises(RefusedOutputError, match=r"part cannot be written"), File(path, "text"):
            raise AssertionError("not reached")


def test_names_that_are_not_unicode_are_kept(tmp_path: Path) -> None:
    path = os.fsdecode(b"caf\xe9.jpg")
    for name in ("text", "jsonl", "csv"):
        with File(tmp_path / name, name) as file:
            write(file, name, [photo(path)])
    assert b"caf\xe9.jpg" in (tmp_path / "text").read_bytes()
    assert b"caf\xe9.jpg" in (tmp_path / "csv").read_bytes()
    assert json.loads((tmp_path / "jsonl").read_bytes())["path"] == path


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    with File(tmp_path / "out", "text") as file:
        file.write("mine\n")
        for resume in (False, True):
            with pytest.raises(RefusedOutputError, match="another process"):
                File(tmp_path / "out", "text", resume=resume).__enter__()
    assert (tmp_path / "out").read_text() == "mine\n"


def test_an_earlier_result_stays_when_no_photo_could_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.jsonl"
    for count, fails in enumerate((True, False, True)):
        with File(target, "jsonl") as file:
            write(file, "jsonl", [photo(f"{count}.jpg", fails=fails)])
    assert json.loads(target.read_text())["path"] == "1.jpg"
    assert "is unchanged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


NAMES = st.text(st.sampled_from('ab,"\n\r\t\\\udce9é'), min_size=1, max_size=4)
PHOTOS = st.lists(st.tuples(NAMES, st.integers(0, 3), st.booleans()), min_size=1, max_size=6)


@given(PHOTOS, st.sampled_from(["text", "jsonl", "csv"]), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_that_goes_on_gives_what_one_run_gives(
    tmp_path: Path, drawn: list[tuple[str, int, bool]], format_: str, data: st.DataObject
) -> None:
    """Killed at any byte, with photos that fail the first time only."""
    for path in tmp_path.iterdir():
        path.unlink()
    tags = {journal.key(name, format_): count for name, count, _ in drawn}  # one photo has one result,
    failing = {
        journal.key(name, format_) for name, _, fails in drawn if fails
    }  # and fails whenever it is named
    names = [name for name, *_ in drawn]
    whole = [photo(name, tags=tags[journal.key(name, format_)]) for name in names]
    with File(tmp_path / "wanted", format_) as file:
        write(file, format_, whole)
    first = [
        photo(name, fails=True) if journal.key(name, format_) in failing else one
        for one, name in zip(whole, names, strict=True)
    ]
    with File(tmp_path / "made", format_) as file:
        write(file, format_, first)
    rows = (tmp_path / "made").read_bytes()
    (tmp_path / "made").unlink()
    cut = data.draw(st.integers(1, max(1, len(rows))))
    (tmp_path / "made.part").write_bytes(rows[:cut])
    (tmp_path / "made.part.json").write_text(json.dumps(RUN))
    with File(tmp_path / "made", format_, resume=True) as file:
        write(file, format_, whole)
    assert (tmp_path / "made").read_bytes() == (tmp_path / "wanted").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "wanted"]


def test_only_the_same_work_goes_on(tmp_path: Path) -> None:
    part, run = tmp_path / "out.part", tmp_path / "out.part.json"
    part.write_text("a.jpg\tdog 0.50\n")
    for facts in ("", "[]", json.dumps({**RUN, "top_k": 2}), json.dumps({**RUN, "where": True})):
        run.write_text(facts)
        with (
            pytest.raises(RefusedOutputError, match=r"out.part (was written with another|cannot be resumed)"),
            File(tmp_path / "out", "text", resume=True) as file,
        ):
            file.begin(run=RUN)
        assert part.read_text() == "a.jpg\tdog 0.50\n" and run.read_text() == facts


def test_a_refused_run_does_not_say_to_resume_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.part").write_text("a.jpg\tdog 0.50\n")
    with (
        pytest.raises(RefusedOutputError, match="cannot be resumed"),
        File(tmp_path / "out", "text", resume=True) as file,
    ):
        file.begin(run=RUN)
    assert capsys.readouterr().err == ""


def test_rows_of_photos_that_are_not_named_now_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.part").write_text("b.jpg\tx 0.50\na.jpg\ty 0.50\n")
    (tmp_path / "out.part.json").write_text(json.dumps(RUN))
    with File(tmp_path / "out", "text", resume=True) as file:
        write(file, "text", [photo("c.jpg", tags=1), photo("b.jpg")])
    assert (tmp_path / "out").read_text() == "a.jpg\ty 0.50\nc.jpg\tt0 0.50\nb.jpg\tx 0.50\n"
    assert "Rows of 1 photo of the earlier run" in capsys.readouterr().err


def test_a_file_of_others_beside_the_rows_stays(tmp_path: Path) -> None:
    (tmp_path / "out.part.json").write_text('{"mine": 1}')
    with (
        pytest.raises(RefusedOutputError, match="not written by anytag"),
        File(tmp_path / "out", "text") as file,
    ):
        file.begin(run=RUN)
    assert (tmp_path / "out.part.json").read_text() == '{"mine": 1}'


def test_a_result_that_cannot_take_its_place_is_in_the_part(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"All rows are in .*part"), File(tmp_path / "out", "text") as file:
        file.write("row\n")
        (tmp_path / "out").mkdir()
    assert (tmp_path / "out.part").read_text() == "row\n"


@pytest.mark.parametrize(
    ("command", "format_", "text", "wanted"),
    [
        ("tag", "text", "a.jpg\tdog 0.97, grass 0.83 [1 2 3 4]\nb.jpg\t\n", True),
        ("tag", "text", "a.jpg\tdog 0.97\nmy notes\n", False),
        ("tag", "text", "a.jpg\tA dog runs.\n", False),
        ("tag", "text", "photos/a.jpg\n", False),
        ("caption", "text", "a.jpg\ta dog runs\nb c.png\ta man in a hat\n", True),
        ("caption", "text", "a.jpg\tA dog runs .\n", False),
        ("caption", "text", "name\tcaption\n", False),
        ("match", "text", "a.jpg\t0.97\ta dog\n", True),
        ("match", "text", "a.jpg\tdog 0.97\n", False),
        ("tag", "jsonl", json.dumps(photo("a").to_dict()) + "\nrest", True),
        ("caption", "jsonl", json.dumps(photo("a").to_dict()) + "\n", False),
        ("tag", "jsonl", '{"image": "a.jpg", "tags": ["dog"]}\n', False),
        ("tag", "jsonl", json.dumps(Caption("a", 1, 1, "mini", "a dog").to_dict()) + "\n", False),
        ("tag", "jsonl", json.dumps(Photo(1, "/a", "a", "done").to_dict()) + "\n", False),
        ("caption", "jsonl", json.dumps(Caption("a", 1, 1, "mini", "a dog").to_dict()) + "\n", True),
        ("search", "jsonl", json.dumps(Hit(Photo(1, "/a", "a", "done"), 0.5).to_dict()) + "\n", True),
        ("search", "text", "/a.jpg\t0.97\n/b.jpg\t0.50\t1 near copy\n", True),
        ("search", "text", "/a.jpg\tmine\n", False),
        ("tag", "jsonl", "[1]\n", False),
        ("tag", "csv", writers.header("csv"), True),
        ("tag", "csv", writers.header("csv", where=True), True),
        ("tag", "csv", "path,tags\na.jpg,dog\n", False),
    ],
)
def test_an_earlier_result_is_known_by_its_content(
    tmp_path: Path, command: str, format_: str, text: str, wanted: bool
) -> None:
    (tmp_path / "file").write_text(text)
    assert journal.is_result(command, format_)(tmp_path / "file") is wanted


def test_two_names_of_one_tag_are_rows_of_one_photo(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    one = photo("a", tags=1)
    twice = replace(one, tags=(*one.tags, replace(one.tags[0], name="another")))
    rows = [writers.header("csv"), *(writers.csv_rows(replace(twice, path=path)) for path in "ab")]
    file.write_text("".join(rows))
    photos, whole = journal.read(file, "csv")
    assert list(photos) == ["a"]
    assert whole == photos["a"].end == len("".join(rows[:2]))


def test_the_last_photo_of_a_csv_may_lack_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = [writers.header("csv"), *(writers.csv_rows(photo(name, tags=3)) for name in ('a\n"b', "c", "c"))]
    file.write_text("".join(rows) + "cut,1")
    photos, whole = journal.read(file, "csv")
    assert list(photos) == ['a\n"b', "c"]
    assert whole == photos["c"].end == len("".join(rows[:3]))
