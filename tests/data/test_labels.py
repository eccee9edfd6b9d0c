"""What labels of strangers mean in a vocabulary."""

import pytest

from anytag.data.labels import Labeler
from anytag.vocabulary import Tag, Vocabulary


@pytest.fixture(scope="module")
def labeler() -> Labeler:
    return Labeler(
        Vocabulary(
            [
                Tag("climb", "climb", "action", synonyms=("scale",)),
                Tag("scale", "weighing scale", "object", synonyms=("scale",)),
                Tag("lawn-mower", "lawn mower", "object"),
                Tag("lantern", "jack-o'-lantern", "object"),
                Tag("tee", "t-shirt", "object", parents=("clothing",)),
                Tag("clothing", "clothing", "object"),
            ]
        )
    )


@pytest.mark.parametrize(
    ("label", "id"),
    [
        ("lawnmower", "lawn-mower"),
        ("Lawn-Mowers", "lawn-mower"),
        ("T Shirt", "tee"),
        ("tshirts", "tee"),
        ("jack o'lantern", "lantern"),
        ("scale", "scale"),
        ("lawn", None),
    ],
)
def test_labels_are_found_whatever_their_case_spaces_hyphens_and_number(
    labeler: Labeler, label: str, id: str | None
) -> None:
    assert labeler.label(label) == id


def test_labels_name_what_is_broader_too(labeler: Labeler) -> None:
    ids = labeler.vocabulary.ids
    assert {ids[column] for column in labeler.labels(["tshirt", "unknown thing"])} == {"tee", "clothing"}
