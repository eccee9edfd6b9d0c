"""Closed word classes, and the context rule that tells nouns from verbs."""

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
# What may follow a verb but seldom follows the noun that is spelled like it.
_AFTER_VERB = frozenset({"determiner", "number", "preposition", "pronoun", "adverb", "to"})


@dataclass(frozen=True, slots=True)
class Word:
    """All that the lexicon says of a word by itself.

    Attributes:
        keys: forms under which longer names may hold this word: itself, its singular, its verb.
        noun: its singular if the lexicon knows it as a noun that is (part of) a tag, else None.
        singular: its singular by rule or list, whether known or not.
        verb, form: the verb that it is a form of, if any.
        attribute: whether it can say how something looks.
        alive: whether the noun is a person or an animal.
        mute: whether the verb is no tag but hides the thing that it is spelled like.
        vague: whether the noun is stop-listed, so that only the verb can be a tag.
    """

    text: str
    keys: tuple[str, ...]
    role: Role
    noun: str | None
    singular: str
    verb: str | None
    form: Form | None
    attribute: bool
    alive: bool
    mute: bool = False
    vague: bool = False

    @property
    def nominal(self) -> bool:
        """Whether a word before this one may belong to the same noun phrase."""
        return not self.role and (self.noun is not None or self.attribute)


NOTHING = Word("", (), "", None, "", None, None, False, False)


def is_verb(before: Word, word: Word, after: Word) -> bool:
    """Whether a word that has both readings is a verb here; its neighbours are NOTHING across punctuation."""
    if word.form == "ing":  # "a building" against "is building a castle", "man painting a wall"
        opens = before.role in ("be", "pronoun", "conjunction") or before.noun is not None
        return opens and after.role in ("determiner", "number", "pronoun")
    follows = after.role in _AFTER_VERB or after is NOTHING
    if word.form == "third" and before.text == "that":  # "a dog that runs"
        return follows or not word.vague
    if before.role in ("determiner", "preposition", "number", "be") or before.attribute:
        return False
    if word.mute and not _acts_on(before, word, after):
        return False
    if before.role in ("pronoun", "to", "adverb"):
        return word.form != "past" or before.role == "pronoun"
    if word.vague and word.form == "third":  # "a rug hangs on the wall": its noun says nothing
        return before.noun is not None and (follows or before.alive) and after.text != "of"
    if before.noun is None or word.form == "past":
        return before.noun is not None
    plural = before.text != before.noun
    if word.form == "third":  # "a dog runs by", "a woman watches television", but "the tree stands"
        return not plural and (follows or before.alive)
    return plural or (before.alive and follows)  # "people watch", "a man and a woman stand together"


def _acts_on(before: Word, word: Word, after: Word) -> bool:
    """Whether a mute verb is one: "people board a bus" and "he leaves", no "maple leaves", no "boys face"."""
    if word.form in ("base", "ing"):
        return after.role in ("determiner", "pronoun", "number")
    if before.role == "pronoun" or before.text == "that":
        return True
    return before.alive and after is not NOTHING  # "dolphin caps."
