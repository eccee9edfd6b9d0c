"""`anytag serve`: the HTTP server."""

from __future__ import annotations

from pathlib import Path

import click

from anytag.cli import options
from anytag.cli.library_sync import existing_library

_MEGABYTE = 1 << 20


@click.command("serve", short_help="Serve an HTTP API and a web page.")
@click.option(
    "--library",
    metavar="[FILE]",
    is_flag=False,
    flag_value="",
    help="Also serve a library, by default your own: see anytag library.",
)
@click.option(
    "--label-studio",
    metavar="FOLDER",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Enable the ML backend for Label Studio, whose photos are below FOLDER. May be repeated.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 for any free one."
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="Accept this host name in requests, without a port. May be repeated.",
)
@click.option(
    "--fetch-urls",
    is_flag=True,
    help="Fetch photos from URLs in requests, from public addresses only.",
)
@click.option(
    "--max-body",
    metavar="MB",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Maximum size of a request.",
)
@click.option(
    "--max-requests",
    metavar="N",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Maximum number of concurrent requests; others get status 429.",
)
@options.model_options
def command(
    library: str | None,
    label_studio: tuple[Path, ...],
    host: str,
    port: int,
    hosts: tuple[str, ...],
    fetch_urls: bool,
    max_body: int,
    max_requests: int,
    model_options: options.ModelOptions,
) -> None:
    """Serve an HTTP API for tags, captions and matches, and a web page: http://127.0.0.1:8000.

    Any address but a loopback one requires a key in the environment variable ANYTAG_KEY, which clients send
    as "Authorization: Bearer KEY".

    Stops on Ctrl-C or SIGTERM after running requests have finished.
    """
    from anytag.server.run import serve
    from anytag.server.settings import KEY_VARIABLE, Settings, is_loopback, key_from_environment

    key = key_from_environment()
    if key is None and not is_loopback(host):
        raise click.UsageError(
            f"--host {host} can be reached from other computers: set a key in the environment variable "
            f"{KEY_VARIABLE}, or omit --host."
        )
    settings = Settings(
        model=model_options.model,
        device=model_options.device,
        has_library=library is not None,
        library=None if library is None else existing_library(Path(library) if library else None),
        label_studio=label_studio,
        host=host,
        port=port,
        key=key,
        hosts=tuple(name.lower() for name in hosts),
        workers=model_options.workers or 0,
        batch_size=model_options.batch_size,
        fetch_urls=fetch_urls,
        max_body=max_body * _MEGABYTE,
        max_pixels=model_options.max_pixels,
        max_requests=max_requests,
    )
    serve(settings, ready=lambda address: click.echo(f"anytag serves at {address}", err=True))
