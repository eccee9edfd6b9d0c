"""`runtime.open`, `torch.export.export_folder`: converted folders are tagged, in torch and as graphs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from anytag import DeviceError, ModelError, Tagger
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.queries.bank import Bank
from anytag.runtime.base import Precision
from anytag.runtime.onnx import QUANTIZED_TAGS, OnnxRuntime
from anytag.runtime.open import open_runtime
from anytag.torch.checkpoints.convert import Options, convert
from anytag.torch.checkpoints.load import load_network, load_queries
from anytag.torch.export.accuracy_cost import measure_cost
from anytag.torch.export.dynamic_int8 import to_float16, to_int8
from anytag.torch.export.export_folder import export_folder
from anytag.torch.export.onnx_graphs import export_tags_graph
from anytag.torch.nn.configs import CrossConfig, Queries
from anytag.torch.nn.cross_decoder import CrossDecoder
from tests.command import ENVIRONMENT
from tests.released import make_tensors, write_checkpoint, write_lists

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("converted")
    write_lists(at / "lists")
    return at


def folder_of(places: Path, family: str, *, precision: str = "float32") -> Path:
    """A converted folder without captions, of random weights; made once."""
    folder = places / f"{family}-{precision}"
    if not folder.exists():
        file = write_checkpoint(places / f"{family}.pth", make_tensors(family))
        options = Options(lists=places / "lists", image_size=64, captions=False, precision=precision)  # type: ignore[arg-type]
        convert(file, folder, options)
    return folder


def published(folder: Path, picture: np.ndarray) -> dict[str, float]:
    """Probabilities above their thresholds, straight from the network."""
    tagger, network, rows = Tagger.load(folder), load_network(folder), load_queries(folder)
    seen = tagger.encode(picture)
    with torch.inference_mode():
        logits = network.decoder(
            torch.tensor(seen.tokens)[None], torch.tensor(seen.pooled)[None], rows[None].float()
        )
    scores = logits.sigmoid()[0].tolist()
    return {
        tag.id: score for tag, score in zip(tagger.vocabulary, scores, strict=True) if score > tag.threshold
    }


@pytest.mark.parametrize("family", ["tag2text", "ram", "ram-plus"])
def test_a_converted_folder_is_tagged(places: Path, family: str) -> None:
    folder = folder_of(places, family)
    tagger = Tagger.load(folder)
    assert tagger.runtime.device == "cpu"
    result = tagger.tag(PICTURE)
    assert {tag.id: tag.score for tag in result.tags} == pytest.approx(published(folder, PICTURE), abs=1e-5)
    assert len(tagger.tag(PICTURE, threshold=0).tags) == len(tagger.vocabulary)
    some = list(tagger.vocabulary)[3]
    (alone,) = tagger.tag(PICTURE, [some.id]).tags
    every = {tag.id: tag.score for tag in tagger.tag(PICTURE, threshold=0).tags}
    assert alone.score == pytest.approx(every[some.id], abs=1e-5)


def test_a_score_that_equals_the_threshold_is_left_out(places: Path) -> None:
    tagger = Tagger.load(folder_of(places, "ram"))
    question = tagger.questions.prepare(None, also=None, top_k=None, threshold=None)
    scores = question.threshold.copy()
    assert question._choose(scores).tags == ()
    assert len(question._choose(np.nextafter(scores, 2)).tags) == len(scores)


def test_a_table_in_half_precision_stays_near(places: Path) -> None:
    exact, half = (folder_of(places, "ram-plus", precision=kind) for kind in ("float32", "float16"))
    assert Bank.read(half / "queries.safetensors", tags=11, width=32).rows.dtype == np.float16
    a, b = ({t.id: t.score for t in Tagger.load(one).tag(PICTURE, threshold=0).tags} for one in (exact, half))
    assert a == pytest.approx(b, abs=1e-3)


def test_halves_are_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(2, 1, -1)
    bank = Bank(halves, None, None, np.ones((2, 2), np.float32))
    for index in (slice(0, 2), np.array([1, 0])):
        np.testing.assert_array_equal(bank.queries(index), halves[index].astype(np.float32))


@pytest.mark.slow
def test_graphs_answer_as_the_network_does_and_fewer_bits_tell_what_they_cost(places: Path) -> None:
    folder = folder_of(places, "ram-plus")
    before = Tagger.load(folder).tag(PICTURE, threshold=0, where=True)
    assert export_folder(folder, precision="int8") is not None
    assert OnnxRuntime(ModelFolder.open(folder)).is_approximate
    assert export_folder(folder) is None
    assert not OnnxRuntime(ModelFolder.open(folder)).is_approximate
    exact = measure_cost(folder)
    assert (exact.largest < 1e-4, exact.flips) == (True, 0)
    after = Tagger.load(folder).tag(PICTURE, threshold=0, where=True)
    assert {t.id: t.score for t in after.tags} == pytest.approx(
        {t.id: t.score for t in before.tags}, abs=1e-5
    )
    assert [tag.box for tag in after.tags] == [tag.box for tag in before.tags]
    for shrink in (
        to_float16,
        partial(to_int8, large=1 << 8),
        partial(to_int8, large=1 << 8, subtract_mean=True),
    ):
        copy = Path(shutil.copytree(folder, folder.with_name(f"smaller-{len(list(places.iterdir()))}")))
        shutil.copyfile(copy / "tags.onnx", copy / QUANTIZED_TAGS)
        shrink(copy / QUANTIZED_TAGS)
        write_card(copy, Card.read(copy))
        cost = measure_cost(copy)
        assert (0 < cost.largest < 0.5, cost.flips) == (True, 0)
        assert cost.predicted > 0


@pytest.mark.slow
@pytest.mark.parametrize("queries", ["embedded", "learned"])
def test_decoders_without_descriptions_are_exported(queries: Queries, tmp_path: Path) -> None:
    decoder = CrossDecoder(CrossConfig(12, 1, 16), width=8, heads=2, queries=queries).eval()
    assert export_tags_graph(decoder.requires_grad_(False), tmp_path / "tags.onnx") < 1e-5


def test_what_cannot_be_run_is_told(places: Path, tmp_path: Path) -> None:
    folder = ModelFolder.open(folder_of(places, "ram"))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="'cuda' was requested and is not available"):
            open_runtime(folder, device="cuda")
    with pytest.raises(DeviceError, match="expected 'auto', 'cpu' or 'cuda'"):
        open_runtime(folder, device="gpu")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"has no weights\.safetensors, so torch cannot run it"):
        Tagger.load(precision="bfloat16")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_precision_is_torchs(places: Path, precision: Precision) -> None:
    folder = folder_of(places, "ram-plus")
    exact, reduced = Tagger.load(folder, precision="float32"), Tagger.load(folder, precision=precision)
    a, b = ({t.id: t.score for t in tagger.tag(PICTURE, threshold=0).tags} for tagger in (exact, reduced))
    assert a != b
    assert a == pytest.approx(b, abs=0.02)
    decided, exactly = reduced.tag(PICTURE).tags, exact.tag(PICTURE).tags  # near a threshold: decoded exactly
    assert [tag.id for tag in decided] == [tag.id for tag in exactly]


def test_without_torch_python_gets_the_error_that_names_the_extra(places: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from anytag import MissingExtraError, Tagger\n"
        f"try: Tagger.load({str(folder_of(places, 'ram'))!r})\n"
        "except MissingExtraError as error: print(error.extra, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("torch running ram-float32 in torch")
    assert "pip install 'anytag[torch]'" in done.stdout
