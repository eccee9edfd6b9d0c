"""`anytag push`: a model folder to the Hugging Face Hub."""

from __future__ import annotations

import click


@click.command("push", short_help="Send a model folder to the Hugging Face Hub.")
@click.argument("model", metavar="MODEL")
@click.argument("repository", metavar="OWNER/NAME")
def command(model: str, repository: str) -> None:
    """Send MODEL, a folder or the name of an installed model, to the repository OWNER/NAME of the Hub.

    What its card lists is sent, and a README.md made of the card. The repository is made if it is not there;
    HF_TOKEN must hold a token that may write.
    """
    from anytag.models.hub import push_folder
    from anytag.models.registry import resolve

    address = push_folder(resolve(model), repository.removeprefix("hf-hub:"))
    click.echo(f"{address}\nFetch it with: anytag pull hf-hub:{repository.removeprefix('hf-hub:')}")
