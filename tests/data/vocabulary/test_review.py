"""The review table: what rules propose, what a person may edit, and the vocabulary that comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag.data.vocabulary.merging import Merge
from anytag.data.vocabulary.report import page
from anytag.data.vocabulary.review import ReviewRow, build, lines, read_review, write_review
from anytag.errors import AnytagError, OutputError, VocabularyError
from anytag.parsing import Candidate

SOFA = ReviewRow("keep", "sofa", "object", count=812, parents=("furniture",), synonyms=("divan",))
ROWS = [
    SOFA,
    ReviewRow("keep", "furniture", "object", count=300),
    ReviewRow("keep", "orange", "attribute", count=200),
    ReviewRow("keep", "orange", "object", count=100, parents=("fruit",)),
    ReviewRow("merge", "settee", "object", into="couch", count=14, synonyms=("setee",)),
    ReviewRow("merge", "couch", "object", into="sofa", count=90),
    ReviewRow("drop", "fun", "object", count=50),
]


def candidate(name: str, *, known: bool = True, count: int = 9) -> Candidate:
    return Candidate(name, "object", count, ("x",), ("An x.",), ("x (1): listed",), (), known)


class TestLines:
    def test_what_is_known_is_kept_and_what_is_new_waits(self) -> None:
        dog, blorp = lines([candidate("dog"), candidate("blorp", known=False)])
        assert (dog.action, dog.why, dog.examples) == ("keep", "x (1): listed", ("An x.",))
        assert (blorp.action, blorp.why.startswith("new")) == ("drop", True)
        assert lines([candidate("blorp", known=False)], keep_new=True)[0].action == "keep"

    def test_lists_go_before_rules(self) -> None:
        merges = [Merge(("dog", "object"), ("cat", "object"), "because", sure=True)]
        found = lines(
            [candidate("cat"), candidate("dog"), candidate("blorp", known=False)],
            merges,
            include=["Dog", "blorp", "yak"],
            exclude=["cat"],
        )
        assert [(row.name, row.action) for row in found] == [
            ("cat", "drop"), ("dog", "keep"), ("blorp", "keep"), ("yak", "keep"),
        ]  # fmt: skip

    def test_listed_words_have_their_names_and_kinds(self) -> None:
        found = lines(
            [replace(candidate("sofa"), synonyms=("settee",))],
            include=["couch", "Settee", "jump", "bicycles shop", "red", "bike", "bicycle"],
        )
        assert [(row.name, row.kind, row.synonyms) for row in found] == [
            ("sofa", "object", ("couch", "settee")),
            ("jump", "action", ()),
            ("bicycles shop", "object", ()),
            ("red", "attribute", ()),
            ("bicycle", "object", ("bike",)),
        ]
        assert ["no caption" in row.why for row in found] == [False, *[True] * 4]

    def test_merges_that_are_not_sure_are_asked(self) -> None:
        for sure, action, why in ((True, "merge", "because"), (False, "keep", "perhaps: because")):
            merges = [Merge(("dog", "object"), ("cat", "object"), "because", sure=sure)]
            row = lines([candidate("cat"), candidate("dog")], merges)[1]
            assert (row.action, row.into, row.why) == (action, "cat", why)

    def test_nothing_is_merged_into_what_is_dropped(self) -> None:
        merges = [Merge(("dog", "object"), ("cat", "object"), "because", sure=True)]
        found = lines([candidate("cat"), candidate("dog")], merges, exclude=["cat"])
        assert found[1].action == "keep"
        assert build(found).ids == ("dog",)


class TestTable:
    @pytest.mark.parametrize("name", ["review.tsv", "review.csv"])
    def test_written_and_read_again(self, tmp_path: Path, name: str) -> None:
        rows = [replace(SOFA, why='=evil("x"), a\tb', examples=("A, “b”; c", "d\ne")), *ROWS[1:]]
        write_review(tmp_path / name, rows)
        found = read_review(tmp_path / name)
        assert found[1:] == ROWS[1:]
        assert found[0].why == '=evil("x"), a b'
        assert found[0].examples == ("A, “b”, c", "d e")
        assert len(list(tmp_path.iterdir())) == 1

    def test_no_cell_is_a_formula(self, tmp_path: Path) -> None:
        write_review(tmp_path / "r.csv", [replace(SOFA, why="=1+1")])
        assert ",=1" not in (tmp_path / "r.csv").read_text()

    def test_a_person_may_leave_columns_out_and_write_capitals(self, tmp_path: Path) -> None:
        (tmp_path / "r.tsv").write_text(
            "Kind\tname\tkind\taction\n\tdog\tObject\tKEEP\n\t\t\t\n\tcat\tobject\t\n"
        )
        assert [row.name for row in read_review(tmp_path / "r.tsv")] == ["dog", "cat"]

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ("burn\tdog\tobject\t\t1", "line 2: action: 'burn' is unknown"),
            ("keep\tdog\tthing\t\t1", "line 2: kind: 'thing' is unknown"),
            ("keep\t\tobject\t\t1", "line 2: name: is empty"),
            ("merge\tdog\tobject\t\t1", "line 2: into: 'dog' is to be merged"),
            ("keep\tdog\tobject\t\tmany", "line 2: count: 'many' is not a number"),
        ],
    )
    def test_wrong_cells_are_said(self, tmp_path: Path, row: str, said: str) -> None:
        (tmp_path / "r.tsv").write_text(f"action\tname\tkind\tinto\tcount\n{row}\n")
        with pytest.raises(VocabularyError, match=said):
            read_review(tmp_path / "r.tsv")

    @pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_as_spreadsheets_write_it(self, tmp_path: Path, delimiter: str, encoding: str) -> None:
        lines = ["action\tname\tkind\tsynonyms", 'keep\tkäse\tobject\t"fromage; queso"', ""]
        text = "\r\n".join(lines).replace("\t", delimiter)
        (tmp_path / "r.csv").write_bytes(text.encode(encoding))
        (row,) = read_review(tmp_path / "r.csv")
        assert (row.name, row.synonyms) == ("käse", ("fromage", "queso"))

    def test_cells_that_have_no_column_are_said(self, tmp_path: Path) -> None:
        (tmp_path / "r.csv").write_text("action,name,kind\nkeep,dog,object,cat\n")
        with pytest.raises(VocabularyError, match="line 2: more cells than columns"):
            read_review(tmp_path / "r.csv")

    def test_what_is_no_table_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "r.tsv").write_text("hello\n")
        with pytest.raises(VocabularyError, match="does not have the columns action, name, kind"):
            read_review(tmp_path / "r.tsv")
        (tmp_path / "r.tsv").write_bytes(b"\xff\xfe\xff")
        with pytest.raises(AnytagError, match="not in UTF-8"):
            read_review(tmp_path / "r.tsv")
        with pytest.raises(OutputError, match="cannot be written"):
            write_review(tmp_path / "missing" / "r.tsv", ROWS)


class TestBuild:
    def test_merged_renamed_ranked(self) -> None:
        vocabulary = build([replace(SOFA, rename="couch"), *ROWS[1:]])
        assert vocabulary.ids == ("couch", "furniture", "orange", "orange-object")
        sofa = vocabulary["couch"]
        assert sofa.synonyms == ("sofa", "divan", "settee", "setee")
        assert sofa.parents == ("furniture",)
        assert vocabulary["orange-object"].parents == ()  # no fruit here

    def test_parents_follow_merges(self) -> None:
        rows = [
            ReviewRow("keep", "dog", "object", count=3),
            ReviewRow("merge", "hound", "object", into="dog", count=2),
            ReviewRow("keep", "beagle", "object", count=1, parents=("hound", "dog", "beagle")),
        ]
        assert build(rows)["beagle"].parents == ("dog",)

    def test_the_size_keeps_what_is_used_most_and_what_lists_want(self) -> None:
        rows = [*ROWS, ReviewRow("keep", "yak", "object", why="included by list; no caption has it")]
        assert build(rows, size=2).ids == ("yak", "sofa")

    def test_merges_count(self) -> None:
        rows = [
            ReviewRow("keep", "cat", "object", count=5),
            ReviewRow("keep", "dog", "object", count=4),
            ReviewRow("merge", "hound", "object", into="dog", count=3),
        ]
        assert build(rows).ids == ("dog", "cat")

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([ReviewRow("merge", "a", "object", into="b")], "'a' is merged into 'b', which no row keeps"),
            (
                [ReviewRow("merge", "a", "object", into="b"), ReviewRow("merge", "b", "object", into="a")],
                "circle: a into b into a",
            ),
            ([ReviewRow("keep", "a", "object"), ReviewRow("keep", "a", "object")], "two rows keep 'a'"),
            (
                [ReviewRow("keep", "a", "object"), ReviewRow("keep", "b", "object", rename="A"),
                 ReviewRow("keep", "c", "object", rename="a")],
                "two tags are named 'a'",
            ),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_said(self, rows: list[ReviewRow], said: str) -> None:
        with pytest.raises(VocabularyError, match=said):
            build(rows)


class TestPage:
    def test_plots_and_reasons(self) -> None:
        text = page([*ROWS, ReviewRow("keep", "<script>", "object", count=1)])
        assert text.count("<svg") == 3
        assert "&lt;script&gt;" in text and "<script>" not in text
        assert "8 names: 5 keep, 1 drop, 2 merge" in text

    def test_nothing(self) -> None:
        assert "0 names" in page([])

    @given(st.lists(st.integers(0, 10**6), max_size=500))
    def test_any_counts(self, counts: list[int]) -> None:
        text = page([ReviewRow("keep", f"n{i}", "object", count=count) for i, count in enumerate(counts)])
        assert "nan" not in text and "inf," not in text
