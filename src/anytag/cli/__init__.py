"""The command line, the only part of anytag that prints: one module per command, imported on demand."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from importlib import import_module
from typing import Any, NoReturn

import click

COMMANDS = (
    "tag",
    "caption",
    "match",
    "library",
    "search",
    "serve",
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
_CLEAN_UP_SECONDS = 2
_OUTPUT_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))

# Set before NumPy is imported: its threads take 50 ms to start and compete with our workers for the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class _NotWrittenError(click.ClickException):
    exit_code = NOT_WRITTEN


class _Commands(click.Group):
    """Loads `anytag NAME` from the module NAME, and turns exceptions into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_closed_descriptors()
        if not args and not kwargs:  # as the program, not called by another
            _interrupt_once()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # of --help and --version; `invoke` handles those of commands
            click.echo(f"Error: {_failure(error).message}", err=True)
            sys.exit(NOT_WRITTEN)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:  # of --help and --version: click would exit with 1
            _leave_quietly()

    def invoke(self, ctx: click.Context) -> Any:
        from anytag._optional import extra_of
        from anytag.errors import AnytagError, MissingExtraError, OutputError, RefusedOutputError

        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (extra := extra_of(error)) is None:
                raise
            missing = MissingExtraError(f"anytag {ctx.invoked_subcommand}", extra)
            raise click.UsageError(str(missing)) from error
        except (OutputError, OSError) as error:
            if isinstance(error, RefusedOutputError):
                raise click.UsageError(str(error)) from error
            if isinstance(error, BrokenPipeError):
                _leave_quietly()
            raise _failure(error) from error
        except AnytagError as error:  # errors of single photos are in their rows
            raise click.UsageError(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(INTERRUPTED)


def _interrupt_once() -> None:
    """Let only the first Ctrl-C raise, since another would interrupt the clean-up.

    One that comes two seconds later ends the process at once.
    """

    def interrupt(*_: object) -> NoReturn:
        start = time.monotonic()

        def end(*_: object) -> None:
            if time.monotonic() - start > _CLEAN_UP_SECONDS:
                os._exit(INTERRUPTED)

        signal.signal(signal.SIGINT, end)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def _failure(error: Exception) -> click.ClickException:
    """The click exception for an error that stopped a command: exit code 3 for output errors, else 2."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    is_output = not isinstance(error, OSError) or error.errno in _OUTPUT_ERRORS
    return _NotWrittenError(message) if is_output else click.UsageError(message)


def _leave_quietly() -> NoReturn:
    """Exit without a message when the reader of stdout has closed it, as `head` does."""
    null = os.open(os.devnull, os.O_WRONLY)  # so that flushing at exit does not fail
    os.dup2(null, 1)
    sys.exit(PIPE_CLOSED)


def _open_closed_descriptors() -> None:
    """Open closed standard streams, lest a file gets their descriptor, to which libraries write."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor


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
    """Tag photos with a trained vocabulary and with your own words, offline, on a CPU."""
