"""Draw photos with their tags: python scripts/make_example_picture.py [PHOTOS] [OUT] [--columns 4].

Makes docs/images/example.png from examples/photos, or from any folder of photos.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from anytag import Tagger
from anytag.images import load
from anytag.results import TagResult

WIDTH, HEIGHT, GAP, LINE = 330, 230, 18, 20
MAX_TAGS = 8
TEXT, SCORE_TEXT, BACKGROUND, BAR = "#1c2733", "#7a8794", "#ffffff", "#2f7de1"


def draw(sheet: Image.Image, at: tuple[int, int], tags: TagResult, path: Path) -> None:
    """Draw a photo and its tags below it, each with a bar proportional to its score."""
    pen, (x, y) = ImageDraw.Draw(sheet), at
    photo = Image.fromarray(load(path).pixels)
    photo.thumbnail((WIDTH, HEIGHT))
    sheet.paste(photo, (x + (WIDTH - photo.width) // 2, y + HEIGHT - photo.height))
    font = ImageFont.load_default(14)
    for number, tag in enumerate(tags.shown[:MAX_TAGS]):
        top = y + HEIGHT + 8 + number * LINE
        pen.text((x, top), tag.name, fill=TEXT, font=font)
        pen.rectangle((x + 190, top + 6, x + 190 + round(90 * tag.score), top + 12), fill=BAR)
        pen.text((x + 290, top), f"{tag.score:.2f}", fill=SCORE_TEXT, font=font)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="?", default=Path("examples/photos"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/images/example.png"))
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--model")
    args = parser.parse_args()
    paths = sorted(args.photos.glob("*.jpg"))
    rows = -(-len(paths) // args.columns)
    cell = (WIDTH + GAP, HEIGHT + MAX_TAGS * LINE + 2 * GAP)
    sheet = Image.new("RGB", (args.columns * cell[0] + GAP, rows * cell[1] + GAP), BACKGROUND)
    for number, tags in enumerate(Tagger.load(args.model).tag_many(paths)):
        row, column = divmod(number, args.columns)
        draw(sheet, (GAP + column * cell[0], GAP + row * cell[1]), tags, paths[number])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
