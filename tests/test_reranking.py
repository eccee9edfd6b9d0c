"""`anytag.reranking` and `Retriever` over the heads of a trained run: photos -> run -> folder -> ranking."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from anytag import Captioner, CardError, Gallery, ModelError, Retriever, Tagger, VocabularyError
from anytag.evaluation.run import Evaluation
from anytag.evaluation.run import run as evaluate
from anytag.models.card import FILE_NAME, Card
from anytag.models.folder import ModelFolder, write_card
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints import load
from anytag.torch.checkpoints.load import empty_network, load_network, load_tensors
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.nn.network import TagNetwork
from anytag.torch.open import open_torch
from anytag.torch.training.fit import train
from anytag.torch.training.run import Run
from tests.command import run
from tests.families import enliven
from tests.runs import RUN_OPTIONS, recipe_of, retrieval_recipe, write_photos
from tests.runs import one_thread as one_thread

TEXTS = ["A green wall!", "red wall number 2", "a blue wall number 17"]
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, whose weights are then made lively: untrained heads say nearly nothing."""
    out = tmp_path_factory.mktemp("run")
    folder = train(Run(retrieval_recipe(steps=3), data, out, RUN_OPTIONS))
    _enliven(folder)
    return folder


def _enliven(folder: Path) -> None:
    from safetensors.torch import save_file

    network = load_network(folder)
    torch.manual_seed(1)
    enliven(network)
    named = {name: parameter.detach() for name, parameter in network.named_parameters()}
    for file, heads in (("alignment", ("alignment.",)), ("captions", ("captions.",))):
        save_file({n: t for n, t in named.items() if n.startswith(heads)}, folder / f"{file}.safetensors")
    rest = {n: t for n, t in named.items() if not n.startswith(("alignment.", "captions."))}
    save_file(rest, folder / "weights.safetensors")
    write_card(folder, Card.read(folder))


@pytest.fixture(scope="module")
def photos(data: Path) -> list[Path]:
    return sorted(data.parent.glob("*.png"))[:9]


@pytest.fixture(scope="module")
def retriever(model: Path) -> Retriever:
    return Retriever.load(model, device="cpu")


@pytest.fixture(scope="module")
def gallery(retriever: Retriever, photos: list[Path]) -> Gallery:
    return retriever.embed(photos)


def slow_scores(model: Path, photos: list[Path]) -> tuple[Floats, Floats]:
    """Contrast and match of every pair, one photo and one text at a time, straight from the network."""
    network, tagger = load_network(model), Tagger.load(model, device="cpu")
    pieces = WordPieces.from_file(model / "text" / "vocab.txt")
    head, captions = network.alignment, network.captions
    assert head is not None and captions is not None
    contrast, match = np.zeros((2, len(photos), len(TEXTS)), np.float32)
    for n, photo in enumerate(photos):
        seen = tagger.encode(photo)
        guide = [tag.name for tag in tagger.score(seen).tags]
        ids, mask = (torch.from_numpy(array) for array in pieces.tag_text([guide]))
        tokens, pooled = torch.tensor(seen.tokens)[None], torch.tensor(seen.pooled)[None]
        with torch.inference_mode():
            tags = captions.encode_tags(ids, mask, tokens)
            for m, text in enumerate(TEXTS):
                words = torch.tensor([[pieces.begin, *pieces.pieces(text.replace("!", "")), pieces.end]])
                contrast[n, m] = head.embed_photos(pooled, tags) @ head.embed_texts(words)[0]
                memories = head.project_kv(head.cross_memory(tokens, tags))
                match[n, m] = head.match(words, memories).sigmoid()
    return contrast, match


def test_the_folder_says_what_it_holds(model: Path) -> None:
    card = Card.read(model)
    assert card.family == "tag2text"
    assert card.network["alignment"]["space"] == 6
    assert {"alignment.safetensors", "captions.safetensors", "text/vocab.txt"} <= set(card.files)
    network = load_network(model)
    assert network.alignment is not None
    assert load_network(model, alignment=False).alignment is None
    assert network.config.alignment is not None
    assert network.config.alignment.words == len(WordPieces.from_file(model / "text" / "vocab.txt"))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"spaces": 7}, "network.alignment.spaces is not a field"),
        ({"space": "7"}, "network.alignment.space: expected a whole number"),
    ],
)
def test_a_wrong_number_of_the_heads_is_named(
    model: Path, tmp_path: Path, numbers: dict[str, object], said: str
) -> None:
    card = json.loads((model / FILE_NAME).read_text())
    card["network"]["alignment"] |= numbers
    card["files"] = {}
    (tmp_path / FILE_NAME).write_text(json.dumps(card))
    with pytest.raises(CardError, match=said):
        load_network(tmp_path)


def test_the_match_decides_among_those_that_the_contrast_chooses(
    model: Path, retriever: Retriever, gallery: Gallery, photos: list[Path]
) -> None:
    contrast, match = slow_scores(model, photos)
    assert match.std(0).min() > 0.01  # the photos differ
    for m, text in enumerate(TEXTS):
        for k in (3, 9):
            chosen = sorted(np.argsort(-contrast[:, m])[:k], key=lambda n: -match[n, m])
            found = retriever.rank(gallery, text, top_k=3, shortlist=k)
            assert [one.path for one in found] == [str(photos[n]) for n in chosen[:3]]
            assert [one.score for one in found] == pytest.approx(
                [match[n, m] for n in chosen[:3]], abs=3e-3  # tokens are kept in float16
            )  # fmt: skip
    assert len(retriever.rank(gallery, TEXTS[0], top_k=None, shortlist=2)) == 9


def test_a_table_has_the_match_of_likely_pairs_and_the_contrast_of_the_rest(
    model: Path, retriever: Retriever, gallery: Gallery, photos: list[Path]
) -> None:
    contrast, match = slow_scores(model, photos)
    assert retriever.score(gallery, TEXTS) == pytest.approx(match, abs=3e-3)
    scores = retriever.score(gallery, TEXTS, shortlist=2)
    for n in range(len(photos)):
        for m in range(len(TEXTS)):
            likely = n in np.argsort(-contrast[:, m])[:2] or m in np.argsort(-contrast[n])[:2]
            slow = match[n, m] if likely else (contrast[n, m] - 1) / 2
            assert scores[n, m] == pytest.approx(slow, abs=3e-3)


def test_batches_give_what_single_photos_and_texts_give(retriever: Retriever, photos: list[Path]) -> None:
    whole, single = retriever.embed(photos, batch_size=4), retriever.embed(photos, batch_size=1, workers=1)
    assert whole.paths == single.paths
    np.testing.assert_allclose(whole.tokens[:], single.tokens[:], atol=2e-3)
    np.testing.assert_allclose(whole.pooled[:], single.pooled[:], atol=1e-5)
    one_by_one = np.concatenate([retriever.score(whole, [text]) for text in TEXTS], axis=1)
    np.testing.assert_allclose(retriever.score(whole, TEXTS), one_by_one, atol=1e-5)


def test_many_pairs_are_looked_at_in_pieces(
    retriever: Retriever, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = retriever.score(gallery, TEXTS)
    monkeypatch.setattr("anytag.torch.matching._PAIR_BATCH", 5)
    monkeypatch.setattr("anytag.torch.matching._TEXT_BATCH", 2)
    np.testing.assert_allclose(retriever.score(gallery, TEXTS), whole, atol=1e-5)


def test_recognised_tags_guide(model: Path, photos: list[Path], tmp_path: Path) -> None:
    """The same folder, whose card lets no tag guide."""
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    card = Card.read(folder)
    assert card.captions is not None
    write_card(folder, replace(card, captions=replace(card.captions, guide=2.0)))
    guided, alone = (Retriever.load(one, device="cpu").embed(photos) for one in (model, folder))
    assert np.abs(guided.pooled[:] - alone.pooled[:]).max() > 1e-2
    assert np.abs(guided.tokens[:].astype(np.float32) - alone.tokens[:]).max() > 1e-2


def test_a_gallery_is_kept_and_no_other_is_taken(
    retriever: Retriever, gallery: Gallery, tmp_path: Path
) -> None:
    gallery.write(tmp_path / "seen.gallery")
    again = Gallery.read(tmp_path / "seen.gallery")
    assert retriever.rank(again, TEXTS[0]) == retriever.rank(gallery, TEXTS[0])
    other = replace(gallery, pooled=gallery.pooled[:][:, :3])
    with pytest.raises(ModelError, match="encode the photos again"):
        retriever.rank(other, TEXTS[0])
    assert retriever.rank(retriever.embed([]), TEXTS[0]) == ()


@pytest.mark.parametrize("text", ["", " !", "\N{SNOWMAN}"])
def test_a_text_without_a_known_word_is_refused(retriever: Retriever, gallery: Gallery, text: str) -> None:
    with pytest.raises(VocabularyError, match="no word of the text"):
        retriever.rank(gallery, text)


def test_the_command_ranks_and_evaluates(
    model: Path, retriever: Retriever, gallery: Gallery, photos: list[Path], data: Path
) -> None:
    asked = ("--text", TEXTS[0], "--model", model, "--top-k", "2", "--shortlist", "4", "--format", "jsonl")
    done = run("match", *photos, *asked)
    assert (done.exit_code, done.stderr) == (0, "")
    expected = retriever.rank(gallery, TEXTS[0], top_k=2, shortlist=4)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [one.to_dict() for one in expected]
    report = evaluate(
        Evaluation(str(data), models=(str(model),), kind="retrieval", split="val", times=5, costs=False)
    )
    assert report.measured[0].figures["text to photo R@10"].value == 100
    assert "photo to text R@1" in report.measured[0].figures


def test_captions_and_tags_come_from_the_same_folder(model: Path, photos: list[Path]) -> None:
    assert Captioner.load(model, device="cpu").caption(photos[0]).text
    assert Tagger.load(model, device="cpu").tag(photos[0], threshold=0).tags


def test_a_folder_is_one_network_whatever_is_used_of_it(
    model: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[NetworkConfig] = []
    read: list[str] = []

    def build(config: NetworkConfig) -> TagNetwork:
        built.append(config)
        return empty_network(config)

    def tensors(folder: ModelFolder, name: str) -> dict[str, torch.Tensor]:
        read.append(name)
        return load_tensors(folder, name)

    monkeypatch.setattr(load, "empty_network", build)
    monkeypatch.setattr(load, "load_tensors", tensors)
    captioner = Captioner.load(model, device="cpu")
    assert captioner.tagger.tag(photos[0], threshold=0, where=True).tags
    assert "alignment.safetensors" not in read
    assert captioner.caption(photos[0]).text
    first, again = (captioner.tagger.runtime.matcher() for _ in range(2))
    assert first.space == again.space
    assert len(built) == 1
    files = [name for name in read if name != "queries.safetensors"]
    assert files == ["weights.safetensors", "captions.safetensors", "alignment.safetensors"]


def test_without_heads_and_without_words_it_says_what_to_do(data: Path, tmp_path: Path) -> None:
    folder = train(Run(recipe_of("tag2text", steps=1), data, tmp_path, RUN_OPTIONS))
    with pytest.raises(ModelError, match=r"neither alignment heads nor a text encoder.*tag2text-retrieval"):
        Retriever.load(folder)
    with pytest.raises(ModelError, match="has no alignment heads"):
        open_torch(ModelFolder.open(folder), device="cpu").matcher()


@pytest.mark.parametrize("family", ["ram", "ram-plus"])
def test_captions_are_queries_of_ram(family: str, data: Path, photos: list[Path], tmp_path: Path) -> None:
    """The decoder looks at every photo, however short the list: vectors of these families tell nothing."""
    folder = train(Run(recipe_of(family, steps=1), data, tmp_path, RUN_OPTIONS))
    retriever = Retriever.load(folder, device="cpu")
    gallery = retriever.embed(photos)
    ranked = retriever.rank(gallery, TEXTS[0], top_k=2, shortlist=2)
    tagger = Tagger.load(folder, device="cpu")
    slow = {str(photo): tagger.tag(photo, [TEXTS[0]]).tags[0].score for photo in photos}
    best = sorted(slow, key=lambda path: -slow[path])
    assert [one.score for one in ranked] == pytest.approx([slow[path] for path in best[:2]], abs=2e-3)
