"""`anytag.evaluation.benchmarks`: small sets in exactly the layouts that are distributed."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from anytag.errors import AnytagError
from anytag.evaluation import benchmarks
from anytag.evaluation.annotations import TagList, find, read_list
from anytag.evaluation.benchmarks import BENCHMARKS, tag_benchmark, text_benchmark
from anytag.vocabulary import Tag, Vocabulary

WORDS = Vocabulary([Tag(name, name, "object") for name in ("dog", "ball", "beach", "cat")])


def packed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(text.encode()))


def photos(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(folder / name, "JPEG")
    return folder


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    common, rare = "openimages_common_214", "openimages_rare_200"
    packed(
        folder / "benchmarks" / f"{common}_ram_annots.txt.xz", "test/00aa,dog,cat\ntest/00bb\ntest/00cc,cat"
    )
    (folder / "benchmarks" / f"{common}_ram_taglist.txt").write_text(
        "dog\ncat\nplane"
    )  # no newline at the end
    packed(
        folder / "benchmarks" / f"{common}_tag2text_idannots.txt.xz", "test/00aa,2,0\ntest/00bb\ntest/00cc,0"
    )
    (folder / "benchmarks" / f"{common}_tag2text_tagidlist.txt").write_text("0\n2\n3\n")
    packed(
        folder / "benchmarks" / f"{rare}_ram_annots.txt.xz",
        "test/00aa,Auto racing\ntest/00bb,Ale,Auto racing\n",
    )
    (folder / "benchmarks" / f"{rare}_ram_taglist.txt").write_text("Ale\nAuto racing\n")
    described = [{"Ale": ["a photo of a ale.", "brown beer"]}, {"Auto racing": ["a photo of a auto racing."]}]
    packed(folder / "benchmarks" / f"{rare}_llm_tag_descriptions.json.xz", json.dumps(described))
    hico = folder / "hico"  # as the authors' repository has it, not packed
    hico.mkdir()
    (hico / "hico_600_annots.txt").write_text(
        "HICO_test2015_00000001.jpg,1\nHICO_test2015_00000002.jpg,0 1\n"
    )
    (hico / "hico_600_taglist.txt").write_text("person board airplane\nperson direct airplane\n")
    packed(
        folder / "benchmarks" / "imagenet_multi_1000_annots.txt.xz",
        "ILSVRC2012_val_00000001.JPEG\nILSVRC2012_val_00000002.JPEG,2 0\n",
    )
    (folder / "benchmarks" / "imagenet_multi_1000_taglist.txt").write_text("crane\ntench\ncrane\n")
    return folder


def test_openimages_common(lists: Path, tmp_path: Path) -> None:
    images = photos(tmp_path / "images", ["test/00aa.jpg", "test/00bb.jpg", "test/00cc.jpg"])
    task = tag_benchmark(
        "openimages-common-214", lists=lists, images=images, vocabulary=WORDS, kind="tagging"
    )
    assert [asked.name for asked in task.tags] == ["dog", "cat", "plane"]
    assert task.present.tolist() == [[True, True, False], [False, False, False], [False, True, False]]
    assert task.photos[2] == images / "test" / "00cc.jpg"
    assert {(one.who, one.value) for one in task.published} >= {("RAM++ 14M", 86.6), ("RAM 14M", 86.5)}


def test_tag2text_has_its_own_annotations_by_number(
    lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "TAG2TEXT", len(WORDS))
    images = photos(tmp_path / "images", ["test/00aa.jpg"])
    task = tag_benchmark(
        "openimages-common-214", lists=lists, images=images, vocabulary=WORDS, kind="tagging"
    )
    assert task.ids == ("dog", "beach", "cat")
    assert task.present.tolist() == [[True, True, False], [False, False, False], [True, False, False]]


def test_openimages_rare_is_asked_with_descriptions(lists: Path, tmp_path: Path) -> None:
    images = photos(tmp_path / "images", ["00aa.jpg", "00bb.jpg"])  # without the folder test
    task = tag_benchmark("openimages-rare-200", lists=lists, images=images, vocabulary=WORDS, kind="open-set")
    assert task.tags[0].descriptions == ("a photo of a ale.", "brown beer")
    assert task.present.tolist() == [[False, True], [True, True]]
    assert task.photos == (images / "00aa.jpg", images / "00bb.jpg")
    plain = tag_benchmark("openimages-rare-200", lists=lists, images=images, vocabulary=WORDS, kind="tagging")
    assert plain.tags[0].descriptions == ()


def test_hico_lies_in_a_folder_of_the_images(lists: Path, tmp_path: Path) -> None:
    images = photos(tmp_path / "images", ["test2015/HICO_test2015_00000001.jpg"])
    task = tag_benchmark("hico-600", lists=lists, images=images, vocabulary=WORDS, kind="open-set")
    assert task.present.tolist() == [[False, True], [True, True]]
    assert task.photos[0].is_file()
    assert not task.photos[1].exists()  # said when it is read, the rest goes on


def test_imagenet_multi_has_a_name_twice(lists: Path, tmp_path: Path) -> None:
    images = photos(tmp_path / "images", ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"])
    task = tag_benchmark("imagenet-multi", lists=lists, images=images, vocabulary=WORDS, kind="tagging")
    assert [asked.name for asked in task.tags] == ["crane", "tench", "crane"]
    assert task.present.tolist() == [[False, False, False], [True, False, True]]


def test_coco_reads_instances(tmp_path: Path) -> None:
    images = photos(tmp_path / "coco" / "val2017", ["000000000139.jpg", "000000000285.jpg"])
    annotations = {
        "images": [
            {"id": 139, "file_name": "000000000139.jpg"},
            {"id": 285, "file_name": "000000000285.jpg"},
        ],
        "annotations": [{"image_id": 139, "category_id": 3}, {"image_id": 139, "category_id": 3}],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    }
    file = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(annotations))
    task = tag_benchmark("coco-80", lists=tmp_path, images=images, vocabulary=WORDS, kind="tagging")
    assert [asked.name for asked in task.tags] == ["car", "person"]
    assert task.present.tolist() == [[True, False], [False, False]]
    assert task.known is None
    assert ("RAM 14M", 80.6) in {(one.who, one.value) for one in task.published}


@pytest.mark.parametrize("layout", ["karpathy", "lines"])
def test_flickr8k(tmp_path: Path, layout: str) -> None:
    images = photos(tmp_path / "Images", ["a_1.jpg", "b_2.jpg"])
    told = {"a_1": ("test", ["A dog with a ball .", "Dog on a beach ."]), "b_2": ("train", ["A cat ."])}
    if layout == "karpathy":
        rows = [
            {"filename": f"{key}.jpg", "split": split, "sentences": [{"raw": text} for text in texts]}
            for key, (split, texts) in told.items()
        ]
        (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": rows}))
    else:
        lines = [{"id": key, "split": split, "captions": texts} for key, (split, texts) in told.items()]
        (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = text_benchmark("flickr8k", lists=tmp_path / "none", images=images, kind="caption")
    assert text.photos == (images / "a_1.jpg",)
    assert text.captions == (("A dog with a ball .", "Dog on a beach ."),)
    assert ("CNN + RNN 2015", "BLEU-4", 16.0) in {(one.who, one.figure, one.value) for one in text.published}
    tags = tag_benchmark("flickr8k", lists=tmp_path, images=images, vocabulary=WORDS, kind="tagging")
    assert tags.present.tolist() == [[True, True, True, False]]
    assert tags.published == ()


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_missing_photos_say_what_to_get(lists: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(AnytagError, match=r"get the .*images of .*--images"):
        tag_benchmark(name, lists=lists, images=tmp_path / "none", vocabulary=WORDS, kind="tagging")


def test_a_folder_of_other_photos_says_what_to_get(lists: Path, tmp_path: Path) -> None:
    images = photos(tmp_path / "images", ["holiday.jpg"])
    with pytest.raises(
        AnytagError, match=r"none of the 2 photos, for instance HICO_test2015_00000001.jpg; get"
    ):
        tag_benchmark("hico-600", lists=lists, images=images, vocabulary=WORDS, kind="tagging")


def test_missing_lists_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match="anytag pull lists"):
        find("hico_600_taglist.txt", tmp_path)


@pytest.mark.parametrize(("name", "told"), [("coco-80", "cocodataset.org"), ("flickr8k", "karpathy")])
def test_annotations_that_are_not_pulled_say_where_they_are(tmp_path: Path, name: str, told: str) -> None:
    images = photos(tmp_path / "images", ["a.jpg"])
    with pytest.raises(AnytagError, match=told) as error:
        tag_benchmark(name, lists=tmp_path / "lists", images=images, vocabulary=WORDS, kind="tagging")
    assert "pull lists" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "text"), [("captions.jsonl", "{"), ("captions.jsonl", "[1]"), ("dataset_flickr8k.json", "{}")]
)
def test_broken_captions_are_named(tmp_path: Path, file: str, text: str) -> None:
    images = photos(tmp_path / "images", ["a.jpg"])
    (tmp_path / file).write_text(text)
    with pytest.raises(AnytagError, match=f"{file} is not in the form"):
        text_benchmark("flickr8k", lists=tmp_path, images=images, kind="caption")


def test_annotations_without_a_photo_are_said(lists: Path, tmp_path: Path) -> None:
    (lists / "hico" / "hico_600_annots.txt").write_text("")
    images = photos(tmp_path / "images", ["a.jpg"])
    with pytest.raises(AnytagError, match="list no photo"):
        tag_benchmark("hico-600", lists=lists, images=images, vocabulary=WORDS, kind="tagging")


def test_figures_of_another_task_are_not_published(lists: Path, tmp_path: Path) -> None:
    images = photos(tmp_path / "images", ["00aa.jpg"])
    task = tag_benchmark("openimages-rare-200", lists=lists, images=images, vocabulary=WORDS, kind="tagging")
    assert task.published == ()


def test_an_annotation_that_no_list_knows_is_said(tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("dog\n")
    (tmp_path / "annotations.txt").write_text("one,dog\ntwo,cow\n")
    with pytest.raises(AnytagError, match="two has 'cow'"):
        read_list(TagList("tags.txt", "annotations.txt"), tmp_path)


def test_names_and_tasks_that_are_not_there() -> None:
    with pytest.raises(AnytagError, match="no benchmark 'coco'; available"):
        benchmarks.known("coco")
    with pytest.raises(AnytagError, match="hico-600 has no captions"):
        text_benchmark("hico-600", lists=Path(), images=Path(), kind="caption")
