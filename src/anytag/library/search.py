"""Photos of a library for a sentence, or like a photo.

A sentence names things, and what it names are tags that the model has answered for every photo already, or
words that only people know: names, keywords, what was added by hand. Both are asked of the database. The
sentence as a whole is held against every photo's vector, exactly. From all three comes one probability, by
which photos are ranked, and below one half of which a photo does not fit. There is no second pass: the
decoder answered when the photo was synced, and to ask it again for the best photos gains next to nothing
(docs/benchmarks.md), so that no tokens need be kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats, Ints
from anytag.errors import LibraryError, is_whole
from anytag.library.compare import cosines, products
from anytag.library.filters import Filters, folded, holds
from anytag.library.hits import BATCH, Found, Hit, Rows, Shelf
from anytag.library.sentences import Sentence, SentenceReader, Term
from anytag.library.vectors import vector_file
from anytag.models.card import SearchFit
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.records import RecordFile
from anytag.reranking import weights_of

if TYPE_CHECKING:
    from anytag.library.library import Library
    from anytag.tagger import Tagger

PhotoLike = str | os.PathLike[str]

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")
# log-odds: people say so; say not; do not say what only they know; a caption says so; nobody knows the word
_SURE, _NEVER, _UNSAID, _LIKELY, _UNKNOWN = 6.0, -12.0, -6.0, 1.0, -2.0


_FAILED = -2  # in place of a slot: no photo that a model could see

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
    """Searches a library with one model, which is read once; for as many sentences as you like.

    Args:
        library: the database.
        model: name or folder, as for `Tagger.load`: the one that the library was synced with.
        fit: how sentences are scored; by default as the model's card says.
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
        self._database.connection.create_function("folded", 1, folded, deterministic=True)
        self._database.connection.create_function("holds", 2, holds, deterministic=True)

    @cached_property
    def reader(self) -> SentenceReader:
        return SentenceReader(self._folder, self._fit)

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
                keys = self._keys(rows, sentence, vector)
            return self._found(rows, keys, top_k=top_k, fold=fold, likeness=vector is not None)

    def ids(self, filters: Filters, *, order: Literal["path", "newest", "unsure"] = "path") -> list[int]:
        """Ids of all photos that pass filters.

        Args:
            order: by path, the newest first, or those of whose tags the model is least sure first.
        """
        conditions, values = filters.conditions(self._tag_id)
        query = _ORDERS[order].format(conditions=conditions)
        return [row[0] for row in self._database.query(query, values)]

    def log_odds(self, text: str) -> tuple[Floats, Floats]:
        """Log-odds that a sentence fits N photos, by rising id, and the fit that they are made of.

        For those who measure; -inf where nothing can be told.
        """
        with self._lock, self._database.reading():
            return self._keys(self._rows(Filters(), ()), self.reader.read(text), None)

    @property
    def _file(self) -> RecordFile:
        return vector_file(self._database.path, self._weights, self._folder.card.width)

    def _rows(self, filters: Filters, without: Sequence[int]) -> Rows:
        """The photos that may be found; of all, remembered until the database changes."""
        state = self._database.state
        if filters or self._all is None or self._state != state:
            rows = self._read_rows(*filters.conditions(self._tag_id))
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
        found = found.reshape(-1, 2)
        return Rows(np.ascontiguousarray(found[:, 0]), np.ascontiguousarray(found[:, 1]))

    def _tag_id(self, name: str) -> str | None:
        tag = self.reader.vocabulary.find(name)
        return tag.id if tag else None

    def _like(self, photo: PhotoLike) -> tuple[Floats, list[int]]:
        """The vector of a photo, of the library or not, and the ids that are this photo itself.

        Raises:
            ImageError: it is not in the library, and cannot be read.
        """
        path = os.fsencode(os.path.abspath(photo))  # noqa: PTH100  # names of any bytes
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
        from anytag.tagger import Tagger  # with its runtime, for photos from outside alone

        return Tagger.load(self._folder.path)

    def _keys(self, rows: Rows, sentence: Sentence | None, vector: Floats | None) -> tuple[Floats, Floats]:
        """By what N photos are ranked: the shown key, and a second for ties; float32 N both.

        The first is the log-odds of a sentence, or with a vector the cosine, of photos that the sentence
        fits if there is one, too; what cannot be told is -inf.
        """
        if sentence is not None:
            odds, second = self._log_odds(rows, sentence)
        else:
            odds, second = np.full(len(rows.ids), np.inf, np.float32), self._newest(rows)
        if vector is not None:
            near = cosines(self._file, rows.slots, vector)
            odds, second = np.where(odds >= 0, near, -np.inf), odds
        return _without_nan(odds), _without_nan(second)

    def _newest(self, rows: Rows) -> Floats:
        """More for photos that were taken later, 0 where nobody knows when."""
        times = np.zeros(len(rows.ids), np.float32)
        query = "SELECT id FROM photos WHERE taken IS NOT NULL ORDER BY taken, id DESC"
        found = rows.places(_ids(self._database.query(query)))
        times[found] = np.arange(1, len(found) + 1)
        return times

    def _log_odds(self, rows: Rows, sentence: Sentence) -> tuple[Floats, Floats]:
        """Log-odds that a sentence fits N photos, and the same before what depends on the sentence alone."""
        columns = [] if sentence.query is None else [np.append(sentence.query, np.float32(0))]
        columns += [term.column for term in sentence.terms if term.column is not None]
        said: Iterator[Floats] = iter(
            products(self._file, rows.slots, np.stack(columns)).T if columns else ()
        )
        whole = None if sentence.query is None else next(said)
        found = [
            self._evidence(rows, term, None if term.column is None else next(said)) for term in sentence.terms
        ]
        known = [one for one in found if one is not None]
        written = None if known else self._written(rows, sentence.terms)
        if written is not None:
            return written, np.zeros_like(written) if whole is None else whole
        odds, second = self._combined(known, whole, terms=len(found), count=len(rows.ids))
        if len(found) > 1 and len(known) == len(
            found
        ):  # all that is named is there, by people or the decoder
            least = np.min(known, axis=0)
            odds = np.where(least >= 0, np.fmax(odds, least), odds)
        elif known and len(known) == len(found):  # people say it, whatever the model thinks
            odds = np.where(known[0] >= _SURE, np.fmax(odds, _SURE), odds)
        return odds, second

    def _combined(
        self, known: list[Floats], whole: Floats | None, *, terms: int, count: int
    ) -> tuple[Floats, Floats]:
        """Log-odds of a sentence from those of the terms that are known, N each, and what the whole says."""
        fit, second = self._fit, np.zeros(count, np.float32)
        if known:
            second = np.float32(fit.term_weight) * np.sum([-np.logaddexp(0, -one) for one in known], axis=0)
        if whole is not None:
            # where a photo has no vector, words alone tell
            second = second + np.where(np.isnan(whole) & bool(known), 0, whole)
        if not known or (whole is None and len(known) < terms):  # a word that nobody knows
            return np.minimum(second, _UNKNOWN), second
        if whole is None:
            return np.min(known, axis=0), second
        if terms == 1:
            return np.fmin(known[0], np.float32(fit.whole_scale) * whole + np.float32(fit.whole_bias)), second
        return fit.scale * second + np.float32(fit.per_term * len(known) + fit.bias), second

    def _evidence(self, rows: Rows, term: Term, said: Floats | None) -> Floats | None:
        """Log-odds of a term in N photos; None where nobody knows it."""
        words, said_so = self._hits(term), self._decided(term, "!=")
        if said is None and term.tag is None:
            if not len(words) and not len(said_so):
                return None
            evidence = np.full(len(rows.ids), _UNSAID, np.float32)
        elif said is None:
            evidence = np.full(len(rows.ids), term.limit, np.float32)
        else:
            evidence = np.fmin(said, np.float32(term.limit))  # also of what has no vector
        if term.tag is not None:
            self._given(rows, term.tag, evidence)
        evidence[rows.places(words)] = _SURE
        evidence[rows.places(self._decided(term, "="))] = _NEVER
        evidence[rows.places(said_so)] = _SURE
        return evidence

    def _given(self, rows: Rows, tag: str, evidence: Floats) -> None:
        """Puts in what the decoder said of the photos that got a tag."""
        found = self._database.query("SELECT photo, score FROM tags WHERE tag = ? ORDER BY photo", (tag,))
        given = np.array(found, np.float64).reshape(-1, 2)
        ids = given[:, 0].astype(np.int64)
        score = np.clip(given[np.isin(ids, rows.ids), 1], 1e-6, 1 - 1e-6)
        evidence[rows.places(ids)] = np.log(score / (1 - score))

    def _written(self, rows: Rows, terms: Sequence[Term]) -> Floats | None:
        """Log-odds of terms that nobody knows by captions, which a model wrote; None where one is in none."""
        found = [rows.places(self._matches(term.words, ["caption"])) for term in terms]
        if not found or not all(map(len, found)):
            return None
        odds = np.full(len(rows.ids), _LIKELY, np.float32)
        for places in found:
            odds[np.setdiff1d(np.arange(len(odds)), places)] = _UNSAID
        return odds

    def _hits(self, term: Term) -> Ints:
        """Ids of photos of which people say a term; one that is no tag may be a tag of another vocabulary."""
        return self._matches(term.words, ["name", "keywords", *(["tags"] if term.tag is None else [])])

    def _matches(self, words: Sequence[str], names: Sequence[str]) -> Ints:
        """Ids of photos of which one of some columns of the full-text table has one of some words."""
        query = "SELECT rowid FROM words WHERE words MATCH ?"
        found = _ids(self._database.query(query, (f"{{{' '.join(names)}}} : {match(words)}",)))
        for word in words:
            if _UNSPACED.search(word):  # a sentence of these is one word to the table
                query = "SELECT rowid FROM words WHERE " + " OR ".join(f"instr({name}, ?)" for name in names)
                found = np.union1d(found, _ids(self._database.query(query, [word] * len(names))))
        return found

    def _decided(self, term: Term, equals: str) -> Ints:
        """Ids of photos for which the user rejected a term ("="), or said that it is there ("!=")."""
        names = [word.casefold() for word in term.words]
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
        shelf = Shelf(self._library, self._file, fold=fold)
        hits = shelf.first(rows, _ranked(fits, shown, second), shown, top_k=top_k, likeness=likeness)
        nearest: tuple[Hit, ...] = ()
        if not hits:
            seen = rows.slots >= 0
            best = _ranked((shown > -np.inf) & (seen | ~seen.any()), shown, second)
            nearest = shelf.first(rows, best[:BATCH], shown, top_k=3, likeness=likeness)
        return Found(hits, nearest, len(rows.ids), int((rows.slots == -1).sum()))


def match(words: Sequence[str]) -> str:
    """What asks a full-text table for any of some texts, as they stand: no letter of them is a command."""
    return "(" + " OR ".join('"' + word.replace("\0", " ").replace('"', '""') + '"' for word in words) + ")"


def _ranked(wanted: npt.NDArray[np.bool_], first: Floats, second: Floats) -> Ints:
    """Places of those that are wanted, by two falling keys; equal ones as they stand."""
    places = np.flatnonzero(wanted)
    return places[np.lexsort((-second[places], -first[places]))]


def _ids(rows: Sequence[tuple[int]]) -> Ints:
    return np.fromiter((row[0] for row in rows), np.int64, len(rows))


def _without_nan(keys: npt.NDArray[np.floating]) -> Floats:
    return np.where(np.isnan(keys), -np.inf, keys).astype(np.float32)
