from __future__ import annotations

import os
import pickle
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from anytag import AnytagError, MissingExtraError, OutputError
from anytag._io import (
    atomic_folder,
    atomic_write,
    begins_with,
    check_folder,
    check_output,
    is_lines_of,
    lock,
    locked,
    not_inputs,
    read_text,
    refuse_inputs,
    refuse_photo_name,
)
from anytag.errors import RefusedOutputError


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(file) as draft:
        draft.write_text("new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "old"


def test_a_written_file_has_the_mode_of_any_new_file_and_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link, usual = tmp_path / "real", tmp_path / "link", tmp_path / "usual"
    real.write_text("old")
    link.symlink_to(real)
    usual.write_text("")
    with atomic_write(link) as draft:
        save_file({"a": np.zeros(2)}, draft)
    assert link.is_symlink() and real.stat().st_size > 3
    assert real.stat().st_mode == usual.stat().st_mode


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes as Linux has them")
@pytest.mark.parametrize("mode", [0o640, 0o444])
def test_a_file_that_is_replaced_keeps_what_file_managers_know_of_it(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    try:
        os.setxattr(file, "user.xdg.tags", b"holiday")
    except OSError:
        pytest.skip("no extended attributes here")
    file.chmod(mode)
    with atomic_write(file) as draft:
        draft.write_text("new")
    assert (file.read_text(), os.getxattr(file, "user.xdg.tags")) == ("new", b"holiday")
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.parametrize("place", ["no/such/folder/x", "file/x"])
def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="x cannot be written"), atomic_write(tmp_path / place) as draft:
        draft.write_text("new")


def test_what_a_writer_of_tensors_meets_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), atomic_write(tmp_path / "x") as draft:
        save_file({"a": np.zeros(2)}, draft.parent / "no" / "folder")


def test_a_folder_is_replaced_only_when_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine").write_text("")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(folder):
        raise AssertionError("not reached")
    with pytest.raises(ZeroDivisionError), atomic_folder(folder, replace=True):
        raise ZeroDivisionError
    assert [path.name for path in folder.iterdir()] == ["mine"]
    with atomic_folder(folder, replace=True) as draft:
        (draft / "new").write_text("")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_input_is_no_output_by_any_of_its_names(tmp_path: Path) -> None:
    photo, hard, soft = tmp_path / "a.jpg", tmp_path / "b.txt", tmp_path / "c.txt"
    photo.write_bytes(b"x")
    os.link(photo, hard)
    soft.symlink_to(photo)
    for name in (photo, hard, soft):
        with pytest.raises(OutputError, match="is an input of this run"):
            refuse_inputs(name, [tmp_path / "other", photo])
    refuse_inputs(tmp_path / "new.txt", [photo])


def test_every_error_crosses_processes() -> None:
    kinds = [AnytagError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for kind in kinds:
        error = kind("HEIC", "heic") if kind is MissingExtraError else kind("what, expected, next")
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (kind, str(error), vars(error))


def test_text_is_never_written_over_a_photo_an_input_or_what_somebody_else_made(tmp_path: Path) -> None:
    def refused(name: str, says: str, **options: object) -> None:
        with pytest.raises(RefusedOutputError, match=says):
            check_output(tmp_path / name, [tmp_path / "in"], **options)  # type: ignore[arg-type]

    for name in ("in", "mine", "ours", "locked"):
        (tmp_path / name).write_text(name)
    (tmp_path / "locked").chmod(0o444)
    (tmp_path / "empty").touch()
    (tmp_path / "a.jpg").symlink_to("new")
    (tmp_path / "b.txt").symlink_to("photo.PNG")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("x.jpg", "x.JPEG", "x.cr2", "x.jxl", "a.jpg", "b.txt"):
        refused(name, "suffix of a photo", overwrite=True)
    refused("in", "is an input", overwrite=True)
    refused("mine", "exists already: give another file, or remove it first")
    refused("mine", "is not an earlier result", is_earlier=lambda path: path.read_text() == "ours")
    refused(".", "is a folder")
    refused("no/x", "is not a folder")
    refused("mine/x", "is not a folder")
    refused("loop", "loop")
    if os.geteuid():
        refused("locked", "write-protected")
    for name in ("new", "empty", "ours"):
        check_output(tmp_path / name, [tmp_path / "in"], is_earlier=lambda path: path.read_text() == "ours")
    check_output(tmp_path / "mine", overwrite=True)
    check_output(os.devnull)


def test_files_are_recognised_by_all_keys_of_the_first_line_or_by_the_first_bytes(tmp_path: Path) -> None:
    file = tmp_path / "f"
    is_rows = is_lines_of("a", "b", optional=["c"], source="us")
    for text, ours in (
        ('{"a": 1, "b": 2, "source": "us"}\nanything', True),
        ('\ufeff{"a": 1, "b": 2, "c": 3, "source": "us"}\n', True),
        ('{"a": 1, "b": 2, "source": "you"}\n', False),
        ('{"a": 1, "source": "us"}\n', False),
        ('{"a": 1, "b": 2, "d": 3, "source": "us"}\n', False),
        ("[1]\n", False),
    ):
        file.write_text(text, encoding="utf-8")
        assert is_rows(file) is ours, text
        assert begins_with(b'{"a": 1, "b"')(file) is text.startswith('{"a": 1, "b"')
    for raw in (b"dear\n", b'{"a": \xff}', b'{"a": 1'):
        file.write_bytes(raw)
        with pytest.raises(RefusedOutputError, match="is not an earlier result"):
            check_output(file, is_earlier=is_rows)


def test_a_folder_is_made_where_nothing_of_others_and_no_input_lies(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "card").write_text("")
    for folder, says in (
        ("data", "contains the input .*rows"), ("data/rows", "is an input"),
        ("model", "not empty"), ("model/card", "is a file"),
        ("model/card/x", "not a folder"),
    ):  # fmt: skip
        with pytest.raises(RefusedOutputError, match=says):
            check_folder(tmp_path / folder, [tmp_path / "data" / "rows"])
    check_folder(tmp_path / "model", is_earlier=lambda path: (path / "card").exists())
    check_folder(tmp_path / "new" / "folder", [tmp_path / "data" / "rows"])
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")


def test_inputs_that_come_one_by_one_are_held_against_outputs(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    os.link(tmp_path / "a", tmp_path / "b")
    stream = not_inputs(["c", str(tmp_path / "b"), "d"], [tmp_path / "a"])
    assert next(stream) == "c"
    with pytest.raises(RefusedOutputError, match="is an input"):
        next(stream)


def test_a_lock_is_held_by_one_and_dies_with_its_file(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as one, (tmp_path / "a").open("w") as other:
        assert lock(one)
        assert not lock(other)
        one.close()
        assert lock(other)


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe) as draft, draft.open("wb") as file:
        file.write(b"rows")
    assert os.read(reader, 9) == b"rows"
    os.close(reader)
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_texts_are_read_in_the_encodings_of_notepads(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes("k\u00e4se\n".encode(encoding))
        assert read_text(path) == "k\u00e4se\n"
    path.write_bytes(b"k\xe4se")
    with pytest.raises(AnytagError, match=r"list\.txt is not in UTF-8"):
        read_text(path)
    with pytest.raises(AnytagError, match=r"none\.txt cannot be read: No such file"):
        read_text(tmp_path / "none.txt")


def test_a_lock_is_held_once_and_left_when_its_holder_is_gone(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock), pytest.raises(OutputError, match="by another process"), locked(lock):
        pass
    with locked(lock):
        pass
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "no" / "lock"):
        pass


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "b.heic", "c.TIFF"])
def test_the_name_of_a_photo_is_no_output(name: str) -> None:
    with pytest.raises(OutputError, match="suffix of a photo"):
        refuse_photo_name(name)
    refuse_photo_name("a.jpg.jsonl")
