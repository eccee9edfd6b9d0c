"""`anytag push`: a model folder to the Hugging Face Hub."""

from __future__ import annotations

import click


@click.command("push", short_help="Upload a model folder to the Hugging Face Hub.")
@click.argument("model", metavar="MODEL")
@click.argument("repository", metavar="OWNER/NAME")
def command(model: str, repository: str) -> None:
    """Upload MODEL, a folder or the name of an installed model, to the repository OWNER/NAME on the Hub.

    This uploads the files that its card lists, and a README.md generated from the card. The repository is
    created if necessary; HF_TOKEN must hold a token with write access.
    """
    from anytag.models.hub import push_folder
    from anytag.models.registry import resolve

    address = push_folder(resolve(model), repository.removeprefix("hf-hub:"))
    click.echo(f"{address}\nFetch it with: anytag pull hf-hub:{repository.removeprefix('hf-hub:')}")
