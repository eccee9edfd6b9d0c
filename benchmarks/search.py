"""Search of a library: its quality and speed, and whether it reports correctly that nothing fits.

    python benchmarks/search.py quality ROWS           # Flickr8k test: the parts, and all together
    python benchmarks/search.py fits ROWS OTHER_ROWS   # "nothing fits", on photos that no fitting used
    python benchmarks/search.py copies ROWS            # similarity of copies of other size and quality
    python benchmarks/search.py speed ROWS [--photos 100000]

`speed` repeats the vectors and tags of ROWS' Flickr8k test photos, with noise so that no two are equal, for
so many photos. Their files are empty: a search opens none.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from anytag.data.rows import Row, read_rows
from anytag.fusion.compare import products
from anytag.library.hits import SAME_COSINE, bits_of, similarities
from anytag.library.library import Library
from anytag.library.search import Searcher, match
from anytag.library.vectors import keep, vector_file
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.reranking import DecoderPairScorer, weights_of
from anytag.retriever import Retriever

Floats = npt.NDArray[np.float32]

PRESENT = (
    "a dog", "a giraffe", "a pizza", "elephant", "a bathroom with a sink", "a cat", "a horse in a field",
    "motorcycle", "a lobster", "mountains", "a kitchen", "an airplane", "scissors", "a hamburger",
    "a skyscraper", "a strawberry", "a firefighter", "a shark", "flowers", "a bookshelf with books",
)  # fmt: skip
ABSENT = (
    "a submarine", "a snowman", "a panda", "a koala", "a mermaid", "a parachute", "a ferris wheel",
    "a lighthouse", "a hot air balloon", "a crocodile", "a chessboard", "a typewriter", "a fire hydrant",
    "a parking meter", "a telescope", "an ambulance", "an igloo", "an ostrich",
    "a bride and groom cutting a wedding cake", "a violin player",
)  # fmt: skip
NONSENSE = (
    "asdf qwer zxcv", "blorf grumple wizzet", "the square root of justice",
    "colourless green ideas sleep furiously", "quarterly revenue recognition policy",
    "a logarithm of nostalgia", "epistemology of tax law", "if then else while return",
    "tomorrow's inflation rate", "xyzzy plugh", "the verb to be", "SELECT * FROM users",
    "lorem ipsum dolor sit amet", "parliamentary procedure of the third kind", "a submarine reactor",
    "twelve times the theorem", "hjkl", "the constitution of an infinite sum",
    "copyright infringement notice", "mitochondrial entropy",
)  # fmt: skip
"""Chosen by the labels of the first 1,000 photos, shuffled with seed 0, before any score was computed."""


@contextmanager
def synced(photos: Sequence[Path], *, captions: bool = False) -> Iterator[Library]:
    """Yield a library of photos, synced for this run."""
    from anytag.captioner import Captioner
    from anytag.tagger import Tagger

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "photos")
        folder.mkdir()
        for number, photo in enumerate(photos):
            (folder / f"{number:06}{photo.suffix}").symlink_to(photo.resolve())
        with Library.open(Path(work, "library.db")) as library:
            writer = Captioner.load(device="cpu") if captions else None
            library.sync(folder, tagger=Tagger.load(device="cpu"), captioner=writer, workers=1)
            yield library


def numbers(library: Library) -> list[int]:
    """Return which of `photos` each photo of the library is, by ascending id."""
    rows = library.database.connection.execute("SELECT name FROM photos ORDER BY id")
    return [int(Path(name).stem) for (name,) in rows]


def recall(ranks: npt.NDArray[np.int64]) -> str:
    return " | ".join(f"{100 * (ranks < k).mean():.1f}" for k in (1, 5, 10))


def flickr(path: Path, split: str) -> list[Row]:
    return [row for row in read_rows(path) if (row.source, row.split) == ("flickr8k", split)]


def quality(path: Path) -> None:
    """Print the recall of captions: the rank of each caption's photo among 1,000 photos."""
    rows = flickr(path, "test")
    photos = [path.parent / row.image for row in rows]
    texts = [(number, text) for number, row in enumerate(rows) for text in row.captions]
    methods = ("words", "vectors", "decoder", "match", "all together")
    ranks: dict[str, list[int]] = {name: [] for name in methods}
    with synced(photos, captions=True) as library:
        searcher, place = Searcher(library), {n: at for at, n in enumerate(numbers(library))}
        ids = [one for (one,) in library.database.connection.execute("SELECT id FROM photos ORDER BY id")]
        for number, text in texts:
            odds, _ = searcher.log_odds(text)
            ranks["all together"].append(int((odds > odds[place[number]]).sum()))
            ranks["words"].append(_word_rank(library, searcher, text, ids[place[number]], len(rows)))
    retriever = Retriever.load(device="cpu")
    gallery = retriever.embed(photos, workers=1)
    captions = [text for _, text in texts]
    decoder = Retriever(retriever.tagger, DecoderPairScorer(retriever.tagger))
    vectors = gallery.pooled[:] @ retriever.tagger.queries(captions)[:, 0].T
    whole = decoder.embed(photos, workers=1)  # with tokens
    scored = {"decoder": decoder.score(whole, captions), "match": retriever.score(gallery, captions)}
    for name, scores in (scored | {"vectors": vectors}).items():
        own = scores[[number for number, _ in texts], np.arange(len(texts))]
        ranks[name] = (scores > own).sum(0).tolist()
    print("| method | R@1 | R@5 | R@10 |\n|---|---:|---:|---:|")
    for name, found in ranks.items():
        print(f"| {name} | {recall(np.array(found))} |")


def _word_rank(library: Library, searcher: Searcher, text: str, photo: int, count: int) -> int:
    """Return the rank in the full-text table; photos without a word of the text share the ranks after it."""
    words = [word for term in searcher.reader.read(text).terms for word in term.words]
    query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank"
    rows = library.database.connection.execute(query, (match(words),)).fetchall() if words else []
    found = [one for (one,) in rows]
    return found.index(photo) if photo in found else (len(found) + count) // 2


def fits(path: Path, others: Path) -> None:
    """Print how often "nothing fits" is reported correctly and wrongly, and the scores' reliability."""
    lines = map(json.loads, others.read_text(encoding="utf-8").splitlines())
    names = [line["image"] for line in lines if line["source"] != "sroie"]  # receipts
    random.Random(0).shuffle(names)
    print("| photos | present, found | absent, reported | nonsense, reported |\n|---:|---:|---:|---:|")
    with synced([others.parent / name for name in names[:1000]]) as library:
        results = {
            name: [library.search(text, top_k=1) for text in texts]
            for name, texts in (("present", PRESENT), ("absent", ABSENT), ("nonsense", NONSENSE))
        }
    counts = [
        sum(bool(found) == (name == "present") for found in answers) for name, answers in results.items()
    ]
    print(f"| 1000 | {' | '.join(f'{count} of 20' for count in counts)} |")
    for name, texts in (("present", PRESENT), ("absent", ABSENT), ("nonsense", NONSENSE)):
        wrong = [
            text
            for text, found in zip(texts, results[name], strict=True)
            if bool(found) != (name == "present")
        ]
        print(f"wrong of {name}: {', '.join(wrong) or 'none'}")
    _reliability(path)


def _reliability(path: Path) -> None:
    """Print the calibration of the best photo's score as the probability that the sentence fits a photo.

    The sentences are captions of Flickr8k test's photos, and others that mention a thing none of them shows.
    """
    from scripts.fit_search import Mentions, several

    every = [row for row in read_rows(path) if row.captions]
    rows = flickr(path, "test")
    with synced([path.parent / row.image for row in rows]) as library:
        searcher = Searcher(library)
        mentions, choose = Mentions.by(rows, searcher.reader.vocabulary), random.Random(0)
        others = [row for row in every if row.source != "flickr8k"]
        sentences = [*several(rows, others, mentions, choose)]
        best = np.array([searcher.log_odds(text)[0].max() for text, _ in sentences])
    scores, true = 1 / (1 + np.exp(-np.clip(best, -60, 60))), np.array([fit for _, fit in sentences])
    bins = np.minimum((scores * 10).astype(int), 9)
    error = sum(
        (bins == one).mean() * abs(scores[bins == one].mean() - true[bins == one].mean())
        for one in set(bins.tolist())
    )
    right = ((scores >= 0.5) == true).mean()
    print(f"{len(sentences)} sentences on Flickr8k test, {true.mean():.2f} of which fit a photo: "
          f"expected calibration error {error:.3f}, classified correctly {right:.3f}")  # fmt: skip


def copies(path: Path) -> None:
    """Print how often the original is the most similar to a copy of 30 to 90 % size and quality 35 to 90."""
    photos, choose = [path.parent / row.image for row in flickr(path, "test")], random.Random(1)
    chosen = choose.sample(range(len(photos)), 100)
    first = 0
    with tempfile.TemporaryDirectory() as work:
        copies = [Path(work, f"{number}.jpg") for number in chosen]
        for number, copy in zip(chosen, copies, strict=True):
            copy.write_bytes(_copy(photos[number], choose))
        with synced(photos) as library:
            for number, copy in zip(chosen, copies, strict=True):
                (hit,) = library.search(like=copy, top_k=1)
                first += int(Path(hit.photo.path).stem) == number
        with synced([*photos, *copies]) as library:
            vectors, hashes = _vectors_and_hashes(library)
    count, own = len(photos), np.array(chosen)
    print(f"the original first: {first} of 100")
    for name, bits in (("vectors alone", np.zeros_like(hashes)), ("with hashes", hashes)):
        same = [similarities(vectors, bits, *one) >= SAME_COSINE for one in zip(vectors, bits, strict=True)]
        folded = np.triu(same, 1)[:count, :count].sum()
        found = np.array(same)[np.arange(count, count + 100), own].sum()
        print(f"{name}: {found} of 100 copies grouped; {folded} of {count * (count - 1) // 2} other pairs")


def _vectors_and_hashes(library: Library) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return unit vectors and hashes of all photos, by name."""
    found = library.database.query("SELECT slot, hash FROM photos ORDER BY name")
    (weights,) = library.database.query("SELECT weights FROM models")[0]
    width = ModelFolder.open(resolve(None)).card.width
    slots = np.array([slot for slot, _ in found])
    vectors = vector_file(library.database.path, weights, width).map()[slots]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units, np.stack([bits_of(one) for _, one in found])


def _copy(photo: Path, choose: random.Random) -> bytes:
    with Image.open(photo) as whole:
        scale = choose.uniform(0.3, 0.9)
        small = whole.convert("RGB").resize((round(whole.width * scale), round(whole.height * scale)))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=choose.randint(35, 90))
    return out.getvalue()


def speed(path: Path, count: int) -> None:
    rows = flickr(path, "test")
    texts = [row.captions[0] for row in rows][:200]
    with synced([path.parent / row.image for row in rows]) as small, tempfile.TemporaryDirectory() as work:
        database = Path(work, "library.db")
        _repeat(small, database, count)
        _cold(database)
        with Library.open(database) as library:
            searcher = Searcher(library)
            searcher.search("a dog")
            times, busy = list[float](), list[float]()
            for text in texts:
                start, used = time.perf_counter(), time.process_time()
                searcher.search(text)
                times.append(1000 * (time.perf_counter() - start))
                busy.append(1000 * (time.process_time() - used))
            _first_pass(searcher, library, texts)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} photos, warm, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; median, p95:")
    for name, some in (("time", times), ("processor time", busy)):
        print(f"  {name}: {np.median(some):.0f} ms, {np.percentile(some, 95):.0f} ms")
    print(f"peak memory of this process, which also made the library: {memory:.0f} MB")


def _repeat(small: Library, path: Path, count: int) -> None:
    """Make a library that repeats the photos of another."""
    noise = np.random.default_rng(0)
    source = small.database.connection
    slots = np.array(source.execute("SELECT slot FROM photos ORDER BY id").fetchall(), np.int64)[:, 0]
    weights, name = source.execute("SELECT weights, name FROM models").fetchone()
    width = Searcher(small).reader.card.width
    vectors = vector_file(small.database.path, weights, width).read(slots)
    tags: dict[int, list[tuple[str, str, float]]] = {
        one: [] for (one,) in source.execute("SELECT id FROM photos ORDER BY id")
    }
    for photo, tag, title, score in source.execute("SELECT photo, tag, name, score FROM tags"):
        tags[photo].append((tag, title, score))
    tags_by_photo = list(tags.values())
    folder = path.parent / "photos"
    folder.mkdir()
    with Library.open(path) as library, library.database.transaction() as connection:
        connection.execute(
            "INSERT INTO roots (path, shown) VALUES (?, ?)", (os.fsencode(folder), str(folder))
        )
        connection.execute("INSERT INTO models VALUES (1, ?, ?, '')", (name, weights))
        for start in range(0, count, 1000):
            part = range(start, min(start + 1000, count))
            some = vectors[np.arange(len(part)) % len(vectors)]
            keep(path, weights, list(part), list(some + noise.normal(0, 0.4, some.shape).astype(np.float32)))
            for number in part:
                file = folder / f"{number:07}.jpg"
                file.touch()
                connection.execute(
                    "INSERT INTO photos (id, root, path, name, size, mtime_ns, device, inode, state, model, "
                    "slot) VALUES (?, 1, ?, ?, 0, 0, 0, 0, 'done', 1, ?)",
                    (number + 1, os.fsencode(file), file.name, number),
                )
                rows = tags_by_photo[number % len(tags_by_photo)]
                connection.executemany(
                    "INSERT INTO tags VALUES (?, ?, ?, ?)", ((number + 1, *row) for row in rows)
                )
            from anytag.library import words

            words.rewrite(connection, [number + 1 for number in part])


def _cold(database: Path) -> None:
    """Measure the whole command three times: its time, and the memory of its process."""
    command = [
        sys.executable,
        "-m",
        "anytag",
        "search",
        "a dog runs through the snow",
        "--database",
        str(database),
    ]
    times, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3
    print(f"command: {min(times):.2f} s (best of three), {busy:.2f} s of processor time, "
          f"at most {after.ru_maxrss / 1024:.0f} MB")  # fmt: skip


def _first_pass(searcher: Searcher, library: Library, texts: Sequence[str]) -> None:
    """Compare the ten best products of the memory-mapped scan with exact products in float64."""
    card = searcher.reader.card
    file = vector_file(library.database.path, weights_of(card), card.width)
    slots = np.arange(len(file), dtype=np.int64)
    queries = np.stack([query for text in texts if (query := searcher.reader.read(text).query) is not None])
    columns = np.concatenate([queries, np.zeros((len(queries), 1), np.float32)], axis=1)
    kept = 0
    for start in range(0, len(queries), 20):
        scanned = products(file.map(), slots, list(columns[start : start + 20]))
        exact = np.concatenate([
            file.map()[at : at + 10_000].astype(np.float64) @ queries[start : start + 20].T
            for at in range(0, len(slots), 10_000)
        ])  # fmt: skip
        for one in range(scanned.shape[1]):
            best = np.argsort(-scanned[:, one], kind="stable")[:10]
            tenth = np.sort(exact[:, one])[-10]
            kept += int((exact[best, one] >= tenth - 1e-4).sum())
    print(
        f"first pass: recall@10 {kept / (10 * len(queries)):.4f} against brute force, {len(queries)} queries"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["quality", "fits", "copies", "speed"])
    parser.add_argument("rows", type=Path)
    parser.add_argument("others", type=Path, nargs="?")
    parser.add_argument("--photos", type=int, default=100_000)
    args = parser.parse_args()
    if args.what == "speed":
        speed(args.rows, args.photos)
    elif args.what == "fits":
        fits(args.rows, args.others)
    else:
        {"quality": quality, "copies": copies}[args.what](args.rows)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `scripts`
    main()
