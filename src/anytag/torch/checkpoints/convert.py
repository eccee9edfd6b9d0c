"""Convert a published checkpoint into a model folder, and back, with the same tensors."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from anytag._io import atomic_folder, atomic_write
from anytag.errors import CheckpointError
from anytag.models import card as cards
from anytag.models.card import Calibration, CaptionSpec, Card, Family, ImageSpec, Platt
from anytag.models.folder import ModelFolder, sha256_of, write_card
from anytag.models.published import PUBLISHED, WORDPIECES, downloads
from anytag.queries.bank import Bank, identity_lines
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints.load import (
    CAPTIONS,
    QUERIES,
    WEIGHTS,
    load_tensors,
    network_fields,
    read_config,
)
from anytag.torch.checkpoints.read import (
    DISPLAY_NAMES,
    Tensors,
    check_finite,
    detect_config,
    detect_family,
    read_embedding,
    read_tensors,
    verify,
)
from anytag.torch.checkpoints.resample import fit_positions, resized
from anytag.torch.checkpoints.tag_lists import TagLists, read_lists, wordpieces
from anytag.torch.checkpoints.verify import Plan, check, plan
from anytag.torch.nn.configs import NetworkConfig, SwinConfig

Precision = Literal["float32", "float16"]
_IDENTITY = Calibration(vocabulary=Platt(1.0, 0.0), own=Platt(1.0, 0.0))
_MIN_GAP = 0.05  # minimum difference of mean cosines, within a tag and between neighbouring tags
_MAPPED_AT_ONCE = 100  # tensors per mapping of the file
_LABELS, _LEARNED = "label_embed", "label_embed.weight"
_LICENCE = "Apache-2.0, as xinyu1205/recognize-anything publishes code and weights"
_TRAINING_DATA = "COCO, Visual Genome, SBU, CC3M, CC12M: 14 million photos, as published"
_ROWS = (_LABELS, _LEARNED)


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        config: configuration of the converted network.
        source_size: image size of the checkpoint.
        tags, descriptions: K and P.
        loaded, tied, derived: number of the checkpoint's tensors of each kind.
        ignored: other entries of the file, such as the optimizer's state; they are not read.
        dropped: number of tensors that were left out on request.
        origin: origin of the thresholds.
        warning: evidence against the numbers of tags and texts; "" if there is none.
    """

    folder: Path
    family: str
    config: NetworkConfig
    source_size: int
    tags: int
    descriptions: int
    loaded: int
    tied: int
    derived: int
    ignored: tuple[str, ...]
    dropped: int
    origin: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a conversion.

    Attributes:
        family: family of the checkpoint; "auto" detects it.
        lists: folder of the published tag lists; by default the one into which `anytag pull` puts them.
        embedding: file of the frozen text vectors, for a checkpoint that was saved without them.
        image_size: in pixels; that of the checkpoint by default. Positions are resampled.
        precision: dtype of the weights in the folder.
        captions: keep the caption modules.
        threshold: one threshold for all tags, instead of the published ones.
        descriptions: number of text vectors per tag (RAM++); by default rows divided by tags of the list.
        source: further facts about the origin of the file, for the card.
    """

    family: str = "auto"
    lists: Path | None = None
    embedding: Path | None = None
    image_size: int | None = None
    precision: Precision = "float32"
    captions: bool = True
    threshold: float | None = None
    descriptions: int | None = None
    source: Mapping[str, Any] | None = None


def convert(file: str | Path, folder: str | Path, options: Options | None = None) -> Conversion:
    """Write a model folder from a published checkpoint.

    Memory stays below 1.3 times the size of the converted weights: the file is mapped and written in parts.

    Raises:
        CheckpointError: the folder exists; the family is not the requested one; a tensor is missing, unknown,
            different or not finite; a row of text vectors is zero; a list is missing. Nothing is written.
        OutputError: the folder cannot be written.
    """
    file, folder, options = Path(file), Path(folder), options or Options()
    if folder.exists():  # checked before gigabytes are read
        raise CheckpointError(f"{folder} exists already; give another folder, or remove it first")
    verify(file)
    with atomic_folder(folder) as draft:
        done = _Converter(file, draft, options).run(folder.name)
    return replace(done, folder=folder)


def lacks_embedding(file: str | Path) -> bool:
    """Whether the checkpoint was saved without its text vectors, which are published in a separate file.

    Raises:
        CheckpointError: the file is not a checkpoint of Tag2Text, RAM or RAM++.
    """
    tensors, _ = read_tensors(Path(file))
    return detect_family(tensors, Path(file)) != "tag2text" and _LABELS not in tensors


class _Converter:
    """One conversion; `run` performs its steps in order."""

    def __init__(self, file: Path, draft: Path, options: Options) -> None:
        self.file, self.draft, self.options = file, draft, options
        self.lists_folder = options.lists or downloads()
        self.warning = ""

    def run(self, name: str) -> Conversion:
        tensors, ignored = self._tensors()
        self.family = self._family(tensors)
        read = detect_config(tensors, self.family)
        rows = len(next(tensors[label] for label in _ROWS if label in tensors))
        tensor_plan = plan(self.family, read, rows=rows)
        check(tensors, tensor_plan, self.family, self.file)
        derived = sum(name in tensors for name in tensor_plan.derived)
        self.lists = self._lists(rows)
        self.config = resized(read, self.options.image_size)
        del tensors  # frees the mapped memory
        self._write_queries(rows)
        dropped = self._write_weights(tensor_plan)
        self._write_words()
        self._write_card(name)
        return Conversion(
            folder=self.draft, family=self.family, config=self.config, source_size=read.size,
            tags=len(self.lists.vocabulary), descriptions=rows // len(self.lists.vocabulary),
            loaded=len(tensor_plan.loaded) - dropped, tied=len(tensor_plan.tied), derived=derived,
            ignored=ignored, dropped=dropped, origin=self.lists.origin, warning=self.warning,
        )  # fmt: skip

    def _tensors(self) -> tuple[Tensors, tuple[str, ...]]:
        """All tensors by published name, including the frozen text vectors, and the ignored entries."""
        tensors, ignored = read_tensors(self.file)
        if (embedding := self.options.embedding) is not None:
            if _LABELS in tensors or _LEARNED in tensors:
                raise CheckpointError(
                    f"{self.file} has queries of its own: leave out --embedding {embedding}"
                )
            tensors[_LABELS] = read_embedding(embedding)
        return tensors, ignored

    def _family(self, tensors: Tensors) -> str:
        found = detect_family(tensors, self.file)
        if self.options.family not in ("auto", found):
            raise CheckpointError(
                f"{self.file} is a checkpoint of {DISPLAY_NAMES[found]}, not of {self.options.family}: use "
                f"--family {found}, or auto"
            )
        if found != "tag2text" and _LABELS not in tensors:
            raise CheckpointError(
                f"{self.file} was saved without its text vectors ({_LABELS}): give the file with them "
                "with --embedding"
            )
        return found

    def _lists(self, rows: int) -> TagLists:
        texts = self.options.descriptions
        if texts is not None and (self.family != "ram-plus" or texts < 1 or rows % texts):
            raise CheckpointError(
                f"{self.file}: {rows} rows are not {texts} text vectors for each tag of "
                f"{DISPLAY_NAMES[self.family]}"
            )

        def fits(tags: int) -> bool:
            if self.family != "ram-plus":
                return rows == tags
            return rows % tags == 0 if texts is None else rows == tags * texts

        threshold = self.options.threshold
        return read_lists(self.family, self.lists_folder, fits=fits, rows=rows, threshold=threshold)

    def _write_queries(self, rows: int) -> None:
        """Write `rows` K×P×R: text vectors tag by tag, or query, weights and bias of each tag."""
        tensors, _ = self._tensors()
        if self.family == "tag2text":
            parts = (tensors[_LEARNED], tensors["fc.W"][0], tensors["fc.b"][0][:, None])
            table = torch.cat(parts, 1)[:, None]
        else:
            tags = len(self.lists.vocabulary)
            table = tensors[_LABELS].detach().reshape(tags, rows // tags, -1)
            _check_zero_rows(table, self.lists, self.file)
            if self.options.descriptions is None:
                self.warning = _count_warning(table)
        ready = self._ready(table, _LABELS).numpy()
        Bank(ready, None, None, identity_lines(len(ready))).write(self.draft / QUERIES)

    def _write_weights(self, tensor_plan: Plan) -> int:
        """Write the weights for tagging, then those for captions; return how many were left out."""
        names = {
            published: name
            for published, name in tensor_plan.loaded.items()
            if not name.startswith("queries.")
        }
        captions = {published: name for published, name in names.items() if name.startswith("captions.")}
        self._write_part(
            WEIGHTS, {published: names[published] for published in names if published not in captions}
        )
        if self.config.captions is not None and not self.options.captions:
            self.config = replace(self.config, captions=None)
            return len(captions)
        if captions:
            self._write_part(CAPTIONS, captions)
        return 0

    def _write_part(self, name: str, names: Mapping[str, str]) -> None:
        converted: Tensors = {}
        todo = list(names.items())
        for start in range(0, len(todo), _MAPPED_AT_ONCE):
            tensors, _ = self._tensors()  # a new mapping, so that pages touched before are freed
            for published, ours in todo[start : start + _MAPPED_AT_ONCE]:
                converted[ours] = self._ready(fit_positions(ours, tensors[published], self.config), published)
        save_file(converted, self.draft / name)

    def _ready(self, tensor: Tensor, name: str) -> Tensor:
        """Convert a tensor to the precision of the folder; in the file's own precision it stays mapped.

        Raises:
            CheckpointError: it has a value that is NaN, infinite, or too large for the precision.
        """
        ready = tensor.detach().to(getattr(torch, self.options.precision)).contiguous()
        check_finite(name, ready, self.file)
        return ready

    def _write_words(self) -> None:
        """Write vocabulary.jsonl, and the wordpieces of captions."""
        self.lists.vocabulary.write(self.draft / "vocabulary.jsonl")
        if self.config.captions is None:
            return
        file = wordpieces(self.family, self.lists_folder)
        if len(WordPieces.from_file(file)) != self.config.captions.words:
            raise CheckpointError(
                f"{file} has {len(WordPieces.from_file(file))} wordpieces including the two special ones, "
                f"the checkpoint {self.config.captions.words}: give the vocab.txt of bert-base-uncased"
            )
        (self.draft / "text").mkdir()
        shutil.copyfile(file, self.draft / "text" / WORDPIECES)

    def _write_card(self, name: str) -> None:
        config, options = self.config, self.options
        files = {"file": self.file.name, "bytes": self.file.stat().st_size, "sha256": sha256_of(self.file)}
        if options.embedding is not None:
            files["embedding"] = sha256_of(options.embedding)
        family: Family = self.family  # type: ignore[assignment]  # `detect_family` returns only these
        published = dict(options.source or {}).get("url") == PUBLISHED[family].checkpoint.url
        card = Card(
            name=name if cards.NAME.fullmatch(name) else self.family,
            family=family,
            version="1",
            description=f"{DISPLAY_NAMES[family]}: {_backbone(config)}, {len(self.lists.vocabulary)} tags.",
            image=ImageSpec(config.size, "bilinear", config.mean, config.std, plain=True),
            width=config.width,
            text=None,
            calibration=_IDENTITY,
            shortlist=len(self.lists.vocabulary),
            licence=_LICENCE if published else "unknown: see the source of the checkpoint",
            training_data=_TRAINING_DATA if published else "unknown: see the source of the checkpoint",
            thresholds=self.lists.origin,
            metrics={},
            files={},
            network=network_fields(config),
            source={**files, "lists": self.lists.files, **(options.source or {})},
            captions=caption_spec(config),
            strict=True,
        )
        write_card(self.draft, card)


def convert_back(folder: str | Path, file: str | Path) -> int:
    """Write a published checkpoint from a model folder; returns the number of its tensors.

    Tensors have their published names, tied and derived ones included, in float32. Alignment heads have no
    such names, and are left out. A file with the suffix .safetensors is written in that format.

    Raises:
        CheckpointError: the family has no published format, `file` exists, or Tag2Text's caption modules are
            missing.
        OutputError: `file` cannot be written.
        ModelError: the folder is invalid, or was not converted from a published checkpoint.
    """
    model, file = ModelFolder.open(folder), Path(file)
    if model.card.family == "mini":
        raise CheckpointError(
            f"{folder} is of the family {model.card.family!r}, which has no published format"
        )
    if file.exists():
        raise CheckpointError(f"{file} exists already; give another file, or remove it first")
    config = replace(read_config(model.card), alignment=None)
    if model.card.family == "tag2text" and config.captions is None:
        raise CheckpointError(f"{folder} lacks the caption modules, which are part of Tag2Text's format")
    rows = load_tensors(model, QUERIES)["rows"].float()
    tensor_plan = plan(model.card.family, config, rows=rows.shape[0] * rows.shape[1])
    ours = load_tensors(model, WEIGHTS) | (load_tensors(model, CAPTIONS) if config.captions else {})
    tensors = _query_tensors(rows, config)
    tensors |= {
        published: ours[name].float() for published, name in tensor_plan.loaded.items() if name in ours
    }
    tensors |= {second: tensors[first] for second, first in tensor_plan.tied.items()}
    tensors |= tensor_plan.derived
    check(tensors, tensor_plan, model.card.family, model.path)
    with atomic_write(file) as draft:
        if file.suffix == ".safetensors":
            again = (*tensor_plan.tied, *tensor_plan.derived)  # safetensors refuses shared memory
            save_file(tensors | {name: tensors[name].clone() for name in again}, draft)
        else:
            torch.save({"model": tensors}, draft)
    return len(tensors)


def _query_tensors(rows: Tensor, config: NetworkConfig) -> Tensors:
    """The query rows K×P×R by published name."""
    if config.queries != "learned":
        return {_LABELS: rows.flatten(0, 1)}
    hidden = rows.shape[2] // 2
    embed, weight, bias = rows[:, 0, :hidden], rows[:, 0, hidden:-1], rows[:, 0, -1]
    parts = {_LEARNED: embed, "fc.W": weight[None], "fc.b": bias[None]}
    return {name: part.contiguous() for name, part in parts.items()}


def caption_spec(config: NetworkConfig) -> CaptionSpec | None:
    """The card's `captions` field of a network; None without a caption head."""
    words = config.captions
    return None if words is None else CaptionSpec(prompt=words.prompt, tag_length=words.tag_length)


def _check_zero_rows(table: Tensor, lists: TagLists, file: Path) -> None:
    empty = (~table.any(-1)).nonzero().tolist()
    if empty:
        tags = list(lists.vocabulary)
        names = [f"{tags[tag].id!r} (description {index + 1})" for tag, index in empty]
        raise CheckpointError(f"{file}: text vectors are all zero for {_listed(names)}")


def _count_warning(table: Tensor) -> str:
    """A warning if neighbouring rows of one tag are not more similar than those of two tags.

    Rows are stored tag by tag, so this means that the number of texts per tag is probably wrong.
    """
    tags, texts = table.shape[:2]
    if texts == 1 or tags == 1:
        return ""
    sample = F.normalize(table[:200].float(), dim=-1)
    within = (sample[:, 1:] * sample[:, :-1]).sum(-1).mean()
    across = (sample[1:, 0] * sample[:-1, -1]).sum(-1).mean()
    if within > across + _MIN_GAP:
        return ""
    return (
        f"the {texts} text vectors of a tag are no more similar ({within:.2f}) than those of two tags "
        f"({across:.2f}): check the tag list, or give the number of texts per tag with --descriptions N"
    )


def _listed(names: Iterable[str]) -> str:
    listed_names = list(names)
    return ", ".join(listed_names[:20]) + (
        f" and {len(listed_names) - 20} more" if len(listed_names) > 20 else ""
    )


def _backbone(config: NetworkConfig) -> str:
    """A description of the backbone, such as "Swin-L at 384 pixels"."""
    sizes = {128: "-B", 192: "-L"}
    if isinstance(config.backbone, SwinConfig):
        return f"Swin{sizes.get(config.backbone.width, '')} at {config.size} pixels"
    return f"ViT at {config.size} pixels"
