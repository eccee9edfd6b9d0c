"""Render the embedded model's figures, from its card, as Markdown tables.

`benchmarks/quality.py ROWS --card` measures the figures and writes the card; `scripts/build_docs.py` writes
the tables into the docs, between `<!-- card: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anytag.models.card import FILE_NAME, Card
from anytag.models.registry import EMBEDDED

Figures = Mapping[str, Any]
CAPTIONS = "Flickr8k test, tags of the captions"
RELIABILITY = "Flickr8k test, reliability of given tags"
CLASSES = "broad val, asked by name"
BLOCK = re.compile(r"(<!-- card: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """Fill in the tables of a page.

    Raises:
        SystemExit: the card lacks a figure; says how to measure it.
    """
    metrics = Card.read(EMBEDDED / FILE_NAME).metrics
    try:
        return BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]](metrics)}\n{found[3]}", page)
    except KeyError as error:
        raise SystemExit(
            f"the embedded model's card has no {error}: run benchmarks/quality.py ROWS --card"
        ) from error


def captions(metrics: Figures) -> str:
    """Tags of captions, compared with linear probes."""
    head = ["", "trained on", "mAP", "precision at 1", "precision at 5"]
    rows = []
    for name, figures in metrics[CAPTIONS].items():
        if "mAP" in figures:
            who = (
                "**anytag**, int8" if name == "anytag" else name.replace("probe ", "linear probe on frozen ")
            )
            trained_on = "Flickr8k, COCO, labelled photos" if name == "anytag" else "Flickr8k"
            rows.append([who, trained_on, *(f"{figures[key]:.3f}" for key in ("mAP", "P@1", "P@5"))])
    return table(head, rows, left=2)


def defaults(metrics: Figures) -> str:
    """Figures at default settings."""
    figures = metrics[CAPTIONS]["default thresholds"]
    lines = {
        "precision against the captions' tags": ("precision", "over 0.6"),
        "recall": ("recall", ""),
        "first tag correct": ("first tag right", "over 0.85"),
        "photos with 3 to 12 tags": ("photos with 3 to 12", "ordinary photos"),
        "median number of tags per photo": ("median tags", ""),
        "photos without a tag": ("without tags", ""),
        "different tags that were predicted": ("different tags given", ""),
        "tags that captions name on five photos or more": ("tags named on five photos or more", ""),
        "of these, never predicted": ("of these never given", ""),
        "tags lost by the first pass": ("lost by the first pass", "stated"),
    }
    rows = [[name, shown(figures[key]), target] for name, (key, target) in lines.items()]
    return table(["", "measured", "target"], rows)


def reliability(metrics: Figures) -> str:
    """Predicted tags by score, all of them, and those with a score above 0.5."""
    found = metrics[RELIABILITY]
    head = ["score", "tags", "mean score", "correct", "95 % interval", "calibration error"]
    rows = []
    for name, one in found.items():
        bounds = (one["ECE low"], one["ECE high"]) if "ECE" in one else (one["low"], one["high"])
        between = f"{bounds[0]:.3f} to {bounds[1]:.3f}"
        middle = [str(one["pairs"]), f"{one['mean score']:.3f}", f"{one['right']:.3f}"]
        last = ["", f"**{one['ECE']:.3f}** ({between})"] if "ECE" in one else [between, ""]
        rows.append([name.removeprefix("score "), *middle, *last])
    return table(head, rows)


def classes(metrics: Figures) -> str:
    """Classification among each part's names: top-1 with Wilson's interval, and top-5."""
    head = ["part", "photos", "names", "training photos of these names"]
    head += ["anytag", "linear probe, same photos", "ImageNet classifier"]
    rows = []
    for part, one in metrics[CLASSES].items():
        if "classes" in one:
            training = str(one.get("training photos", "none"))
            sides = [_tops(one, who) for who in ("", "probe ", "baseline ")]
            rows.append([part, str(one["photos"]), str(one["classes"]), training, *sides])
    return table(head, rows)


def _tops(one: Figures, who: str) -> str:
    if f"{who}top-1" not in one:
        return ""
    low, high = one[f"{who}top-1 low"], one[f"{who}top-1 high"]
    return f"{one[f'{who}top-1']:.2f} ({low:.2f}–{high:.2f}), {one[f'{who}top-5']:.2f}"


def coco(metrics: Figures) -> str:
    """mAP over COCO's categories."""
    one = metrics[CLASSES]["coco"]
    training = f"{one['training photos']:,} photos with these labels"
    lines = {
        "**anytag**": ("", f"{training}, and more"),
        "linear probe on the frozen backbone": ("probe ", training),
        "ImageNet classifier, transferred by text": ("baseline ", "none of these labels"),
    }
    rows = [
        [
            name,
            trained_on,
            f"{one[f'{who}mAP']:.3f} ({one[f'{who}mAP low']:.3f} to {one[f'{who}mAP high']:.3f})",
        ]
        for name, (who, trained_on) in lines.items()
    ]
    return table(
        ["", "trained on", f"mAP, {one['categories']} categories, {one['photos']} photos"], rows, left=2
    )


def subjects(metrics: Figures) -> str:
    """Default tags of photos with one subject."""
    keys = ("class among default tags", "class or broader among default tags", "without tags")
    rows = [
        [part, str(one["photos"]), *(f"{one[key]:.2f}" for key in keys)]
        for part, one in metrics[CLASSES].items()
        if keys[0] in one
    ]
    return table(["part", "photos", "tags include the class", "the class or a broader tag", "no tags"], rows)


def readme(metrics: Figures) -> str:
    """Selected figures for the README."""
    tags, found = metrics[CAPTIONS], metrics[CLASSES]
    default, given = tags["default thresholds"], metrics[RELIABILITY]["given tags"]
    probe = max(one["mAP"] for name, one in tags.items() if name.startswith("probe"))
    coco, one = found["coco"], found["imagenet"]
    rows = [
        ["Flickr8k test, 1,000 everyday scenes: first tag correct", f"{default['first tag right']:.2f}", ""],
        ["precision of the default tags, against five captions", f"{default['precision']:.2f}",
         f"{given['mean score']:.2f}, their mean score"],
        [f"mAP over {tags['anytag']['tags']} caption tags", f"{tags['anytag']['mAP']:.3f}",
         f"{probe:.3f}, linear probe on the frozen backbone, trained on Flickr8k only"],
        ["captions, BLEU-4", f"{metrics['captions_flickr8k_test']['default']['BLEU-4']:.1f}",
         "16.0 and 19.5, two networks of 2015"],
        [f"COCO: mAP over {coco['categories']} categories of the training labels", f"{coco['mAP']:.2f}",
         f"{coco['probe mAP']:.2f}, linear probe trained on the same labels"],
        [f"ImageNet: the class is among the default tags ({one['photos']} photos, one subject each)",
         f"{one['class among default tags']:.2f}", ""],
    ]  # fmt: skip
    return table(["", "anytag", "for comparison"], rows)


TABLES: dict[str, Callable[[Figures], str]] = {
    "captions": captions,
    "defaults": defaults,
    "reliability": reliability,
    "classes": classes,
    "coco": coco,
    "subjects": subjects,
    "readme": readme,
}


def shown(value: float) -> str:
    """Format a count as an integer, a share with three digits."""
    return f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Render a Markdown table; all columns but the first `left` are right-aligned."""
    aligned = ["---"] * left + ["---:"] * (len(head) - left)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, aligned, *rows))
