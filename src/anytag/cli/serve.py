"""`anytag serve`: the API and the page over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from anytag.cli import options

_MEGABYTE = 1 << 20


@click.command("serve", short_help="Tag over HTTP, with a page to try it.")
@click.option(
    "--library",
    metavar="[FILE]",
    is_flag=False,
    flag_value="",
    help="Also serve the photos of a library, your own or that of FILE; see anytag library.",
)
@click.option(
    "--label-studio",
    metavar="FOLDER",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Act as an ML backend of Label Studio, whose photos are below FOLDER. May be repeated.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 selects a free one.",
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="Another host name under which clients may call the server, without a port. May be repeated.",
)
@click.option(
    "--fetch-urls",
    is_flag=True,
    help="Also accept URLs of photos, only at public addresses.",
)
@click.option(
    "--max-body",
    metavar="MB",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Refuse larger requests.",
)
@click.option(
    "--max-requests",
    metavar="N",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Requests processed at the same time; more are answered with 429.",
)
@options.running
def command(
    library: str | None,
    label_studio: tuple[Path, ...],
    host: str,
    port: int,
    hosts: tuple[str, ...],
    fetch_urls: bool,
    max_body: int,
    max_requests: int,
    running: options.Running,
) -> None:
    """Serve tags, captions and a page to try them: http://127.0.0.1:8000.

    To listen on an address other than this computer's own, set the environment variable ANYTAG_KEY to a key,
    which clients send as "Authorization: Bearer KEY".

    Ctrl-C or SIGTERM stops the server after the requests in progress.
    """
    from anytag.server.run import serve
    from anytag.server.settings import KEY_VARIABLE, Settings, is_loopback, key_from_environment

    key = key_from_environment()
    if key is None and not is_loopback(host):
        raise click.UsageError(
            f"--host {host} can be reached from other computers: set a key in the environment variable "
            f"{KEY_VARIABLE}, or leave --host out."
        )
    settings = Settings(
        model=running.model,
        device=running.device,
        has_library=library is not None,
        library=Path(library) if library else None,
        label_studio=label_studio,
        host=host,
        port=port,
        key=key,
        hosts=tuple(name.lower() for name in hosts),
        workers=running.workers or 0,
        batch_size=running.batch_size,
        fetch_urls=fetch_urls,
        max_body=max_body * _MEGABYTE,
        max_pixels=running.max_pixels,
        max_requests=max_requests,
    )
    serve(settings, ready=lambda address: click.echo(f"anytag serves at {address}", err=True))
