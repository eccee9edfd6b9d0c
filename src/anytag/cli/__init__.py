"""The command line, the only part of anytag that prints: one short file a command, imported when asked."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

COMMANDS = (
    "tag",
    "caption",
    "match",
    "library",
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

NOT_WRITTEN, INTERRUPTED, PIPE_CLOSED = 3, 130, 141
_OUTPUT_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))

# Before numpy is imported: its threads would take 50 ms to start, and the cores from our workers.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class _NotWrittenError(click.ClickException):
    exit_code = NOT_WRITTEN


class _Commands(click.Group):
    """Finds `anytag NAME` in the module NAME, and turns what commands raise into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_closed_descriptors()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # of --help and --version; commands are looked after below
            click.echo(f"Error: {_failure(error).message}", err=True)
            sys.exit(NOT_WRITTEN)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:  # of --help and --version: click would end with 1
            _leave_quietly()

    def invoke(self, ctx: click.Context) -> Any:
        from anytag.errors import AnytagError, OutputError, RefusedOutputError

        try:
            return super().invoke(ctx)
        except (OutputError, OSError) as error:
            if isinstance(error, RefusedOutputError):
                raise click.UsageError(str(error)) from error
            if isinstance(error, BrokenPipeError):
                _leave_quietly()
            raise _failure(error) from error
        except AnytagError as error:  # a photo's own errors are in its row; this one stopped the command
            raise click.UsageError(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(INTERRUPTED)


def _failure(error: Exception) -> click.ClickException:
    """What stopped a command though it was used rightly: no photo's error, so the exit code is not 1."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    is_output = not isinstance(error, OSError) or error.errno in _OUTPUT_ERRORS
    return _NotWrittenError(message) if is_output else click.UsageError(message)


def _leave_quietly() -> NoReturn:
    """Whoever read the output has enough, as when `head` ends: no message, and none while Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    sys.exit(PIPE_CLOSED)


def _open_closed_descriptors() -> None:
    """Files must not get the number of a stream that the shell closed: libraries write to it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


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
