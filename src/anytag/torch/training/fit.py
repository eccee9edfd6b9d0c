"""A recipe and rows -> a run: everything that a loop needs, made or read; then the loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from anytag._io import atomic_write
from anytag.data.formats import root_of
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.models.registry import EMBEDDED
from anytag.parsing.build import build_vocabulary
from anytag.text_encoders import StaticTextEncoder, TextEncoder
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.queries import known_vectors, query_rows
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints.read import read_embedding
from anytag.torch.checkpoints.tag_lists import unique_ids
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.nn.query_modules import LearnedQueries
from anytag.torch.training.annotation_store import Annotations
from anytag.torch.training.build import backbone_width, make_network, prompts_of
from anytag.torch.training.checkpoint import STUDENT
from anytag.torch.training.descriptions import read_descriptions
from anytag.torch.training.distributed import check_precision, from_first, join
from anytag.torch.training.effects import check_parts, resolved
from anytag.torch.training.estimate import try_out
from anytag.torch.training.family import FamilyLoop, FamilyStudent, FixedQueries, WordQueries
from anytag.torch.training.init_weights import adopted, read_start, start_from
from anytag.torch.training.launch import check_launch, folder_of_run
from anytag.torch.training.model_folder import can_be_written, fitted, write_model, write_torch_model
from anytag.torch.training.photo_dataset import Photos, PixelCorpus, check_batch
from anytag.torch.training.recipes import TrainRecipe
from anytag.torch.training.report import Reporter, counted
from anytag.torch.training.teachers import ClipTeacher
from anytag.torch.training.trainer import Machine
from anytag.torch.training.wordpieces import kept_wordpieces
from anytag.vocabulary import Tag, Vocabulary

FEWEST_MENTIONS = 10
WORDPIECES = 4000
MODEL = "model"


@dataclass(frozen=True)
class Run:
    """What to train, on what, where to.

    Attributes:
        recipe: its numbers.
        data: rows, of a file or a URL.
        out: the run's folder.
        machine: how to run it.
        tag_list: names that the ids of published annotations number; they are the vocabulary then.
    """

    recipe: TrainRecipe
    data: Path | str
    out: Path
    machine: Machine
    tag_list: Path | None = None


def train(run: Run, report: Reporter | None = None) -> Path:
    """Trains to the end, or goes on with a run that was interrupted.

    Returns:
        OUT/model, a folder for `anytag tag`; OUT/student.pt for a published family on a backbone of timm's,
        of which a folder cannot tell.

    Raises:
        AnytagError: the data, the vocabulary or what the recipe names cannot be read; the run fails.
    """
    report = report or Reporter()
    check_launch(report)
    with folder_of_run(run.out):
        run = begun(run)
        return go(prepare(run, report), run)


def begun(run: Run) -> Run:
    """The run with the network and the tags of what its recipe starts at."""
    if not run.recipe.start:
        return run
    return replace(run, recipe=adopted(run.recipe, read_start(Path(run.recipe.start))))


def go(loop: FamilyLoop, run: Run) -> Path:
    """`train`, with a loop that is ready."""
    loop.resume()
    main = loop.accelerator.is_main_process
    if main:
        numbers = json.dumps(resolved(run.recipe), indent=1)
        with atomic_write(run.out / "recipe.json") as draft:
            draft.write_text(numbers, encoding="utf-8")
    loop.run()
    folded = loop.family.network.config.cross is None
    if not (folded or can_be_written(run.recipe)):
        return run.out / STUDENT
    loop.take_averages()
    found = fitted(loop)  # in every process
    if main:
        data = f"{len(loop.corpus.photos)} photos of {PurePath(run.data).name}"
        write = write_model if folded else partial(write_torch_model, pieces=loop.pieces)
        write(result_of(loop, run), run.recipe, run.out / MODEL, fitted=found, data=data)
    return run.out / MODEL


def result_of(loop: FamilyLoop, run: Run) -> FamilyStudent:
    """The student after its run, whole and on the CPU; read from OUT/student.pt where it is parted."""
    student = loop.family
    if loop.sharded:
        config, tags = student.network.config, loop.corpus.photos.vocabulary
        student = make_student(run.recipe, config, tags, make_text_encoder(run.recipe))
        start_from(student, run.out / STUDENT)
    return student.cpu().eval()


def prepare(run: Run, report: Reporter) -> FamilyLoop:
    """Everything that a run needs, made ready for its first step."""
    run = begun(run)
    recipe = run.recipe
    check_parts(recipe)
    run.out.mkdir(parents=True, exist_ok=True)
    tags = read_tag_list(run.tag_list) if run.tag_list else None
    rows = Annotations.stored(run.data, report=report, tag_list=tags.ids if tags else ())
    check_rows(rows, run, report)
    vocabulary = read_vocabulary(recipe, rows, run.out, report=report, tags=tags)
    captioned = recipe.objective.matching is not None
    photos = Photos(rows, root_of(str(run.data)), vocabulary, captioned=captioned, report=report)
    if not any(photos.union):
        raise AnytagError(
            f"{run.data}: no photo to train on names a tag of the vocabulary "
            f"({', '.join(vocabulary.ids[:3])} ...): give captions or tags that do, or vocabulary=FILE"
        )
    pieces = read_wordpieces(recipe, rows, vocabulary, run.out)
    return prepare_with(run, photos, report, pieces=pieces)


def check_rows(rows: Annotations, run: Run, report: Reporter) -> None:
    """Holds the rows against what the recipe needs, before any work is done.

    Raises:
        AnytagError: there are too few photos to train on, or none says what the recipe learns.
    """
    objective = run.recipe.objective
    captioned = ~rows.held & (rows.captions > 0)
    photos, told = int((~rows.held).sum()), int(captioned.sum())
    if objective.matching is not None:
        check_captions(rows, run.data, report)
        photos = told
    check_batch(photos, run.recipe.batch_size, parts=parts_of(run.machine))
    if objective.captions and not told:
        raise AnytagError(
            f"{run.data}: no photo to train on has a caption, which this recipe learns to write: give "
            "rows with captions, or objective.captions=false to learn tags alone"
        )
    if objective.aligns and not told:
        report.say("No photo has a caption: the alignment term is left out.")
    elif objective.reads and told < photos:
        report.say(f"{counted(photos - told, 'photo')} without captions: only their labels are learned.")


def parts_of(machine: Machine) -> int:
    """In how many equal parts a step's photos are taken: by processes, and one after the other."""
    return join() * machine.accumulate


def prepare_with(
    run: Run, photos: Photos, report: Reporter, *, pieces: WordPieces | None = None
) -> FamilyLoop:
    """The same with photos that are read already."""
    recipe, machine = run.recipe, run.machine
    check_parts(recipe)
    check_precision(recipe.precision)
    check_batch(len(photos), recipe.batch_size, parts=parts_of(machine))
    start = read_start(Path(recipe.start)) if recipe.start else None
    text = make_text_encoder(recipe)
    recipe = without_alignment(recipe, text, report)
    objective = recipe.objective
    if objective.matching is not None and objective.matching.queue < recipe.batch_size:
        raise AnytagError(
            f"objective.matching.queue={objective.matching.queue} pairs are less than a step has; "
            f"give {recipe.batch_size} or more, or a smaller batch_size"
        )
    if objective.distils and not recipe.teacher:
        report.say("No teacher is given (teacher=MODEL): the distillation term is left out.")
    torch.manual_seed(recipe.seed)
    width = text_width(recipe, text)
    config = fitted_config(recipe, width=width, pieces=pieces)
    try_out(recipe, config, text_width=width, parts=parts_of(machine))
    student = make_student(recipe, config, photos.vocabulary, text)
    if pieces is not None and config.captions is not None:
        student.prompt_length = len(pieces.prompt(config.captions.prompt))
    if start is not None:
        report.say(start_from(student, start, vocabulary=photos.vocabulary))
    student.begin()
    make = partial(PixelCorpus, photos, size=config.size, batch_size=recipe.batch_size, seed=recipe.seed)
    steps = recipe.steps or recipe.epochs * make().steps_per_epoch()
    loop = FamilyLoop(
        student, make(), replace(recipe, steps=steps), run.out,
        schedule=recipe.schedule, text=text, pieces=pieces,
        teacher=ClipTeacher.load(recipe.teacher) if recipe.teacher else None,
        machine=machine, report=report,
    )  # fmt: skip
    loop.corpus = make(
        rank=loop.accelerator.process_index, world=loop.accelerator.num_processes,
        workers=machine.workers, parsed_only=objective.captions and not objective.distils, report=report,
    )  # fmt: skip
    report.say(f"{len(photos)} photos, {len(photos.vocabulary)} tags, {steps} steps of {recipe.batch_size}.")
    return loop


def check_captions(rows: Annotations, data: Path | str, report: Reporter) -> None:
    """Says how many photos to train on no caption tells of, which have nothing to be matched with.

    Raises:
        AnytagError: none are left.
    """
    taught = ~rows.held
    without = int((taught & (rows.captions == 0)).sum())
    if without == taught.sum():
        raise AnytagError(f"{data}: no photo to train on has a caption, which this recipe needs")
    if without:
        report.say(f"{without} photos without captions are left out.")


def read_tag_list(file: Path) -> Vocabulary:
    """A file of names, one a line, in the order of the ids of published annotations; ids are unique.

    Raises:
        AnytagError: it cannot be read, or holds an empty line.
    """
    try:
        names = file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AnytagError(
            f"{file} cannot be read as a list of tags ({error}): give a text of one tag a line"
        ) from error
    names = [name.strip() for name in names]
    if "" in names:
        raise AnytagError(
            f"{file}, line {names.index('') + 1}: an empty line; ids count lines, so give its tag"
        )
    return Vocabulary(Tag(id, name, "object") for id, name in zip(unique_ids(names), names, strict=True))


def read_vocabulary(
    recipe: TrainRecipe, rows: Iterable[Row], out: Path, *, report: Reporter, tags: Vocabulary | None = None
) -> Vocabulary:
    """The recipe's, or `tags`, or what the rows name; made by the first process, in OUT/vocabulary.jsonl."""

    def make() -> list[Tag]:
        kept = out / "vocabulary.jsonl"
        if recipe.vocabulary:
            vocabulary = Vocabulary.read(recipe.vocabulary)
        elif tags is not None:
            vocabulary = tags
        elif kept.exists():
            return list(Vocabulary.read(kept))
        else:
            vocabulary = askable(vocabulary_of(rows), recipe, report)
        vocabulary.write(kept)
        return list(vocabulary)

    return Vocabulary(from_first(make))


def askable(vocabulary: Vocabulary, recipe: TrainRecipe, report: Reporter) -> Vocabulary:
    """The tags whose names the text encoder knows, where queries are made of them; says what is left out."""
    if recipe.network.cross is not None and recipe.network.queries == "learned":
        return vocabulary
    vectors = known_vectors([tag.name for tag in vocabulary], make_text_encoder(recipe))
    known = [tag for tag, vector in zip(vocabulary, vectors, strict=True) if vector.any()]
    lost = [tag.name for tag, vector in zip(vocabulary, vectors, strict=True) if not vector.any()]
    if lost:
        report.say(
            f"{counted(len(lost), 'tag')} that the text encoder does not know left out: {', '.join(lost[:5])}"
            f"{' ...' if len(lost) > 5 else ''}. Give clip=MODEL that knows them, or their English names."
        )
    if not known:
        raise AnytagError(
            "the text encoder knows no tag of the rows: give clip=MODEL that does, or English names"
        )
    return Vocabulary(known)


def vocabulary_of(rows: Iterable[Row]) -> Vocabulary:
    """What captions mention ten times, and what labels name."""
    names: set[str] = set()

    def captions() -> Iterator[str]:
        for row in rows:
            names.update(row.tags)
            yield from row.captions

    tags: dict[str, Tag] = {}
    for found in build_vocabulary(captions(), min_count=FEWEST_MENTIONS):
        id = found.name if found.name not in tags else f"{found.name} ({found.kind})"
        tags.setdefault(id, Tag(id, found.name, found.kind, parents=found.parents))
    for name in sorted(name for name in names if name.strip()):
        tags.setdefault(name, Tag(name, name, "object"))
    if not tags:
        raise AnytagError(f"no tag is named by labels or by {FEWEST_MENTIONS} captions; give vocabulary=FILE")
    return Vocabulary(tags.values())


def make_text_encoder(recipe: TrainRecipe) -> TextEncoder:
    """CLIP's, where the recipe names it, else the static table."""
    if not recipe.clip:
        return StaticTextEncoder.from_folder(EMBEDDED / "text")
    from anytag.torch.clip import ClipTextEncoder

    return ClipTextEncoder.load(recipe.clip)


def read_wordpieces(
    recipe: TrainRecipe, rows: Iterable[Row], vocabulary: Vocabulary, out: Path
) -> WordPieces | None:
    """The recipe's vocab.txt, or one made of the captions, by the first process; None where none is read."""
    if not recipe.objective.reads:
        return None

    def make() -> tuple[str, ...]:
        if recipe.wordpieces:
            return WordPieces.from_file(recipe.wordpieces).entries[:-2]
        captions = (clean_caption(caption) for row in rows for caption in row.captions)
        names = [tag.name for tag in vocabulary]
        return kept_wordpieces(out / "vocab.txt", captions, names, size=WORDPIECES).entries[:-2]

    return WordPieces(from_first(make))


def fitted_config(recipe: TrainRecipe, *, width: int, pieces: WordPieces | None) -> NetworkConfig:
    """The network's numbers, where the objective, the backbone, text width and wordpieces decide them."""
    config = recipe.network
    if not recipe.objective.captions:
        config = replace(config, captions=None)
    if pieces is not None and config.captions is not None:
        config = replace(config, captions=replace(config.captions, words=len(pieces)))
    if pieces is not None and config.alignment is not None:
        config = replace(config, alignment=replace(config.alignment, words=len(pieces)))
    if not config.projected:
        config = replace(config, width=backbone_width(recipe))
    elif config.cross is not None and config.queries != "learned":
        config = replace(config, width=width)  # rows are text vectors as they are
    return config


def make_student(
    recipe: TrainRecipe, config: NetworkConfig, vocabulary: Vocabulary, text: TextEncoder
) -> FamilyStudent:
    """The untrained student.

    Raises:
        AnytagError: the network's numbers do not fit together, or the recipe's text vectors do not fit them.
    """
    network = make_network(recipe, config)
    queries: nn.Module
    if config.queries == "learned":
        assert config.cross is not None  # no other decoder takes learned rows
        queries = LearnedQueries(len(vocabulary), config.cross.hidden)
    else:
        rows = text_rows(recipe, config, vocabulary, text)
        if recipe.objective.aligns and rows.shape[-1] != text.dim:  # captions are asked beside tags
            raise AnytagError(
                f"{recipe.embedding}: text vectors are {rows.shape[-1]} wide, and those of the text encoder "
                f"{text.dim}: give clip=MODEL, the one that made them"
            )
        if config.cross is None:
            queries = WordQueries(torch.from_numpy(rows), config.width, hidden=config.text_hidden)
        else:
            queries = FixedQueries(torch.from_numpy(rows), recipe.precision)
    return FamilyStudent(
        network, queries, recipe.objective, distillation=recipe.distillation, asked=recipe.asked
    )


def text_rows(
    recipe: TrainRecipe, config: NetworkConfig, vocabulary: Vocabulary, text: TextEncoder
) -> np.ndarray:
    """Text vectors K×P×W of the tags: from a file, from descriptions, from templates, or of the names."""
    if recipe.embedding:
        rows = read_rows(Path(recipe.embedding))
        if len(rows) % len(vocabulary):
            raise AnytagError(f"{recipe.embedding}: {len(rows)} rows are not as many for each tag")
        return np.asarray(rows.float().reshape(len(vocabulary), -1, rows.shape[-1]).numpy())
    names = [tag.name for tag in vocabulary]
    said: Sequence[Sequence[str]] = [()] * len(names)
    if recipe.descriptions:
        said = read_descriptions(Path(recipe.descriptions), vocabulary)
    return query_rows(names, said, text, prompts=prompts_of(recipe, config))


def read_rows(file: Path) -> torch.Tensor:
    """Text vectors of tags, as they are published, or as a model folder has them: K·P×W or K×P×W."""
    if file.suffix != ".safetensors":
        return read_embedding(file)
    table = load_file(file)
    return table["rows"] if "rows" in table else next(iter(table.values()))


def text_width(recipe: TrainRecipe, text: TextEncoder) -> int:
    """Of the tags' text vectors."""
    return int(read_rows(Path(recipe.embedding)).shape[-1]) if recipe.embedding else text.dim


def without_alignment(recipe: TrainRecipe, text: TextEncoder, report: Reporter) -> TrainRecipe:
    """The recipe; without that term where no encoder makes vectors of captions beside those of the tags."""
    if not (recipe.objective.aligns and recipe.embedding) or text_width(recipe, text) == text.dim:
        return recipe
    report.say(
        f"Tags have text vectors of {text_width(recipe, text)} numbers, and no text encoder of that width is "
        "given (clip=MODEL): the alignment term, which asks with captions, is left out."
    )
    return replace(recipe, objective=replace(recipe.objective, aligns=False))
