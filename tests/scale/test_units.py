"""`anytag.data.units`: what is read apart, and stays what it is when the input grows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from anytag.data.io import public
from anytag.data.units import Unit, units
from anytag.errors import AnytagError
from anytag.scale.photos import photos
from tests.s3_server import s3_bucket
from tests.scale.inputs import jpeg, write_parquet, write_tar

ODD = ("a b.jpg", "a+b.jpg", "100%20.jpg", "größe#1.jpg", "q?x=1.jpg")


def planned(source: object, folder: Path) -> tuple[Unit, ...]:
    return units([str(source)], listings=str(folder)).units


def test_row_groups_shards_and_slices_are_units(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_parquet(f"{source}/rows.parquet", {"id": range(25), "jpg": [jpeg(0)] * 25})
    write_tar(f"{source}/shard.tar", {"0.jpg": jpeg(0)})
    (source / "photo.JPG").write_bytes(jpeg(1))
    (source / "notes.doc").write_bytes(b"no photo")
    found = planned(source, tmp_path / "plan")
    assert [(one.kind, one.part, one.rows) for one in found] == [
        ("parquet", 0, 1), ("parquet", 0, 10), ("parquet", 1, 10), ("parquet", 2, 5), ("tar", 0, -1),
    ]  # fmt: skip
    assert len({one.name for one in found}) == 5


def test_names_with_plus_spaces_and_percent_are_read_from_s3(tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    with s3_bucket() as bucket:
        import fsspec

        for number, name in enumerate(ODD):
            fsspec.filesystem("s3").pipe_file(f"{bucket}/in/{name}", jpeg(number))
        write_parquet(f"{bucket}/more/r o+w%20s.parquet", {"jpg": [jpeg(9)]})
        (slice_,) = units([f"{bucket}/in"], listings=f"{bucket}/out/_anytag").units
        found = list(photos(slice_))
        assert [one.error for one in found] == [None] * len(ODD)
        assert {one.id for one in found} == {f"{bucket}/in/{name}" for name in ODD}
        assert {one.source for one in found} == {jpeg(number) for number in range(len(ODD))}
        (rows,) = units([f"{bucket}/more"]).units
        assert [one.source for one in photos(rows)] == [jpeg(9)]


def test_a_folder_of_the_web_is_an_input(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    source = tmp_path / "in"
    source.mkdir()
    for number, name in enumerate(ODD):
        (source / name).write_bytes(jpeg(number))
    write_parquet(f"{source}/r o+w%20s.parquet", {"jpg": [jpeg(9)] * 15})
    write_tar(f"{source}/deep/shard.tar", {"7.jpg": jpeg(7)})
    with web_server(tmp_path) as server:
        found = planned(f"{server}/in/", tmp_path / "plan")
        assert [(one.kind, one.rows) for one in found] == [
            ("parquet", 5), ("tar", -1), ("parquet", 10), ("parquet", 5),
        ]  # fmt: skip
        assert found[1].bytes == (source / "deep" / "shard.tar").stat().st_size
        every = [photo for unit in found for photo in photos(unit)]
        (again,) = planned(f"{server}/in/deep/shard.tar", tmp_path / "other")
        assert again == found[1]
        os.utime(source / "deep" / "shard.tar", (1, 1))
        (changed,) = planned(f"{server}/in/deep/shard.tar", tmp_path / "other")
        assert changed.stamp != again.stamp
    assert [one.error for one in every] == [None] * 21
    assert [one.source for one in every[5:]] == [jpeg(7)] + [jpeg(9)] * 15
    assert {one.source for one in every[:5]} == {jpeg(number) for number in range(5)}
    assert len({one.id for one in every}) == 21


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Files of a folder, which it lists, on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_listing_that_grows_keeps_its_slices(tmp_path: Path) -> None:
    listing, plan = tmp_path / "list.txt", tmp_path / "plan"
    names = [f"{number}.jpg" for number in range(1500)]
    listing.write_text("\n".join([*names, "7.jpg"]) + "\n")  # one is named twice, and is two rows
    first = planned(listing, plan)
    assert [one.rows for one in first] == [1000, 501]
    assert planned(listing, plan) == first
    listing.write_text("\n".join(["new.jpg", *names, "7.jpg", "7.jpg"]) + "\n\n")
    second = planned(listing, plan)
    assert second[:2] == first
    assert [one.id for one in photos(second[2])] == [str(tmp_path / "new.jpg"), str(tmp_path / "7.jpg")]


def test_a_prefix_that_grows_is_listed_for_what_is_new(tmp_path: Path) -> None:
    source, plan = tmp_path / "in", tmp_path / "plan"
    source.mkdir()
    for number in range(0, 10, 2):
        (source / f"{number}.jpg").write_bytes(jpeg(number))
    first = planned(source, plan)
    for number in range(1, 10, 2):
        (source / f"{number}.jpg").write_bytes(jpeg(number))
    second = planned(source, plan)
    assert second[:1] == first
    names = Counter(one.id for unit in second for one in photos(unit))
    assert names == Counter(str(source / f"{number}.jpg") for number in range(10))


def test_signatures_are_used_and_not_written(tmp_path: Path) -> None:
    secret = "X-Amz-Signature=0123abc"
    listing, plan = tmp_path / "list.txt", tmp_path / "plan"
    address = f"memory://photos/a.jpg?id=3&{secret}&w=9"
    listing.write_text(address + "\n")
    (unit,) = planned(listing, plan)
    assert unit.addresses == (address,)
    assert all(b"0123abc" not in file.read_bytes() for file in plan.iterdir())
    (photo,) = photos(unit)
    assert photo.id == "memory://photos/a.jpg?id=3&w=9"
    assert "0123abc" not in repr(photo)


def test_photos_with_the_same_id_are_refused(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("http://host/a.jpg?token=1\nhttp://host/a.jpg?token=2\n")
    with pytest.raises(AnytagError, match=r"are both http://host/a\.jpg\? without"):
        planned(listing, tmp_path / "plan")


def test_files_may_have_the_names_of_keys(tmp_path: Path) -> None:
    names = ["a&token=1.jpg", "a&token=2.jpg"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(jpeg(number))
    (tmp_path / "list.txt").write_text("\n".join([*names, "http://u:p@host/b.jpg"]))
    (unit,) = planned(tmp_path / "list.txt", tmp_path / "plan")
    assert [one.id for one in photos(unit, wanted=lambda at: at < 2)] == [
        str(tmp_path / name) for name in names
    ]


def test_a_broken_link_is_one_failed_photo(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "0.jpg").write_bytes(jpeg(0))
    (source / "1.jpg").symlink_to("nowhere")
    (source / "2.parquet").symlink_to("nowhere")
    found = units([str(source)], listings=str(tmp_path / "plan"))
    ids = [one.id for unit in found.units for one in photos(unit)]
    assert ids == [f"{source}/{number}.jpg" for number in (0, 1)]
    assert len(found.unreadable) == 1 and "2.parquet: no such file" in found.unreadable[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/a.jpg", "https://host/a.jpg"),
        ("https://host/a.jpg?sig=x%3D&se=2026&id=4", "https://host/a.jpg?id=4"),
        ("GET https://h/a?access_token=xyz failed", "GET https://h/a? failed"),
        ("tar://a.jpg::https://u:p@h/s.tar?Signature=q&Expires=1", "tar://a.jpg::https://h/s.tar?"),
        ("s3://bucket/a@b.jpg", "s3://bucket/a@b.jpg"),
        ("is a quote unclosed?", "is a quote unclosed?"),
        ("https://host/?monkey=1&passkey_id=2", "https://host/?monkey=1&passkey_id=2"),
        ("https://host/?key=AIzaSyDaGmWKa4JsXZHjGw7ISLn", "https://host/?"),
        (
            "https://host/?key=2024/cat-of-my-neighbour.jpg&st=5",
            "https://host/?key=2024/cat-of-my-neighbour.jpg&st=5",
        ),
    ],
)
def test_public_texts_have_no_keys(text: str, shown: str) -> None:
    assert public(text) == shown


def test_what_cannot_be_read_is_named_and_the_rest_planned(tmp_path: Path) -> None:
    write_parquet(f"{tmp_path}/in/good.parquet", {"jpg": [jpeg(0)]})
    Path(tmp_path, "in", "bad.parquet").write_bytes(b"PAR1 but no Parquet")
    found = units([str(tmp_path / "in")])
    assert [one.name for one in found.units] == [f"{tmp_path}/in/good.parquet#0"]
    assert len(found.unreadable) == 1
    assert "bad.parquet: cannot be read as Parquet" in found.unreadable[0]
    with pytest.raises(AnytagError, match="no such file"):
        units([str(tmp_path / "gone")])
    Path(tmp_path, "empty").mkdir()
    with pytest.raises(AnytagError, match=r"has nothing to process: expected \.parquet, \.tar"):
        units([str(tmp_path / "empty")])
