from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag._typing import Floats
from anytag.errors import DeviceError, ModelError
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.runtime.base import Device
from anytag.runtime.onnx import OnnxRuntime, available_providers, session_options
from tests.runtime_contract import CHECKS, check_score_is_the_formula, folder_queries, same, some_pixels
from tests.tiny import ALPHA, BIAS, make_tiny_model

Check = Callable[[OnnxRuntime, ModelFolder], None]
HAS_CUDA = "CUDAExecutionProvider" in available_providers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return ModelFolder.open(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def runtime(folder: ModelFolder) -> OnnxRuntime:
    return OnnxRuntime(folder, device="cpu")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, runtime: OnnxRuntime, folder: ModelFolder) -> None:
    check(runtime, folder)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("own", [False, True], ids=["Q=1", "Q=N"])
def test_score_is_the_formula(own: bool, device: Device, folder: ModelFolder) -> None:
    if device == "cuda" and not HAS_CUDA:
        pytest.skip("this onnxruntime has no CUDA")
    runtime = OnnxRuntime(folder, device=device)
    check_score_is_the_formula(runtime, folder, alpha=ALPHA, bias=BIAS, shape=(3, 7, 4), own=own)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5)), own=st.booleans())
def test_score_is_the_formula_for_any_shape(
    runtime: OnnxRuntime, folder: ModelFolder, shape: tuple[int, int, int], own: bool
) -> None:
    check_score_is_the_formula(runtime, folder, alpha=ALPHA, bias=BIAS, shape=shape, own=own)


@pytest.mark.parametrize(("tags", "descriptions", "width", "size"), [(1, 1, 4, 8), (20, 7, 12, 30)])
def test_contract_for_other_sizes(
    tmp_path: Path, tags: int, descriptions: int, width: int, size: int
) -> None:
    path = make_tiny_model(tmp_path, tags=tags, descriptions=descriptions, width=width, size=size)
    folder = ModelFolder.open(path)
    runtime = OnnxRuntime(folder, device="cpu")
    assert folder_queries(folder).shape == (1, tags, descriptions, width)
    for check in CHECKS:
        check(runtime, folder)


def test_a_grey_photo_keeps_the_card_normalising(runtime: OnnxRuntime, folder: ModelFolder) -> None:
    """The graph normalises: the card's mean colour gives the same tokens everywhere, other colours do not."""
    flat = np.full((1, 3, 16, 16), 200, np.uint8)
    tokens, pooled = runtime.encode(flat)
    np.testing.assert_allclose(tokens, np.broadcast_to(pooled[:, None], tokens.shape), rtol=1e-5, atol=1e-6)
    assert not np.allclose(pooled, runtime.encode(flat // 2)[1])


def test_one_runtime_serves_many_threads(folder: ModelFolder) -> None:
    runtime, pixels, queries = OnnxRuntime(folder), some_pixels(folder, 32), folder_queries(folder)

    def one(n: int) -> Floats:
        return runtime.score(*runtime.encode(pixels[n : n + 1]), queries)

    with ThreadPoolExecutor(4) as pool:
        together = np.concatenate(list(pool.map(one, range(32))))
    same(together, runtime.score(*runtime.encode(pixels), queries))


def test_threads_do_not_change_the_answer(folder: ModelFolder, runtime: OnnxRuntime) -> None:
    pixels = some_pixels(folder, 2)
    same(OnnxRuntime(folder, threads=2).encode(pixels)[0], runtime.encode(pixels)[0])


def test_tags_graph_is_not_read_before_it_is_needed(tmp_path: Path) -> None:
    folder = ModelFolder.open(make_tiny_model(tmp_path))
    runtime = OnnxRuntime(folder)
    encoded = runtime.encode(some_pixels(folder, 1))
    (tmp_path / "tags.onnx").unlink()
    with pytest.raises(ModelError, match=r"tags\.onnx"):
        runtime.score(*encoded, folder_queries(folder))


def test_cpu_is_cpu(runtime: OnnxRuntime) -> None:
    assert runtime.device == "cpu"
    assert runtime.provider == "CPUExecutionProvider"


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_cuda_that_is_not_there_is_an_error(folder: ModelFolder) -> None:
    with pytest.raises(DeviceError) as caught:
        OnnxRuntime(folder, device="cuda")
    for told in ("CUDAExecutionProvider", "CPUExecutionProvider", "onnxruntime-gpu", "'cpu'"):
        assert told in str(caught.value)
    assert OnnxRuntime(folder, device="auto").device == "cpu"


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_cuda_that_does_not_start_is_an_error(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with CUDA on a machine without it: onnxruntime would run on the CPU and only warn."""
    monkeypatch.setattr("anytag.runtime.onnx.available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked, free = OnnxRuntime(folder, device="cuda"), OnnxRuntime(folder, device="auto")
    with pytest.raises(DeviceError, match="is not available"):
        asked.encode(some_pixels(folder, 1))
    assert free.device == "cpu"


@pytest.mark.parametrize(("device", "threads"), [("gpu", 1), ("cuda:0", 1), ("", 1), ("cpu", 0), ("cpu", -1)])
def test_wrong_settings_are_named(folder: ModelFolder, device: Device, threads: int) -> None:
    with pytest.raises(DeviceError, match="expected"):
        OnnxRuntime(folder, device=device, threads=threads)


def test_what_is_not_a_graph_is_named(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path)
    (path / "image.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"image\.onnx is not a graph"):
        _ = OnnxRuntime(_reopened(path)).device


def test_a_graph_with_other_names_is_named(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path)
    (path / "image.onnx").write_bytes((path / "tags.onnx").read_bytes())
    with pytest.raises(
        ModelError, match=r"image\.onnx maps tokens, pooled, queries to logits, where; expected pixels"
    ):
        _ = OnnxRuntime(_reopened(path)).device


def test_a_graph_that_fails_is_named(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path)
    graph = onnx.load(path / "image.onnx")
    shape = next(weight for weight in graph.graph.initializer if weight.name == "flat")
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 5, 5], np.int64), "flat"))
    onnx.save(graph, path / "image.onnx")
    folder = _reopened(path)
    with pytest.raises(ModelError, match=r"image\.onnx cannot be (run|load)"):
        OnnxRuntime(folder).encode(some_pixels(folder, 1))


def test_options_keep_the_process_small_and_quiet() -> None:
    options = session_options(3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert not options.enable_mem_pattern


def test_importing_models_does_not_import_onnxruntime() -> None:
    code = (
        "import sys, anytag.models.card, anytag.models.folder, anytag.models.registry, anytag.runtime.onnx;"
        "print(sorted({'onnxruntime', 'torch', 'onnx', 'tokenizers', 'PIL'} & set(sys.modules)))"
    )
    source = str(Path(sys.modules["anytag.runtime.onnx"].__file__ or "").parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert done.stdout.strip() == "[]"


def _reopened(path: Path) -> ModelFolder:
    """The folder at `path` with the card rewritten, after a file was changed on purpose."""
    write_card(path, Card.read(path))
    return ModelFolder.open(path)
