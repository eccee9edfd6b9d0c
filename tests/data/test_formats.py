"""`anytag.data.formats` and what it is made of: every format is read, and what is written is read again."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anytag.data.formats import FORMATS, moved, read, recognise, root_of, write
from anytag.data.io import join, listing, photo_source, rebased
from anytag.data.rows import Row
from anytag.data.shards import read_photos, write_shards
from anytag.data.units import Unit
from anytag.errors import AnytagError, MissingExtraError
from anytag.images import load
from anytag.scale.photos import photos as of_unit
from tests.pictures import encoded, raw
from tests.s3_server import s3_bucket

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=";|,"), max_size=8)
NAMES = WORDS.map(lambda text: " ".join(text.split())).filter(bool)
LISTS = st.lists(NAMES, max_size=3, unique=True).map(tuple)
SPLITS = st.sampled_from(["train", "dev", "val", "test"])
ROWS = st.lists(st.builds(Row, NAMES, NAMES, SPLITS, LISTS, LISTS, LISTS), max_size=4)
FULL = Row(
    "a.jpg",
    "made",
    "train",
    captions=("a dog on grass",),
    tags=("dog", "grass", "ball"),
    absent=("cat",),
    origins=("label", "text", "model"),
    cleaned=(("sofa", "text"),),
)


def photo(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), colour).save(path)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_what_is_written_is_read(
    name: str, rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("rows") / name)
    rows = [*rows, FULL]
    write(path, rows)
    assert list(read(path)) == rows


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_csv_keeps_all_but_where_tags_come_from(
    name: str, rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("rows") / name)
    write(path, rows)
    assert list(read(path)) == rows


def test_spaces_after_commas_are_no_part_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('image, tags\n1.jpg, "cat;pet"\n')
    assert [row.tags for row in read(str(path))] == [("cat", "pet")]


def test_csv_of_image_and_tags_without_names_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a.jpg,dog; hot dog ;dog\nb.jpg,\n")
    assert list(read(str(path))) == [
        Row("a.jpg", "mine", "train", tags=("dog", "hot dog")),
        Row("b.jpg", "mine", "train"),
    ]


def test_a_tag_that_csv_cannot_hold_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    for name in ("a;b", "tench, Tinca tinca"):
        with pytest.raises(AnytagError, match=r"write \.jsonl"):
            write(str(tmp_path / "rows.csv"), [FULL, Row("b.jpg", "made", "train", tags=(name,))])
    assert list(tmp_path.iterdir()) == []


def coco(path: Path) -> Path:
    content = {
        "info": {"year": 2017},
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}, {"file_name": "9.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A dog .\n"},
            {"id": 2, "image_id": 7, "caption": "Grass."},
        ],
    }
    path.write_text(json.dumps(content))
    return path


def test_coco_captions(tmp_path: Path) -> None:
    path = str(coco(tmp_path / "captions_val.json"))
    assert recognise(path) == "coco-captions"
    errors: list[str] = []
    rows = list(read(path, images="val", split="val", on_error=errors.append))
    assert rows == [
        Row("val/7.jpg", "captions_val", "val", captions=("A dog .", "Grass.")),
        Row("val/8.jpg", "captions_val", "val"),
    ]
    assert len(errors) == 1
    with pytest.raises(AnytagError, match="lacks id"):
        list(read(path))
    again = str(tmp_path / "again.json")
    write(again, rows, format="coco-captions")
    assert list(read(again, source="captions_val", split="val")) == rows


def test_coco_instances(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    content = {
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [1.5, 2, 3, 4]},
            {"image_id": 7, "category_id": 18},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    path.write_text(json.dumps(content))
    assert recognise(str(path)) == "coco-instances"
    assert list(read(str(path))) == [
        Row("7.jpg", "instances", "train", tags=("dog",), absent=("person",)),
        Row("8.jpg", "instances", "train", absent=("person", "dog")),
    ]


def test_published_annotations_without_a_caption(tmp_path: Path) -> None:
    items = [
        {"image_path": f"{n}.jpg", "caption": c, "union_label_id": [0]} for n, c in enumerate((None, [7]))
    ]
    (tmp_path / "x.json").write_text(json.dumps(items))
    messages: list[str] = []
    rows = list(read(str(tmp_path / "x.json"), tag_list=["dog"], on_error=messages.append))
    assert [(row.image, row.captions, row.tags) for row in rows] == [("0.jpg", (), ("dog",))]
    assert len(messages) == 1 and "item 2: not an annotation" in messages[0]


def test_published_annotations(tmp_path: Path) -> None:
    path, tags = tmp_path / "train.json", ["ball", "dog", "grass", "sky"]
    item = {
        "image_path": "1.jpg",
        "caption": ["a dog", "green grass"],
        "union_label_id": [0, 1, 2],
        "parse_label_id": [[1], [2]],
    }
    path.write_text(json.dumps([item, {"image_path": "2.jpg"}, {**item, "union_label_id": [9]}]))
    assert recognise(str(path)) == "published"
    errors: list[str] = []
    (row,) = read(str(path), tag_list=tags, on_error=errors.append)
    assert row.origins_by_tag == (("dog", "text"), ("grass", "text"), ("ball", "model"))
    assert row.captions == ("a dog", "green grass")
    assert ["item 2" in errors[0], "item 3" in errors[1]] == [True, True]
    write(str(tmp_path / "again.json"), [row], format="published", tag_list=tags)
    assert json.loads((tmp_path / "again.json").read_text()) == [item]
    with pytest.raises(AnytagError, match="tag list"):
        list(read(str(path)))
    with pytest.raises(AnytagError, match="'ball' is not in the tag list"):
        write(str(tmp_path / "no.json"), [row], format="published", tag_list=["dog", "grass"])


def test_folders_by_class(tmp_path: Path) -> None:
    for name in ("train/hot_dog/1.jpg", "train/cat/2.PNG", "val/cat/3.jpg", "train/cat/notes.txt"):
        photo(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no photo")
    path = str(tmp_path)
    assert recognise(path) == "folders"
    assert list(read(path, source="mine")) == [
        Row("train/cat/2.PNG", "mine", "train", tags=("cat",), absent=("hot dog",)),
        Row("train/hot_dog/1.jpg", "mine", "train", tags=("hot dog",), absent=("cat",)),
        Row("val/cat/3.jpg", "mine", "val", tags=("cat",), absent=("hot dog",)),
    ]
    (tmp_path / "val").rename(tmp_path / "val2017")
    assert [row.split for row in read(path)] == ["train", "train", "val"]
    flat = tmp_path / "train"
    assert [row.tags for row in read(str(flat))] == [("cat",), ("hot dog",)]


def test_shards_hold_photos_and_rows(tmp_path: Path) -> None:
    rows = [Row(f"photos/{number}.png", "made", "train", tags=(f"tag {number}",)) for number in range(5)]
    for number, row in enumerate(rows):
        photo(tmp_path / row.image, (number * 40, 0, 0))
    missing = Row("photos/none.jpg", "made", "train")
    errors: list[str] = []
    written = list(
        write_shards(
            str(tmp_path / "out"),
            [*rows[:2], missing, *rows[2:]],
            root=str(tmp_path),
            size=2,
            on_error=errors.append,
        )
    )
    assert [Path(path).name for path in written] == [f"shard-{number:06d}.tar" for number in range(3)]
    assert "none.jpg" in errors[0]
    folder = str(tmp_path / "out")
    assert recognise(folder) == "webdataset"
    found = list(read(folder))
    assert [row.tags for row in found] == [row.tags for row in rows]
    assert found[2].image == "tar://000000.png::shard-000001.tar"
    photos = [(tmp_path / row.image).read_bytes() for row in rows]
    assert [photo_source(root_of(folder), row.image) for row in found] == photos  # opened out of the shards
    assert [body for _, body in read_photos(folder)] == photos
    assert [row.tags for row, _ in read_photos(folder)] == [row.tags for row in rows]


def test_shards_of_others(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    members = {
        "a/1.jpg": encoded(raw("RGB", load(photo(tmp_path / "x.png")).pixels), "JPEG"),
        "a/1.txt": b"a red square\n",
        "a/1.json": b'{"width": 12, "url": "https://example.org"}',
        "a/2.txt": b"no photo",
        "a/3.png": (tmp_path / "x.png").read_bytes(),
        "a/3.cls": b"square",
    }
    for name, body in members.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    with tarfile.open(shard, "w") as tar:
        for name in members:
            tar.add(tmp_path / name, name)
    errors: list[str] = []
    assert list(read(str(shard), on_error=errors.append)) == [
        Row("tar://a/1.jpg::0.tar", "0", "train", captions=("a red square",)),
        Row("tar://a/3.png::0.tar", "0", "train", tags=("square",)),
    ]
    assert "no photo among txt" in errors[0]
    assert [row.image for row in read(f"./{os.path.relpath(shard)}", on_error=errors.append)] == [
        "tar://a/1.jpg::0.tar", "tar://a/3.png::0.tar",
    ]  # fmt: skip
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(AnytagError, match="not a readable tar file"):
        list(read(str(shard)))


def test_only_the_sample_of_a_link_or_a_huge_file_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr("anytag.data.shards.MAX_PHOTO_BYTES", (tmp_path / "a.png").stat().st_size)
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes() + b"more")
    shard = tmp_path / "0.tar"
    with tarfile.open(shard, "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
        for name, kind in (("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.png"
            tar.addfile(link)
        tar.add(tmp_path / "d.png", "d.png")
        tar.add(tmp_path / "a.png", "e.png")
    errors: list[str] = []
    assert [row.image for row in read(str(shard), on_error=errors.append)] == [
        "tar://a.png::0.tar", "tar://e.png::0.tar",
    ]  # fmt: skip
    assert ["link to a.png" in one for one in errors] == [True, True, False]
    assert "more than the limit" in errors[2]
    found = list(of_unit(Unit(str(shard), "0.tar", "tar")))
    assert [one.id for one in found] == [f"tar://{name}.png::{shard}" for name in "abcde"]
    assert [one.error is None for one in found] == [True, False, False, False, True]


def test_a_folder_is_told_by_its_first_photo_or_shard(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(AnytagError, match=r"neither photos nor \.tar files"):
        recognise(str(tmp_path))
    (tmp_path / "shard.tar").touch()
    assert recognise(str(tmp_path)) == "webdataset"
    photo(tmp_path / "a.png")
    assert recognise(str(tmp_path)) == "folders"


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """A place behind a URL: in memory, and in S3 as a server on this machine speaks it."""
    if request.param == "s3":
        with s3_bucket() as url:
            yield url
        return
    yield "memory://bucket"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv"])
def test_urls_are_read_and_written(name: str, bucket: str) -> None:
    plain = [Row(f"{number}.jpg", "made", "train", tags=("dog",)) for number in range(3)]
    write(f"{bucket}/{name}", plain)
    assert list(read(f"{bucket}/{name}")) == plain
    with pytest.raises(AnytagError, match="no such file"):
        list(read(f"{bucket}/none-{name}"))


def test_what_fails_leaves_nothing_behind_a_url(bucket: str) -> None:
    def failing() -> Iterator[Row]:
        yield FULL
        raise AnytagError("stop")

    write(f"{bucket}/kept.jsonl", [FULL])
    with pytest.raises(AnytagError, match="stop"):
        write(f"{bucket}/rows.jsonl", failing())
    assert list(listing(bucket)) == ["kept.jsonl"]


def test_shards_behind_a_url(bucket: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    row = Row("a.png", "made", "train", tags=("red",))
    (path,) = write_shards(f"{bucket}/shards", [row], root=str(tmp_path))
    (found,) = read(f"{bucket}/shards")
    assert found.tags == ("red",)
    assert path.startswith(bucket)
    assert photo_source(root_of(f"{bucket}/shards"), found.image) == (tmp_path / "a.png").read_bytes()


def test_bad_lines_go_by_and_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        '{"image": "a.jpg"}',
        "{",
        '{"image": 3}',
        '{"image": "b.jpg", "caption": "a dog"}',
        '{"image": "c.jpg", "tags": "dog"}',
        '{"image": "c.jpg", "tags": ["dog"], "origins": ["heaven"]}',
        '{"image": "c.jpg", "tags": ["dog"], "origins": []}',
        '{"image": "c.jpg", "tags": [], "origins": ["text"]}',
        '{"image": "c.jpg", "cleaned": ["dog"]}',
    ]
    path.write_text("\n".join(lines) + "\n")
    errors: list[str] = []
    found = list(read(str(path), on_error=errors.append))
    assert [row.image for row in found] == ["a.jpg", "b.jpg", "c.jpg"]
    assert found[1].captions == ("a dog",)
    assert [error.partition(": ")[0].rpartition(" ")[2] for error in errors] == ["2", "3", "5", "6", "8", "9"]
    with pytest.raises(AnytagError, match="line 2: not a row"):
        list(read(str(path)))


def test_streams_do_not_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "a.jpg"}\n{')
    assert next(read(str(path))).image == "a.jpg"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.txt", b"", "unknown format"),
        ("rows.csv", b"\xffa.jpg,dog", "not in UTF-8"),
        ("rows.csv", b"image,colour\n", "unknown column 'colour'"),
        ("rows.csv", b"a.jpg,dog,cat\n", "3 cells, expected 2"),
        ("rows.parquet", b"PAR2", "cannot be read as Parquet"),
        ("rows.json", b"[{", "not valid JSON"),
        ("rows.json", b"nonsense", "not valid JSON"),
    ],
)
def test_what_is_no_data_is_an_error(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AnytagError, match=says):
        list(read(str(tmp_path / name), tag_list=["dog"]))


def test_formats_are_named_where_one_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match="format 'xml' is unknown; expected one of jsonl"):
        list(read("rows.jsonl", format="xml"))
    with pytest.raises(AnytagError, match="not written; expected one of jsonl"):
        write(str(tmp_path / "x"), [], format="coco-instances")
    with pytest.raises(AnytagError, match="no format has this suffix"):
        write(str(tmp_path / "rows.txt"), [])
    with pytest.raises(AnytagError, match="no such file"):
        recognise(str(tmp_path / "none"))
    assert all(known.says for known in FORMATS.values())


def test_missing_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    for package, path in (("pyarrow", "rows.parquet"), ("fsspec.core", "memory://x/rows.jsonl")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=r"anytag\[data\]"):
            list(read(path if "://" in path else str(tmp_path / path)))


def test_s3_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(
        sys.modules["fsspec.registry"]._registry, "s3", raising=False
    )  # where it was used before
    with pytest.raises(MissingExtraError, match=r"anytag\[s3\]"):
        list(read("s3://bucket/rows.jsonl"))


def test_s3_without_keys_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(AnytagError, match="Unable to locate credentials"):
        list(read("s3://bucket/rows.jsonl"))


@pytest.mark.parametrize(
    ("image", "root", "to", "expected"),
    [
        ("a.jpg", "data", "data", "a.jpg"),
        ("a.jpg", "data/photos", "data", "photos/a.jpg"),
        ("a.jpg", "data", "out", "../data/a.jpg"),
        ("/x/a.jpg", "data", "out", "/x/a.jpg"),
        ("https://x/a.jpg", "data", "out", "https://x/a.jpg"),
        ("a.jpg", "s3://bucket/data", "out", "s3://bucket/data/a.jpg"),
        ("tar://1.jpg::s.tar", "data", "out", "tar://1.jpg::../data/s.tar"),
    ],
)
def test_photos_keep_their_place_when_rows_move(image: str, root: str, to: str, expected: str) -> None:
    assert rebased(image, root, to) == expected
    (row,) = moved([Row(image, "made", "train")], root, to)
    assert row.image == expected
    if "://" not in expected:
        assert Path(join(to, expected)).resolve() == Path(join(root, image)).resolve()


def test_csv_is_what_spreadsheets_read(tmp_path: Path) -> None:
    write(str(tmp_path / "rows.csv"), [FULL])
    with (tmp_path / "rows.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert found["tags"] == "dog;grass;ball"


WANTED = [
    Row("a.jpg", "mine", "train", tags=("dog", "hot dog")),
    Row("b.jpg", "mine", "train", tags=("käse",)),
]
TABLES = {
    "commas": "image,tags\na.jpg,dog;hot dog\nb.jpg,käse\n",
    "no header": "a.jpg,dog;hot dog\nb.jpg,käse\n",
    "semicolons": 'image;tags\r\na.jpg;"dog;hot dog"\r\nb.jpg;käse\r\n',
    "semicolons, no header": 'a.jpg;"dog;hot dog"\nb.jpg;käse\n',
    "tabs": "image\ttags\na.jpg\tdog;hot dog\nb.jpg\tkäse\n",
    "quotes": '"image","tags"\n"a.jpg","dog;hot dog"\n"b.jpg","käse"\n',
    "other names": "File Name,Label\na.jpg,dog;hot dog\nb.jpg,käse\n",
    "file_path;KEYWORDS": 'file_path;KEYWORDS\na.jpg;"dog;hot dog"\nb.jpg;käse\n',
    "other order": "labels,photo\ndog;hot dog,a.jpg\nkäse,b.jpg\n",
    "empty lines and an empty column": "\n\nimage,tags,\n\na.jpg,dog;hot dog,\n,,\nb.jpg,käse,\n\n",
    "Excel's hint": 'sep=;\r\nimage;tags\r\na.jpg;"dog;hot dog"\r\nb.jpg;käse\r\n',
    "old Mac": "image,tags\ra.jpg,dog;hot dog\rb.jpg,käse\r",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_tables_of_spreadsheets(text: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode(encoding))
    assert list(read(str(path))) == WANTED


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("image,tags\na.jpg,käse\n".encode("cp1252"), r"not in UTF-8: it contains the byte b'\\xe4'"),
        ("image,tags\na.jpg,dog\n".encode("utf-16-le"), "zero bytes"),
        (b"bild,schlagwort\na.jpg,dog\n", "'bild,schlagwort', has neither known columns nor a photo"),
        (b"0001,dog\n0002,cat\n", "start the table with a line such as image,tags"),
        (b"image,tags,width\na.jpg,dog,3\n", "unknown column 'width'"),
        (b"image,label,tags\na.jpg,dog,3\n", "'label' and 'tags' both contain tags"),
        (b'image,tags\na.jpg,"dog, beach"\n', "tags are separated by ';'"),
        (b"image,tags\na.jpg,dog|beach\n", "contains '|'"),
        (b'image,tags\na.jpg,"dog\nb.jpg,cat\n', "is a quote unclosed"),
        (b'image,tags\na.jpg,"dog\nb.jpg,"cat"\n', "is a quote unclosed"),
        (b"image,tags\na.jpg,dog;cat,beach\n", "3 cells, expected 2"),
        (b"image,tags,\na.jpg,dog,beach\n", "3 cells, expected 3"),
        (b"image,tags,split\na.jpg,dog,holdout\n", "split 'holdout' is unknown"),
        (b"image,tags\na.jpg," + b"x" * 200_000 + b"\n", "field larger than field limit"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(AnytagError, match=says):
        list(read(str(tmp_path / "mine.csv")))


def test_a_table_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    for text in ("file,label\n", "", "\n\n"):
        (tmp_path / "mine.csv").write_text(text)
        assert list(read(str(tmp_path / "mine.csv"))) == []


def test_what_coco_says_of_images_that_are_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "again.jpg"}, {"id": 2}, 5]
    said = [
        {"image_id": 1, "caption": "a dog"},
        {"image_id": 9, "caption": "lost"},
        {"caption": "nobody's"},
        {"image_id": 1},
    ]
    path.write_text(json.dumps({"images": images, "annotations": said}))
    errors: list[str] = []
    assert [row.captions for row in read(str(path), on_error=errors.append)] == [("a dog",)]
    for part in (
        "lacks image_id or caption",
        "two images have the id 1",
        "no image has the id 9",
        "the image 5 lacks",
    ):
        assert any(part in error for error in errors), errors
    things = [{"image_id": 1, "category_id": 3}, {"image_id": 7, "category_id": 18}, {"image_id": 1}]
    path.write_text(
        json.dumps({"images": images[:1], "annotations": things, "categories": [{"id": 18, "name": "dog"}]})
    )
    errors.clear()
    assert [row.absent for row in read(str(path), on_error=errors.append)] == [("dog",)]
    assert len(errors) == 3
    path.write_text('{"something": "else"}')
    with pytest.raises(AnytagError, match="contains no images"):
        list(read(str(path)))


def test_a_path_of_any_bytes_is_kept_by_json_lines_alone(tmp_path: Path) -> None:
    row = Row("\udcff.jpg", "s", "train")
    write(str(tmp_path / "rows.jsonl"), [row])
    assert list(read(str(tmp_path / "rows.jsonl"))) == [row]
    for name in ("rows.csv", "rows.parquet"):
        with pytest.raises(AnytagError, match=r"not Unicode: write \.jsonl"):
            write(str(tmp_path / name), [row])
    with pytest.raises(AnytagError, match="begins or ends with a space"):
        write(str(tmp_path / "rows.csv"), [Row(" a.jpg", "s", "train")])
