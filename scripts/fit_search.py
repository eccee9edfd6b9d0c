"""How a photo's vector tells whether a sentence fits: the numbers of `SearchFit`, for a model's card.

    python scripts/fit_search.py ROWS [--model FOLDER] [--photos 1000]

Photos and captions are those of `flickr8k`, split `dev`, in ROWS; other sources' captions are sentences of
which a thing is in none of the photos. First two lines are fitted through the decoder's own answers: of the
first pass's logits for tags, and of products with words. Then sentences are asked of a library of the photos, of
which about half fit one and half none (tags that no caption names beside one that some name, foreign captions,
abstract words), and a logistic regression on the best photo's fit and the number of terms tells them apart.
Judge on other photos: `benchmarks/search.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.data.rows import Row, read_rows
from anytag.library.library import Library
from anytag.library.search import Searcher
from anytag.library.sentences import SentenceReader
from anytag.models.card import SearchFit
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.parsing import Parser
from anytag.retriever import Retriever
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


def lines(
    retriever: Retriever, model: str | None, photos: Sequence[Path], captions: Sequence[str]
) -> SearchFit:
    """The lines through the decoder's answers: of tags, and of words."""
    tagger, reader = retriever.tagger, SentenceReader(ModelFolder.open(resolve(model)))
    gallery = retriever.embed(photos)
    tokens, pooled = gallery.tokens[:].astype(np.float32), gallery.pooled[:]
    ids = tagger.vocabulary.ids[:: max(1, len(tagger.vocabulary) // _TAGS)]
    queries, (slope, bias) = tagger.trained(ids)
    coarse = reader.coarse(ids)
    decoded = tagger.runtime.score(tokens, pooled, queries[None]) * slope + bias
    tag = np.polyfit((pooled @ coarse[:, :-1].T + coarse[:, -1]).ravel(), decoded.ravel(), 1)
    words = tagger.queries(captions)
    own = tagger.card.calibration.own
    logits = own.scale * tagger.runtime.score(tokens, pooled, words[None]) + own.bias
    word = np.polyfit((pooled @ words[:, 0].T).ravel(), logits.ravel(), 1)
    rounded = [round(float(number), 2) for number in (*tag, *word)]
    return SearchFit(*rounded)


def queries(rows: Sequence[Row], others: Sequence[Row], vocabulary: Vocabulary) -> Iterator[tuple[str, bool]]:
    """Sentences, and whether a photo of `rows` fits."""
    parser, choose = Parser(vocabulary=vocabulary), random.Random(0)
    named: Counter[str] = Counter()
    for row in rows:
        named.update({tag.name for caption in row.captions for tag in parser.parse(caption)})
    for number, above in enumerate(vocabulary.broader):
        if named[list(vocabulary)[number].name]:
            named.update(list(vocabulary)[place].name for place in above)
    things = [tag.name for tag in vocabulary if tag.kind in ("object", "scene")]
    absent, there = [name for name in things if not named[name]], [name for name in things if named[name] > 1]
    for name in choose.sample(absent, min(len(absent), 700)):
        yield (
            choose.choice(["a {} next to a {}", "a {} and a {}", "{} with {}"]).format(
                name, choose.choice(there)
            ),
            False,
        )
    foreign = [caption for row in others for caption in row.captions[:1]]
    is_absent = set(absent)
    strange = (one for one in foreign if any(tag.name in is_absent for tag in parser.parse(one)))
    yield from ((caption, False) for _, caption in zip(range(600), strange, strict=False))
    for _ in range(300):
        yield (
            choose.choice(["the {} of {}", "{} and {}", "a {} in the {}"]).format(
                *choose.sample(_ABSTRACT, 2)
            ),
            False,
        )
    for row in choose.sample(list(rows), min(len(rows), 800)):
        caption = choose.choice(row.captions)
        yield caption, True
        tags = [tag.name for tag in parser.parse(caption) if tag.kind in ("object", "scene")]
        if len(tags) > 1:
            yield (
                choose.choice(["a {} and a {}", "{} {}", "a {} with a {}"]).format(*choose.sample(tags, 2)),
                True,
            )


def known(searcher: Searcher, text: str) -> tuple[int, int]:
    """How many terms of a sentence the model knows, of how many."""
    terms = searcher.reader.read(text).terms
    return sum(term.column is not None or term.tag is not None for term in terms), len(terms)


def logistic(features: Floats, fits: npt.NDArray[np.bool_], steps: int = 50) -> Floats:
    """Weights, the bias last, by Newton's method; both answers weigh the same."""
    rows = np.column_stack([features, np.ones(len(features))])
    share = np.where(fits, 0.5 / fits.mean(), 0.5 / (1 - fits.mean()))
    weights = np.zeros(rows.shape[1])
    for _ in range(steps):
        said = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (share * (said - fits))
        weights -= np.linalg.solve(
            (rows.T * (share * said * (1 - said))) @ rows + 1e-6 * np.eye(len(weights)), slope
        )
    return weights.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--photos", type=int, default=1000)
    args = parser.parse_args()
    every = [row for row in read_rows(args.rows) if row.captions]
    rows = [row for row in every if (row.source, row.split) == ("flickr8k", "dev")][: args.photos]
    others = [row for row in every if row.source != "flickr8k"]
    photos = [args.rows.parent / row.image for row in rows]
    retriever = Retriever.load(args.model, device="cpu")
    fit = lines(retriever, args.model, photos[:300], [row.captions[0] for row in rows][:_CAPTIONS])
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "photos")
        folder.mkdir()
        for photo in photos:
            (folder / photo.name).symlink_to(photo.resolve())
        library = Library.open(Path(work, "library.db"))
        library.sync(folder, tagger=retriever.tagger, workers=1)
        searcher = Searcher(library, args.model, fit=fit)
        asked = list(queries(rows, others, retriever.tagger.vocabulary))
        found = [(searcher.log_odds(text)[1].max(), *known(searcher, text), fits) for text, fits in asked]
        library.close()
    several = np.array([(best, seen, fits) for best, seen, terms, fits in found if seen and terms > 1])
    scale, per_term, bias = logistic(several[:, :2], several[:, 2] > 0).tolist()
    fit = replace(fit, scale=round(scale, 2), per_term=round(per_term, 2), bias=round(bias, 2))
    print(json.dumps({"search": asdict(fit)}, indent=2))
    right = (several[:, :2] @ [scale, per_term] + bias >= 0) == (several[:, 2] > 0)
    for answer, name in ((1, "that fit a photo"), (0, "that fit none")):
        some = several[:, 2] == answer
        print(f"{some.sum()} sentences {name}: {right[some].mean():.3f} told rightly")


if __name__ == "__main__":
    main()
