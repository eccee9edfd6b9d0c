"""`anytag export` of folders with a caption head: the graphs write the same captions, without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from anytag import Captioner
from anytag.models.card import Card
from anytag.models.folder import write_card
from anytag.runtime.onnx import CAPTION, MEMORY, OnnxCaptionDecoder
from anytag.torch.captions import TorchCaptionDecoder
from anytag.torch.checkpoints.convert import Options, convert
from anytag.torch.checkpoints.load import CAPTIONS, WEIGHTS, load_network
from anytag.torch.export.accuracy_cost import measure_cost
from anytag.torch.export.dynamic_int8 import quantize_weights
from tests.command import ENVIRONMENT, run
from tests.families import enliven
from tests.released import make_tensors, write_checkpoint, write_lists

pytestmark = pytest.mark.slow  # every export takes twenty seconds

WISHES: list[dict[str, Any]] = [
    {},
    {"beams": 1},
    {"sample": True, "seed": 3},
    {"tags": ["word3", "a picture of word9"]},
    {"tags": [f"word{n}" for n in range(40)], "max_length": 12},  # longer than the tags' text may be
    {"exclude_tags": ["word5"], "beams": 2},
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("exported")
    write_lists(at / "lists")
    return at


@pytest.fixture(scope="module")
def photos(places: Path) -> list[Path]:
    paths = [places / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        coarse = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((32, 24)).save(path)
    return paths


@pytest.fixture(scope="module")
def ram(places: Path) -> Path:
    """RAM, exported in float32."""
    folder = lively_folder(places, "ram")
    done = run("export", folder)
    assert done.output == f"{folder}: graphs in float32; in float32 they match the network\n"
    return folder


def lively_folder(places: Path, family: str) -> Path:
    """A converted folder whose random weights make photos differ."""
    folder = places / family
    file = write_checkpoint(places / f"{family}.pth", make_tensors(family))
    # 3×3 + 1 tokens: another number than at export
    convert(file, folder, Options(lists=places / "lists", image_size=96))
    network = load_network(folder)
    torch.manual_seed(0)
    enliven(network)
    made = network.state_dict()
    for name in (WEIGHTS, CAPTIONS):
        save_file({key: made[key].contiguous() for key in load_file(folder / name)}, folder / name)
    write_card(folder, Card.read(folder))
    return folder


def check_batches(captioner: Captioner, photos: list[Path], options: dict[str, Any]) -> None:
    alone = [captioner.caption(path, **options) for path in photos]
    assert list(captioner.caption_many(photos, batch_size=3, workers=1, **options)) == alone
    assert len({caption.text for caption in alone}) > 1


@pytest.mark.parametrize("options", WISHES, ids=str)
def test_graphs_write_what_torch_writes(ram: Path, photos: list[Path], options: dict[str, Any]) -> None:
    graphs, exact = Captioner.load(ram), Captioner.load(ram, precision="float32")
    seen = [graphs.tagger.encode(photos[0])]
    assert isinstance(graphs.writer(seen, [[]]), OnnxCaptionDecoder)
    assert isinstance(exact.writer(seen, [[]]), TorchCaptionDecoder)
    given = list(graphs.caption_many(photos, **options))
    assert given == list(exact.caption_many(photos, **options))
    assert all(caption.error is None for caption in given)
    check_batches(graphs, photos, options)


def test_no_torch_is_needed(ram: Path, photos: list[Path]) -> None:
    # as Python raises for a missing package
    code = "import sys; sys.modules['torch'] = None; from anytag.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "caption", *photos, "--model", ram],
        env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    exact = Captioner.load(ram, precision="float32")
    assert done.stdout == "".join(f"{path}\t{exact.caption(path).text}\n" for path in photos)


def test_storing_captions_in_fewer_bits_tells_what_it_costs(ram: Path) -> None:
    same = measure_cost(ram).captions
    assert same is not None
    assert (same.photos, same.changed) == (8, 0)
    assert same.largest < 1e-3
    half = Path(shutil.copytree(ram, ram.with_name("half")))
    for name in (MEMORY, CAPTION):
        quantize_weights(half / name, "float16")
    write_card(half, Card.read(half))
    told = measure_cost(half).captions
    assert told is not None
    assert same.largest < told.largest < 0.1


def test_tag2text_in_int8(places: Path, photos: list[Path]) -> None:
    folder = lively_folder(places, "tag2text")
    done = run("export", folder, "--precision", "int8", "--photos", places)
    assert "On 5 photos: largest logit difference" in done.output
    told = Card.read(folder).metrics["graphs_int8"]["captions"]
    assert told["photos"] == 5
    assert 0 < told["largest_logit_difference"] < 2
    last = f"largest logit difference {told['largest_logit_difference']:.2g}; {told['changed']:.2%} change\n"
    assert done.output.endswith(f"On 5 captions: {last}")
    graphs, exact = Captioner.load(folder), Captioner.load(folder, precision="float32")
    pairs = zip(graphs.caption_many(photos), exact.caption_many(photos), strict=True)
    assert sum(ours.text != theirs.text for ours, theirs in pairs) == round(5 * told["changed"])
    check_batches(graphs, photos, {})
