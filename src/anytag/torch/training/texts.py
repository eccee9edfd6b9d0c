"""Texts of a run: its vocabulary, the tags' text vectors, and the wordpieces of captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from anytag.data.descriptions import read_descriptions
from anytag.data.labels import label_tags, mentioned_tags
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.models.registry import EMBEDDED
from anytag.text_encoders import StaticTextEncoder, TextEncoder
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.queries import known_vectors, query_rows
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints.read import read_embedding
from anytag.torch.checkpoints.tag_lists import unique_ids
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.training.build import is_learned, prompts_of
from anytag.torch.training.checkpoint import has_state
from anytag.torch.training.distributed import from_main_process
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.report import Reporter, counted
from anytag.torch.training.wordpieces import load_or_train_wordpieces
from anytag.vocabulary import Tag, Vocabulary

MIN_MENTIONS = 10
WORDPIECES = 4000


def read_tag_list(file: Path) -> Vocabulary:
    """Read a file with one tag name per line, in the order of the ids of published annotations.

    Raises:
        AnytagError: the file cannot be read, or has an empty line.
    """
    try:
        names = file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AnytagError(
            f"{file} cannot be read as a list of tags ({error}): give a text file with one tag per line"
        ) from error
    names = [name.strip() for name in names]
    if "" in names:
        raise AnytagError(
            f"{file}, line {names.index('') + 1} is empty; ids are line numbers, so give its tag"
        )
    return Vocabulary(Tag(id, name, "object") for id, name in zip(unique_ids(names), names, strict=True))


def read_vocabulary(
    recipe: Recipe, rows: Iterable[Row], out: Path, *, report: Reporter, tags: Vocabulary | None = None
) -> Vocabulary:
    """The run's vocabulary: the recipe's, or `tags`, or made from the rows; the main process writes it.

    That of a folder with a state is not replaced: the run may be refused there.
    """

    def make() -> list[Tag]:
        if recipe.vocabulary:
            vocabulary = Vocabulary.read(recipe.vocabulary)
        elif tags is not None:
            vocabulary = tags
        else:
            vocabulary = drop_unknown_tags(vocabulary_of(rows), recipe, report)
        if not has_state(out):
            vocabulary.write(out / "vocabulary.jsonl")
        return list(vocabulary)

    return Vocabulary(from_main_process(make))


def drop_unknown_tags(vocabulary: Vocabulary, recipe: Recipe, report: Reporter) -> Vocabulary:
    """Leave out tags whose names the text encoder does not know, unless queries are learned; reports them."""
    if is_learned(recipe.network):
        return vocabulary
    vectors = known_vectors([tag.name for tag in vocabulary], make_text_encoder(recipe))
    known = [tag for tag, vector in zip(vocabulary, vectors, strict=True) if vector.any()]
    lost = [tag.name for tag, vector in zip(vocabulary, vectors, strict=True) if not vector.any()]
    if lost:
        report.say(
            f"{counted(len(lost), 'tag')} left out, which the text encoder does not know: "
            f"{', '.join(lost[:5])}{' ...' if len(lost) > 5 else ''}. Give clip=MODEL with a text encoder "
            "that does, or English names."
        )
    if not known:
        raise AnytagError(
            "the text encoder knows no tag of the rows: give clip=MODEL with one that does, or English names"
        )
    return Vocabulary(known)


def vocabulary_of(rows: Iterable[Row]) -> Vocabulary:
    """The tags that at least ten captions mention, and all labelled tags."""
    names: set[str] = set()

    def captions() -> Iterator[str]:
        for row in rows:
            names.update(row.tags)
            yield from row.captions

    tags = {tag.id: tag for tag in mentioned_tags(captions(), fewest=MIN_MENTIONS)}
    for tag in label_tags(names):
        tags.setdefault(tag.id, tag)
    if not tags:
        raise AnytagError(
            f"no row has labels, and no tag is in {MIN_MENTIONS} captions; give vocabulary=FILE"
        )
    return Vocabulary(tags.values())


def make_text_encoder(recipe: Recipe) -> TextEncoder:
    """CLIP's text encoder, if the recipe names one, otherwise the static table."""
    if not recipe.clip:
        return StaticTextEncoder.from_folder(EMBEDDED / "text")
    from anytag.torch.clip import ClipTextEncoder

    return ClipTextEncoder.load(recipe.clip)


def read_wordpieces(
    recipe: Recipe, rows: Iterable[Row], vocabulary: Vocabulary, out: Path
) -> WordPieces | None:
    """The recipe's wordpieces, or ones made from the captions by the main process; None if not needed."""
    if not recipe.objective.reads:
        return None

    def make() -> WordPieces:
        captions = (clean_caption(caption) for row in rows for caption in row.captions)
        names = [tag.name for tag in vocabulary]
        file, again = out / "vocab.txt", not has_state(out)
        return load_or_train_wordpieces(
            file, captions, names, size=WORDPIECES, again=again, given=recipe.wordpieces
        )

    return from_main_process(make)


def text_rows(recipe: Recipe, config: NetworkConfig, vocabulary: Vocabulary, text: TextEncoder) -> np.ndarray:
    """Text vectors K×P×W of the tags: from a file, descriptions, templates or names."""
    if recipe.embedding:
        rows = read_rows(Path(recipe.embedding))
        if len(rows) % len(vocabulary):
            raise AnytagError(
                f"{recipe.embedding}: {len(rows)} rows are not a multiple of {len(vocabulary)} tags"
            )
        return np.asarray(rows.float().reshape(len(vocabulary), -1, rows.shape[-1]).numpy())
    names = [tag.name for tag in vocabulary]
    descriptions: Sequence[Sequence[str]] = [()] * len(names)
    if recipe.descriptions:
        descriptions = read_descriptions(Path(recipe.descriptions), vocabulary)
    return query_rows(names, descriptions, text, prompts=prompts_of(recipe, config))


def read_rows(file: Path) -> torch.Tensor:
    """Read text vectors of tags, in the published format K·P×W or in that of a model folder, K×P×W."""
    if file.suffix != ".safetensors":
        return read_embedding(file)
    table = load_file(file)
    return table["rows"] if "rows" in table else next(iter(table.values()))


def text_width(recipe: Recipe, text: TextEncoder) -> int:
    """Width of the tags' text vectors."""
    return int(read_rows(Path(recipe.embedding)).shape[-1]) if recipe.embedding else text.dim
