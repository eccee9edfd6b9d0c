"""Write docs/reference/cli.md from --help, openapi.json, and the model's figures in the docs.

With --check nothing is written; the exit code is 1 if a file is out of date.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from anytag.cli import main as anytag
from anytag.server.app import create_app
from anytag.server.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script's path contains only its own folder
from scripts import model_tables

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "cli.md"
API = ROOT / "docs" / "reference" / "openapi.json"
FIGURES = (ROOT / "docs" / "benchmarks.md", ROOT / "README.md")
HEAD = """# The command line

<!-- Written by scripts/build_docs.py from --help: change the command, not this page. -->
"""


def walk(command: click.Command, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yield full name and help text of `command` and all its subcommands, in the order of the help."""
    name = command.name if parent else "anytag"
    settings = command.context_settings  # -h beside --help
    context = click.Context(
        command, parent=parent, info_name=name, terminal_width=100, color=False, **settings
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from walk(found, context)


def render() -> str:
    """Render the page of the command line reference."""
    return HEAD + "".join(f"\n## `{name}`\n\n```text\n{text}\n```\n" for name, text in walk(anytag))


def main(arguments: list[str]) -> int:
    """Write the files, or compare them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(has_library=True, library=Path(folder, "library.db"))
        api = json.dumps(create_app(settings).openapi(), indent=1, ensure_ascii=False) + "\n"
    pages = {PAGE: render(), API: api}
    pages |= {page: model_tables.filled(page.read_text(encoding="utf-8")) for page in FIGURES}
    old = [page for page, text in pages.items() if not page.is_file() or page.read_text("utf-8") != text]
    if arguments == ["--check"]:
        for page in old:
            print(f"{page.name} is not up to date: run python scripts/build_docs.py", file=sys.stderr)
        return 1 if old else 0
    for page in old:
        page.write_text(pages[page], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
