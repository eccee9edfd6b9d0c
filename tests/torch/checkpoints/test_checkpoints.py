from __future__ import annotations

import argparse
import math
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anytag.errors import CardError, CheckpointError, FileMismatchError, ModelError
from anytag.models.card import CaptionSpec, Card
from anytag.models.folder import ModelFolder, write_card
from anytag.models.published import PUBLISHED
from anytag.torch.checkpoints.convert import Conversion, Options, convert, convert_back, lacks_embedding
from anytag.torch.checkpoints.load import load_network, load_queries, read_config
from anytag.torch.checkpoints.tag_lists import read_lists
from anytag.torch.checkpoints.verify import plan
from anytag.torch.checkpoints.weight_names import DERIVED
from anytag.torch.nn.configs import FAMILIES, AlignmentConfig
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.vocabulary import Vocabulary
from tests.golden_cases import Case, cases
from tests.golden_networks import rows_of
from tests.released import (
    DESCRIPTIONS,
    FILES,
    TAGS,
    WORDS,
    make_tensors,
    manifest,
    write_checkpoint,
    write_lists,
)
from tests.tiny import make_tiny_model

Made = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def made() -> Made:
    return {family: make_tensors(family) for family in FILES}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lists(tmp_path_factory.mktemp("lists"))


def converted(
    tmp_path: Path, tensors: dict[str, Tensor], options: Options, **more: object
) -> tuple[Path, Conversion]:
    file = write_checkpoint(tmp_path / "x.pth", tensors, **more)
    return tmp_path / "model", convert(file, tmp_path / "model", options)


@pytest.mark.parametrize("family", FILES)
def test_every_tensor_of_a_manifest_is_accounted_for(family: str) -> None:
    rows = next(row["shape"][0] for row in manifest(family) if row["name"].startswith("label_embed"))
    wanted = plan(family, FAMILIES[family], rows=rows)
    shapes = {name: list(shape) for name, shape in wanted.shapes.items()}
    shapes |= {name: list(tensor.shape) for name, tensor in wanted.derived.items()}
    assert shapes == {row["name"]: row["shape"] for row in manifest(family)}
    assert set(wanted.loaded) | set(wanted.tied) | set(wanted.derived) == set(shapes)
    assert {row["name"] for row in manifest(family) if row.get("derived")} == set(wanted.derived)
    assert all(name.endswith(DERIVED) for name in wanted.derived)


@pytest.mark.parametrize("family", FILES)
def test_there_and_back_gives_the_same_tensors(family: str, lists: Path, tmp_path: Path) -> None:
    tensors = make_tensors(family, full=True)
    state = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    folder, done = converted(tmp_path, tensors, Options(lists=lists), optimizer=state, epoch=4)
    assert (done.family, done.tags, done.ignored) == (family, TAGS, ("optimizer", "epoch"))
    assert done.descriptions == (DESCRIPTIONS if family == "ram-plus" else 1)
    assert done.loaded + done.tied + done.derived == len(tensors) == len(manifest(family))
    assert (done.source_size, done.config.size) == (384, 384)
    assert convert_back(folder, tmp_path / "back.pth") == len(tensors)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor), name
        assert back[name].dtype == tensor.dtype


@pytest.mark.parametrize("family", FILES)
def test_the_network_is_built_from_the_folder_alone(
    family: str, made: Made, lists: Path, tmp_path: Path
) -> None:
    folder, done = converted(tmp_path, made[family], Options(lists=lists, image_size=64, family=family))
    network, rows = load_network(folder), load_queries(folder)
    assert network.config == done.config == read_config(Card.read(folder))
    assert (rows.shape[:2], rows.dtype) == ((TAGS, done.descriptions), torch.float32)
    assert (network.captions is None) == (family == "ram-plus")
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(pixels, rows[None])
        assert torch.equal(load_network(folder, captions=False)(pixels, rows[None]), logits)
    assert logits.shape == (2, TAGS)
    assert logits.isfinite().all()
    assert sum(p.numel() for p in network.parameters()) == sum(
        tensor.numel()
        for name in ("weights.safetensors", "captions.safetensors")
        if (folder / name).exists()
        for tensor in load_file(folder / name).values()
    )


@pytest.mark.parametrize("case", cases("ram/checkpoint", "ram_plus/checkpoint"), ids=str)
def test_golden_checkpoint_is_converted(case: Case, tmp_path: Path) -> None:
    """Through the whole command: file, lists, another image size, folder, network."""
    tags, thresholds = case.given["tag_list"], case.config["class_threshold"]
    write_lists(tmp_path, names=tags)
    (tmp_path / "ram_tag_list_chinese.txt").write_text("\n".join(case.given["tag_list_chinese"]))
    (tmp_path / "ram_tag_list_threshold.txt").write_text("\n".join(map(str, thresholds)))
    tensors = {name: torch.from_numpy(array) for name, array in case.weights.items()}
    options = Options(lists=tmp_path, image_size=case.config["image_size"])
    folder, done = converted(tmp_path, tensors, options)
    assert done.source_size == case.config["src_image_size"]
    assert done.loaded + done.tied + done.derived == len(tensors)
    network, rows = load_network(folder), load_queries(folder)[None]
    vocabulary = Vocabulary.read(folder / "vocabulary.jsonl")
    with torch.inference_mode():
        tokens, pooled = network.encoder.from_stage(torch.from_numpy(case.inputs["image"]), 0)
        logits = network.decoder(tokens, pooled, rows)
        assert isinstance(network.decoder, CrossDecoder)
        case.check("image_embeds", tokens)
        case.check("queries", network.decoder.embed(pooled, rows))
    case.check("logits", logits)
    case.check("tag_mask", logits.sigmoid() > torch.tensor([tag.threshold for tag in vocabulary]))
    for name in (name for name in case.outputs if name.startswith("table.")):
        stage, block = (int(part) for part in name.split(".") if part.isdigit())
        ours = f"encoder.backbone.stages.{stage + 1}.blocks.{block}.attn.relative_position_bias_table"
        case.check(name, network.get_parameter(ours).detach())


def test_half_precision_takes_half_the_room(made: Made, lists: Path, tmp_path: Path) -> None:
    full, _ = converted(tmp_path, made["ram-plus"], Options(lists=lists))
    half = tmp_path / "half"
    convert(tmp_path / "x.pth", half, Options(lists=lists, precision="float16"))
    sizes = [sum(facts.bytes for facts in Card.read(folder).files.values()) for folder in (full, half)]
    assert 0.4 < sizes[1] / sizes[0] < 0.65
    assert load_queries(half).dtype == torch.float16
    assert {parameter.dtype for parameter in load_network(half).parameters()} == {torch.float32}
    name = "encoder.backbone.stages.1.blocks.0.attn.qkv.weight"
    exact = load_network(full).get_parameter(name)
    torch.testing.assert_close(load_network(half).get_parameter(name), exact, atol=1e-3, rtol=1e-3)


def test_the_card_tells_what_it_is_and_where_from(made: Made, lists: Path, tmp_path: Path) -> None:
    more = {"url": "https://example.org/x.pth"}
    folder, _ = converted(tmp_path, made["tag2text"], Options(lists=lists, source=more))
    card = ModelFolder.open(folder).card
    assert (card.family, card.name, card.width, card.text) == ("tag2text", "model", 64, None)
    assert (card.image.size, card.image.resample) == (384, "bilinear")
    assert card.image.mean == (0.485, 0.456, 0.406)
    assert card.captions == CaptionSpec(prompt="a picture of ", wordpieces="text/vocab.txt")
    assert "unknown" in card.licence and "unknown" in card.training_data
    assert card.source["file"] == "x.pth"
    assert card.source["url"] == "https://example.org/x.pth"
    assert card.source["bytes"] == (tmp_path / "x.pth").stat().st_size
    assert set(card.source["lists"]) == {"tag2text_ori_tag_list.txt"}
    assert set(card.files) == {
        "captions.safetensors",
        "queries.safetensors",
        "text/vocab.txt",
        "vocabulary.jsonl",
        "weights.safetensors",
    }


def test_captions_can_be_left_out(made: Made, lists: Path, tmp_path: Path) -> None:
    (no_words := tmp_path / "lists").mkdir()
    for name in ("ram_tag_list.txt", "ram_tag_list_threshold.txt"):
        (no_words / name).write_bytes((lists / name).read_bytes())
    folder, done = converted(tmp_path, made["ram"], Options(lists=no_words, captions=False))
    assert done.dropped > 50
    assert load_network(folder).captions is None
    assert not (folder / "captions.safetensors").exists()
    assert convert_back(folder, tmp_path / "back.pth") < len(made["ram"])
    with pytest.raises(CheckpointError, match=r"has no vocab\.txt.*bert-base-uncased"):
        convert(tmp_path / "x.pth", tmp_path / "other", Options(lists=no_words))
    assert not (tmp_path / "other").exists()


def test_names_in_other_languages_thresholds_and_ids(made: Made, lists: Path, tmp_path: Path) -> None:
    folder, done = converted(tmp_path, made["ram-plus"], Options(lists=lists))
    tags = Vocabulary.read(folder / "vocabulary.jsonl")
    assert tags[3].names == {"zh": "标签3"}
    assert tags[3].threshold == 0.53
    assert "ram_tag_list_threshold.txt" in done.origin
    folder = tmp_path / "tag2text"
    convert(write_checkpoint(tmp_path / "t.pth", made["tag2text"]), folder, Options(lists=lists))
    tags = Vocabulary.read(folder / "vocabulary.jsonl")
    assert [(tag.id, tag.name) for tag in tags][-2:] == [("train", "train"), ("train-2", "train")]
    assert {tag.threshold for tag in tags} == {0.68}
    folder = tmp_path / "all"
    done = convert(tmp_path / "t.pth", folder, Options(lists=lists, threshold=0.4))
    assert {tag.threshold for tag in Vocabulary.read(folder / "vocabulary.jsonl")} == {0.4}
    assert "as requested" in done.origin


def test_tag2text_rows_that_the_published_code_treats_apart(tmp_path: Path) -> None:
    names = [f"tag {row}" for row in range(3429)]
    for row, name in {1167: "woman", 2701: "person", 127: "quarter", 3351: "two", 3265: "another"}.items():
        names[row] = name
    names[128] = "person"
    write_lists(tmp_path, names=names)
    read = read_lists("tag2text", tmp_path, fits=lambda tags: tags == 3429, rows=3429)
    found = {tag.id: tag.threshold for tag in read.vocabulary if tag.threshold != 0.68}
    assert found == {"woman": 0.7, "person-2": 0.7, "quarter": 1.0, "two": 1.0}


def test_names_that_look_like_numbered_ids(tmp_path: Path) -> None:
    names = ["a", "a", "a-2", "a", "b", "b-2"]
    (tmp_path / "tag2text_ori_tag_list.txt").write_text("\n".join(names) + "\n")
    read = read_lists("tag2text", tmp_path, fits=lambda tags: tags == 6, rows=6)
    assert [tag.name for tag in read.vocabulary] == names
    assert read.vocabulary.ids[:3] == ("a", "a-3", "a-2")


@pytest.mark.parametrize("asked", ["ram", "tag2text"])
def test_a_wrong_family_is_told(asked: str, made: Made, lists: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a checkpoint of RAM\+\+.*use --family ram-plus"):
        converted(tmp_path, made["ram-plus"], Options(lists=lists, family=asked))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth"]


def test_missing_and_unknown_tensors_are_listed(made: Made, lists: Path, tmp_path: Path) -> None:
    tensors = dict(made["ram"])
    gone = ["wordvec_proj.bias", "text_decoder.bert.encoder.layer.1.output.dense.weight"]
    for name in gone:
        del tensors[name]
    tensors["surprise"] = torch.zeros(2)
    tensors["fc.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        converted(tmp_path, tensors, Options(lists=lists))
    told = str(caught.value)
    assert f"missing: {gone[1]}, {gone[0]}" in told or f"missing: {gone[0]}, {gone[1]}" in told
    assert "unknown: surprise" in told
    assert "with another shape: fc.bias is 3, expected 1" in told
    assert not (tmp_path / "model").exists()


def test_tied_and_derived_tensors_must_agree(made: Made, lists: Path, tmp_path: Path) -> None:
    tied = "tagging_head.encoder.layer.1.intermediate.dense.weight"
    derived = "visual_encoder.layers.0.blocks.0.attn.relative_position_index"
    tensors = made["ram"] | {tied: made["ram"][tied] + 1, derived: made["ram"][derived] + 1}
    with pytest.raises(CheckpointError) as caught:
        converted(tmp_path, tensors, Options(lists=lists))
    assert "tied to:" in str(caught.value) and "layer.1.intermediate.dense.weight" in str(caught.value)
    assert f"follow from the shapes: {derived}" in str(caught.value)


@pytest.mark.parametrize("family", FILES)
def test_derived_tensors_may_be_absent(family: str, made: Made, lists: Path, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in made[family].items() if not name.endswith(DERIVED)}
    _, done = converted(tmp_path, tensors, Options(lists=lists))
    assert done.derived == 0
    assert done.config.size == 384


def test_older_names_and_bare_tensors(made: Made, lists: Path, tmp_path: Path) -> None:
    older = {name.replace("tagging_head.", "vision_multi."): one for name, one in made["ram-plus"].items()}
    torch.save(older, tmp_path / "bare.pth", _use_new_zipfile_serialization=False)
    assert convert(tmp_path / "bare.pth", tmp_path / "model", Options(lists=lists)).family == "ram-plus"


def test_zero_text_vectors_are_named(made: Made, lists: Path, tmp_path: Path) -> None:
    labels = made["ram-plus"]["label_embed"].clone()
    labels[4] = 0
    with pytest.raises(CheckpointError, match=r"all zero for 'tag 1' \(description 2\)"):
        converted(tmp_path, made["ram-plus"] | {"label_embed": labels}, Options(lists=lists))
    assert not (tmp_path / "model").exists()


def test_text_vectors_from_the_file_beside(made: Made, lists: Path, tmp_path: Path) -> None:
    tensors = dict(made["ram"])
    labels = tensors.pop("label_embed")
    file = write_checkpoint(tmp_path / "x.pth", tensors)
    assert lacks_embedding(file)
    with pytest.raises(CheckpointError, match=r"saved without its text vectors .*--embedding"):
        convert(file, tmp_path / "model", Options(lists=lists))
    torch.save(labels.half(), tmp_path / "labels.pth")
    convert(file, tmp_path / "model", Options(lists=lists, embedding=tmp_path / "labels.pth"))
    assert torch.equal(load_queries(tmp_path / "model")[:, 0], labels.half().float())
    with pytest.raises(CheckpointError, match="expected one tensor"):
        convert(file, tmp_path / "other", Options(lists=lists, embedding=file))
    assert not lacks_embedding(write_checkpoint(tmp_path / "y.pth", made["tag2text"]))


def test_truncated_files_are_told(made: Made, lists: Path, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "whole.pth", made["ram-plus"]).read_bytes()
    for share in (0.999, 0.5, 0.001):
        (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"cut\.pth is .*Download it again"):
            convert(tmp_path / "cut.pth", tmp_path / "model", Options(lists=lists))
    torch.save({"model": made["ram-plus"]}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pth").read_bytes()
    for place in (100, 700, len(old) // 2, len(old) - 3):  # the format before torch 1.6
        (tmp_path / "cut.pth").write_bytes(old[:place])
        with pytest.raises(CheckpointError, match=r"cut\.pth is"):
            convert(tmp_path / "cut.pth", tmp_path / "model", Options(lists=lists))
    for content in (b"", b"no tensors"):
        (tmp_path / "cut.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cut\.pth is"):
            convert(tmp_path / "cut.pth", tmp_path / "model", Options(lists=lists))


class Stranger:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Stranger()))
    torch.save({"model": Stranger()}, tmp_path / "zipped.pth")
    for name in ("raw.pth", "zipped.pth"):
        with pytest.raises(CheckpointError, match="is refused: it holds more than tensors"):
            convert(tmp_path / name, tmp_path / "model")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{"model": {"a": 3}}, [torch.zeros(2)], {"layer.weight": torch.zeros(2)}])
def test_other_files_are_told(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth (holds|is not a checkpoint of)"):
        convert(tmp_path / "x.pth", tmp_path / "model")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "none.pth", tmp_path / "model")


def test_lists_that_are_missing_or_of_another_length(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYTAG_HOME", str(tmp_path / "home"))
    file = write_checkpoint(tmp_path / "x.pth", made["ram"])
    with pytest.raises(CheckpointError) as caught:
        convert(file, tmp_path / "model")
    told = str(caught.value)
    assert f"{tmp_path / 'home' / 'downloads'} has no ram_tag_list.txt" in told
    assert "https://raw.githubusercontent.com/" in told and "anytag pull ram" in told
    short = write_lists(tmp_path / "short", names=["dog", "cat"])
    with pytest.raises(CheckpointError, match=r"has 11 rows of queries, and .*ram_tag_list\.txt has 2 tags"):
        convert(file, tmp_path / "model", Options(lists=short))
    wrong = write_lists(tmp_path / "wrong")
    (wrong / "ram_tag_list_threshold.txt").write_text("0.5\n")
    with pytest.raises(CheckpointError, match="has 1 lines, the tag list 11"):
        convert(file, tmp_path / "model", Options(lists=wrong))
    (wrong / "ram_tag_list_threshold.txt").unlink()
    with pytest.raises(CheckpointError, match=r"has no ram_tag_list_threshold\.txt"):
        convert(file, tmp_path / "model", Options(lists=wrong))
    (wrong / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(CheckpointError, match=f"has 6 wordpieces .* the checkpoint {WORDS}"):
        convert(file, tmp_path / "model", Options(lists=wrong, threshold=0.5))


def test_lists_of_the_published_repository_are_found(made: Made, lists: Path, tmp_path: Path) -> None:
    (tmp_path / "copy" / "ram").mkdir(parents=True)
    (tmp_path / "copy" / "ram" / "data").symlink_to(lists, target_is_directory=True)
    converted(tmp_path, made["ram-plus"], Options(lists=tmp_path / "copy"))


@pytest.mark.parametrize("size", [0, -32, 100])
def test_image_sizes_that_do_not_fit(size: int, made: Made, lists: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a multiple of 32, such as 384"):
        converted(tmp_path, made["ram-plus"], Options(lists=lists, image_size=size))


def test_nothing_is_overwritten(made: Made, lists: Path, tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, made["ram-plus"], Options(lists=lists))
    with pytest.raises(CheckpointError, match="exists already"):
        convert(tmp_path / "x.pth", folder, Options(lists=lists))
    with pytest.raises(CheckpointError, match="exists already"):
        convert_back(folder, tmp_path / "x.pth")


def test_back_to_safetensors(lists: Path, tmp_path: Path) -> None:
    tensors = make_tensors("tag2text", full=True)
    folder, _ = converted(tmp_path, tensors, Options(lists=lists))
    assert convert_back(folder, tmp_path / "back.safetensors") == len(tensors)
    back = load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert convert(tmp_path / "back.safetensors", tmp_path / "again", Options(lists=lists)).tags == TAGS


def test_tag2text_without_captions_has_no_published_format(made: Made, lists: Path, tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, made["tag2text"], Options(lists=lists, captions=False))
    with pytest.raises(CheckpointError, match="lacks the caption modules"):
        convert_back(folder, tmp_path / "back.pth")


def test_alignment_heads_are_left_out(made: Made, lists: Path, tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, made["tag2text"], Options(lists=lists))
    card = Card.read(folder)
    plain = convert_back(folder, tmp_path / "plain.pth")
    write_card(folder, replace(card, network={**card.network, "alignment": asdict(AlignmentConfig())}))
    assert convert_back(folder, tmp_path / "back.pth") == plain


def test_an_embedding_that_is_not_needed_is_refused(made: Made, lists: Path, tmp_path: Path) -> None:
    torch.save(torch.zeros(3, 4), tmp_path / "labels.pth")
    for family in ("ram-plus", "tag2text"):
        file = write_checkpoint(tmp_path / f"{family}.pth", made[family])
        with pytest.raises(CheckpointError, match="leave out --embedding"):
            convert(file, tmp_path / "model", Options(lists=lists, embedding=tmp_path / "labels.pth"))


@pytest.mark.parametrize("heads", [0, 5, 7])
def test_a_card_that_contradicts_the_weights(made: Made, lists: Path, tmp_path: Path, heads: int) -> None:
    folder, _ = converted(tmp_path, made["ram-plus"], Options(lists=lists))
    card = Card.read(folder)
    backbone = {**card.network["backbone"], "heads": [heads] * len(card.network["backbone"]["heads"])}
    write_card(folder, replace(card, network={**card.network, "backbone": backbone}))
    with pytest.raises(ModelError, match=r"cannot be built|do not fit the network"):
        load_network(folder)
    cross = {**card.network["cross"], "mlp": 5}
    write_card(folder, replace(card, network={**card.network, "cross": cross}))
    with pytest.raises(ModelError, match="do not fit the network"):
        load_network(folder)


def test_folders_that_hold_no_torch_network(made: Made, lists: Path, tmp_path: Path) -> None:
    tiny = make_tiny_model(tmp_path / "tiny")
    with pytest.raises(CardError, match="tiny has no torch network"):
        load_network(tiny)
    with pytest.raises(CheckpointError, match="which has no published format"):
        convert_back(tiny, tmp_path / "back.pth")
    folder, _ = converted(tmp_path, made["ram-plus"], Options(lists=lists))
    card = Card.read(folder)
    write_card(folder, replace(card, network={**card.network, "surprise": 1}))
    with pytest.raises(CardError, match=r"network\.surprise is not a field"):
        load_network(folder)
    cross = {**card.network["cross"], "layers": 3}
    write_card(folder, replace(card, network={**card.network, "cross": cross}))
    with pytest.raises(ModelError, match=r"do not fit the network in its card: decoder\.layers\.2"):
        load_network(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileMismatchError):
        load_network(folder)


def test_vit_is_detected_and_its_positions_resampled(tmp_path: Path, lists: Path) -> None:
    for case in cases("ram/tagging"):
        if case.config["backbone"] != "vit":
            continue
        tensors = {name: torch.from_numpy(array) for name, array in case.weights.items()}
        write_lists(tmp_path, names=case.given["tag_list"])
        folder, done = converted(tmp_path, tensors, Options(lists=tmp_path, image_size=64, threshold=0.5))
        assert (done.source_size, done.config.size) == (case.config["image_size"], 64)
        assert (
            load_network(folder)(
                torch.zeros(1, 3, 64, 64, dtype=torch.uint8), rows_of(load_queries(folder)[None])
            )
            .isfinite()
            .all()
        )


def test_only_the_published_files_are_what_is_published(made: Made, lists: Path, tmp_path: Path) -> None:
    more = {"url": PUBLISHED["ram-plus"].checkpoint.url}
    folder, _ = converted(tmp_path, made["ram-plus"], Options(lists=lists, source=more))
    card = ModelFolder.open(folder).card
    assert "Apache-2.0" in card.licence and "14 million" in card.training_data


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["wordvec_proj.weight", "label_embed", "visual_encoder.norm.bias"])
def test_numbers_that_are_none_are_refused_by_name(
    name: str, value: float, made: Made, lists: Path, tmp_path: Path
) -> None:
    tensor = made["ram-plus"][name].clone()
    tensor.view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=rf"{name} has infinite or NaN values"):
        converted(tmp_path, made["ram-plus"] | {name: tensor}, Options(lists=lists))
    assert not (tmp_path / "model").exists()


def test_a_number_too_large_for_half_precision_is_refused(made: Made, lists: Path, tmp_path: Path) -> None:
    tensors = made["ram-plus"] | {"fc.bias": torch.tensor([1e6])}
    with pytest.raises(CheckpointError, match=r"fc\.bias has infinite .* float32 if values exceed float16"):
        converted(tmp_path, tensors, Options(lists=lists, precision="float16"))


@pytest.mark.parametrize("under", ["state_dict", "model_state_dict", "module", "model"])
def test_what_training_scripts_write_is_read(under: str, made: Made, lists: Path, tmp_path: Path) -> None:
    named = {f"module.{name}": tensor for name, tensor in made["ram-plus"].items()}
    content = {under: named, "args": argparse.Namespace(lr=1e-4, out=Path("x")), "epoch": 3}
    torch.save(content, tmp_path / "x.pth")
    done = convert(tmp_path / "x.pth", tmp_path / "model", Options(lists=lists))
    assert done.ignored == ("args", "epoch")
    assert torch.equal(load_queries(tmp_path / "model").flatten(0, 1), made["ram-plus"]["label_embed"])


def test_safetensors_are_read(made: Made, lists: Path, tmp_path: Path) -> None:
    whole = {name: tensor.clone() for name, tensor in made["ram-plus"].items()}
    save_file(whole, tmp_path / "x.safetensors")
    done = convert(tmp_path / "x.safetensors", tmp_path / "model", Options(lists=lists))
    assert (done.family, done.tags, done.descriptions) == ("ram-plus", TAGS, DESCRIPTIONS)
    (tmp_path / "y.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        convert(tmp_path / "y.safetensors", tmp_path / "other", Options(lists=lists))


def test_a_flipped_bit_is_noticed(made: Made, lists: Path, tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "x.pth", made["ram-plus"])
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"the checksum of .* differs.*Download it again"):
        convert(file, tmp_path / "model", Options(lists=lists))


def test_refusals_never_say_how_to_execute_a_strangers_code(tmp_path: Path) -> None:
    torch.save({"model": Stranger()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "x.pth", tmp_path / "model")
    assert "weights_only" not in str(caught.value)
    assert "safetensors" in str(caught.value)


def test_texts_that_do_not_go_together_are_doubted(made: Made, lists: Path, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    width = made["ram-plus"]["label_embed"].shape[1]
    themes = torch.randn(TAGS, 1, width, generator=random)
    alike = themes + 0.3 * torch.randn(TAGS, DESCRIPTIONS, width, generator=random)
    fitting = made["ram-plus"] | {"label_embed": alike.flatten(0, 1)}
    done = converted(tmp_path, fitting, Options(lists=lists))[1]
    assert done.warning == ""
    (tmp_path / "model").rename(tmp_path / "one")
    apart = alike.flatten(0, 1).roll(1, 0)  # shifted by one, so each tag has a text of the previous one
    done = converted(tmp_path, made["ram-plus"] | {"label_embed": apart}, Options(lists=lists))[1]
    assert "with --descriptions N" in done.warning
    for texts, why in ((1, "give the list it was trained with"), (2, "33 rows are not 2 text vectors")):
        with pytest.raises(CheckpointError, match=why):
            convert(tmp_path / "x.pth", tmp_path / "other", Options(lists=lists, descriptions=texts))
