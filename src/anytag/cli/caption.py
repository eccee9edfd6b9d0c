"""`anytag caption`: write captions of photos."""

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
    """The fields of `anytag.scale.Task` from the options."""
    settings = {name: params[name] for name in ("beams", "sample", "seed", "max_length")}
    guides = lists.split_commas(params["tags"], "--tags")
    excluded = lists.split_commas(params["exclude_tags"], "--exclude-tags") or ()
    return {"options": {**settings, "tags": guides, "exclude_tags": excluded}}


@click.command("caption", short_help="Caption photos.")
@click.option(
    "--tags",
    metavar='"A,B,C"',
    multiple=True,
    help='Tags that guide the captions; "" for none. May be repeated.',
)
@click.option(
    "--exclude-tags",
    metavar='"X,Y"',
    multiple=True,
    help="Words that captions must not contain, in any form, and names of narrower tags. May be repeated.",
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
    help="Also write captions into XMP sidecars, or into the photos, unless they have one of yours.",
)
@click.option("--undo", is_flag=True, help="Remove the captions that anytag wrote for these photos.")
@metadata.caption_options
@outputs.options(*_FORMATS, resume=True)
@options.model_options
@paths.options()
@ray.option("caption", _task, "tags", "exclude_tags", "beams", "sample", "seed", "max_length")
def command(
    tags: tuple[str, ...],
    exclude_tags: tuple[str, ...],
    beams: int | None,
    sample: bool,
    seed: int,
    max_length: int | None,
    write: metadata.Target | None,
    undo: bool,
    keywords: metadata.KeywordOptions,
    output_options: outputs.OutputOptions,
    model_options: options.ModelOptions,
    source: paths.Source,
) -> None:
    """Write a caption for each photo: files, folders, globs, or - for paths from stdin, one per line.

    Exit code: 0 success, 1 some photos failed (each is reported, the others are done), 2 invalid usage, 3
    the output cannot be written, 130 interrupted.
    """
    guides = lists.split_commas(tags, "--tags")
    excluded = lists.split_commas(exclude_tags, "--exclude-tags") or ()
    metadata.check(keywords, place=write, undo=undo, resume=output_options.resume)
    photos, output = source.gather(), output_options.output
    format_ = metadata.check_format(
        "caption", output_options, _FORMATS, photos=photos.paths, changes=undo or keywords.dry_run
    )
    outputs.check_missing_folders(source.photos, output)
    if undo:
        metadata.undo(keywords, photos, output, format_, captions_only=True)
        return

    from anytag.captioner import Captioner  # imported after the options are checked: it is slow

    with sinks.open_output(output, format_, resume=output_options.resume) as sink:
        captioner = Captioner.load(
            model_options.model, device=model_options.device, max_pixels=model_options.max_pixels
        )
        sink.begin(run=outputs.run_settings("caption", captioner.tagger.card))
        todo = stream.Pending(photos.paths, sink, output)
        results = captioner.caption_many(
            todo.paths,
            guides,
            exclude_tags=excluded,
            beams=beams,
            sample=sample,
            seed=seed,
            max_length=max_length,
            batch_size=model_options.batch_size,
            workers=model_options.workers,
        )
        with closing(results):
            row = _jsonl if format_ == "jsonl" else _text
            change = None if write is None else _writer(keywords, write)
            summary = metadata.write_results(
                results, change, sink, row, keywords=keywords, format_=format_, total=todo.total
            )
    summary.end(done=todo.done)
    photos.end()


def _writer(keywords: metadata.KeywordOptions, place: metadata.Target) -> Callable[[Caption], Change]:
    """A function that writes the caption of a photo, and no keywords."""

    def write(caption: Caption) -> Change:
        return keywords.write(caption.path or "", None, place, caption=metadata.to_write(caption.text))

    return write


def _text(caption: Caption) -> str:
    """Format as `path<TAB>a dog runs`; a failed photo has no line, its error goes to stderr."""
    return "" if caption.error else f"{one_line(caption.path or '')}\t{caption.text}\n"


def _jsonl(caption: Caption) -> str:
    return json.dumps(caption.to_dict(), ensure_ascii=False) + "\n"
