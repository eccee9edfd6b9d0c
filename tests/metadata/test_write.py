from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag.errors import MetadataError, OutputError
from anytag.metadata import ExifTool, read_keywords, undo, write_keywords
from anytag.metadata.exiftool import Answer
from tests import xmp

pytestmark = xmp.NEEDS_EXIFTOOL


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return xmp.photo(tmp_path / "a.jpg")


def sidecar(photo: Path) -> Path:
    return photo.with_name(photo.name + ".xmp")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# traps of exiftool, each by its own name


def test_trap_1_no_quiet_option_swallows_the_answer(photo: Path) -> None:
    tool = ExifTool(timeout=5)
    try:
        assert tool.run("-q", "-q", "-s3", "-ImageWidth", str(photo)).output.strip() == b"64"
    finally:
        tool.close()


def test_trap_2_years_and_truths_stay_words(photo: Path) -> None:
    xmp.tag(photo, *(f"-{xmp.IPTC}={word}" for word in ("2019.10", "1e3", "-5", "false", "007")))
    [found] = read_keywords([photo])
    assert [word for (word,) in found.keywords] == ["2019.10", "1e3", "-5", "false", "007"]


def test_trap_3_no_word_stands_twice(photo: Path) -> None:
    xmp.tag(photo, f"-{xmp.SUBJECT}=dog", f"-{xmp.SUBJECT}=red cup")
    for _ in range(2):
        write_keywords(photo, ["dog", "cat"], embed=True)
    assert xmp.one_list(photo, xmp.SUBJECT) == ["dog", "red cup", "cat"]


def test_trap_4_a_word_of_iptc_alone_reaches_xmp(photo: Path) -> None:
    xmp.tag(photo, f"-{xmp.IPTC}=old")
    write_keywords(photo, ["café"], embed=True)
    for name in (*xmp.FIELDS, xmp.IPTC):
        assert xmp.one_list(photo, name) == ["old", "café"]


def test_trap_5_old_letters_stay_right_when_new_ones_need_another_charset(photo: Path) -> None:
    xmp.tag(
        photo,
        f"-{xmp.IPTC}=München",
        "-IPTC:City=Köln",
        "-IPTC:Caption-Abstract=Grüße",
        "-IPTC:Writer-Editor=Zoë",
    )
    write_keywords(photo, ["測試"], embed=True)
    found = xmp.lists(photo)
    assert found[xmp.IPTC] == ["München", "測試"]
    assert (found["IPTC:City"], found["IPTC:Caption-Abstract"], found["IPTC:Writer-Editor"]) == (
        ["Köln"],
        ["Grüße"],
        ["Zoë"],
    )


def test_trap_5_latin_letters_change_no_charset(photo: Path) -> None:
    xmp.tag(photo, f"-{xmp.IPTC}=München")
    write_keywords(photo, ["Hündin"], embed=True)
    found = xmp.lists(photo)
    assert (found[xmp.IPTC], found.get("IPTC:CodedCharacterSet")) == (["München", "Hündin"], None)


def test_trap_7_a_truncated_sidecar_is_refused_and_left(photo: Path) -> None:
    write_keywords(photo, ["dog"])
    half = sidecar(photo).read_bytes()[:600]
    sidecar(photo).write_bytes(half)
    with pytest.raises(MetadataError, match=r"a\.jpg\.xmp: exiftool can"):
        write_keywords(photo, ["cat"])
    assert sidecar(photo).read_bytes() == half


def test_trap_7_an_empty_sidecar_is_taken_for_new(photo: Path) -> None:
    sidecar(photo).touch()
    write_keywords(photo, ["dog"])
    assert xmp.one_list(sidecar(photo), xmp.SUBJECT) == ["dog"]


PACKET = (
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    "<rdf:Description rdf:about='' xmlns:dc='http://purl.org/dc/elements/1.1/' xmlns:foo='urn:foo' foo:a='1'>"
    "<dc:subject><rdf:Bag><rdf:li>Käthe</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def photo_with(path: Path, packet: bytes) -> Path:
    """A photo with an XMP packet, whatever is in it."""
    with Image.open(xmp.photo(path)) as image:
        image.save(path, **({"tiffinfo": {700: packet}} if path.suffix == ".tif" else {"xmp": packet}))
    return path


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
@pytest.mark.parametrize(
    "packet",
    [
        PACKET[:-70].encode(),  # exiftool would drop it with all that is in it
        PACKET.replace(" xmlns:foo='urn:foo'", "").encode(),  # the others it leaves as they are
        PACKET.replace("</rdf:Bag>", "</rdf:Bag><rdf:Bag><rdf:li>b</rdf:li></rdf:Bag>").encode(),
    ],
    ids=["cut", "no namespace", "twice"],
)
def test_xmp_that_exiftool_cannot_write_is_an_error_and_stays(
    tmp_path: Path, packet: bytes, suffix: str
) -> None:
    photo = photo_with(tmp_path / f"a.{suffix}", packet)
    before = photo.read_bytes()
    with pytest.raises(MetadataError, match=rf"a\.{suffix}: exiftool cannot write it"):
        write_keywords(photo, ["dog"], embed=True)
    assert (photo.read_bytes(), names(tmp_path)) == (before, [photo.name])


@pytest.mark.parametrize(("embed", "field"), [(False, "subject"), (False, "title"), (True, "subject")])
def test_letters_that_are_not_utf8_are_not_lost(photo: Path, embed: bool, field: str) -> None:
    packet = PACKET.replace("subject", field).encode("latin-1")
    file = photo_with(photo, packet) if embed else sidecar(photo)
    if not embed:
        file.write_bytes(b"<?xml version='1.0' encoding='ISO-8859-1'?>" + packet)
    before = file.read_bytes()
    with pytest.raises(MetadataError, match=r"a\.jpg.*not in UTF-8"):
        write_keywords(photo, ["dog"], embed=embed)
    assert file.read_bytes() == before
    [found] = read_keywords([photo])
    assert field == "title" or found.keywords == (("K\ufffdthe",),)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_but_has_the_name_of_a_sidecar_is_an_error(photo: Path, kind: str) -> None:
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    (Path.mkdir if kind == "folder" else os.mkfifo)(sidecar(photo))
    with pytest.raises(MetadataError, match=r"a\.jpg\.xmp: is no file"):
        write_keywords(photo, ["dog"])


class Meddling(ExifTool):
    """Another program writes a file between two commands."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def run(self, *arguments: str) -> Answer:
        answer = super().run(*arguments)
        if "-o" in arguments:
            self._file.write_bytes(b"mine")
        return answer


@pytest.mark.parametrize("target", ["new sidecar", "sidecar", "photo"])
def test_what_another_program_writes_meanwhile_stays(photo: Path, target: str) -> None:
    if target == "sidecar":
        write_keywords(photo, ["dog"])
    file = photo if target == "photo" else sidecar(photo)
    with closing(Meddling(file)) as tool, pytest.raises(MetadataError, match="changed by another program"):
        write_keywords(photo, ["cat"], embed=target == "photo", exiftool=tool)
    assert file.read_bytes() == b"mine"
    assert names(photo.parent) == sorted({photo.name, file.name})


@pytest.mark.parametrize(
    "name", ["-all=.jpg", "new\nline.jpg", "#[CSTR]x\\n.jpg", "$x\n@y.jpg", "日本 ü.jpg"]
)
@pytest.mark.parametrize("embed", [False, True])
def test_trap_8_odd_names_touch_no_other_file(
    tmp_path: Path, name: str, embed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = xmp.photo(tmp_path / "line.jpg")
    before = other.read_bytes()
    xmp.photo(tmp_path / "plain.jpg", seed=1).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    write_keywords(name, ["dog"], embed=embed)
    assert names(tmp_path) == sorted({"line.jpg", name, *([] if embed else [f"{name}.xmp"])})
    assert other.read_bytes() == before
    [found] = read_keywords([name])
    assert (found.keywords, found.error) == ((), None)
    undo(name)
    assert names(tmp_path) == sorted({"line.jpg", name})


@pytest.mark.parametrize("embed", [False, True])
def test_trap_9_a_link_stays_a_link(tmp_path: Path, embed: bool) -> None:
    photo = xmp.photo(tmp_path / "there" / "a.jpg")
    real = tmp_path / "there" / "real.xmp"
    xmp.tag(photo, f"-{xmp.SUBJECT}=mine")
    write_keywords(photo, ["cat"])
    sidecar(photo).rename(real)
    link, beside = tmp_path / "a.jpg", tmp_path / "a.jpg.xmp"
    link.symlink_to(photo)
    beside.symlink_to(real)
    write_keywords(link, ["dog"], embed=embed)
    assert (link.is_symlink(), beside.is_symlink()) == (True, True)
    assert xmp.one_list(real, xmp.SUBJECT) == ["mine", "dog"]
    assert xmp.one_list(photo, xmp.SUBJECT) == ["mine", *["dog"] * embed]
    assert names(tmp_path / "there") == ["a.jpg", "real.xmp"]


def test_trap_10_an_embedded_photo_keeps_its_time_unless_told_and_a_sidecar_has_a_new_one(
    photo: Path,
) -> None:
    write_keywords(photo, ["cat"])
    for path in (photo, sidecar(photo)):
        os.utime(path, ns=(10**18, 10**18))
    write_keywords(photo, ["dog"], embed=True)
    assert photo.stat().st_mtime_ns == 10**18
    assert sidecar(photo).stat().st_mtime_ns > 10**18
    write_keywords(photo, ["sky"], embed=True, touch=True)
    assert photo.stat().st_mtime_ns > 10**18


@pytest.mark.parametrize("embed", [False, True])
def test_trap_11_a_folder_without_rights_is_an_error_with_its_reason(
    photo: Path, embed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo.parent.chmod(0o555)
    if os.geteuid() == 0:  # who may write everywhere

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr("tempfile.mkstemp", refuse)
    target = photo if embed else sidecar(photo)
    with pytest.raises(OutputError) as failure:
        write_keywords(photo, ["dog"], embed=embed)
    assert str(failure.value) == f"{target} cannot be written: Permission denied"
    assert names(photo.parent) == ["a.jpg"]
    photo.parent.chmod(0o755)


def test_a_file_that_is_write_protected_is_left(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xmp.exiftool("-o", sidecar(photo), f"-{xmp.SUBJECT}=mine")
    sidecar(photo).chmod(0o444)
    if os.geteuid() == 0:  # who may write everything
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
    before = sidecar(photo).read_bytes()
    with pytest.raises(OutputError, match=r"a\.jpg\.xmp is write-protected"):
        write_keywords(photo, ["dog"])
    assert sidecar(photo).read_bytes() == before


@pytest.mark.parametrize("embed", [False, True])
def test_a_full_disk_leaves_all_as_it_was(photo: Path, embed: bool) -> None:
    resource = pytest.importorskip("resource")
    write_keywords(photo, ["cat"])
    before = {path: path.read_bytes() for path in photo.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OutputError, match=r"a\.jpg(\.xmp)? cannot be written"):
            write_keywords(photo, ["dog"], embed=embed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in photo.parent.iterdir()} == before


def test_a_killed_run_leaves_no_half_and_the_next_one_no_draft(tmp_path: Path) -> None:
    photos = [xmp.photo(tmp_path / f"{i:03}.jpg") for i in range(2)]
    for i in range(2, 200):
        photos.append(Path(shutil.copy(photos[0], tmp_path / f"{i:03}.jpg")))
    script = """\
        import sys
        from pathlib import Path
        from anytag.metadata import write_keywords
        for path in sorted(Path(sys.argv[1]).glob("*.jpg")):
            write_keywords(path, ["dog", "cat", "word " * 200])
            print(path.name, flush=True)
        """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script), os.fspath(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as python:
        assert python.stdout
        for _ in range(40):
            python.stdout.readline()
        python.kill()
    done = list(tmp_path.glob("*.xmp"))
    assert 40 <= len(done) < 200
    for path in done:
        assert xmp.one_list(path, xmp.SUBJECT)[:2] == ["dog", "cat"]
    draft = tmp_path / ".000.jpg.xmp.abcd1234.new"
    draft.write_bytes(b"half")
    others = tmp_path / ".notes.abcd1234.new"
    others.write_bytes(b"of somebody else")
    for path in (draft, others):
        os.utime(path, (time.time() - 60,) * 2)
    for path in photos:
        write_keywords(path, ["dog", "cat"])
    assert [path.name for path in tmp_path.glob(".*")] == [others.name]
    assert len(list(tmp_path.glob("*.xmp"))) == 200


# what is written, and taken back


def test_a_dry_run_tells_what_cannot_be_written(photo: Path) -> None:
    sidecar(photo).write_text("<x:xmpmeta broken")
    for dry_run in (True, False):
        with pytest.raises(MetadataError, match="exiftool cannot write it: Format error"):
            write_keywords(photo, ["dog"], dry_run=dry_run)
    assert sidecar(photo).read_text() == "<x:xmpmeta broken"


def test_a_dry_run_tells_and_changes_nothing(photo: Path) -> None:
    change = write_keywords(photo, ["dog", ("animal", "cat")], caption="a dog and a cat", dry_run=True)
    assert change.to_dict() == {
        "path": str(photo),
        "files": [str(sidecar(photo))],
        "added": ["dog", "cat"],
        "removed": [],
        "caption": "a dog and a cat",
        "note": None,
        "error": None,
    }
    assert names(photo.parent) == ["a.jpg"]


def test_no_tags_make_no_sidecar_and_touch_no_foreign_one(photo: Path) -> None:
    assert write_keywords(photo, []).files == ()
    xmp.exiftool("-o", sidecar(photo), f"-{xmp.SUBJECT}=mine")
    before = sidecar(photo).read_bytes()
    assert write_keywords(photo, []).files == ()
    assert sidecar(photo).read_bytes() == before


def test_undo_after_the_user_added_removed_and_renamed(photo: Path) -> None:
    xmp.exiftool("-o", sidecar(photo), f"-{xmp.SUBJECT}=mine", "-XMP-xmp:Rating=4")
    write_keywords(photo, ["dog", "cat", "sky"])
    for name in xmp.FIELDS:
        words = [word for word in xmp.one_list(sidecar(photo), name) if word != "cat"]
        words[words.index("sky")] = "heaven"
        xmp.tag(sidecar(photo), *(f"-{name}={word}" for word in [*words, "added"]))
    assert set(undo(photo).removed) == {"dog", "mine"} - {"mine"}
    found = xmp.lists(sidecar(photo))
    assert found[xmp.SUBJECT] == ["mine", "heaven", "added"]
    assert found["XMP-xmp:Rating"] == ["4"]
    assert not any("anytag" in name for name in found)


def test_undo_reports_only_words_that_no_file_has_any_more(photo: Path) -> None:
    xmp.tag(photo, f"-{xmp.SUBJECT}=mine")
    assert write_keywords(photo, ["dog"]).added[-1] == "dog"
    assert "mine" in xmp.one_list(sidecar(photo), xmp.SUBJECT)
    assert undo(photo).removed == ("dog",)
    assert not sidecar(photo).exists() and xmp.one_list(photo, xmp.SUBJECT) == ["mine"]


def test_undo_leaves_a_sidecar_of_ours_that_another_program_has_added_to(photo: Path) -> None:
    write_keywords(photo, ["dog"])
    xmp.tag(sidecar(photo), "-XMP-xmp:Rating=4")
    undo(photo)
    assert set(xmp.lists(sidecar(photo))) & {xmp.SUBJECT, "XMP-xmp:Rating"} == {"XMP-xmp:Rating"}


def test_undo_leaves_an_empty_sidecar_of_the_user(photo: Path) -> None:
    sidecar(photo).write_text(
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
        "<rdf:Description rdf:about=''/></rdf:RDF></x:xmpmeta>"
    )
    write_keywords(photo, ["dog"])
    undo(photo)
    assert sidecar(photo).exists()
    assert xmp.one_list(sidecar(photo), xmp.SUBJECT) == []


def test_a_word_that_the_user_deleted_does_not_return(photo: Path) -> None:
    write_keywords(photo, ["dog", "cat"])
    xmp.tag(sidecar(photo), *(f"-{name}-=dog" for name in xmp.FIELDS))
    write_keywords(photo, ["dog", "cat", "sky"])
    for name in xmp.FIELDS:
        assert xmp.one_list(sidecar(photo), name) == ["cat", "sky"]
    assert [found.rejected for found in read_keywords([photo])] == [("dog",)]


def test_a_caption_is_written_where_there_is_none_and_taken_back(photo: Path) -> None:
    assert write_keywords(photo, [], caption="a dog").caption == "a dog"
    assert xmp.one_list(sidecar(photo), "XMP-dc:Description") == ["a dog"]
    write_keywords(photo, [], caption="two dogs")
    assert xmp.one_list(sidecar(photo), "XMP-dc:Description") == ["two dogs"]
    undo(photo)
    assert names(photo.parent) == ["a.jpg"]


@pytest.mark.parametrize("field", ["XMP-dc:Description", "IPTC:Caption-Abstract", "IFD0:ImageDescription"])
def test_a_caption_of_the_user_stays_unless_told(photo: Path, field: str) -> None:
    xmp.tag(photo, f"-{field}=mine")
    write_keywords(photo, ["dog"], caption="ours")
    assert xmp.one_list(sidecar(photo), "XMP-dc:Description") == []
    write_keywords(photo, ["dog"], caption="ours", overwrite_caption=True)
    assert xmp.one_list(sidecar(photo), "XMP-dc:Description") == ["ours"]


def test_other_languages_of_a_caption_stay(photo: Path) -> None:
    xmp.exiftool("-o", sidecar(photo), "-XMP-dc:Description=mine", "-XMP-dc:Description-de=meins")
    write_keywords(photo, ["dog"], caption="a <dog> & a cat\nin two lines", overwrite_caption=True)
    found = xmp.lists(sidecar(photo))
    assert found["XMP-dc:Description"] == ["a <dog> & a cat in two lines"]
    assert found["XMP-dc:Description-de"] == ["meins"]
    undo(photo)
    assert xmp.lists(sidecar(photo))["XMP-dc:Description"] == ["mine"]


# which files


def test_two_photos_of_one_name_in_two_folders_have_each_its_own(tmp_path: Path) -> None:
    for i, year in enumerate(("2004", "2006")):
        write_keywords(xmp.photo(tmp_path / year / "IMG_0015.JPG", seed=i), [year])
    for year in ("2004", "2006"):
        assert xmp.one_list(tmp_path / year / "IMG_0015.JPG.xmp", xmp.SUBJECT) == [year]


def test_an_existing_sidecar_wins_whatever_its_case(photo: Path) -> None:
    beside = photo.with_name("a.jpg.XMP")
    xmp.exiftool("-o", photo.with_name("x.xmp"), f"-{xmp.SUBJECT}=mine")
    photo.with_name("x.xmp").rename(beside)
    write_keywords(photo, ["dog"])
    assert names(photo.parent) == ["a.jpg", "a.jpg.XMP"]
    assert xmp.one_list(beside, xmp.SUBJECT) == ["mine", "dog"]


def test_the_stem_is_written_where_it_is_this_photos_and_both_where_both_are(photo: Path) -> None:
    stem = photo.with_name("a.xmp")
    xmp.exiftool("-o", stem, f"-{xmp.SUBJECT}=mine")
    write_keywords(photo, ["dog"])
    assert names(photo.parent) == ["a.jpg", "a.xmp"]
    xmp.exiftool("-o", sidecar(photo), f"-{xmp.SUBJECT}=other")
    write_keywords(photo, ["dog"])
    assert xmp.one_list(stem, xmp.SUBJECT) == ["mine", "dog", "other"]
    assert xmp.one_list(sidecar(photo), xmp.SUBJECT) == ["other", "mine", "dog"]


def test_a_stem_that_may_be_another_photos_is_neither_read_nor_written(photo: Path) -> None:
    stem = photo.with_name("a.xmp")
    xmp.photo(photo.with_name("a.png")).rename(photo.with_name("a.CR3"))
    xmp.exiftool("-o", stem, f"-{xmp.SUBJECT}=of the raw")
    before = stem.read_bytes()
    change = write_keywords(photo, ["dog"])
    assert change.files == (str(sidecar(photo)),)
    assert change.note == "a.xmp may belong to a.CR3: a.jpg.xmp is written"
    assert stem.read_bytes() == before
    assert xmp.one_list(sidecar(photo), xmp.SUBJECT) == ["dog"]


@pytest.mark.parametrize(
    "said",
    [
        "-XMP-photoshop:SidecarForExtension=jpg",
        "-XMP-crs:RawFileName=A.JPG",
        "-XMP-xmpMM:PreservedFileName=a.jpg",
    ],
)
def test_a_shared_stem_is_this_photos_where_it_says_so(photo: Path, said: str) -> None:
    photo.with_name("a.CR3").touch()
    xmp.exiftool("-o", photo.with_name("a.xmp"), said)
    assert write_keywords(photo, ["dog"]).files == (str(photo.with_name("a.xmp")),)


@pytest.mark.parametrize(
    ("said", "is_ours"),
    [
        ("-XMP-xmpMM:PreservedFileName=DSC_0001.JPG", True),
        ("-XMP-xmpMM:PreservedFileName=DSC_0001.NEF", False),
        ("-XMP-photoshop:SidecarForExtension=NEF", False),
    ],
)
def test_a_lone_sidecar_that_was_renamed_with_its_photo_is_its_own(
    photo: Path, said: str, is_ours: bool
) -> None:
    xmp.exiftool("-o", photo.with_name("a.xmp"), said, f"-{xmp.SUBJECT}=mine")
    (found,) = read_keywords([photo])
    assert found.keywords == ((("mine",),) if is_ours else ())


def test_adobes_name_for_new_sidecars(photo: Path) -> None:
    assert write_keywords(photo, ["dog"], sidecar_name="stem").files == (str(photo.with_name("a.xmp")),)
    other = xmp.photo(photo.with_name("b.jpg"))
    other.with_name("b.CR3").touch()
    change = write_keywords(other, ["dog"], sidecar_name="stem")
    assert change.files == (str(sidecar(other)),)
    assert change.note == "b.xmp may belong to b.CR3: b.jpg.xmp is written"


def test_capitals_of_a_suffix_tell_photos_apart(tmp_path: Path) -> None:
    small, large = xmp.photo(tmp_path / "a.jpg"), xmp.photo(tmp_path / "a.JPG", seed=1)
    if small.samefile(large):
        pytest.skip("this disk tells no capitals from small letters")
    write_keywords(small, ["small"])
    write_keywords(large, ["large"])
    assert xmp.one_list(tmp_path / "a.jpg.xmp", xmp.SUBJECT) == ["small"]
    assert xmp.one_list(tmp_path / "a.JPG.xmp", xmp.SUBJECT) == ["large"]


def test_a_name_of_255_bytes_has_the_sidecar_of_its_stem(tmp_path: Path) -> None:
    photo = xmp.photo(tmp_path / "p.jpg").rename(tmp_path / ("ü" * 125 + "x.jpg"))
    write_keywords(photo, ["dog"])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jpg", ".xmp"]
    undo(photo)
    assert names(tmp_path) == [photo.name]


def test_a_file_that_is_replaced_keeps_its_mode(photo: Path) -> None:
    write_keywords(photo, ["cat"])
    sidecar(photo).chmod(0o664)
    photo.chmod(0o640)
    write_keywords(photo, ["dog"], embed=True)
    assert (photo.stat().st_mode & 0o777, sidecar(photo).stat().st_mode & 0o777) == (0o640, 0o664)


# embedding


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".heic", ".avif"])
def test_embedding_changes_no_pixel_no_orientation_and_no_profile(tmp_path: Path, suffix: str) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(
        ImageCms.createProfile("LAB" if suffix == ".none" else "sRGB")
    ).tobytes()
    photo = xmp.photo(tmp_path / f"a{suffix}", icc_profile=profile)
    if suffix != ".avif":
        xmp.tag(photo, "-n", "-IFD0:Orientation=6")
    before = decoded(photo)
    write_keywords(photo, ["dog", "測試"], caption="a dog", embed=True)
    assert xmp.one_list(photo, xmp.SUBJECT) == ["dog", "測試"]
    assert decoded(photo) == before
    undo(photo)
    assert decoded(photo) == before


def decoded(photo: Path) -> tuple[bytes, object, object]:
    if photo.suffix == ".heic":
        import pillow_heif

        picture: Image.Image = pillow_heif.open_heif(photo).to_pillow()
    else:
        picture = Image.open(photo)
    with picture:
        pixels, profile = np.asarray(picture).tobytes(), picture.info.get("icc_profile")
    return pixels, profile, xmp.exiftool("-s3", "-n", "-IFD0:Orientation", photo)


@pytest.mark.parametrize("kind", ["BMP", "truncated", "text"])
def test_what_cannot_hold_metadata_is_refused_and_left(tmp_path: Path, kind: str) -> None:
    photo = xmp.photo(tmp_path / ("a.bmp" if kind == "BMP" else "a.jpg"))
    if kind != "BMP":
        photo.write_bytes(photo.read_bytes()[:300] if kind == "truncated" else b"no photo at all")
    before = photo.read_bytes()
    with pytest.raises(MetadataError, match=r"a\.(bmp|jpg): exiftool cannot"):
        write_keywords(photo, ["dog"], embed=True)
    assert photo.read_bytes() == before
    assert names(tmp_path) == [photo.name]


def test_embedding_keeps_the_sidecars_that_are_there_in_step(photo: Path) -> None:
    xmp.exiftool("-o", sidecar(photo), f"-{xmp.SUBJECT}=mine", f"-{xmp.TAGS_LIST}=mine")
    write_keywords(photo, ["dog"], embed=True)
    assert xmp.immich(photo, [sidecar(photo)]) == {"mine", "dog"}
    assert xmp.photoprism(photo, [sidecar(photo)]) == {"mine", "dog"}


def test_photoshops_sum_of_iptc_stays_right(photo: Path) -> None:
    xmp.tag(photo, f"-{xmp.IPTC}=mine")
    xmp.tag(photo, "-Photoshop:IPTCDigest=new")
    write_keywords(photo, ["dog"], embed=True)
    found = xmp.exiftool("-s3", "-IPTCDigest", "-CurrentIPTCDigest", photo).split()
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_photo_that_is_not_there_is_an_error_and_a_row(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="is not a file"):
        write_keywords(tmp_path / "no.jpg", ["dog"])
    good = xmp.tag(xmp.photo(tmp_path / "a.jpg"), f"-{xmp.SUBJECT}=mine")
    missing, found = read_keywords([tmp_path / "no.jpg", good])
    assert missing.error is not None
    assert missing.error.type == "MetadataError"
    assert found.keywords == (("mine",),)
