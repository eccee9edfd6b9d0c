from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from anytag.errors import MetadataError, MissingToolError
from anytag.metadata.exiftool import ExifTool, assigned, find, named
from tests import xmp

pytestmark = xmp.NEEDS_EXIFTOOL


def imitation(path: Path, body: str) -> str:
    """A program that is called as exiftool is: `body` runs for each command, with its lines in `lines`."""
    script = f"""\
        #!{sys.executable}
        import sys, time, os
        lines = []
        for line in sys.stdin:
            lines.append(line.rstrip())
            if lines[-2:] == ["-stay_open", "False"]:
                break
            if not line.startswith("-execute"):
                continue
            mark = "{{ready" + line.strip()[8:] + "}}"
            {body}
            print(mark, flush=True)
            print(mark, file=sys.stderr, flush=True)
            lines = []
        """
    path.write_text(textwrap.dedent(script))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_missing_exiftool_says_how_to_get_it() -> None:
    with pytest.raises(MissingToolError, match=r"apt install libimage-exiftool-perl.*brew.*winget"):
        ExifTool("exiftool-that-nobody-has").run("-ver")


def test_one_process_answers_all_commands() -> None:
    tool = ExifTool()
    try:
        first = tool.run("-ver").output
        assert first.strip()
        assert tool._process is not None
        number = tool._process._running.pid
        assert [tool.run("-ver").output for _ in range(20)] == [first] * 20
        assert tool._process._running.pid == number
    finally:
        tool.close()


def test_threads_take_turns(tmp_path: Path) -> None:
    photos = [xmp.tag(xmp.photo(tmp_path / f"{i}.jpg"), f"-{xmp.SUBJECT}=word {i}") for i in range(6)]
    tool = ExifTool()
    try:
        with ThreadPoolExecutor(6) as threads:
            answers = list(
                threads.map(lambda path: tool.run("-s3", "-Subject", str(path)).output, photos * 5)
            )
        assert [one.decode().strip() for one in answers] == [f"word {i}" for i in range(6)] * 5
    finally:
        tool.close()


def test_a_dead_process_is_started_again_and_only_the_command_at_hand_is_lost() -> None:
    tool = ExifTool()
    try:
        tool.run("-ver")
        assert tool._process is not None
        os.kill(tool._process._running.pid, signal.SIGKILL)
        tool._process._running.wait()
        with pytest.raises(MetadataError, match=r"ended unexpectedly \(signal 9\)"):
            tool.run("-ver")
        assert tool.run("-ver").output.strip()
    finally:
        tool.close()


def test_of_a_process_that_ends_the_error_says_how(tmp_path: Path) -> None:
    body = 'print("first\\nlast words", file=sys.stderr); sys.exit(3)'
    tool = ExifTool(imitation(tmp_path / "exiftool", body))
    with pytest.raises(MetadataError, match=r"ended unexpectedly \(exit status 3: last words\)"):
        tool.run("-ver")


def test_the_look_at_the_parent_process_may_come_at_any_moment(tmp_path: Path) -> None:
    """Each SIGALRM is such a look, which once crashed exiftool in the middle of its work."""
    command = ["-X", "-a", "--System:all", str(xmp.photo(tmp_path / "a.png"))]
    tool = ExifTool()
    try:
        expected = tool.run(*command).output
        assert tool._process is not None
        number = tool._process._running.pid
        with ThreadPoolExecutor(1) as thread:
            for _ in range(1000):
                answer = thread.submit(tool.run, *command)
                for _ in range(50):  # Perl takes no more than 120 while it waits
                    wait([answer], timeout=0.0001)
                    if answer.done():
                        break
                    os.kill(number, signal.SIGALRM)
                assert answer.result().output == expected
    finally:
        tool.close()


def test_a_command_that_never_ends_is_ended(tmp_path: Path) -> None:
    body = 'time.sleep(60 if "-hang" in lines else 0)'
    tool = ExifTool(imitation(tmp_path / "exiftool", body), timeout=1)
    try:
        with pytest.raises(MetadataError, match="took longer than 1 seconds"):
            tool.run("-hang")
        assert tool.run("-ver").output == b""
    finally:
        tool.close()


def test_many_warnings_do_not_stall(tmp_path: Path) -> None:
    """500 files that warn: more than a pipe holds, before a word comes out of the other."""
    body = '[print("Warning: " + "x" * 991, file=sys.stderr) for _ in range(500)]; print("y" * 200000)'
    tool = ExifTool(imitation(tmp_path / "exiftool", body), timeout=30)
    try:
        for _ in range(3):
            answer = tool.run("-anything")
            assert (len(answer.output), [*map(len, answer.messages)]) == (200_001, [1000] * 500)
    finally:
        tool.close()


def test_what_is_said_after_the_answer_or_between_two_does_no_harm(tmp_path: Path) -> None:
    body = """print("out")
            said = "Warning: first\\n" + mark + "\\nUse of uninitialized value\\n"
            print(said, file=sys.stderr, flush=True)"""
    tool = ExifTool(imitation(tmp_path / "exiftool", body), timeout=20)
    try:
        for _ in range(3):
            answer = tool.run("-anything")
            assert answer.output == b"out\n"
            assert "Warning: first" in answer.messages
    finally:
        tool.close()


def test_a_process_that_waits_says_nothing() -> None:
    """It looks every three seconds whether somebody is there."""
    tool = ExifTool()
    try:
        tool.run("-ver")
        time.sleep(3.5)
        assert tool.run("-ver").messages == ()
    finally:
        tool.close()


def test_real_files_that_warn_do_not_stall(tmp_path: Path) -> None:
    photo = xmp.tag(xmp.photo(tmp_path / "a.jpg"), "-IPTC:Keywords=x", "-EXIF:Artist=me")
    photo.write_bytes(photo.read_bytes().replace(b"Exif\0\0MM\0*\0\0\0\x08", b"Exif\0\0MM\0*\0\0\0\xff", 1))
    tool = ExifTool(timeout=30)
    try:
        for _ in range(100):
            assert b"Warning" in tool.run("-X", "-a", "-validate", "-warning", "-all", str(photo)).output
    finally:
        tool.close()


def test_an_argument_is_one_line() -> None:
    tool = ExifTool()
    for bad in ("a\n-all=", "a\r-all=", ""):
        with pytest.raises(MetadataError, match="one line"):
            tool.run(bad)


@pytest.mark.parametrize(
    "name",
    [
        "-all=.jpg",
        "two\nlines.jpg",
        "cash$HOME@x\n.jpg",
        "#[CSTR]a.jpg",
        " blank.jpg",
        "ü 測試 🐕.jpg",
        "%d.jpg",
        "a;b.jpg",
    ],
)
def test_a_name_is_only_a_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xmp.photo(tmp_path / "plain.jpg").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    tool = ExifTool()
    try:
        with named(name) as argument:
            answer = tool.run("-s3", "-ImageWidth", argument)
        assert (answer.output.strip(), answer.error) == (b"64", None)
    finally:
        tool.close()


def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    xmp.photo(tmp_path / "plain.jpg").rename(name)
    tool = ExifTool()
    try:
        with named(name) as argument:
            assert tool.run("-s3", "-ImageWidth", argument).output.strip() == b"64"
    finally:
        tool.close()


@pytest.mark.parametrize(
    "value", ["&amp;", " first", "a\nb", "#x", "$x @y", 'q"q', "&#10;", "=", "\\n", "<x>", "a "]
)
def test_a_value_is_read_letter_by_letter(value: str) -> None:
    tool = ExifTool()
    try:
        written = tool.run("-o", "-.xmp", *assigned([("XMP-dc:Source", value)])).output
    finally:
        tool.close()
    import xml.etree.ElementTree as ElementTree

    found = next(ElementTree.fromstring(written.decode()).iter("{http://purl.org/dc/elements/1.1/}source"))
    assert found.text == value


def test_exiftool_ends_when_the_process_that_started_it_is_killed() -> None:
    script = """\
        import time
        from anytag.metadata.exiftool import shared
        shared().run("-ver")
        print(shared()._process._running.pid, flush=True)
        time.sleep(60)
        """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as python:
        assert python.stdout
        number = int(python.stdout.readline())
        python.kill()
        python.wait()
    for _ in range(100):
        try:
            os.kill(number, 0)
            if Path(f"/proc/{number}/stat").exists() and " Z " in Path(f"/proc/{number}/stat").read_text():
                return  # dead, and nobody has asked for it yet
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"exiftool {number} still runs")


def test_the_place_of_exiftool_is_found() -> None:
    assert os.access(find(), os.X_OK)
