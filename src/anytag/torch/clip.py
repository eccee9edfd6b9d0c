"""CLIP's text tower as a text encoder, through transformers: what made the queries of RAM and RAM++.

Both were trained with the tower of CLIP ViT-B/16 (`openai/clip-vit-base-patch16` on the Hub), 512 wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from anytag._typing import Floats
from anytag.errors import MissingExtraError, ModelError
from anytag.text_encoders.queries import in_batches

BATCH = 256


class ClipTextEncoder:
    """Texts -> unit vectors of CLIP's joint space. Texts longer than the tower reads (77 tokens) are cut.

    Args:
        tokenizer, tower: of one model, as transformers loads them; the tower ends in CLIP's projection.
        batch: texts embedded at once.
    """

    def __init__(self, tokenizer: Any, tower: Any, *, batch: int = BATCH) -> None:
        self._tokenizer, self._tower, self._batch = tokenizer, tower.eval(), batch

    @classmethod
    def load(cls, name: str | Path, *, device: str = "cpu", batch: int = BATCH) -> ClipTextEncoder:
        """The text tower of a CLIP model.

        Args:
            name: a folder in the form of transformers, or a name on the Hub. No code in it is run.
            device: torch's name of where to run it.
            batch: texts embedded at once.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: nothing there is a CLIP model.
        """
        tokenizer, tower = load_clip(name)
        return cls(tokenizer, tower.to(device), batch=batch)

    @property
    def dim(self) -> int:
        """Width of a text vector."""
        return int(self._tower.config.projection_dim)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Vectors of texts: float32 n×dim, each row of length 1.

        Raises:
            VocabularyError: a text is empty.
        """
        return in_batches(texts, self._embed, dim=self.dim, batch=self._batch)

    def _embed(self, texts: list[str]) -> Floats:
        longest = int(self._tower.config.max_position_embeddings)
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._tower.device)
        with torch.inference_mode():
            vectors: Floats = self._tower(**tokens).text_embeds.float().cpu().numpy()
        return vectors


def load_clip(name: str | Path, *, local: bool = False) -> tuple[Any, Any]:
    """Tokenizer and text tower of a CLIP model, as transformers loads them, for evaluation.

    Args:
        name: a folder in the form of transformers, or a name on the Hub. No code in it is run.
        local: take nothing from the Hub.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: nothing there is a CLIP model, or weights are missing.
    """
    library = require_transformers()
    try:
        with _quiet(library.utils.logging):
            tokenizer = library.CLIPTokenizerFast.from_pretrained(str(name), local_files_only=local)
            tower, loading_info = library.CLIPTextModelWithProjection.from_pretrained(
                str(name), local_files_only=local, output_loading_info=True
            )
        if loading_info["missing_keys"]:
            raise ValueError(f"it lacks {', '.join(sorted(loading_info['missing_keys'])[:3])}")
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name}: no CLIP text tower can be loaded ({error}); expected a folder that transformers "
            "wrote, or a hub name such as openai/clip-vit-base-patch16"
        ) from error
    return tokenizer, tower.eval()


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without transformers' bars and its report of what it leaves out, such as CLIP's other tower."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def require_transformers() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("transformers")
    except ImportError as error:
        raise MissingExtraError("CLIP's text encoder", "clip") from error
