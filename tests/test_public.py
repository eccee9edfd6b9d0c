from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anytag
from tests.tiny import make_tiny_model

SOURCE = Path(anytag.__file__).parent

PUBLIC = [
    "AnytagError",
    "Box",
    "Caption",
    "Captioner",
    "CardError",
    "CheckpointError",
    "CustomTag",
    "DeviceError",
    "DownloadError",
    "Encoded",
    "Failure",
    "FileMismatchError",
    "Gallery",
    "ImageError",
    "Library",
    "LibraryError",
    "Match",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "Photo",
    "Retriever",
    "Tag",
    "TagResult",
    "TagScore",
    "Tagger",
    "UnknownModelError",
    "Vocabulary",
    "VocabularyError",
    "__version__",
]


def modules_after(script: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after a script."""
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport sys; print('MODULES', *sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_public_names_are_exact_sorted_and_there() -> None:
    assert anytag.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(anytag) == PUBLIC
    for name in PUBLIC:
        assert getattr(anytag, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        anytag.Nonsense  # noqa: B018


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    seen |= {
        node.target.id
        for node in block.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert sorted(seen) == PUBLIC


def test_importing_anytag_imports_nothing_heavy() -> None:
    loaded = modules_after("import anytag")
    assert {name for name in loaded if name.startswith("anytag")} == {"anytag"}
    assert not loaded & {"numpy", "onnxruntime", "PIL", "tokenizers", "safetensors", "click", "rich", "torch"}


def test_errors_and_results_do_not_need_numpy() -> None:
    assert not modules_after("from anytag import AnytagError, TagResult, Vocabulary") & {
        "numpy",
        "onnxruntime",
    }


def test_tagging_never_imports_torch(tmp_path: Path) -> None:
    """The whole command: several workers, custom tags, an output file, a photo that fails."""
    model = make_tiny_model(tmp_path / "tiny")
    for i in range(3):
        Image.fromarray(np.full((20, 30, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.jpg")
    script = f"""
from anytag.cli import main
output = ["--output", r"{tmp_path / "out.jsonl"}"]
for arguments in (["--also", "red sofa"], ["--tags", "dog,zebra", "--format", "csv"], output):
    try:
        main(["tag", r"{tmp_path}", "missing.jpg", "--workers", "2", "--model", r"{model}", *arguments])
    except SystemExit as end:
        assert end.code == 1, end.code
"""
    loaded = modules_after(script)
    assert {"anytag.tagger", "onnxruntime", "tokenizers"} <= loaded
    assert not {
        name
        for name in loaded
        if name.split(".")[0] in ("torch", "torchvision", "timm", "transformers", "onnx")
    }
    assert not {name for name in loaded if name.startswith("anytag.torch")}
    assert "rich" not in loaded  # only a terminal needs it


def test_tagging_one_photo_imports_little(tmp_path: Path) -> None:
    """What a cold start waits for: no thread pool, no tokenizer, no metadata, no progress bar."""
    model = make_tiny_model(tmp_path / "tiny")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "one.jpg")
    arguments = ["tag", str(tmp_path / "one.jpg"), "--model", str(model)]
    loaded = modules_after(f"from anytag.cli import main\nmain({arguments!r}, standalone_mode=False)")
    assert not loaded & {"concurrent.futures", "tokenizers", "importlib.metadata", "rich", "asyncio"}
