"""Closed word classes, and context rules that distinguish nouns from verbs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from anytag.parsing.inflection import Form

Role = Literal[
    "determiner", "number", "preposition", "be", "pronoun", "to", "conjunction", "negation", "adverb", ""
]

_LISTS: dict[Role, str] = {
    "determiner": "a an the his her its their my your our this that these those some each every another any"
    " both s several many various all",
    "number": "one two three four five six seven eight nine ten eleven twelve",
    "preposition": "in on at with of from by into onto over under above below behind beside near around "
    "across through along between among against toward towards off up down during for past about atop "
    "underneath beneath inside outside without after before like next",
    "be": "is are was were be been being am",
    "pronoun": "he she it they who which we i you him them someone somebody everyone everybody",
    "to": "to can will could may might should would must can't",
    "conjunction": "and or while as but nor when where",
    "negation": "no not without never nobody none isn aren wasn weren don doesn didn cannot couldn hasn hadn"
    " neither lacking lacks",
    "adverb": "out away together alone happily very quickly high here there outdoors indoors back and upside",
}
ROLES: dict[str, Role] = {word: role for role, words in _LISTS.items() for word in words.split()}
# Words that may follow a verb but seldom follow a noun of the same spelling.
_AFTER_VERB = frozenset({"determiner", "number", "preposition", "pronoun", "adverb", "to"})


@dataclass(frozen=True, slots=True)
class Word:
    """What the lexicon knows about a word, without context.

    Attributes:
        keys: forms under which phrases may contain this word: itself, its singular, its verb.
        noun: its singular if the lexicon knows it as a noun that is a tag or part of one, else None.
        singular: its singular by rule or list, whether known or not.
        verb, form: the verb that it is a form of, if any.
        attribute: whether it can describe appearance.
        animate: whether the noun is a person or an animal.
        homograph: whether the verb is not a tag, but spelled like a noun that may be one.
        stop: whether the noun is stop-listed, so that only the verb can be a tag.
    """

    text: str
    keys: tuple[str, ...]
    role: Role
    noun: str | None
    singular: str
    verb: str | None
    form: Form | None
    attribute: bool
    animate: bool
    homograph: bool = False
    stop: bool = False

    @property
    def nominal(self) -> bool:
        """Whether a preceding word may belong to the same noun phrase."""
        return not self.role and (self.noun is not None or self.attribute)


NO_WORD = Word("", (), "", None, "", None, None, False, False)


def is_verb(before: Word, word: Word, after: Word) -> bool:
    """Whether an ambiguous word is a verb here; its neighbours are NO_WORD across punctuation."""
    if word.form == "ing":  # "a building" against "is building a castle", "man painting a wall"
        opens = before.role in ("be", "pronoun", "conjunction") or before.noun is not None
        return opens and after.role in ("determiner", "number", "pronoun")
    follows = after.role in _AFTER_VERB or after is NO_WORD
    if word.form == "third" and before.text == "that":  # "a dog that runs"
        return follows or not word.stop
    if before.role in ("determiner", "preposition", "number", "be") or before.attribute:
        return False
    if word.homograph and not _acts_on(before, word, after):
        return False
    if before.role in ("pronoun", "to", "adverb"):
        return word.form != "past" or before.role == "pronoun"
    if word.stop and word.form == "third":  # "a rug hangs on the wall": its noun is stop-listed
        return before.noun is not None and (follows or before.animate) and after.text != "of"
    if before.noun is None or word.form == "past":
        return before.noun is not None
    plural = before.text != before.noun
    if word.form == "third":  # "a dog runs by", "a woman watches television", but "the tree stands"
        return not plural and (follows or before.animate)
    return plural or (before.animate and follows)  # "people watch", "a man and a woman stand together"


def _acts_on(before: Word, word: Word, after: Word) -> bool:
    """Whether a homograph is a verb: "people board a bus" and "he leaves", but not "maple leaves"."""
    if word.form in ("base", "ing"):
        return after.role in ("determiner", "pronoun", "number")
    if before.role == "pronoun" or before.text == "that":
        return True
    return before.animate and after is not NO_WORD  # "dolphin caps."
