"""Runs that start from published checkpoints and pretrained backbones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from anytag import Tagger
from anytag.data.rows import read_rows, write_rows
from anytag.errors import AnytagError
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints import Options, convert, load_network, load_queries
from anytag.torch.checkpoints.resample import resample_relative_positions
from anytag.torch.nn.configs import SwinConfig
from anytag.torch.training.fit import finish, prepare
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run
from anytag.vocabulary import Tag, Vocabulary
from tests.command import run
from tests.released import FILES, TAGS, make_tensors, write_checkpoint, write_lists
from tests.runs import RUN_OPTIONS, Kept, recipe_of, small_recipe, weights, write_photos

RECIPES = {"tag2text": "tag2text-14m-384", "ram": "ram-14m-384", "ram-plus": "ram-plus-14m-384"}
NUMBERS = ["network.size=64", "batch_size=4", "steps=1", "rate=1e-6"]
SWIN = SwinConfig(width=8, depths=(1, 2), heads=(1, 2), window=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with tags of the published lists."""
    file = write_photos(tmp_path_factory.mktemp("photos"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["tags"] = [f"tag {number % 3}"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family as `anytag convert` writes it, and FAMILY.pth."""
    folder = tmp_path_factory.mktemp("released")
    lists = write_lists(folder / "lists")
    for family in FILES:
        file = write_checkpoint(folder / f"{family}.pth", make_tensors(family))
        convert(file, folder / family, Options(lists=lists))
    return folder


@pytest.mark.parametrize("family", FILES)
def test_a_released_checkpoint_is_trained_on(family: str, data: Path, released: Path, tmp_path: Path) -> None:
    out, start = tmp_path / "out", released / family
    result = run(
        "train", RECIPES[family], f"start={start}", *NUMBERS, "--data", data, "--output", out,
        "--workers", "0", "--no-tensorboard", "--log-every", "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    before, after = load_network(start), load_network(out / "model")
    assert after.config.size == 64
    named = dict(after.named_parameters())
    for name, tensor in before.named_parameters():
        if "relative_position" not in name and name in named:
            torch.testing.assert_close(named[name], tensor, atol=1e-4, rtol=1e-3)
    assert Vocabulary.read(out / "model" / "vocabulary.jsonl").ids == (
        Vocabulary.read(start / "vocabulary.jsonl").ids
    )
    torch.testing.assert_close(load_queries(out / "model"), load_queries(start), atol=1e-4, rtol=1e-3)
    assert len(Tagger.load(out / "model").tag(data.parent / "0.png", threshold=0.0).tags) == TAGS
    again = run(
        "train", RECIPES[family], f"start={start}", *NUMBERS[:2], "steps=2", NUMBERS[3], "--data", data,
        "--output", out, "--workers", "0", "--no-tensorboard",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert "Resuming from step 1" in again.output


def test_finetune_names_the_command_that_does_it(data: Path, released: Path, tmp_path: Path) -> None:
    result = run("finetune", "--data", data, "--output", tmp_path / "x", "--model", released / "ram-plus")
    assert result.exit_code != 0
    assert f"anytag train ram-plus-14m-384 start={released / 'ram-plus'} --data" in (
        result.output.replace("\n", " ")
    )


def test_learned_queries_are_taken_tag_by_tag(data: Path, released: Path, tmp_path: Path) -> None:
    known = list(Vocabulary.read(released / "tag2text" / "vocabulary.jsonl"))
    Vocabulary([known[4], replace(known[0], id="new", name="new"), known[1]]).write(tmp_path / "tags.jsonl")
    recipe = replace(
        recipe_of("tag2text"), start=str(released / "tag2text"), vocabulary=str(tmp_path / "tags.jsonl")
    )
    recipe = replace(recipe, network=replace(recipe.network, size=64))
    trainer = prepare(Run(recipe, data, tmp_path / "out", RUN_OPTIONS), Reporter())
    with torch.no_grad():
        rows = trainer.plain.queries()[0]
    expected = load_queries(released / "tag2text")
    assert torch.equal(rows[0], expected[4]) and torch.equal(rows[2], expected[1])
    assert not torch.equal(rows[1], expected[0])


def test_a_checkpoint_of_another_family_names_the_recipe(data: Path, released: Path, tmp_path: Path) -> None:
    recipe = replace(recipe_of("ram"), start=str(released / "ram-plus"))
    with pytest.raises(AnytagError, match=r"is a RAM\+\+ model, .*: use ram-plus-14m-384"):
        prepare(Run(recipe, data, tmp_path, RUN_OPTIONS), Reporter())
    recipe = replace(recipe_of("ram-plus"), start=str(released / "ram-plus.pth"))
    with pytest.raises(AnytagError, match=r"has weights but no tags.*anytag convert"):
        prepare(Run(recipe, data, tmp_path, RUN_OPTIONS), Reporter())


def microsoft(net: SwinTransformer) -> dict[str, Tensor]:
    """A state dict with the names of Swin's authors, whose stages end with downsampling."""
    made = {}
    for name, tensor in net.state_dict().items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        made[".".join(parts)] = tensor
    made["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    return made


@pytest.mark.parametrize("form", ["microsoft", "timm", "safetensors"])
def test_a_swin_of_imagenet_is_the_start(form: str, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = SwinTransformer(
        img_size=32, embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=4, num_classes=5
    )
    named = microsoft(net) if form == "microsoft" else net.state_dict()
    named = {name.replace("head.fc.", "head."): tensor.contiguous() for name, tensor in named.items()}
    file = tmp_path / ("swin.safetensors" if form == "safetensors" else "swin_22k.pth")
    save_file(named, file) if form == "safetensors" else torch.save({"model": named}, file)
    recipe = recipe_of("ram-plus", start=str(file))
    larger = replace(recipe.network, backbone=replace(SWIN, window=8), size=64)
    report = Kept()
    trainer = prepare(Run(replace(recipe, network=larger), data, tmp_path / "out", RUN_OPTIONS), report)
    backbone = trainer.plain.network.encoder.backbone.state_dict()
    there, table = net.state_dict(), "blocks.0.attn.relative_position_bias_table"
    name = "downsample.reduction.weight"
    assert torch.equal(backbone[f"stages.2.{name}"], there[f"layers.1.{name}"])
    assert torch.equal(backbone["norm.weight"], there["norm.weight"])
    resampled = resample_relative_positions(there[f"layers.0.{table}"], 8)
    assert torch.equal(backbone[f"stages.1.{table}"], resampled)
    said = next(line for line in report.said if line.startswith("Starts with"))
    assert "newly initialised: encoder (2), decoder" in said and "ignored: head (2)" in said


def test_a_deeper_swin_is_no_start(data: Path, tmp_path: Path) -> None:
    net = SwinTransformer(
        img_size=32, embed_dim=8, depths=(1, 3), num_heads=(1, 2), window_size=4, num_classes=5
    )
    torch.save(microsoft(net), tmp_path / "swin.pth")
    recipe = recipe_of("ram-plus", start=str(tmp_path / "swin.pth"))
    recipe = replace(recipe, network=replace(recipe.network, backbone=replace(SWIN, window=8), size=64))
    with pytest.raises(AnytagError, match=r"does not fit the network: layers\.1\.blocks\.2"):
        prepare(Run(recipe, data, tmp_path / "out", RUN_OPTIONS), Reporter())


def test_weights_of_timm_are_the_start(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = timm.create_model("resnet10t", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "resnet.pth")
    recipe = small_recipe(start=str(tmp_path / "resnet.pth"))
    trainer = prepare(Run(recipe, data, tmp_path / "out", RUN_OPTIONS), Reporter())
    inner = trainer.plain.network.encoder.backbone.stages[0].state_dict()
    assert all(torch.equal(t, net.state_dict()[name.removeprefix("net.")]) for name, t in inner.items())
    plain = {name: t for name, t in net.state_dict().items() if "running_" not in name}
    torch.save(plain, tmp_path / "resnet.pth")
    with pytest.raises(AnytagError, match=r"does not fit the network: .*running_mean"):
        prepare(Run(recipe, data, tmp_path / "out", RUN_OPTIONS), Reporter())
    other = timm.create_model("resnet18", num_classes=7)
    torch.save(other.state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(AnytagError, match="does not fit the network"):
        prepare(Run(recipe, data, tmp_path / "out", RUN_OPTIONS), Reporter())


def test_what_is_no_start(data: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"nothing")
    for start, why in ((tmp_path / "x.pth", "x.pth is refused"), (tmp_path, "cannot be a start")):
        recipe: Recipe = small_recipe(start=str(start))
        with pytest.raises(AnytagError, match=why):
            prepare(Run(recipe, data, tmp_path / "out", RUN_OPTIONS), Reporter())
    assert not (tmp_path / "out" / "student.pt").exists()


LEARNED = {"queries.embed": 0, "queries.weight": 1, "queries.bias": 1, "queries.residual": 0}
"""Learned tensors and their dimension of the tags."""


@pytest.mark.parametrize("start", ["a", "a/student.pt"])
@pytest.mark.parametrize("make", [partial(recipe_of, "tag2text"), small_recipe])
def test_a_run_gives_its_tags_what_they_learned(
    make: Callable[..., Recipe], start: str, data: Path, tmp_path: Path
) -> None:
    """By id, as its model folder does; the frozen words are those of the new tags."""
    first = prepare(Run(make(steps=2), data, tmp_path / "a", RUN_OPTIONS), Reporter())
    first.fit()
    tags = list(Vocabulary.read(tmp_path / "a" / "vocabulary.jsonl"))
    Vocabulary([*tags[:0:-1], Tag("wolf", "wolf", "object")]).write(tmp_path / "tags.jsonl")
    pieces = tmp_path / "a" / "vocab.txt"
    recipe = make(vocabulary=str(tmp_path / "tags.jsonl"), wordpieces=str(pieces) if pieces.exists() else "")
    expected = prepare(Run(recipe, data, tmp_path / "b", RUN_OPTIONS), Reporter()).plain.state_dict()
    recipe, kept = replace(recipe, start=str(tmp_path / start)), Kept()
    found = prepare(Run(recipe, data, tmp_path / "c", RUN_OPTIONS), kept).plain.state_dict()
    assert "student.pt; tags that it lacks: 1." in kept.said[-2]
    for name, tensor in weights(tmp_path / "a").items():
        if name in LEARNED:  # of all tags but the first, reversed, and a new one
            dim = LEARNED[name]
            old = tensor.narrow(dim, 1, len(tags) - 1).flip(dim)
            expected[name] = torch.cat([old, expected[name].narrow(dim, len(tags) - 1, 1)], dim)
        elif name != "queries.text":
            expected[name] = tensor
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("start", ["a", "a/model"])
def test_a_run_gives_its_wordpieces(start: str, data: Path, tmp_path: Path) -> None:
    """As many wordpieces of other captions would be loaded row by row."""
    recipe = recipe_of("tag2text", steps=1)
    run = Run(recipe, data, tmp_path / "a", RUN_OPTIONS)
    finish(prepare(run, Reporter()), run)
    pieces = (tmp_path / "a" / "vocab.txt").read_text()
    rows = read_rows(data)
    other = data.with_name("other.jsonl")
    write_rows(other, [replace(row, captions=("Zebras juggle xylophones quickly.",)) for row in rows])
    for out, begin in (("b", start), ("c", "b")):  # and so does a run that started from it
        run = Run(replace(recipe, start=str(tmp_path / begin)), other, tmp_path / out, RUN_OPTIONS)
        trainer = prepare(run, Reporter())
        reader = trainer.dataset.reader  # type: ignore[attr-defined]
        assert reader.pieces.entries == WordPieces.from_file(tmp_path / "a" / "vocab.txt").entries
        trainer.fit()
        assert (tmp_path / out / "vocab.txt").read_text() == pieces


def test_a_run_whose_tags_are_unknown_is_no_start(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(steps=1)
    prepare(Run(recipe, data, tmp_path / "a", RUN_OPTIONS), Reporter()).fit()
    recipe, file = replace(recipe, start=str(tmp_path / "a")), tmp_path / "a" / "vocabulary.jsonl"
    tags = Vocabulary.read(file)
    Vocabulary(list(tags)[1:]).write(file)
    with pytest.raises(AnytagError, match=rf"has {len(tags)} learned tags, but .*vocabulary.jsonl has"):
        prepare(Run(recipe, data, tmp_path / "b", RUN_OPTIONS), Reporter())
    file.unlink()
    with pytest.raises(AnytagError, match=r"no vocabulary\.jsonl beside it.* give the folder of the run"):
        prepare(Run(recipe, data, tmp_path / "b", RUN_OPTIONS), Reporter())
