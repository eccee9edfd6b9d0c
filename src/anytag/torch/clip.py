"""CLIP's text tower as a text encoder, through transformers.

The queries of RAM and RAM++ were made with the tower of CLIP ViT-B/16 (`openai/clip-vit-base-patch16` on the
Hub), whose vectors have 512 dimensions.
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
    """Texts -> unit vectors in CLIP's joint space. Texts longer than the context length (77) are truncated.

    Args:
        tokenizer, tower: of one model, as transformers loads them; the tower ends in CLIP's projection.
        batch: batch size.
    """

    def __init__(self, tokenizer: Any, tower: Any, *, batch: int = BATCH) -> None:
        self._tokenizer, self._tower, self._batch = tokenizer, tower.eval(), batch

    @classmethod
    def load(cls, name: str | Path, *, device: str = "cpu", batch: int = BATCH) -> ClipTextEncoder:
        """The text tower of a CLIP model.

        Args:
            name: a folder in transformers' format, or a name on the Hub. No code in it is run.
            device: torch's name of the device.
            batch: batch size.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: no CLIP model can be loaded from there.
        """
        tokenizer, tower = load_clip(name)
        return cls(tokenizer, tower.to(device), batch=batch)

    @property
    def dim(self) -> int:
        """Dimension of a text vector."""
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
    """Load tokenizer and text tower of a CLIP model with transformers, in evaluation mode.

    Args:
        name: a folder in transformers' format, or a name on the Hub. No code in it is run.
        local: do not download from the Hub.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: no CLIP model can be loaded from there, or weights are missing.
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
    """Silence transformers' progress bars and its report of unused weights, such as CLIP's image tower."""
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
    """Import transformers.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("transformers")
    except ImportError as error:
        raise MissingExtraError("CLIP", "clip") from error
