"""Search a library by text or by a similar photo.

The terms of a sentence are tags, whose scores were stored by the sync, or words of users: file names,
keywords and added tags. Both are looked up in the database. The embedding of the whole sentence is compared
with those of all photos, exactly. The three are fused into one probability (`anytag.fusion`), which ranks the
photos; below 0.5 a photo does not fit. There is no re-ranking by the decoder: it gains next to nothing
(docs/benchmarks.md), and would require storing image tokens.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from anytag._typing import Doubles, Floats, Ints
from anytag.errors import LibraryError, is_whole
from anytag.fusion.compare import cosines, products
from anytag.fusion.score import CERTAIN, decoded, evidence, fused
from anytag.fusion.sentences import Sentence, SentenceReader, Term
from anytag.library.filters import Filters
from anytag.library.hits import BATCH, Found, Hit, HitBuilder, Rows
from anytag.library.vectors import vector_file
from anytag.library.words import folded
from anytag.models.card import SearchFit
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.queries.build import Questions
from anytag.records import RecordFile
from anytag.reranking import weights_of

if TYPE_CHECKING:
    from anytag.library.library import Library
    from anytag.tagger import Tagger

PhotoLike = str | os.PathLike[str]

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")
# log-odds: rejected by the user; not among the words of users; in a caption
_NEVER, _UNSAID, _LIKELY = -12.0, -6.0, 1.0


_FAILED = -2  # instead of a slot, for unreadable photos

_LISTED = (
    "SELECT p.id FROM photos p{join} WHERE p.state != 'gone' AND p.pair IS NULL{{conditions}} ORDER BY {by}"
)
_DOUBT = """ LEFT JOIN (
SELECT photo, min(abs(score - 0.5)) AS distance FROM tags t WHERE NOT EXISTS (
SELECT 1 FROM decisions d WHERE d.photo = t.photo AND d.tag = t.tag) GROUP BY photo) ON photo = p.id"""
_ORDERS = {
    "path": _LISTED.format(join="", by="p.path"),
    "newest": _LISTED.format(join="", by="p.taken IS NULL, p.taken DESC, p.id"),
    "unsure": _LISTED.format(join=_DOUBT, by="distance IS NULL, distance, p.id"),
}


class Searcher:
    """Searches a library with one model; reusable for many searches.

    Args:
        library: the database.
        model: name or folder, as for `Tagger.load`, of the model that the library was synced with.
        fit: calibration of scores; by default the card's.
    """

    def __init__(
        self, library: Library, model: str | Path | None = None, *, fit: SearchFit | None = None
    ) -> None:
        self._library, self._database = library, library.database
        self._folder = ModelFolder.open(resolve(model))
        self._weights = weights_of(self._folder.card)
        self._fit = fit or self._folder.card.search
        self._lock = RLock()
        self._state: tuple[int, int] | None = None
        self._all: Rows | None = None

    @cached_property
    def reader(self) -> SentenceReader:
        return SentenceReader(Questions(self._folder), self._fit)

    def search(
        self,
        text: str | None = None,
        *,
        filters: Filters | None = None,
        like: PhotoLike | None = None,
        top_k: int | None = 10,
        fold: bool = True,
    ) -> Found:
        """See `Library.search`."""
        if top_k is not None and (not is_whole(top_k) or top_k < 1):
            raise LibraryError(f"top_k is {top_k!r}: expected a whole number from 1 on, or None for all")
        sentence = None if text is None else self.reader.read(text)
        vector, itself = (None, ()) if like is None else self._like(like)
        with self._lock:
            with self._database.reading():
                rows = self._rows(filters or Filters(), itself)
                keys = self._keys(rows, sentence, vector, text)
            return self._found(rows, keys, top_k=top_k, fold=fold, likeness=vector is not None)

    def ids(self, filters: Filters, *, order: Literal["path", "newest", "unsure"] = "path") -> list[int]:
        """Ids of all photos that pass filters.

        Args:
            filters: conditions.
            order: by path, newest first, or photos with the most uncertain undecided tag first.
        """
        conditions, values = filters.conditions(self.tag_id)
        query = _ORDERS[order].format(conditions=conditions)
        return [row[0] for row in self._database.query(query, values)]

    def log_odds(self, text: str) -> tuple[Floats, Floats]:
        """Log-odds that a sentence fits N photos, by ascending id, and the secondary ranking scores.

        For evaluation; float32 N both, -inf without evidence.
        """
        with self._lock, self._database.reading():
            return self._keys(self._rows(Filters(), ()), self.reader.read(text), None, text)

    @property
    def _file(self) -> RecordFile:
        return vector_file(self._database.path, self._weights, self._folder.card.width)

    def _rows(self, filters: Filters, without: Sequence[int]) -> Rows:
        """The candidate photos; without filters, cached until the database changes."""
        state = self._database.state
        if filters or self._all is None or self._state != state:
            rows = self._read_rows(*filters.conditions(self.tag_id))
            if not filters:
                self._all, self._state = rows, state
        else:
            rows = self._all
        if len(without):
            keep = ~np.isin(rows.ids, without)
            rows = Rows(rows.ids[keep], rows.slots[keep])
        return rows

    def _read_rows(self, conditions: str, values: Sequence[object]) -> Rows:
        query = (
            "SELECT p.id, CASE WHEN m.weights = ? AND p.slot IS NOT NULL THEN p.slot "
            f"WHEN p.state = 'failed' THEN {_FAILED} ELSE -1 END FROM photos p "
            "LEFT JOIN models m ON m.id = p.model "
            f"WHERE p.state != 'gone' AND p.pair IS NULL{conditions} ORDER BY p.id"
        )
        found = np.array(self._database.query(query, [self._weights, *values]), np.int64)
        ids, slots = found.reshape(-1, 2).T
        slots = np.where(slots < len(self._file), slots, -1)  # vectors may be lost
        return Rows(np.ascontiguousarray(ids), slots)

    def tag_id(self, name: str) -> str | None:
        """The id of the tag with a name in any language; None if the model has none."""
        tag = self.reader.vocabulary.find(name)
        return tag.id if tag else None

    def _like(self, photo: PhotoLike) -> tuple[Floats, list[int]]:
        """The embedding of any photo, and the ids of this photo in the library.

        Raises:
            ImageError: it is not in the library and cannot be read.
        """
        path = os.fsencode(os.path.abspath(photo))  # noqa: PTH100  # any bytes are allowed
        query = (
            "SELECT p.id, coalesce(p.pair, p.id), CASE WHEN m.weights = ? THEN p.slot END FROM photos p "
            "LEFT JOIN models m ON m.id = p.model WHERE p.path = ? AND p.state = 'done'"
        )
        row = next(iter(self._database.query(query, (self._weights, path))), None)
        itself = list(row[:2]) if row else []
        file = self._file
        if row and row[2] is not None and row[2] < len(file):
            vector: Floats = file.read(np.array([row[2]], np.int64))[0]
            return vector, itself
        return self._tagger.encode(photo).pooled, itself

    @cached_property
    def _tagger(self) -> Tagger:
        from anytag.tagger import Tagger  # needed only for photos outside of the library

        return Tagger.load(self._folder.path)

    def _keys(
        self, rows: Rows, sentence: Sentence | None, vector: Floats | None, text: str | None
    ) -> tuple[Floats, Floats]:
        """Ranking keys of N photos, and secondary keys for ties; float32 N both.

        The first are log-odds of a sentence, or cosine similarities to a vector, of photos that fit the
        sentence if there are both; -inf if unknown.
        """
        if sentence is not None:
            odds, second = self._log_odds(rows, sentence)
            named = rows.places(self._named(text or "", sentence))
            odds[named] = np.fmax(odds[named], CERTAIN)
        else:
            odds, second = np.full(len(rows.ids), np.inf, np.float32), self._newest(rows)
        if vector is not None:
            near = cosines(self._file.map(), rows.slots, vector)
            odds, second = np.where(odds >= 0, near, -np.inf), odds
        return _without_nan(odds), _without_nan(second)

    def _newest(self, rows: Rows) -> Floats:
        """Ranking keys by date, ascending; 0 for photos without a date."""
        times = np.zeros(len(rows.ids), np.float32)
        query = "SELECT id FROM photos WHERE taken IS NOT NULL ORDER BY taken, id DESC"
        found = rows.places(_ids(self._database.query(query)))
        times[found] = np.arange(1, len(found) + 1)
        return times

    def _log_odds(self, rows: Rows, sentence: Sentence) -> tuple[Floats, Floats]:
        """Log-odds that a sentence fits N photos, and secondary scores; see `fusion.score.fused`."""
        known = evidence(sentence, products(self._file.map(), rows.slots, sentence.columns))
        known.terms = [
            self._evidence(rows, term, odds) for term, odds in zip(sentence.terms, known.terms, strict=True)
        ]
        if all(one is None for one in known.terms):
            written = self._written(rows, sentence.terms)
            if written is not None:
                return written, np.zeros_like(written) if known.whole is None else known.whole
        return fused(known, self._fit)

    def _evidence(self, rows: Rows, term: Term, odds: Floats | None) -> Floats | None:
        """Log-odds of a term in N photos, from embeddings, stored tags and the words of users."""
        words, said_so = self._hits(term), self._decided(term, "!=")
        if odds is None:
            if not len(words) and not len(said_so):
                return None
            odds = np.full(len(rows.ids), _UNSAID, np.float32)
        else:
            odds = decoded(odds, term, *self._given(rows, term.tag))
        odds[rows.places(words)] = CERTAIN
        odds[rows.places(self._decided(term, "="))] = _NEVER
        odds[rows.places(said_so)] = CERTAIN
        return odds

    def _given(self, rows: Rows, tag: str | None) -> tuple[Ints, Doubles]:
        """Indices and scores of the photos with a tag."""
        found = self._database.query("SELECT photo, score FROM tags WHERE tag = ? ORDER BY photo", (tag,))
        given = np.array(found, np.float64).reshape(-1, 2)
        ids = given[:, 0].astype(np.int64)
        return rows.places(ids), given[np.isin(ids, rows.ids), 1]

    def _written(self, rows: Rows, terms: Sequence[Term]) -> Floats | None:
        """Log-odds of unknown terms from generated captions; None if a term is in no caption."""
        found = [rows.places(self._matches(term.words, ["caption"])) for term in terms]
        if not found or not all(map(len, found)):
            return None
        odds = np.full(len(rows.ids), _LIKELY, np.float32)
        for places in found:
            odds[np.setdiff1d(np.arange(len(odds)), places)] = _UNSAID
        return odds

    def _hits(self, term: Term) -> Ints:
        """Ids of photos with a term in their name or keywords, or in tags if the model has no such tag."""
        return self._matches(term.words, ["name", "keywords", *(["tags"] if term.tag is None else [])])

    def _named(self, text: str, sentence: Sentence) -> Ints:
        """Ids of photos with the whole text as a name, keyword or decision, unless it is one of the terms."""
        whole = Term((" ".join(unicodedata.normalize("NFC", text).split()),))
        if folded(whole.words[0]) in {folded(word) for term in sentence.terms for word in term.words}:
            return _ids([])
        said = np.union1d(self._matches(whole.words, ["name", "keywords"]), self._decided(whole, "!="))
        return np.setdiff1d(said, self._decided(whole, "="))

    def _matches(self, words: Sequence[str], names: Sequence[str]) -> Ints:
        """Ids of photos with one of the words in one of the columns of the full-text index."""
        query = "SELECT rowid FROM words WHERE words MATCH ?"
        found = _ids(self._database.query(query, (f"{{{' '.join(names)}}} : {match(words)}",)))
        for word in words:
            # the tokenizer takes text in these scripts for one word, and finds no word in symbols
            if _UNSPACED.search(word) or not any(map(str.isalnum, word)):
                query = "SELECT rowid FROM words WHERE " + " OR ".join(f"instr({name}, ?)" for name in names)
                found = np.union1d(found, _ids(self._database.query(query, [word] * len(names))))
        return found

    def _decided(self, term: Term, equals: str) -> Ints:
        """Ids of photos for which the user rejected a term ("="), or accepted or added it ("!=")."""
        names = [folded(word) for word in term.words]
        query = (
            f"SELECT photo FROM decisions WHERE kind {equals} 'rejected' AND "
            f"(tag = ? OR folded(name) IN ({', '.join('?' * len(names))}))"
        )
        return _ids(self._database.query(query, [term.tag, *names]))

    def _found(
        self, rows: Rows, keys: tuple[Floats, Floats], *, top_k: int | None, fold: bool, likeness: bool
    ) -> Found:
        shown, second = keys
        fits = shown > -np.inf if likeness else shown >= 0
        builder = HitBuilder(self._library, self._file, fold=fold)
        hits = builder.top(rows, _ranked(fits, shown, second), shown, top_k=top_k, likeness=likeness)
        nearest: tuple[Hit, ...] = ()
        if not hits:
            seen = rows.slots >= 0
            best = _ranked((shown > -np.inf) & (seen | ~seen.any()), shown, second)
            nearest = builder.top(rows, best[:BATCH], shown, top_k=3, likeness=likeness)
        return Found(hits, nearest, len(rows.ids), int((rows.slots == -1).sum()))


def match(words: Sequence[str]) -> str:
    """A full-text query for any of some texts, quoted so that they contain no operators."""
    return "(" + " OR ".join('"' + word.replace("\0", " ").replace('"', '""') + '"' for word in words) + ")"


def _ranked(wanted: npt.NDArray[np.bool_], first: Floats, second: Floats) -> Ints:
    """Indices of the wanted photos, by two descending keys; stable."""
    places = np.flatnonzero(wanted)
    return places[np.lexsort((-second[places], -first[places]))]


def _ids(rows: Sequence[tuple[int]]) -> Ints:
    return np.fromiter((row[0] for row in rows), np.int64, len(rows))


def _without_nan(keys: npt.NDArray[np.floating]) -> Floats:
    return np.where(np.isnan(keys), -np.inf, keys).astype(np.float32)
