"""`anytag caption`: photos in, sentences out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from anytag.cli import lists, metadata, options, outputs, paths, ray, sinks, stream
from anytag.cli.journal import one_line

if TYPE_CHECKING:
    from anytag.metadata import Change
    from anytag.results import Caption

_FORMATS = ("text", "jsonl")


def _task(params: Mapping[str, Any]) -> dict[str, Any]:
    """What the options mean for `anytag.scale.Task`."""
    asked = {name: params[name] for name in ("beams", "sample", "seed", "max_length")}
    guides = lists.between_commas(params["tags"], "--tags")
    excluded = lists.between_commas(params["exclude_tags"], "--exclude-tags") or ()
    return {"options": {**asked, "tags": guides, "exclude_tags": excluded}}


@click.command("caption", short_help="Write a sentence about photos.")
@click.option(
    "--tags",
    metavar='"A,B,C"',
    multiple=True,
    help='Guiding tags of the captions; "" disables guidance. May be repeated.',
)
@click.option(
    "--exclude-tags",
    metavar='"X,Y"',
    multiple=True,
    help="Words that captions must not contain, in any form, including names of narrower tags. May be "
    "repeated.",
)
@click.option(
    "--beams",
    metavar="N",
    type=click.IntRange(min=1),
    help="Width of the beam search.  [default: the model's]",
)
@click.option("--sample", is_flag=True, help="Use nucleus sampling instead of beam search.")
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, help="Seed of --sample.")
@click.option(
    "--max-length",
    metavar="N",
    type=click.IntRange(min=2),
    help="Maximum length of captions in wordpieces, including the model's prompt.  [default: the model's]",
)
@click.option(
    "--write",
    type=click.Choice(["sidecar", "embed"]),
    help="Also write captions into XMP sidecars, or into the photos, unless they have one.",
)
@click.option("--undo", is_flag=True, help="Remove the captions that anytag wrote for these photos.")
@metadata.caption_options
@outputs.options(*_FORMATS, resume=True)
@options.running
@paths.options()
@ray.option("caption", _task, "tags", "exclude_tags", "beams", "sample", "seed", "max_length")
def command(
    tags: tuple[str, ...],
    exclude_tags: tuple[str, ...],
    beams: int | None,
    sample: bool,
    seed: int,
    max_length: int | None,
    write: metadata.Place | None,
    undo: bool,
    keywords: metadata.KeywordOptions,
    writing: outputs.Writing,
    running: options.Running,
    source: paths.Source,
) -> None:
    """Write a sentence about each photo: files, folders, globs, or - for paths from stdin, one per line.

    Exit code: 0 success, 1 some photos failed (each is reported, the rest is processed), 2 usage error, 3 the
    result cannot be written, 130 interrupted.
    """
    guides = lists.between_commas(tags, "--tags")
    excluded = lists.between_commas(exclude_tags, "--exclude-tags") or ()
    metadata.check(keywords, place=write, undo=undo)
    named, output = source.gather(), writing.output
    format_ = outputs.settle("caption", writing, _FORMATS, photos=named.paths)
    outputs.check_typed(source.photos, output)
    if undo:
        metadata.undo(keywords, named, output, format_, captions_only=True)
        return

    from anytag.captioner import Captioner  # after all that can be wrong at once

    with sinks.open_output(output, format_, resume=writing.resume) as sink:
        captioner = Captioner.load(running.model, device=running.device, max_pixels=running.max_pixels)
        sink.begin(run=outputs.work("caption", captioner.tagger.card))
        todo = stream.Todo(named.paths, sink, output)
        results = captioner.caption_many(
            todo.paths,
            guides,
            exclude_tags=excluded,
            beams=beams,
            sample=sample,
            seed=seed,
            max_length=max_length,
            batch_size=running.batch_size,
            workers=running.workers,
        )
        with closing(results):
            row = _jsonl if format_ == "jsonl" else _text
            change = None if write is None else _writer(keywords, write)
            summary = metadata.write_results(
                results, change, sink, row, keywords=keywords, format_=format_, total=todo.total
            )
    summary.end(done=todo.done)
    named.end()


def _writer(keywords: metadata.KeywordOptions, place: metadata.Place) -> Callable[[Caption], Change]:
    """Writes the caption of a photo; keywords stay as they are."""

    def write(caption: Caption) -> Change:
        return keywords.write(caption.path or "", None, place, caption=caption.text or None)

    return write


def _text(caption: Caption) -> str:
    """`path<TAB>a dog runs`; a photo that failed has no line, its error is on stderr."""
    return "" if caption.error else f"{one_line(caption.path or '')}\t{caption.text}\n"


def _jsonl(caption: Caption) -> str:
    return json.dumps(caption.to_dict(), ensure_ascii=False) + "\n"
