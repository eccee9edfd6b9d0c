"""`anytag.data.labels` and `soft_labels`: rows -> labels and their confidence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anytag.data.labels import Labeler, LabelMatrix, by_captions, label_matrix
from anytag.data.rows import Row
from anytag.torch.training.soft_labels import MIN_MENTIONS, ImageNetClasses
from anytag.vocabulary import Tag, Vocabulary

TAGS = (
    Tag("dog", "dog", "object", synonyms=("hound",), parents=("animal",)),
    Tag("animal", "animal", "object"),
    Tag("orange", "orange", "object", parents=("fruit",)),
    Tag("orange-attribute", "orange", "attribute"),
    Tag("fruit", "fruit", "object"),
    Tag("beach", "beach", "scene", parents=("coast",)),  # a broader tag outside the vocabulary
    Tag("run", "run", "action"),
    Tag("zebra", "zebra", "object", parents=("animal",)),
)


@pytest.fixture(scope="module")
def labeler() -> Labeler:
    return Labeler(Vocabulary(TAGS))


def ids(columns: set[int]) -> set[str]:
    return {TAGS[column].id for column in columns}


def row(*captions: str, tags: tuple[str, ...] = (), absent: tuple[str, ...] = ()) -> Row:
    return Row("a.jpg", "made", "train", captions, tags, absent)


def test_caption_gives_its_tags_and_broader_ones(labeler: Labeler) -> None:
    assert ids(labeler.caption("A dog runs on the beach.")) == {"dog", "animal", "run", "beach"}


def test_caption_knows_synonyms(labeler: Labeler) -> None:
    assert ids(labeler.caption("Two hounds.")) == {"dog", "animal"}


def test_orange_the_fruit_and_orange_the_colour(labeler: Labeler) -> None:
    assert ids(labeler.caption("A child eats an orange.")) == {"orange", "fruit"}
    assert ids(labeler.caption("A dog in an orange coat.")) == {"dog", "animal", "orange-attribute"}


def test_labels_name_things_before_qualities(labeler: Labeler) -> None:
    assert labeler.label("Orange") == "orange"
    assert labeler.label("HOUND") == "dog"


def test_unknown_names_are_ignored(labeler: Labeler) -> None:
    assert labeler.label("gizmo") is None
    assert labeler.labels(["gizmo"]) == set()
    assert labeler.caption("Gizmos everywhere.") == set()


def test_captions_and_labels_are_joined(labeler: Labeler) -> None:
    assert ids(labeler.present(row("A dog.", "An orange.", tags=("zebra",)))) == {
        *("dog", "animal", "orange", "fruit", "zebra")
    }


def matrix(rows: list[Row], labeler: Labeler) -> LabelMatrix:
    return label_matrix(rows, labeler, silence=by_captions, fewest=MIN_MENTIONS)


@pytest.fixture(scope="module")
def matrices(labeler: Labeler) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """By tag: one photo of five captions, one of one caption, one of labels only; many dogs."""
    rows = [
        row("A dog.", "A hound.", "A dog runs.", "Something.", "A photo."),
        row("A beach."),
        row(tags=("zebra", "gizmo"), absent=("dog", "animal", "orange", "gizmo")),
        *[row("A dog.")] * MIN_MENTIONS,
    ]
    found = matrix(rows, labeler)
    present, trust = found.present.astype(int), found.weight
    columns = [tag.id for tag in TAGS]
    return dict(zip(columns, present.T.tolist(), strict=True)), dict(
        zip(columns, trust.T.tolist(), strict=True)
    )


Matrices = tuple[dict[str, list[int]], dict[str, list[int]]]


def test_mentions_and_labels_are_present_and_sure(matrices: Matrices) -> None:
    present, trust = matrices
    assert present["dog"][:3] == [1, 0, 0] and present["run"][:3] == [1, 0, 0]
    assert present["zebra"][:3] == [0, 0, 1]
    assert trust["dog"][0] == trust["run"][0] == trust["zebra"][2] == trust["beach"][1] == 100


def test_silence_is_trusted_the_more_captions_there_are(matrices: Matrices) -> None:
    _, trust = matrices
    assert trust["dog"][1] == 30  # one caption
    assert trust["dog"][3] == 100  # said


def test_silence_of_five_captions(labeler: Labeler) -> None:
    rows = [row(*["A beach."] * 5), *[row("A dog.")] * MIN_MENTIONS]
    assert matrix(rows, labeler).weight[0, labeler.index["dog"]] == 83


def test_rarely_mentioned_tags_are_unknown_where_captions_are_silent(matrices: Matrices) -> None:
    _, trust = matrices
    assert trust["beach"] == [0, 100, *[0] * (MIN_MENTIONS + 1)]
    assert trust["fruit"] == [0] * (MIN_MENTIONS + 3)


def test_absent_names_are_sure_but_presence_wins(matrices: Matrices) -> None:
    present, trust = matrices
    assert (present["dog"][2], trust["dog"][2]) == (0, 100)
    assert (present["orange"][2], trust["orange"][2]) == (0, 100)
    assert (present["animal"][2], trust["animal"][2]) == (
        1,
        100,
    )  # a zebra is one, whatever the captions mention


def test_labels_alone_say_nothing_of_the_rest(matrices: Matrices) -> None:
    _, trust = matrices
    assert trust["beach"][2] == trust["run"][2] == trust["orange-attribute"][2] == 0


def test_a_name_is_its_custom_tag_where_another_has_it_as_a_synonym() -> None:
    tags = Vocabulary([Tag("dog", "dog", "object", synonyms=("hound",)), Tag("hound", "hound", "object")])
    assert Labeler(tags).labels(["hound"]) == {1}


def test_what_is_broader_than_something_absent_may_be_there(labeler: Labeler) -> None:
    assert ids(labeler.absent(row(absent=("dog", "gizmo")))) == {"dog"}


def test_imagenet_beliefs(tmp_path: Path) -> None:
    path = tmp_path / "imagenet.json"
    fields = {"classes": ["dog", "zebra", "orange"], "below": {"animal": [0, 1], "unheard": [2]}}
    path.write_text(json.dumps(fields))
    classes = ImageNetClasses.read(path, Vocabulary(TAGS))
    target = classes.soft_targets(np.log(np.array([[0.5, 0.3, 0.2]], np.float32)), len(TAGS))
    expected = {"dog": 0.5, "zebra": 0.3, "orange": 0.2, "animal": 0.8}
    assert target[0] == pytest.approx([expected.get(tag.id, 0) for tag in TAGS])
