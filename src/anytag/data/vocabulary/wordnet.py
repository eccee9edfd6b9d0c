"""Read WordNet's nouns from its database files: senses, synonyms, hypernyms and glosses.

The files are those of Princeton WordNet 3.x (`data.noun`, `index.noun`; Debian: package wordnet-base). Lines
begin with their own byte offset, by which senses refer to each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anytag.errors import VocabularyError

_HYPERNYM_POINTERS = ("@", "@i")


@dataclass(frozen=True, slots=True)
class Synset:
    """A synset: its words (with spaces), its direct hypernyms, and its gloss."""

    words: tuple[str, ...]
    hypernyms: tuple[int, ...]
    gloss: str


class WordNet:
    """Nouns from a folder with `data.noun` and `index.noun`; both are read completely, in about a second.

    Raises:
        VocabularyError: the files are missing or invalid.
    """

    def __init__(self, folder: Path) -> None:
        try:
            data = (folder / "data.noun").read_text(encoding="latin-1")
            index = (folder / "index.noun").read_text(encoding="latin-1")
            self.synsets = dict(_synset(line) for line in _lines(data))
            self.senses = dict(_senses(line) for line in _lines(index))
        except (OSError, ValueError, IndexError) as error:
            raise VocabularyError(
                f"{folder}: WordNet cannot be read ({error}); expected its files data.noun and index.noun"
            ) from error

    def first_sense(self, word: str) -> int | None:
        """The most frequent sense of a word; None for words that are not nouns in WordNet."""
        return next(iter(self.senses.get(_key(word), ())), None)

    def gloss(self, word: str) -> str | None:
        """The gloss of the most frequent sense of a word, without the examples."""
        sense = self.first_sense(word)
        return self.synsets[sense].gloss if sense is not None else None

    def chain(self, sense: int) -> Iterator[int]:
        """A sense and all its hypernyms, nearest first."""
        todo, seen = [sense], set()
        while todo:
            at = todo.pop(0)
            if at not in seen:
                seen.add(at)
                yield at
                todo.extend(self.synsets[at].hypernyms)


def _key(word: str) -> str:
    return "_".join(word.lower().split())


def _lines(text: str) -> Iterator[str]:
    return (
        line for line in text.splitlines() if line and not line.startswith(" ")
    )  # the licence precedes the data


def _synset(line: str) -> tuple[int, Synset]:
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    count = int(fields[3], 16)
    words = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
    pointers = fields[5 + 2 * count :]
    hypernyms = tuple(
        int(pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in _HYPERNYM_POINTERS
    )
    return int(fields[0]), Synset(words, hypernyms, gloss.split('; "')[0].strip())


def _senses(line: str) -> tuple[str, tuple[int, ...]]:
    fields = line.split()
    return fields[0], tuple(int(offset) for offset in fields[-int(fields[2]) :])
