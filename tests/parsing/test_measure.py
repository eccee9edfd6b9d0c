"""How well the parser reads the captions that a person labelled, and how that is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from anytag.errors import AnytagError
from anytag.parsing import Parser
from anytag.parsing.measure import GROUPS, Labelled, Score, measure, read_labelled

DATA = Path(__file__).parent
PARSER = Parser()


def labelled(caption: str, things: str = "", looks: str = "", actions: str = "") -> Labelled:
    columns = dict(zip(GROUPS, (things, looks, actions), strict=True))
    return Labelled(
        caption, {group: frozenset(filter(None, names.split(", "))) for group, names in columns.items()}
    )


def test_counts() -> None:
    row = labelled("a red dog pulls a bike", "dog, bike, hat", "red", "pull")
    found = measure(PARSER, [row])
    assert found.scores["things"] == Score(hits=2, wrong=0, missed=1)  # bike is bicycle
    assert found.scores["looks"].f1 == found.scores["actions"].f1 == 1
    assert found.lines == [(row.caption, ["-hat"])]


def test_a_compound_is_what_heads_it() -> None:
    found = measure(PARSER, [labelled("a street musician by a pine tree", "musician, tree")])
    assert found.scores["things"] == Score(hits=2)


def test_scores() -> None:
    score = Score(hits=3, wrong=1, missed=3)
    assert (score.precision, score.recall, score.f1) == (0.75, 0.5, 0.6)
    assert Score().f1 == 0


@pytest.mark.parametrize(("name", "rows", "floor"), [("captions", 100, 0.88), ("captions_unseen", 45, 0.88)])
def test_labelled_captions_are_read_well(name: str, rows: int, floor: float) -> None:
    """What benchmarks/parsing.py prints, as a floor."""
    captions = read_labelled(DATA / f"{name}.tsv")
    assert len(captions) >= rows
    assert all(score.f1 >= floor for score in measure(PARSER, captions).scores.values())


def test_another_form_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("# comment\na dog\tdog\n")
    with pytest.raises(AnytagError, match="line 2: 2 columns, expected 4"):
        read_labelled(tmp_path / "rows.tsv")
