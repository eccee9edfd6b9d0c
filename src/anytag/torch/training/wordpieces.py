"""A vocabulary of wordpieces, learned from captions: the same from the same captions, in every process.

Byte pair encoding (Sennrich et al., 2016) on words, with BERT's "##" before what continues one. The trainer
of the package `tokenizers` breaks ties by the order of a hash table, which differs from process to process;
here every tie is broken by the text of the pieces.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

from tokenizers import normalizers, pre_tokenizers

from anytag._io import atomic_write
from anytag.text_encoders.wordpiece import CLS, PAD, SEP, TAG_SEPARATOR, UNKNOWN, WordPieces

SPECIAL = (PAD, UNKNOWN, CLS, SEP, TAG_SEPARATOR.strip())
LONGEST = 100
"""Letters of a word; a longer one is no word, and BERT's tokenizer does not cut it."""
_CONTINUES = "##"

Pair = tuple[str, str]


def train_wordpieces(captions: Iterable[str], names: Sequence[str], *, size: int) -> WordPieces:
    """Wordpieces of captions; every letter of `names` is among them, so that tags can be asked and said.

    Args:
        captions: cleaned.
        names: of tags.
        size: entries, the special ones included; more only where the letters of `names` alone are more.
    """
    words = count_words(chain(captions, names))
    required = {piece for word in count_words(names) for piece in _letters(word)}
    letters = _alphabet(words, required=required, most=size // 2)
    free = size - 2 - len(SPECIAL) - len(letters - {*SPECIAL})  # WordPieces adds two of its own
    counts = {word: count for word, count in words.items() if letters.issuperset(_letters(word))}
    pieces = sorted(letters - {*SPECIAL}) + learn_merges(counts, free, known=letters)
    return WordPieces([*SPECIAL, *pieces])


def kept_wordpieces(file: Path, captions: Iterable[str], names: Sequence[str], *, size: int) -> WordPieces:
    """A vocab.txt; made where it is not there yet, whole or not at all."""
    if not file.exists():
        pieces = train_wordpieces(captions, names, size=size)
        with atomic_write(file) as draft:
            draft.write_text("".join(f"{entry}\n" for entry in pieces.entries[:-2]), encoding="utf-8")
    return WordPieces.from_file(file)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often texts hold each word, as BERT's tokenizer parts them: small letters, no accents."""
    parts: Counter[str] = Counter()
    for text in texts:
        parts.update(text.split())
    normalizer, parter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for part, count in parts.items():
        for word, _ in parter.pre_tokenize_str(normalizer.normalize_str(part)):
            if len(word) <= LONGEST:
                words[word] += count
    return words


def learn_merges(words: Mapping[str, int], count: int, *, known: Iterable[str] = ()) -> list[str]:
    """Up to `count` pieces longer than a letter, in the order in which they are learned.

    Of all neighbours the pair that is seen most often becomes one piece; of several that are seen as often,
    the first by the alphabet.
    """
    merges = _Merges(words)
    seen, learned = set(known), list[str]()
    while len(learned) < count and (pair := merges.most_frequent()) is not None:
        piece = merges.join(pair)
        if piece not in seen:  # two pairs may make the same piece
            seen.add(piece)
            learned.append(piece)
    return learned


class _Merges:
    """Words as pieces, and how often each pair of neighbours is seen; a join touches only those with it."""

    def __init__(self, words: Mapping[str, int]) -> None:
        texts = sorted(words)
        self.pieces = [_letters(word) for word in texts]
        self.times = [words[word] for word in texts]
        self.count: Counter[Pair] = Counter()
        self.where: defaultdict[Pair, set[int]] = defaultdict(set)
        for number in range(len(texts)):
            self._add(number, self.times[number])
        self.queue = [(-count, pair) for pair, count in self.count.items()]
        heapq.heapify(self.queue)

    def most_frequent(self) -> Pair | None:
        """The pair to join next; None where there is none."""
        while self.queue:
            negative, pair = heapq.heappop(self.queue)
            if -negative == self.count[pair] > 0:  # others are out of date: their count is in the queue too
                return pair
        return None

    def join(self, pair: Pair) -> str:
        """Makes one piece of the pair wherever it is."""
        piece, changed = pair[0] + pair[1].removeprefix(_CONTINUES), set[Pair]()
        for number in sorted(self.where.pop(pair, ())):
            changed.update(self._add(number, -self.times[number]))
            self.pieces[number] = _joined(self.pieces[number], pair, piece)
            changed.update(self._add(number, self.times[number]))
        for one in changed:
            if self.count[one] > 0:
                heapq.heappush(self.queue, (-self.count[one], one))
        return piece

    def _add(self, number: int, times: int) -> list[Pair]:
        pairs = list(pairwise(self.pieces[number]))
        for pair in pairs:
            self.count[pair] += times
            (self.where[pair].add if times > 0 else self.where[pair].discard)(number)
        return pairs


def _joined(pieces: Sequence[str], pair: Pair, piece: str) -> list[str]:
    out: list[str] = []
    for one in pieces:
        if out and (out[-1], one) == pair:
            out[-1] = piece
        else:
            out.append(one)
    return out


def _letters(word: str) -> list[str]:
    return [letter if at == 0 else _CONTINUES + letter for at, letter in enumerate(word)]


def _alphabet(words: Mapping[str, int], *, required: set[str], most: int) -> set[str]:
    """The letters that are seen most often, and those that are required."""
    seen: Counter[str] = Counter()
    for word, count in words.items():
        seen.update(dict.fromkeys(_letters(word), count))
    ranked = sorted(seen, key=lambda letter: (-seen[letter], letter))
    return required | set(ranked[: max(0, most - len(required))])
