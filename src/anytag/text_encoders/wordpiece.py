"""BERT's wordpiece tokenizer, for the caption heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anytag._io import atomic_write
from anytag._typing import Ints
from anytag.errors import ModelError, VocabularyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


PAD, UNKNOWN, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
BEGIN, ENCODE = "[DEC]", "[ENC]"
"""Special wordpieces appended to the vocabulary: start of a caption, and start of tags to encode."""

_SPECIAL = (PAD, UNKNOWN, CLS, SEP, "[MASK]", BEGIN, ENCODE)

TAG_SEPARATOR = " | "
# Spaces that BERT's tokenizer adds around punctuation and contractions; removed in this order.
_DETOKENIZED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class WordPieces:
    """A vocabulary of wordpieces, such as bert-base-uncased, with [DEC] and [ENC] appended.

    Args:
        entries: in the order of their ids; "##" marks the continuation of a word.

    Raises:
        ModelError: an entry is repeated, or a special one is missing.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = (*entries, BEGIN, ENCODE)
        self._ids = {entry: number for number, entry in enumerate(self.entries)}
        if len(self._ids) != len(self.entries):
            raise ModelError(f"the wordpieces are not unique, or already contain {BEGIN} or {ENCODE}")
        missing = [name for name in (PAD, UNKNOWN, CLS, SEP) if name not in self._ids]
        if missing or self._ids[PAD] != 0:
            raise ModelError(f"the wordpieces lack {', '.join(missing) or PAD + ' as the first'}")
        self.cls, self.end = self._ids[CLS], self._ids[SEP]
        self.begin, self.encode = self._ids[BEGIN], self._ids[ENCODE]
        self._special_ids = {self._ids[name] for name in _SPECIAL if name in self._ids}

    @classmethod
    def from_file(cls, path: str | Path) -> WordPieces:
        """Read a vocab.txt, with one entry per line.

        Raises:
            ModelError: the file cannot be read, or is not a vocabulary.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read as wordpieces ({error}); get the model again") from error
        try:
            return cls(lines)
        except ModelError as error:
            raise ModelError(f"{path}: {error}; get the model again") from None

    def write(self, path: str | Path) -> None:
        """Write a vocab.txt, without the two entries that are appended."""
        with atomic_write(path) as draft:
            draft.write_text("".join(f"{entry}\n" for entry in self.entries[:-2]), encoding="utf-8")

    def __len__(self) -> int:
        """Number of wordpieces, special ones included."""
        return len(self.entries)

    def pieces(self, text: str) -> list[int]:
        """Ids of a text, without special wordpieces."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def knows(self, text: str) -> bool:
        """Whether any part of the text is in the vocabulary."""
        return any(number != self._ids[UNKNOWN] for number in self.pieces(text))

    def is_whole(self, word: str) -> bool:
        """Whether a word is one entry, not several pieces."""
        return word in self._ids

    def prompt(self, text: str) -> list[int]:
        """Ids of the start of a caption: [DEC] and the text."""
        return [self.begin, *self.pieces(text)]

    def tag_text(self, tags: Sequence[Iterable[str]], *, length: int = 40) -> tuple[Ints, Ints]:
        """Encode the tags of N photos for the tag encoder: "[ENC] dog | green grass [SEP]".

        Args:
            tags: names, for each photo; truncated to `length`.
            length: S.

        Returns:
            ids int64 N×S, padded with 0, and a mask int64 N×S, 1 for text.
        """
        ids = np.zeros((len(tags), length), np.int64)
        for row, names in zip(ids, tags, strict=True):
            text = [self.encode, *self.pieces(TAG_SEPARATOR.join(names))[: length - 2], self.end]
            row[: len(text)] = text
        return ids, (ids != 0).astype(np.int64)

    def caption_text(self, captions: Sequence[str], *, length: int = 40) -> Ints:
        """Encode captions for the decoder: "[DEC] a dog runs [SEP]", padded to the longest.

        Args:
            captions: N texts; truncated to `length`, [SEP] included.

        Returns:
            int64 N×L, padded with 0; L is `length` at most.
        """
        texts = [[self.begin, *self.pieces(caption)[: length - 2], self.end] for caption in captions]
        ids = np.zeros((len(texts), max(map(len, texts), default=0)), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to text, without special wordpieces."""
        words: list[str] = []
        for number in ids:
            entry = self.entries[number]
            if number in self._special_ids:
                continue
            if entry.startswith("##") and words:
                words[-1] += entry[2:]
            else:
                words.append(entry)
        text = " ".join(words)
        for spaced in _DETOKENIZED:
            text = text.replace(spaced, spaced.strip())
        return text

    def wordings(self, word: str) -> list[tuple[int, ...]]:
        """Token sequences of a word or phrase within a caption, to forbid it.

        Raises:
            VocabularyError: wordpieces cannot spell it.
        """
        ids = tuple(self.pieces(word))
        if not ids or self._ids[UNKNOWN] in ids:
            raise VocabularyError(f"no caption can contain {word!r}: the wordpieces cannot spell it")
        return [ids]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        entries = {entry: number for entry, number in self._ids.items() if number not in self._special_ids}
        tokenizer = Tokenizer(models.WordPiece({UNKNOWN: self._ids[UNKNOWN], **entries}, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer
