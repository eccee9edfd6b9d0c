from __future__ import annotations

import subprocess
import sys

import pytest

from anytag import __version__
from anytag.cli import COMMANDS
from tests.command import ENVIRONMENT, run


def test_help_lists_every_command() -> None:
    for option in ("--help", "-h"):
        done = run(option)
        assert done.exit_code == 0
        assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = run(name, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: anytag {name}")


def test_version_and_unknown_commands() -> None:
    assert run("--version").stdout == f"anytag {__version__}\n"
    done = run("tga")
    assert done.exit_code == 2
    assert "No such command 'tga'" in done.stderr


def test_python_m_anytag_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anytag", "--version"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"anytag {__version__}\n"
