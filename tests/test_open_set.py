"""Custom tags of converted RAM and RAM++ folders, from CLIP's folder to the score, against slow ways."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from anytag import CustomTag, MissingExtraError, ModelError, Retriever, Tagger
from anytag.models.card import Card, TextSpec
from anytag.models.folder import ModelFolder, write_card
from anytag.runtime.text_onnx import open_text_encoder
from anytag.tagger import Encoded
from anytag.text_encoders.prompts import plain_prompt, template_prompts
from anytag.torch.checkpoints.convert import Options, convert
from anytag.torch.checkpoints.load import load_network, load_queries
from anytag.torch.export.export_folder import export_folder
from anytag.torch.export.text_tower import FOLDER, TextTower, add_text, read_tower
from tests.clips import embed_slowly, save_tiny_clip, save_tiny_open_clip
from tests.command import ENVIRONMENT, run
from tests.golden_cases import Case, cases
from tests.released import make_tensors, write_checkpoint, write_lists
from tests.tiny import make_tiny_model

WIDTH, SIZE = 32, 64  # of the small released checkpoints' text vectors; of the photos
FAMILIES = ("ram", "ram-plus")
PICTURE = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
FOX = CustomTag("Arctic fox", ("a white fox in the snow", "a small animal with a bushy tail"))
OWN = [CustomTag("espresso"), FOX]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip", width=WIDTH)


@pytest.fixture(scope="module")
def mute(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Converted folders without a text tower."""
    at = write_lists(tmp_path_factory.mktemp("published"))
    for family in (*FAMILIES, "tag2text"):
        tensors = make_tensors(family)
        for name, tensor in tensors.items():
            if "tagging_head" in name or name.startswith(("wordvec_proj", "image_proj", "fc")):
                tensor *= 5  # so that tags are told apart
        file = write_checkpoint(at / f"{family}.pth", tensors)
        convert(file, at / family, Options(lists=at, image_size=SIZE, captions=False))
    return {family: at / family for family in (*FAMILIES, "tag2text")}


@pytest.fixture(scope="module")
def folders(mute: dict[str, Path], clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with one, by the command: a checkpoint is converted with it, a folder gets it later."""
    at, published = tmp_path_factory.mktemp("open"), mute["ram"].parent
    asked = ("convert", published / "ram.pth", "-o", at / "ram", "--lists", published, "--image-size", "64")
    result = run(*asked, "--no-captions", "--text", clip)
    assert result.exit_code == 0, result.output
    assert "now supports custom tags: tiny-clip (transformers), 32 dimensions, templates" in result.output
    shutil.copytree(mute["ram-plus"], at / "ram-plus")
    result = run("convert", at / "ram-plus", "--text", clip)
    assert result.exit_code == 0, result.output
    assert "descriptions; cosine with trained queries" in result.output
    return {family: at / family for family in FAMILIES}


def slow_row(family: str, asked: CustomTag, clip: Path) -> torch.Tensor:
    """P×W, as the papers' code makes an open set."""
    name, descriptions = asked.name, list(asked.descriptions)
    if family == "ram-plus":
        return torch.from_numpy(embed_slowly(clip, descriptions or [f"a photo of a {name}."]))
    mean = embed_slowly(clip, template_prompts(name)).mean(axis=0, keepdims=True)
    rows = mean / np.linalg.norm(mean)
    if descriptions:
        mean = np.concatenate([rows, embed_slowly(clip, descriptions)]).mean(axis=0, keepdims=True)
        rows = mean / np.linalg.norm(mean)
    return torch.from_numpy(rows)


def slow_score(folder: Path, rows: torch.Tensor) -> float:
    """Of one tag for `PICTURE`."""
    pixels = torch.from_numpy(PICTURE.transpose(2, 0, 1)[None].copy())
    with torch.inference_mode():
        return float(load_network(folder)(pixels, rows[None, None]).sigmoid())


@pytest.mark.parametrize("family", FAMILIES)
def test_custom_tags_score_as_computed_slowly(family: str, folders: dict[str, Path], clip: Path) -> None:
    tagger = Tagger.load(folders[family], precision="float32")
    found = {tag.name: tag for tag in tagger.tag(PICTURE, tags=[*OWN, "tag 2"]).tags}
    assert {name: tag.source for name, tag in found.items()} == {
        "espresso": "custom",
        "Arctic fox": "custom",
        "tag 2": "vocabulary",
    }
    wanted = {one.name: slow_score(folders[family], slow_row(family, one, clip)) for one in OWN}
    wanted["tag 2"] = slow_score(folders[family], load_queries(folders[family])[2])
    assert {name: tag.score for name, tag in found.items()} == pytest.approx(wanted, abs=2e-6)
    alone = tagger.tag(PICTURE, tags=[CustomTag(FOX.name)]).tags[0].score
    assert len({round(score, 5) for score in (*wanted.values(), alone)}) == 4  # descriptions count


@pytest.mark.parametrize("family", FAMILIES)
def test_custom_tags_on_top_of_the_vocabulary(family: str, folders: dict[str, Path]) -> None:
    tagger = Tagger.load(folders[family])
    asked = ["espresso", f"{FOX.name}: {'; '.join(FOX.descriptions)}"]
    seen = tagger.encode(PICTURE)
    every = tagger.score(seen, also=[*asked, "tag 3"], threshold=0).tags
    assert len(every) == len(tagger.vocabulary) + 2
    scores = {tag.name: tag.score for tag in every}
    for tag in tagger.score(seen, tags=[*asked, "tag 3"]).tags:
        assert scores[tag.name] == pytest.approx(tag.score, abs=2e-6)
    given = {tag.name for tag in tagger.score(seen, also=asked).tags}
    limits = {tag.name: tag.threshold for tag in tagger.vocabulary} | {one.name: 0.5 for one in OWN}
    assert given == {name for name, score in scores.items() if score > limits[name]}


def in_words(*kinds: str) -> list[Case]:
    """Cases whose vectors a text encoder could give: of length 1."""

    def unit(case: Case) -> bool:
        return bool(np.allclose(np.linalg.norm(case.inputs["label_embed"], axis=1), 1, atol=1e-3))

    return [case for case in cases(*kinds) if unit(case)]


@pytest.mark.parametrize("case", in_words("ram/openset", "ram_plus/openset"), ids=str)
def test_golden_open_set_is_asked_of_a_converted_folder(case: Case, tmp_path: Path) -> None:
    """From words to scores."""
    asked, names = golden_folder(case, tmp_path), case.given["open_tag_list"]
    tagger = Tagger.load(tmp_path / "model", precision="float32")
    tokens, pooled = load_network(tmp_path / "model").encoder.from_stage(
        torch.from_numpy(case.inputs["image"]), 0
    )
    probabilities = np.zeros((len(tokens), len(names)), np.float32)
    for n, (some, mean) in enumerate(zip(tokens.detach().numpy(), pooled.detach().numpy(), strict=True)):
        seen = Encoded(some, mean, None, 1, 1)
        for tag in tagger.score(seen, tags=asked).tags:
            probabilities[n, names.index(tag.name)] = tag.score
        given = {tag.name for tag in tagger.score(seen, also=asked).tags if tag.source == "custom"}
        assert given == set(filter(None, case.said["tags"][n].split(" | ")))
    case.check("probabilities", probabilities)


@pytest.mark.parametrize("case", in_words("ram_plus/openset"), ids=str)
def test_golden_open_set_is_asked_of_an_exported_folder_without_torch(case: Case, tmp_path: Path) -> None:
    asked = golden_folder(case, tmp_path)
    export_folder(tmp_path / "model")
    tags = [f"{one.name}: {'; '.join(one.descriptions)}" for one in asked] + [case.given["tag_list"][0]]
    code = (
        "import json, sys, numpy as np; from anytag import Tagger; "
        "folder, tags, picture = json.loads(sys.stdin.read()); "
        "found = Tagger.load(folder).tag(np.array(picture, np.uint8), tags=tags).tags; "
        "bad = {'torch', 'transformers', 'open_clip'} & set(sys.modules); "
        "print(json.dumps([{tag.name: tag.score for tag in found}, sorted(bad)]))"
    )
    told = json.dumps([str(tmp_path / "model"), tags, PICTURE.tolist()])
    done = subprocess.run(
        [sys.executable, "-c", code], input=told, capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    scores, imported = json.loads(done.stdout)
    assert imported == []
    exact = Tagger.load(tmp_path / "model", precision="float32").tag(PICTURE, tags=tags)
    assert scores == pytest.approx({tag.name: tag.score for tag in exact.tags}, abs=1e-4)


def golden_folder(case: Case, at: Path) -> list[CustomTag]:
    """Writes AT/model with the case's weights and a text tower that knows the stored vectors by heart.

    Returns:
        its open set.
    """
    write_lists(at, names=case.given["tag_list"])
    tensors = {name: torch.from_numpy(array) for name, array in case.weights.items()}
    convert(write_checkpoint(at / "x.pth", tensors), at / "model", Options(lists=at, threshold=0.5))
    names, vectors = case.given["open_tag_list"], case.inputs["label_embed"]
    per_tag = len(vectors) // len(names)
    asked = [
        CustomTag(name, (plain_prompt(name), *(f"{name} {look}" for look in range(1, per_tag))))
        for name in names
    ]
    if case.kind == "ram/openset":
        asked = [CustomTag(name) for name in names]
    rows: dict[str, int] = {}
    for number, one in enumerate(asked):
        if case.kind == "ram/openset":
            rows |= dict.fromkeys(template_prompts(one.name), number)
        else:
            rows |= {text: number * per_tag + k for k, text in enumerate(one.descriptions)}
    add_text(at / "model", known_by_heart(rows, vectors))
    return asked


def known_by_heart(rows: dict[str, int], vectors: np.ndarray[Any, Any]) -> TextTower:
    """A text tower for these texts alone: each is one token."""
    ids = {text: number for number, text in enumerate(["?", *rows])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="?"))
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=1, pad_token="?")
    weight = torch.from_numpy(vectors[[0, *rows.values()]])
    table = torch.nn.Embedding(len(weight), weight.shape[1], _weight=weight)
    return TextTower(torch.nn.Sequential(table, torch.nn.Flatten()), tokenizer, "N", "golden")


def test_texts_are_embedded_as_transformers_does(folders: dict[str, Path], clip: Path) -> None:
    encoder = open_text_encoder(ModelFolder.open(folders["ram"]))
    texts = ["a dog", "A  Dog's\tbone, 12", "x", "long " * 100]
    np.testing.assert_allclose(encoder.encode(texts), embed_slowly(clip, texts), atol=1e-5)
    assert encoder.dim == WIDTH


def test_open_clip_is_read_too(mute: dict[str, Path], tmp_path: Path) -> None:
    source = save_tiny_open_clip(tmp_path / "clip", width=WIDTH)
    shutil.copytree(mute["ram-plus"], tmp_path / "model")
    add_text(tmp_path / "model", read_tower(source))
    texts = ["a dog", "A  Dog's\tbone, 12 café", "x!?", "long " * 100]
    model = open_clip.create_model_from_pretrained(f"local-dir:{source}", return_transform=False).eval()
    with torch.inference_mode():
        wanted = model.encode_text(open_clip.get_tokenizer(f"local-dir:{source}")(texts), normalize=True)
    made = open_text_encoder(ModelFolder.open(tmp_path / "model")).encode(texts)
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)
    assert np.linalg.norm(made[0] - made[1]) > 0.01
    assert Tagger.load(tmp_path / "model").tag(PICTURE, tags=["espresso"]).names == ("espresso",)


def test_agreement_tells_the_tower_that_a_model_was_trained_with(
    mute: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    """A model whose trained queries are this tower's."""
    shutil.copytree(mute["ram-plus"], tmp_path / "model")
    tags = Tagger.load(tmp_path / "model").vocabulary
    rows = load_queries(tmp_path / "model").clone()
    rows[:, 0] = torch.from_numpy(embed_slowly(clip, [plain_prompt(tag.name) for tag in tags]))
    save_file({"rows": rows}, tmp_path / "model" / "queries.safetensors")
    write_card(tmp_path / "model", Card.read(tmp_path / "model"))
    added = add_text(tmp_path / "model", read_tower(clip))
    assert added.agreement == pytest.approx(1, abs=1e-5)
    card = Card.read(tmp_path / "model")
    assert card.text == TextSpec("onnx", FOLDER, "descriptions")
    assert card.source["text"] == {"from": "tiny-clip (transformers)", "width": WIDTH}
    assert {f"{FOLDER}/text.onnx", f"{FOLDER}/tokenizer.json"} <= set(card.files)


@pytest.mark.parametrize("family", FAMILIES)
def test_sentences_are_asked_as_they_are(family: str, folders: dict[str, Path], clip: Path) -> None:
    """Captions as queries: no prompt around them."""
    text = "a fox in the snow"
    retriever = Retriever.load(folders[family])
    np.testing.assert_allclose(retriever.tagger.queries([text])[0], embed_slowly(clip, [text]), atol=1e-5)
    gallery = retriever.embed([PICTURE])
    wanted = slow_score(folders[family], torch.from_numpy(embed_slowly(clip, [text])))
    assert retriever.rank(gallery, text)[0].score == pytest.approx(wanted, abs=1e-3)  # tokens in float16


def test_what_lacks_words_says_how_to_get_them(mute: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"ram has no text encoder: .* --text CLIP.* pull NAME --text"):
        Tagger.load(mute["ram"]).tag(PICTURE, tags=["espresso"])
    with pytest.raises(ModelError, match=r"its vocabulary only$"):
        Tagger.load(mute["tag2text"]).tag(PICTURE, tags=["espresso"])
    assert Tagger.load(mute["ram"]).tag(PICTURE, tags=["tag 1"]).names == ("tag 1",)


def test_towers_that_do_not_fit_are_refused(mute: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    before = Card.read(mute["ram"])
    narrow = read_tower(save_tiny_clip(tmp_path / "narrow", width=16))
    with pytest.raises(
        ModelError, match=r"narrow \(transformers\) have width 16, but ram was trained with 32"
    ):
        add_text(mute["ram"], narrow)
    with pytest.raises(ModelError, match="tag2text cannot have custom tags"):
        add_text(mute["tag2text"], read_tower(clip))
    with pytest.raises(ModelError, match="has no torch network"):
        add_text(make_tiny_model(tmp_path / "tiny"), read_tower(clip))
    with pytest.raises(ModelError, match="no CLIP text tower can be loaded"):
        read_tower(mute["ram"])
    with pytest.raises(ModelError, match="is not a folder"):
        read_tower(tmp_path / "none")
    shutil.copytree(clip, tmp_path / "partial")
    weights = load_file(tmp_path / "partial" / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "partial" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"it lacks text_projection\.weight"):
        read_tower(tmp_path / "partial")
    assert Card.read(mute["ram"]) == before
    assert not (mute["ram"] / FOLDER).exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_by_the_command_line(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "x.png")
    asked = ("tag", tmp_path / "x.png", "--model", folders[family])
    result = run(*asked, "--tags", "espresso: a small cup of black coffee; dark", "--tags", "tag 1")
    assert result.exit_code == 0, result.output
    assert "espresso" in result.output
    result = run(*asked, "--also", "espresso", "--threshold", "0", "--format", "jsonl")
    assert '"id": "custom:espresso"' in result.output
    assert "finite scores" in run("doctor", "--model", folders[family]).output


@pytest.mark.parametrize(("library", "extra"), [("transformers", "clip"), ("open_clip", "baselines")])
def test_a_library_that_is_missing_is_named_by_its_extra(
    library: str, extra: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as Python marks what cannot be imported
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(MissingExtraError, match=rf"pip install 'anytag\[{extra}\]'"):
        read_tower(clip if library == "transformers" else tmp_path)


def test_what_becomes_of_a_folder_must_be_said(mute: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    for wrong in ((), ("-o", tmp_path / "x.pth", "--text", clip)):
        result = run("convert", mute["ram"], *wrong)
        assert result.exit_code == 2
        assert "for a model folder -o FILE.pth or --text CLIP" in " ".join(result.output.split())
