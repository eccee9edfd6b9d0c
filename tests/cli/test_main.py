from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from anytag import __version__
from anytag.cli import COMMANDS, main
from anytag.cli.options import FiniteFloat
from tests.command import ENVIRONMENT, run, start


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


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of POSIX")
@pytest.mark.parametrize("words", ["--help", "--version", "tag --help"])
def test_whoever_reads_help_may_have_enough(words: str) -> None:
    # the reader is gone before the first byte
    read, write = os.pipe()
    os.close(read)
    process = start(*words.split(), stdout=write)
    os.close(write)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 141 and not said


def every_command(command: click.Command = main, name: str = "anytag") -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for one in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), one)
            assert found is not None
            yield from every_command(found, f"{name} {one}")


def test_no_number_of_any_command_may_be_nan() -> None:
    for name, command in every_command():
        for param in command.params:
            kinds = param.type.types if isinstance(param.type, click.Tuple) else [param.type]
            for kind in kinds:
                assert not isinstance(kind, click.types.FloatParamType) or type(kind) is FiniteFloat, name


def test_lists_of_commands_are_not_cut_short() -> None:
    for name, command in list(every_command())[1:]:
        assert not command.get_short_help_str(64).endswith("..."), name


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (("finetune", "--data", "rows.csv", "--output", "out"), "torch", "torch"),
        (("distill", "ram", "small", "--photos", ".", "--output", "out"), "timm", "torch"),
        (("pull", "ram", "--text", "--name", "nowhere"), "transformers", "clip"),
        (
            ("tag", "photos", "--ray", "--output", "out"),
            "pyarrow",
            "ray",
        ),  # of `data`, which does not suffice
        (("caption", "s3://bucket/photos", "--ray", "--dry-run"), "s3fs", "s3"),
        (("data", "ray", "s3://bucket/rows", "s3://bucket/out"), "ray", "ray"),
    ],
)
def test_a_package_that_is_missing_is_named_by_its_extra(
    arguments: tuple[str, ...], module: str, extra: str, tmp_path: Path
) -> None:
    """In a process of its own, where nothing of it was imported before."""
    (tmp_path / "rows.csv").write_text("image,tags\n")
    script = f"import sys; sys.modules[{module!r}] = None; from anytag.cli import main; main({arguments!r})"
    home = {**ENVIRONMENT, "ANYTAG_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert f"pip install 'anytag[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_extra() -> None:
    """Of every command, in one process where no extra can be imported."""
    hidden = ["accelerate", "fsspec", "ijson", "nltk", "onnx", "openai", "pyarrow", "ray", "scipy"]
    hidden += ["spacy", "timm", "torch", "transformers"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        "from anytag.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    main([name, '--help'], standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("Usage:")] == list(
        COMMANDS
    )
    assert "{" not in done.stdout
