"""The command line, the only part of anytag that prints: one short file a command, imported when asked."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click

COMMANDS = (
    "tag",
    "caption",
    "match",
    "models",
    "pull",
    "push",
    "convert",
    "export",
    "vocabulary",
    "describe",
    "finetune",
    "calibrate",
    "train",
    "distill",
    "eval",
    "data",
    "doctor",
)

INTERRUPTED = 130

# Before numpy is imported: its threads would take 50 ms to start, and the cores from our workers.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class _Commands(click.Group):
    """Finds `anytag NAME` in the module NAME, and turns what commands raise into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        from anytag.errors import AnytagError

        try:
            return super().invoke(ctx)
        except AnytagError as error:  # a photo's own errors are in its row; this one stopped the command
            raise click.UsageError(str(error)) from error
        except BrokenPipeError:
            raise  # whoever read the output has enough: click ends quietly
        except OSError as error:  # a full disk, say
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(INTERRUPTED)


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from anytag import __version__

        click.echo(f"anytag {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
)
def main() -> None:
    """Tags for photos: a trained vocabulary and your own words, offline, on a CPU."""
