from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag.metadata.keywords import (
    FIELDS,
    Content,
    Field,
    Keyword,
    captioned,
    clean,
    merged,
    read,
    undone,
    wanted,
    words,
)

BESIDE: tuple[Field, ...] = ("Subject", "TagsList", "HierarchicalSubject")


def content(
    subject: str = "", tags: str = "", tree: str = "", iptc: str = "", *, rejected: tuple[str, ...] = ()
) -> Content:
    """Entries between spaces."""
    texts = dict(zip(FIELDS, (subject, tags, tree, iptc), strict=True))
    return Content({name: tuple(text.split()) for name, text in texts.items()}, rejected=rejected)


def write(before: Content, *ours: Keyword | str, more: tuple[Content, ...] = ()) -> Content:
    """One file as `write_keywords` makes it, beside others that say something."""
    paths = [(one,) if isinstance(one, str) else one for one in ours]
    union, refused = wanted([before, *more], paths)
    return merged(before, union, refused, BESIDE)


def without(one: Content, word: str, *names: Field) -> Content:
    """Another program takes a word out of some fields, or all."""
    lists = {
        name: tuple(entry for entry in entries if entry.split("|")[-1].split("/")[-1] != word)
        if name in (names or FIELDS)
        else entries
        for name, entries in one.lists.items()
    }
    return replace(one, lists=lists)


def test_flat_words_and_trees_are_one_list() -> None:
    found = read([content("dog cat x", tags="animal/dog", tree="animal|dog plant|tree", iptc="x y")])
    assert found == (("animal", "dog"), ("plant", "tree"), ("cat",), ("x",), ("y",))


def test_a_flat_word_in_the_middle_of_a_path_is_the_first_part_of_that_path() -> None:
    assert read([content("animal dog mammal", tree="animal|mammal|dog")]) == (
        ("animal", "mammal", "dog"),
        ("animal",),
        ("animal", "mammal"),
    )


def test_a_separator_in_a_word_makes_no_tree() -> None:
    after = write(Content(), "24/7", "a|b", ("x/y", "z"))
    assert after.lists == {
        "Subject": ("24/7", "a|b", "z"),
        "TagsList": ("24|7", "a|b", "x|y/z"),
        "HierarchicalSubject": ("24/7", "a/b", "x/y|z"),
    }
    assert read([replace(after, ours={})]) == (("x|y", "z"), ("24/7",), ("a|b",))


def test_a_word_of_the_user_that_a_tree_would_split_stays_whole() -> None:
    assert read([content("24/7 a|b", tags="24/7", tree="a|b")]) == (("24/7",), ("a|b",))


def test_a_keyword_that_iptc_cut_is_the_one_that_was_cut() -> None:
    long = "ü" * 100
    before = Content({"Subject": (long,), "Keywords": ("ü" * 32,)})
    assert read([before]) == ((long,),)
    assert merged(before, [(long,)], (), FIELDS).lists["Keywords"] == ("ü" * 32,)


def test_the_users_spelling_wins() -> None:
    after = write(content("Dog Käse"), "dog", unicodedata.normalize("NFD", "Käse"), "cat")
    assert after.lists["Subject"] == ("Dog", "Käse", "cat")
    assert after.ours["Subject"] == ("cat",)


def test_what_the_user_took_out_does_not_return() -> None:
    first = write(content("mine"), "dog", "cat")
    second = write(without(first, "dog"), "dog", "cat", "sky")
    assert second.lists["Subject"] == ("mine", "cat", "sky")
    assert second.rejected == ("dog",)
    assert write(second, "dog", "cat", "sky") == second


@pytest.mark.parametrize("name", BESIDE)
def test_it_is_enough_to_take_a_word_out_of_one_field(name: Field) -> None:
    """darktable knows nothing of digiKam's field and leaves it, and so on."""
    second = write(
        without(write(content("mine"), ("animal", "dog"), "cat"), "dog", name), ("animal", "dog"), "cat"
    )
    assert words(second) == ("mine", "cat")


def test_a_program_that_drops_a_whole_field_rejects_nothing() -> None:
    first = write(content("mine"), "dog", "cat")
    second = write(replace(first, lists={**first.lists, "TagsList": ()}), "dog", "cat")
    assert (words(second), second.rejected) == (("mine", "dog", "cat"), ())
    assert second.lists["TagsList"] == ("mine", "dog", "cat")


def test_taking_all_out_rejects_all() -> None:
    first = write(Content(), "dog", "cat")
    second = write(replace(first, lists={}), "dog", "sky")
    assert (words(second), set(second.rejected)) == (("sky",), {"dog", "cat"})


def test_what_the_user_puts_back_is_his() -> None:
    first = write(Content(), "dog", "cat")
    second = write(without(first, "dog"), "dog", "cat")
    back = replace(second, lists={**second.lists, "Subject": ("cat", "dog")})
    third = write(back, "dog", "cat")
    assert third.rejected == ()
    assert third.lists == {
        "Subject": ("cat", "dog"),
        "TagsList": ("cat", "dog"),
        "HierarchicalSubject": ("cat", "dog"),
    }
    assert undone(third).lists["Subject"] == ("dog",)


def test_a_word_of_the_photo_that_was_taken_out_of_the_sidecar_stays_out_of_it() -> None:
    photo = content(iptc="old new")
    first = write(Content(), "dog", more=(photo,))
    assert words(first) == ("old", "new", "dog")
    assert words(write(without(first, "old"), "dog", more=(photo,))) == ("new", "dog")


def test_a_word_that_the_model_no_longer_says_goes_and_may_come_back() -> None:
    first = write(content("mine"), "dog", "cat")
    second = write(first, "cat")
    assert (words(second), second.rejected) == (("mine", "cat"), ())
    assert words(write(second, "dog", "cat")) == ("mine", "cat", "dog")


def test_undo_leaves_what_the_user_added_removed_and_renamed() -> None:
    before = content("mine other", tags="mine")
    written = write(before, ("animal", "dog"), "cat", "sky")
    separators: dict[Field, str] = {"Subject": "", "TagsList": "/", "HierarchicalSubject": "|"}
    for name, separator in separators.items():
        entries = list(written.lists[name])
        entries.remove("cat")  # removed
        entries[entries.index("sky")] = "heaven"  # renamed
        entries.append("added")
        if separator:  # moved to the user's own tree
            entries[entries.index(f"animal{separator}dog")] = f"pets{separator}dog"
        written = replace(written, lists={**written.lists, name: tuple(entries)})
    back = undone(written)
    assert back.lists == {
        "Subject": ("mine", "other", "dog", "heaven", "added"),
        "TagsList": ("mine", "pets/dog", "heaven", "added"),
        "HierarchicalSubject": ("pets|dog", "heaven", "added"),
        "Keywords": (),
    }
    assert not back.has_record


def test_rejected_words_of_elsewhere_are_not_written() -> None:
    union, _ = wanted([content("mine")], [("dog",), ("cat",)], ["Dog"])
    assert union == (("mine",), ("cat",))


@pytest.mark.parametrize(
    ("stands", "other", "overwrite", "after"),
    [
        ("", "", False, "ours"),
        ("his", "", False, "his"),
        ("his", "", True, "ours"),
        ("", "in EXIF", False, ""),
        ("", "in EXIF", True, "ours"),
    ],
)
def test_a_caption_is_written_where_there_is_none(
    stands: str, other: str, overwrite: bool, after: str
) -> None:
    before = Content(caption=stands)
    now = captioned(before, [before, Content(other_caption=other)], "ours", overwrite=overwrite)
    assert now.caption == after
    assert undone(now).caption == stands


def test_our_caption_gives_way_to_a_newer_one_and_stays_out_when_it_was_taken_out() -> None:
    first = captioned(Content(), [], "ours", overwrite=False)
    assert captioned(first, [first], "newer", overwrite=False).caption == "newer"
    gone = replace(first, caption="")
    assert captioned(gone, [gone], "newer", overwrite=False).caption == ""
    edited = replace(first, caption="his")
    assert captioned(edited, [edited], "newer", overwrite=False).caption == "his"
    assert undone(edited).caption == "his"


def test_words_are_cleaned_of_what_no_file_can_hold() -> None:
    family = "👨‍👩‍👧"
    assert clean(["a\x00b\x1b", " two\n words ", "", family, "\ud800x"]) == ("ab", "two words", family, "x")


WORDS = st.text(st.sampled_from("ab/|é"), min_size=1, max_size=3)
ENTRIES = st.lists(WORDS, max_size=4).map(tuple)
CONTENTS = st.builds(
    lambda *entries: Content(dict(zip(FIELDS, entries, strict=True))), ENTRIES, ENTRIES, ENTRIES, ENTRIES
)
PATHS = st.lists(st.lists(WORDS, min_size=1, max_size=3).map(tuple), max_size=4)


@given(CONTENTS, CONTENTS, PATHS)
def test_nothing_of_the_user_is_lost_and_a_second_run_changes_nothing(
    photo: Content, sidecar: Content, ours: list[Keyword]
) -> None:
    union, refused = wanted([photo, sidecar], ours)
    after = merged(sidecar, union, refused, BESIDE)
    for name in BESIDE:
        assert [one for one in after.lists[name] if one in sidecar.lists[name]] == list(sidecar.lists[name])
    everything = {*photo.lists["Subject"], *photo.lists["Keywords"], *sidecar.lists["Subject"]}
    fold = {word.replace("|", "/") for word in words(after)}
    assert {word.replace("|", "/").rsplit("/")[-1] for word in everything} <= {
        part for word in fold for part in (word, *word.split("/"))
    }
    again = merged(after, *wanted([photo, after], ours), BESIDE)
    assert again == after


@given(CONTENTS, PATHS, PATHS)
def test_undo_is_exact_after_any_number_of_runs(
    before: Content, ours: list[Keyword], later: list[Keyword]
) -> None:
    after = before
    for paths in (ours, later):
        after = merged(after, *wanted([after], paths), FIELDS)
    back = undone(after)
    for name in ("TagsList", "HierarchicalSubject"):
        assert back.lists[name] == before.lists[name]
    assert not back.has_record
