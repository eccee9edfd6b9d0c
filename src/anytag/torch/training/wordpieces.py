"""Learn a wordpiece vocabulary from captions, deterministically.

Byte pair encoding (Sennrich et al., 2016) on words, with BERT's prefix "##" for continuations. The trainer of
the package `tokenizers` breaks ties by the order of a hash table, which differs between processes; here ties
are broken alphabetically.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

from tokenizers import normalizers, pre_tokenizers

from anytag.text_encoders.wordpiece import CLS, PAD, SEP, TAG_SEPARATOR, UNKNOWN, WordPieces

SPECIAL = (PAD, UNKNOWN, CLS, SEP, TAG_SEPARATOR.strip())
MAX_WORD_LENGTH = 100
"""Maximum length of a word in characters; longer ones are ignored, as in BERT's tokenizer."""
_CONTINUES = "##"

Pair = tuple[str, str]


def train_wordpieces(captions: Iterable[str], names: Sequence[str], *, size: int) -> WordPieces:
    """Learn wordpieces from captions; every letter of `names` is included, so that all tags can be encoded.

    Args:
        captions: cleaned captions.
        names: names of tags.
        size: number of entries, special ones included; it is exceeded only by the letters of `names`.
    """
    words = count_words(chain(captions, names))
    required = {piece for word in count_words(names) for piece in _letters(word)}
    letters = _alphabet(words, required=required, most=size // 2)
    free = size - 2 - len(SPECIAL) - len(letters - {*SPECIAL})  # WordPieces adds two of its own
    counts = {word: count for word, count in words.items() if letters.issuperset(_letters(word))}
    pieces = sorted(letters - {*SPECIAL}) + learn_merges(counts, free, known=letters)
    return WordPieces([*SPECIAL, *pieces])


def load_or_train_wordpieces(
    file: Path, captions: Iterable[str], names: Sequence[str], *,
    size: int, again: bool = False, given: str = "",
) -> WordPieces:  # fmt: skip
    """The wordpieces of a run, written to `file` if it does not exist, or `again`.

    Args:
        given: a vocab.txt to use instead of learning one; empty: none.
    """
    missing = again or not file.exists()
    if given:
        pieces = WordPieces.from_file(given)
    else:
        pieces = train_wordpieces(captions, names, size=size) if missing else WordPieces.from_file(file)
    if missing:
        pieces.write(file)
    return pieces


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Word frequencies with BERT's pre-tokenisation: lower case, without accents."""
    parts: Counter[str] = Counter()
    for text in texts:
        parts.update(text.split())
    normalizer = normalizers.BertNormalizer(lowercase=True)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for part, count in parts.items():
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(part)):
            if len(word) <= MAX_WORD_LENGTH:
                words[word] += count
    return words


def learn_merges(words: Mapping[str, int], count: int, *, known: Iterable[str] = ()) -> list[str]:
    """Learn up to `count` pieces longer than a letter, in order of learning.

    The most frequent pair of neighbours is merged first; ties are broken alphabetically.
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
    """Words as pieces with the frequency of each pair of neighbours; a join updates only affected words."""

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
        """The pair to join next; None if there is none."""
        while self.queue:
            negative, pair = heapq.heappop(self.queue)
            if -negative == self.count[pair] > 0:  # otherwise outdated: the current count is queued too
                return pair
        return None

    def join(self, pair: Pair) -> str:
        """Merge all occurrences of a pair into one piece."""
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
    """The most frequent letters, and the required ones."""
    seen: Counter[str] = Counter()
    for word, count in words.items():
        seen.update(dict.fromkeys(_letters(word), count))
    ranked = sorted(seen, key=lambda letter: (-seen[letter], letter))
    return required | set(ranked[: max(0, most - len(required))])
