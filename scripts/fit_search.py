"""Fit the scoring of sentences by image embeddings: the values of `SearchFit` for a model's card.

    python scripts/fit_search.py ROWS [--model FOLDER] [--photos 1000] [--card]

Photos and captions are those of `flickr8k`, split `dev`, in ROWS; captions of other sources serve as
sentences that mention a thing in none of the photos. First, two lines are fitted to the decoder's outputs:
from the first pass's logits for tags, and from dot products with words. Then a library of the photos is
searched: about half of the sentences match a photo, the others match none (tags in no caption, alone and
combined with present ones, foreign captions, abstract words), and logistic regressions on the best photo's
dot product or fit separate them. Evaluate on other photos: `benchmarks/search.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.data.rows import Row, read_rows
from anytag.fusion.sentences import SentenceReader
from anytag.library.library import Library
from anytag.library.search import Searcher
from anytag.library.vectors import vector_file
from anytag.models.card import SearchFit
from anytag.models.folder import write_card
from anytag.models.registry import resolve
from anytag.parsing import Parser
from anytag.queries.bank import CoarseClassifier
from anytag.reranking import weights_of
from anytag.tagger import Tagger
from anytag.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
_CAPTIONS, _TAGS = 500, 400
_ABSTRACT = (
    "justice",
    "philosophy",
    "inflation",
    "theorem",
    "grammar",
    "liability",
    "algorithm",
    "democracy",
    "entropy",
    "revenue",
    "hypothesis",
    "syntax",
    "nostalgia",
    "merger",
    "logarithm",
    "isotope",
    "epistemology",
    "ontology",
    "paradox",
    "integral",
    "neutrino",
    "copyright",
    "treaty",
    "percentage",
)


def lines(tagger: Tagger, photos: Sequence[Path], captions: Sequence[str]) -> SearchFit:
    """Fit the lines to the decoder's outputs, for tags and for words; other values are placeholders."""
    reader = SentenceReader(tagger.questions)
    encoded = [one for one in tagger.encode_many(photos) if one.error is None]
    tokens, pooled = np.stack([one.tokens for one in encoded]), np.stack([one.pooled for one in encoded])
    ids = tagger.vocabulary.ids[:: max(1, len(tagger.vocabulary) // _TAGS)]
    queries, (slope, bias) = tagger.trained(ids)
    coarse = CoarseClassifier.of(reader.coarse(ids)).logits(pooled)
    decoded = tagger.runtime.score(tokens, pooled, queries[None]) * slope + bias
    tag = np.polyfit(coarse.ravel(), decoded.ravel(), 1)
    words = tagger.queries(captions)
    own = tagger.card.calibration.own
    logits = own.scale * tagger.runtime.score(tokens, pooled, words[None]) + own.bias
    word = np.polyfit((pooled @ words[:, 0].T).ravel(), logits.ravel(), 1)
    (slope, offset), (own_slope, own_offset) = np.round([tag, word], 2).tolist()
    return SearchFit(
        slope, offset, own_slope, own_offset, scale=1, per_term=0, bias=0, whole_scale=1, whole_bias=0
    )


@dataclass(frozen=True)
class Mentions:
    """A vocabulary's things by the number of captions that mention them: none, or more than one."""

    parser: Parser
    absent: tuple[str, ...]
    present: tuple[str, ...]

    @classmethod
    def by(cls, rows: Sequence[Row], vocabulary: Vocabulary) -> Mentions:
        parser, tags, counts = Parser(vocabulary=vocabulary), list(vocabulary), Counter[str]()
        for row in rows:
            counts.update({tag.name for caption in row.captions for tag in parser.parse(caption)})
        for tag, above in zip(tags, vocabulary.broader, strict=True):
            if counts[tag.name]:
                counts.update(tags[place].name for place in above)
        things = [tag.name for tag in tags if tag.kind in ("object", "scene")]
        absent = tuple(name for name in things if not counts[name])
        return cls(parser, absent, tuple(name for name in things if counts[name] > 1))


Sentences = Iterator[tuple[str, bool]]
"""Sentences, and whether they match a photo."""


def single(mentions: Mentions, choose: random.Random) -> Sentences:
    """Sentences that consist of one tag."""
    for names, matches in ((mentions.absent, False), (mentions.present, True)):
        for name in names:
            yield choose.choice(("{}", "a {}", "a photo of a {}", "{}s")).format(name), matches


def several(
    rows: Sequence[Row], others: Sequence[Row], mentions: Mentions, choose: random.Random
) -> Sentences:
    """Sentences with several terms."""
    frames = ("a {} next to a {}", "a {} and a {}", "{} with {}")
    for name in choose.sample(mentions.absent, min(len(mentions.absent), 700)):
        yield choose.choice(frames).format(name, choose.choice(mentions.present)), False
    absent, foreign = set(mentions.absent), (row.captions[0] for row in others)
    unmatched = (one for one in foreign if any(tag.name in absent for tag in mentions.parser.parse(one)))
    yield from ((caption, False) for caption in islice(unmatched, 600))
    for _ in range(300):
        yield "the {} of {}".format(*choose.sample(_ABSTRACT, 2)), False
    for row in choose.sample(list(rows), min(len(rows), 800)):
        caption = choose.choice(row.captions)
        yield caption, True
        tags = [tag.name for tag in mentions.parser.parse(caption) if tag.kind in ("object", "scene")]
        if len(tags) > 1:
            yield choose.choice(frames).format(*choose.sample(tags, 2)), True


def logistic(features: Floats, fits: npt.NDArray[np.bool_], steps: int = 50) -> list[float]:
    """Logistic regression by Newton's method, the bias last; both classes have the same total weight."""
    rows = np.column_stack([features, np.ones(len(features))])
    share = np.where(fits, 0.5 / fits.mean(), 0.5 / (1 - fits.mean()))
    weights = np.zeros(rows.shape[1])
    for _ in range(steps):
        predicted = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (share * (predicted - fits))
        hessian = (rows.T * (share * predicted * (1 - predicted))) @ rows
        weights -= np.linalg.solve(hessian + 1e-6 * np.eye(len(weights)), slope)
    return [round(float(weight), 2) for weight in weights]


def fitted(
    searcher: Searcher, vectors: Floats, fit: SearchFit, *, one: Sentences, more: Sentences
) -> SearchFit:
    """Fit the lines of sentences with one and with several terms to their best photos; prints accuracy."""
    singles = []
    for text, fits in one:
        query = searcher.reader.read(text).query
        if query is not None:
            singles.append((float((vectors @ query).max()), fits))
    whole = np.array(singles)
    whole_scale, whole_bias = logistic(whole[:, :1], whole[:, 1] > 0)
    found = []
    for text, fits in more:
        terms = searcher.reader.read(text).terms
        known = sum(term.column is not None for term in terms)
        if known and len(terms) > 1:
            found.append((float(searcher.log_odds(text)[1].max()), known, fits))
    table = np.array(found)
    scale, per_term, bias = logistic(table[:, :2], table[:, 2] > 0)
    right = (table[:, :2] @ [scale, per_term] + bias >= 0) == (table[:, 2] > 0)
    for answer, name in ((1, "that match a photo"), (0, "that match none")):
        some = table[:, 2] == answer
        print(
            f"{some.sum()} sentences {name}: {right[some].mean():.3f} classified correctly", file=sys.stderr
        )
    return replace(
        fit, scale=scale, per_term=per_term, bias=bias, whole_scale=whole_scale, whole_bias=whole_bias
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--card", action="store_true", help="write the values into the model's card")
    args = parser.parse_args()
    every = [row for row in read_rows(args.rows) if row.captions]
    rows = [row for row in every if (row.source, row.split) == ("flickr8k", "dev")][: args.photos]
    others = [row for row in every if row.source != "flickr8k"]
    photos = [args.rows.parent / row.image for row in rows]
    tagger = Tagger.load(args.model, device="cpu")
    vocabulary, choose = tagger.vocabulary, random.Random(0)
    fit = lines(tagger, photos[:300], [row.captions[0] for row in rows][:_CAPTIONS])
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "photos")
        folder.mkdir()
        for photo in photos:
            (folder / photo.name).symlink_to(photo.resolve())
        with Library.open(Path(work, "library.db")) as library:
            library.sync(folder, tagger=tagger, workers=1)
            searcher, mentions = Searcher(library, args.model, fit=fit), Mentions.by(rows, vocabulary)
            card = searcher.reader.card
            vectors = vector_file(library.database.path, weights_of(card), card.width).map()
            one, more = single(mentions, choose), several(rows, others, mentions, choose)
            fit = fitted(searcher, vectors, fit, one=one, more=more)
    print(json.dumps({"search": asdict(fit)}, indent=2))
    if args.card:
        write_card(resolve(args.model), replace(tagger.card, search=fit))


if __name__ == "__main__":
    main()
