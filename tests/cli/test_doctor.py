from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from anytag.runtime.onnx import available_providers
from tests.command import run
from tests.tiny import make_tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


def lines(text: str) -> dict[str, str]:
    return {name: rest.strip() for name, _, rest in (line.partition(" ") for line in text.splitlines())}


def test_doctor_reports_versions_device_and_health(model: Path) -> None:
    done = run("doctor", "--model", model, "--device", "cpu")
    assert done.exit_code == 0
    found = lines(done.stdout)
    for package in ("numpy", "onnxruntime", "pillow", "tokenizers"):
        assert found[package] == version(package)
    assert found["exiftool"]
    assert "CPUExecutionProvider" in found["providers"]
    assert found["model"].startswith("tiny 0 in ")
    assert found["model"].endswith("sha256 verified")
    assert found["device"].startswith("cpu (CPUExecutionProvider; requested)")
    assert found["self-test"].startswith("ok")


def test_auto_says_why(model: Path) -> None:
    device = lines(run("doctor", "--model", model).stdout)["device"]
    why = "active" if device.startswith("cuda") else "CUDA"
    assert why in device
    assert "usable cores" in device


def test_a_changed_file_is_found_and_the_rest_still_said(model: Path) -> None:
    graph = model / "tags.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    done = run("doctor", "--model", model)
    assert done.exit_code == 1
    assert "FAILED" in lines(done.stdout)["model"]
    assert "tags.onnx has sha256" in done.stdout
    assert "providers" in lines(done.stdout)


@pytest.mark.skipif("CUDAExecutionProvider" in available_providers(), reason="CUDA is here")
def test_a_device_that_is_not_there_is_a_failure(model: Path) -> None:
    done = run("doctor", "--model", model, "--device", "cuda")
    assert done.exit_code == 1
    assert "CUDAExecutionProvider is not available" in lines(done.stdout)["device"]
