"""`anytag push`: upload a model folder to the Hugging Face Hub."""

from __future__ import annotations

import click


@click.command("push", short_help="Upload a model folder to the Hugging Face Hub.")
@click.argument("model", metavar="MODEL")
@click.argument("repository", metavar="OWNER/NAME")
def command(model: str, repository: str) -> None:
    """Upload MODEL, a folder or an installed model, to the repository OWNER/NAME of the Hub.

    The files that its card lists and a README.md generated from the card are uploaded. The repository is
    created if it does not exist; HF_TOKEN must be a token with write access.
    """
    from anytag.models.hub import push_folder
    from anytag.models.registry import resolve

    address = push_folder(resolve(model), repository.removeprefix("hf-hub:"))
    click.echo(f"{address}\nInstall it with: anytag pull hf-hub:{repository.removeprefix('hf-hub:')}")
