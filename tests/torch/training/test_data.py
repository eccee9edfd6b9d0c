"""Targets from rows: published annotations, labels without captions, rows without either."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing.spawn import spawn

from anytag.data.formats import read, write
from anytag.data.rows import Row, read_rows, write_rows
from anytag.errors import AnytagError
from anytag.images import load
from anytag.models.registry import EMBEDDED
from anytag.text_encoders import StaticTextEncoder
from anytag.torch.training import augment as transforms
from anytag.torch.training.caption_reader import caption_vectors
from anytag.torch.training.dataset import with_usable_captions
from anytag.torch.training.distributed import from_main_process
from anytag.torch.training.fit import prepare, train
from anytag.torch.training.photo_dataset import PhotoDataset, Photos
from anytag.torch.training.report import Tally
from anytag.torch.training.run import Run
from anytag.torch.training.texts import read_tag_list
from anytag.vocabulary import Tag, Vocabulary
from tests.command import run
from tests.runs import (
    RUN_OPTIONS,
    Kept,
    free_port,
    recipe_of,
    share,
    small_recipe,
    trainer_of,
    weights,
)

TAGS = ["baby", "dog", "grass", "person", "dog"]


@pytest.fixture
def published(data: Path) -> Path:
    """Annotations whose ids differ from the tags that would be parsed from the captions."""
    items = [
        {
            "image_path": f"{n}.png",
            "caption": ["a baby beside a pond", "a man who sits"],
            "union_label_id": [1, 3],
            "parse_label_id": [[1], [4, 3]]
            if n
            else [[], [2]],  # 2 is not in the union, as can occur in published data
        }
        for n in range(8)
    ]
    (data.parent / "pub.json").write_text(json.dumps(items))
    (data.parent / "tags.txt").write_text("\n".join(TAGS))
    return data.parent / "pub.json"


def test_published_ids_are_the_targets(published: Path) -> None:
    """Those of the published data set: image_tag of union_label_id, parse_tag of the drawn caption."""
    tags = read_tag_list(published.parent / "tags.txt")
    assert tags.ids == ("baby", "dog", "grass", "person", "dog-2")  # Tag2Text's list repeats names
    rows = list(read(str(published), tag_list=tags.ids))
    photos = Photos(rows, published.parent, tags)
    for number, item in enumerate(json.loads(published.read_text())):
        union = np.zeros(5)
        union[item["union_label_id"]] = 1
        assert np.array_equal(photos.targets(number), union)
        assert photos.parsed[number] == tuple(tuple(sorted(ids)) for ids in item["parse_label_id"])
    corpus = PhotoDataset(photos, size=16, batch_size=8, seed=0, parsed_only=True)
    (batch,) = corpus.stream(0, 1)
    for number, caption, row in zip(batch.numbers, batch.captions, batch.require("tags"), strict=True):
        ids = json.loads(published.read_text())[number]["parse_label_id"]["sits" in caption]
        assert sorted(row.nonzero().flatten().tolist()) == sorted(ids)
    assert batch.weight is not None and batch.weight.all()


def test_published_annotations_survive_other_formats(published: Path, tmp_path: Path) -> None:
    ids = read_tag_list(published.parent / "tags.txt").ids
    rows = list(read(str(published), tag_list=ids))
    for name in ("rows.jsonl", "rows.parquet"):
        write(str(tmp_path / name), rows)
        assert list(read(str(tmp_path / name))) == rows
    write(str(tmp_path / "again.json"), rows, format="published", tag_list=ids)
    again = json.loads((tmp_path / "again.json").read_text())
    assert [item["parse_label_id"] for item in again][1] == [[1], [4, 3]]


def test_the_command_trains_on_published_annotations(published: Path, tmp_path: Path) -> None:
    words: list[str | Path] = [
             "small", "backbone=resnet10t", "network.size=32", "network.width=16", "network.text_hidden=16",
             "network.heads=2", "batch_size=4", "steps=1", "--data", published, "--output", tmp_path,
             "--workers", "0", "--no-tensorboard"]  # fmt: skip
    refused = run("train", *words)
    assert refused.exit_code == 2 and "give their tag list" in refused.stderr
    done = run("train", *words, "--tag-list", published.parent / "tags.txt")
    assert done.exit_code == 0, done.stderr
    assert Vocabulary.read(tmp_path / "vocabulary.jsonl").ids == ("baby", "dog", "grass", "person", "dog-2")


def test_an_item_may_lack_one_of_its_lists(tmp_path: Path) -> None:
    item = {"image_path": "1.jpg", "caption": ["a", "b"], "parse_label_id": [[1], []]}
    (tmp_path / "a.json").write_text(json.dumps([item, {**item, "parse_label_id": [[1]]}]))
    errors: list[str] = []
    (row,) = read(str(tmp_path / "a.json"), tag_list=TAGS, on_error=errors.append)
    assert row.tags == ("dog",) and row.parsed == (("dog",), ())
    assert "2 captions, but 1 lists" in errors[0]


def test_labels_without_a_caption_are_positives_and_the_rest_unknown(data: Path) -> None:
    tags = Vocabulary([Tag(name, name, "object") for name in ("dog", "cat", "tree")])
    rows = [
        Row("0.png", "", "train", tags=("dog",), absent=("tree",)),
        Row("1.png", "", "train", captions=("一只狗",), tags=("cat",)),
        Row("2.png", "", "train", captions=("a dog",), tags=("cat",)),
    ]
    photos = Photos(rows, data.parent, tags)
    (batch,) = PhotoDataset(photos, size=16, batch_size=3, seed=0, parsed_only=True).stream(0, 1)
    assert batch.weight is not None
    found = {
        n: (t, k)
        for n, t, k in zip(batch.numbers, batch.require("tags").tolist(), batch.weight.tolist(), strict=True)
    }
    assert found[0] == ([1, 0, 0], [True, False, True])
    assert found[1] == ([0, 1, 0], [False, True, False])  # the parser does not parse Chinese
    assert found[2] == ([1, 0, 0], [True, True, True])


def test_rows_without_any_caption(data: Path, tmp_path: Path) -> None:
    """Rejected for recipes with captions, with a workaround that works: training only tags."""
    rows = [replace(row, captions=()) for row in read_rows(data)]
    write_rows(data.parent / "labels.jsonl", rows)
    file = data.parent / "labels.jsonl"
    recipe = recipe_of("tag2text", steps=3, rate=3e-3)
    with pytest.raises(AnytagError, match=r"no training photo has a caption.* objective\.captions=false"):
        trainer_of(recipe, file, tmp_path / "a")
    alone = replace(recipe, objective=replace(recipe.objective, captions=False))
    assert (train(Run(alone, file, tmp_path / "b", RUN_OPTIONS)) / "card.json").exists()
    kept = Kept()
    trainer = prepare(Run(recipe_of("ram-plus", steps=1), file, tmp_path / "c", RUN_OPTIONS), kept)
    trainer.fit()
    assert "No photo has a caption: the alignment term is left out." in kept.said


def test_no_row_ends_a_run(data: Path, tmp_path: Path) -> None:
    """Missing photos, captions in another language, empty and very long captions."""
    rows = list(read_rows(data))
    rows[0] = replace(rows[0], captions=("一只狗在草地上奔跑", "привет мир"))
    rows[1] = replace(rows[1], captions=("", " ... "))
    rows[2] = replace(rows[2], captions=("dog " * 9000, "x" * 40_000))
    rows[3], rows[4] = replace(rows[3], image="gone.png"), replace(rows[4], image="lost.png")
    rows[5] = replace(rows[5], tags=("猫", " "))
    write_rows(data.parent / "odd.jsonl", rows)
    for recipe in (small_recipe(steps=6), recipe_of("tag2text", steps=6), recipe_of("ram-plus", steps=6)):
        kept, out = Kept(), tmp_path / str(recipe.backbone + str(recipe.network.queries))
        trainer = prepare(Run(recipe, data.parent / "odd.jsonl", out, RUN_OPTIONS), kept)
        trainer.fit()
        said = "\n".join(kept.said)
        assert "2 captions without a letter or digit left out." in said
        assert "2 captions truncated to 2000 characters" in said
        assert "2 photos cannot be read (no such file): " in said
        assert said.count("takes its place") == 1
        assert ("1 tag left out, which the text encoder does not know: 猫" in said) == recipe.objective.aligns
        assert ("captions are not used as queries" in said) == recipe.objective.aligns
        assert all(tensor.isfinite().all() for tensor in weights(out).values() if tensor.is_floating_point())


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        ([Row("0.png", "", "val", tags=("red",))], {}, "no training photos: rows with a split of dev, val"),
        (
            [Row("0.png", "", "train", tags=("red",))] * 3,
            {},
            "3 training photos are fewer than batch_size=4: give batch",
        ),
        (
            [Row("0.png", "", "train")] * 4,
            {"vocabulary": "v.jsonl"},
            "no training photo has a tag of the voc",
        ),
    ],
)
def test_data_that_teaches_nothing_is_an_error_before_the_work(
    rows: list[Row], changes: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", rows)
    Vocabulary([Tag("dog", "dog", "object")]).write(tmp_path / "v.jsonl")
    with pytest.raises(AnytagError, match=said):
        trainer_of(small_recipe(**changes), tmp_path / "rows.jsonl", tmp_path / "out")
    assert not (tmp_path / "out" / "state.pt").exists()


def test_a_batch_is_taken_in_equal_parts(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        AnytagError, match=r"batch_size=4 cannot be split into 3 equal parts .*give batch_size=3"
    ):
        trainer_of(small_recipe(), data, tmp_path, run_options=replace(RUN_OPTIONS, accumulate=3))


def test_one_photo_at_a_time_is_no_batch_for_batch_norms(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match=r"batch_size=1 in 1 equal .*give batch_size=2 or more"):
        trainer_of(small_recipe(batch_size=1), data, tmp_path)
    with pytest.raises(AnytagError, match=r"batch_size=4 in 4 equal .*give batch_size=8 or more"):
        trainer_of(small_recipe(), data, tmp_path, run_options=replace(RUN_OPTIONS, accumulate=4))
    layers = trainer_of(recipe_of("tag2text", batch_size=1), data, tmp_path / "norms of layers")
    assert layers.step == 0


def test_half_precision_needs_a_gpu(data: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(AnytagError, match=r"precision=fp16 needs a GPU.*give precision=bf16"):
        trainer_of(small_recipe(precision="fp16"), data, tmp_path)


def test_captions_that_the_encoder_does_not_know_are_zeros() -> None:
    text = StaticTextEncoder.from_folder(EMBEDDED / "text")
    vectors = caption_vectors(["a dog", "一只狗", "", "a cat", "..."], text)
    assert vectors.any(1).tolist() == [True, False, False, True, False]
    assert torch.equal(vectors[0], torch.from_numpy(text.encode(["a dog"]))[0])


def test_usable_captions_keep_their_tags() -> None:
    row = Row("1.jpg", "", "train", captions=("", "a dog", "!"), parsed=(("x",), ("dog",), ()))
    found, blank, long = with_usable_captions(row)
    assert (blank, long) == (2, 0)
    assert found.captions == ("a dog",) and found.parsed == (("dog",),)


def test_each_operation_of_randaugment_is_applied_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As published: RandAugment(2, 5), each with a probability of 0.5: a quarter has none, a quarter two."""
    done: list[int] = []

    def counting(number: int) -> transforms.Operation:
        def apply(picture: Image.Image, _sign: int) -> Image.Image:
            done.append(number)
            return picture

        return apply

    monkeypatch.setattr(transforms, "AUGMENTATIONS", tuple(map(counting, range(10))))
    photo = load(Image.new("RGB", (8, 8)))
    draw, counts, which = random.Random(0), Counter[int](), Counter[int]()
    for _ in range(4000):
        done.clear()
        transforms.augment(photo, size=8, draw=draw)
        counts[len(done)] += 1
        which.update(done)
    assert [counts[n] / 4000 for n in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert min(which.values()) > 300 and max(which.values()) < 500  # 4000 on the mean, ten operations


def test_a_view_depends_on_its_key_alone(data: Path) -> None:
    """So a resumed run has the same crops, whatever was drawn before."""
    photos = Photos(read_rows(data), data.parent, Vocabulary([Tag("red", "red", "object")]))
    views = PhotoDataset(photos, size=16, batch_size=4, seed=0).views
    first = views[1, 5].pixels
    random.seed(9)
    views[0, 3]
    assert np.array_equal(views[1, 5].pixels, first)


def test_tallies_count_each_thing_once() -> None:
    one, other = Tally(), Tally()
    assert [one.add("lost", name) for name in ("a", "b", "a")] == [True, False, False]
    for name in "bcd":
        other.add("lost", name)
    one.join(other)
    assert one.lines() == ["4 lost: a, b, c, ..."]


def _first(rank: int, port: int, out: Path) -> None:
    import os

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    (out / f"{rank}").write_text(from_main_process(lambda: f"made by {rank}"))
    try:
        from_main_process(lambda: Vocabulary.read(out / "missing"))
    except AnytagError as error:
        (out / f"{rank}-error").write_text(str(error))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_first_process_makes_and_all_have_it(tmp_path: Path) -> None:
    spawn(_first, (free_port(), tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    assert [(tmp_path / name).read_text() for name in "01"] == ["made by 0"] * 2
    assert (tmp_path / "0-error").read_text() == (tmp_path / "1-error").read_text() != ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tag2text", "mobilenetv3_small_050", "convnext_atto"])
def test_two_processes_learn_the_same(kind: str, data: Path, tmp_path: Path) -> None:
    """Without given wordpieces: one vocabulary, and no unused trained parameter."""
    captions = kind == "tag2text"
    recipe = recipe_of(kind, steps=2) if captions else small_recipe(backbone=kind, steps=2, batch_size=8)
    spawn(share, (2, free_port(), recipe, data, tmp_path / "two"), nprocs=2)  # type: ignore[no-untyped-call]
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    if captions:
        trainer_of(recipe, data, tmp_path / "one")
        one, two = ((tmp_path / name / "vocab.txt").read_bytes() for name in ("one", "two"))
        assert one == two
