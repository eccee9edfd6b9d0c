from anytag import Failure, TagResult, TagScore


def test_a_result_is_a_sequence_of_its_tags_by_falling_score() -> None:
    dog, cat = (TagScore(name, name, score, "vocabulary") for name, score in (("dog", 0.9), ("cat", 0.5)))
    result = TagResult("a.jpg", 4, 3, "tiny", (dog, cat))
    assert list(result) == [dog, cat]
    assert [tag.name for tag in result] == list(result.names)
    assert len(result) == 2


def test_a_photo_that_cannot_be_read_has_no_tags_to_go_through() -> None:
    failed = TagResult("gone.jpg", 0, 0, "tiny", (), Failure("ImageError", "gone.jpg: no such file"))
    assert (list(failed), len(failed)) == ([], 0)


def test_tags_of_one_name_are_shown_once_with_the_higher_score_and_kept_apart_by_id() -> None:
    fruit, dish, colour = (
        TagScore(id_, name, score, "vocabulary")
        for id_, name, score in (
            ("orange-object", "orange", 0.9),
            ("dish", "dish", 0.8),
            ("orange", "orange", 0.7),
        )
    )
    result = TagResult("a.jpg", 4, 3, "tiny", (fruit, dish, colour))
    assert result.shown == (fruit, dish)
    assert result.names == ("orange", "dish")
    assert [tag["id"] for tag in result.to_dict()["tags"]] == ["orange-object", "dish", "orange"]
