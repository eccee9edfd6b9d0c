"""Docs are tested: code blocks run, the command reference is what --help says, links lead somewhere.

`python` and `console` blocks run, page by page from the top, in a folder that holds `examples/photos`; the
python blocks of a page share their names. In a console block `$` begins a command, `>` goes on with it,
anything else is its output and is not compared. Blocks in other languages (`sh`, `text`) do not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import build_docs, model_tables

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """Line, language and text of each block of the page that runs."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in BLOCK.finditer(text)]


def commands(block: str) -> str:
    """The shell script that a console block shows: its lines after the prompts."""
    return "".join(line[2:] for line in block.splitlines(keepends=True) if line.startswith(("$ ", "> ")))


def run_shell(script: str, where: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = f"{script}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, f"{where} exits with {done.returncode}\n{said}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "examples" / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYTAG_HOME", str(tmp_path / "home"))  # the user's library of this page alone
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by Ray's 15 its workers wait on a busy machine
    names: dict[str, object] = {"__name__": "docs"}
    for line, language, text in blocks(page):
        where = f"{name(page)}:{line}"
        if language == "python":
            exec(compile("\n" * line + text, where, "exec"), names)
        else:
            assert commands(text), f"{where}: a console block without a line that begins with '$ '"
            run_shell(commands(text), where)


def anchors(page: Path) -> set[str]:
    """The fragment that each heading of the page answers to, as code hosts make them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", found.lower()).replace(" ", "-") for found in HEADING.findall(text)}


def broken(page: Path) -> list[str]:
    """Local links of the page that lead nowhere."""
    wrong = []
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        missing = not there.exists() or not there.is_relative_to(ROOT)
        if missing or (fragment and fragment not in anchors(there)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_command_reference_is_what_help_says() -> None:
    assert build_docs.PAGE.read_text(encoding="utf-8") == build_docs.render(), "run scripts/build_docs.py"


@pytest.mark.parametrize("page", build_docs.FIGURES, ids=name)
def test_tables_are_what_the_card_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert model_tables.BLOCK.search(text)
    assert model_tables.filled(text) == text, "run scripts/build_docs.py"


def test_a_card_without_figures_says_what_measures_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_tables.TABLES, "captions", lambda metrics: metrics["nothing"])
    with pytest.raises(SystemExit, match=r"no 'nothing': run benchmarks/quality.py"):
        model_tables.filled("<!-- card: captions -->\n<!-- end -->")


def test_readme_gives_the_two_commands() -> None:
    shown = re.findall(r"^```sh\n(.*?)\n```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert shown == ["pip install . && anytag tag examples/photos", "pip install -e '.[dev]' && pytest"]


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    links = LINK.findall(index.read_text(encoding="utf-8"))
    linked = {index, *((index.parent / link).resolve() for link in links)}
    assert [name(page) for page in (ROOT / "docs").rglob("*.md") if page not in linked] == []


def test_every_example_photo_names_its_licence() -> None:
    folder = ROOT / "examples" / "photos"
    text = (folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?\.jpg)` \|", text, re.MULTILINE)
    assert rows == sorted(photo.name for photo in folder.glob("*.jpg"))
