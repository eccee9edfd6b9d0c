"""Words <-> wordpieces, as BERT cuts them: the text of the caption heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anytag._typing import Ints
from anytag.errors import ModelError, VocabularyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


PAD, UNKNOWN, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
BEGIN, ENCODE = "[DEC]", "[ENC]"
"""Special wordpieces that come after those of the vocabulary: a caption begins, tags are to be encoded."""

_SPECIAL = (PAD, UNKNOWN, CLS, SEP, "[MASK]", BEGIN, ENCODE)

BETWEEN = " | "  # of tags
# What BERT's tokenizer parts and nobody writes so, in this order.
_JOINED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class WordPieces:
    """A vocabulary of wordpieces, such as bert-base-uncased, with [DEC] and [ENC] after it.

    Args:
        entries: in the order of their ids, "##" before what continues a word.

    Raises:
        ModelError: an entry is there twice, or a special one is missing.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = (*entries, BEGIN, ENCODE)
        self._ids = {entry: number for number, entry in enumerate(self.entries)}
        if len(self._ids) != len(self.entries):
            raise ModelError(f"the wordpieces repeat themselves, or hold {BEGIN} or {ENCODE} already")
        missing = [name for name in (PAD, UNKNOWN, CLS, SEP) if name not in self._ids]
        if missing or self._ids[PAD] != 0:
            raise ModelError(f"the wordpieces lack {', '.join(missing) or PAD + ' as the first'}")
        self.cls, self.end = self._ids[CLS], self._ids[SEP]
        self.begin, self.encode = self._ids[BEGIN], self._ids[ENCODE]
        self._silent = {self._ids[name] for name in _SPECIAL if name in self._ids}

    @classmethod
    def from_file(cls, path: str | Path) -> WordPieces:
        """A vocab.txt: one entry a line.

        Raises:
            ModelError: the file cannot be read, or is no vocabulary.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read as wordpieces ({error}); get the model again") from error
        try:
            return cls(lines)
        except ModelError as error:
            raise ModelError(f"{path}: {error}; get the model again") from None

    def __len__(self) -> int:
        """Wordpieces, the special ones included."""
        return len(self.entries)

    def pieces(self, text: str) -> list[int]:
        """Ints of a text alone, without special ones."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def knows(self, text: str) -> bool:
        """Is any part of the text among the wordpieces?"""
        return any(number != self._ids[UNKNOWN] for number in self.pieces(text))

    def prompt(self, text: str) -> list[int]:
        """What a caption starts with: [DEC] and the text."""
        return [self.begin, *self.pieces(text)]

    def tag_text(self, tags: Sequence[Iterable[str]], *, length: int = 40) -> tuple[Ints, Ints]:
        """The tags of N photos as the tag encoder reads them: "[ENC] dog | green grass [SEP]".

        Args:
            tags: names, for each photo; what does not fit is cut off.
            length: S.

        Returns:
            ids int64 N×S, filled up with 0, and a mask int64 N×S, 1 where there is text.
        """
        ids = np.zeros((len(tags), length), np.int64)
        for row, names in zip(ids, tags, strict=True):
            text = [self.encode, *self.pieces(BETWEEN.join(names))[: length - 2], self.end]
            row[: len(text)] = text
        return ids, (ids != 0).astype(np.int64)

    def caption_text(self, captions: Sequence[str], *, length: int = 40) -> Ints:
        """Captions as the decoder learns them: "[DEC] a dog runs [SEP]", as long as the longest.

        Args:
            captions: N texts; what does not fit into `length` is cut off, the [SEP] stays.

        Returns:
            int64 N×L, filled up with 0; L is `length` at most.
        """
        texts = [[self.begin, *self.pieces(caption)[: length - 2], self.end] for caption in captions]
        ids = np.zeros((len(texts), max(map(len, texts), default=0)), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special ones left out."""
        words: list[str] = []
        for number in ids:
            entry = self.entries[number]
            if number in self._silent:
                continue
            if entry.startswith("##") and words:
                words[-1] += entry[2:]
            else:
                words.append(entry)
        text = " ".join(words)
        for parted in _JOINED:
            text = text.replace(parted, parted.strip())
        return text

    def wordings(self, word: str) -> list[tuple[int, ...]]:
        """Ints of a word or phrase where a caption could hold it, to forbid it.

        Raises:
            VocabularyError: it has no letter that the wordpieces know.
        """
        ids = tuple(self.pieces(word))
        if not ids or self._ids[UNKNOWN] in ids:
            raise VocabularyError(f"no caption can hold {word!r}: its letters are not among the wordpieces")
        return [ids]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        entries = {entry: number for entry, number in self._ids.items() if number not in self._silent}
        tokenizer = Tokenizer(models.WordPiece({UNKNOWN: self._ids[UNKNOWN], **entries}, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer
