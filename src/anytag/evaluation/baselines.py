"""Zero-shot baselines of other projects: cosine similarity of image and text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anytag._typing import Bytes, Floats
from anytag.batching import batches
from anytag.errors import AnytagError, MissingExtraError
from anytag.evaluation.adapters import Predictions, PromptSet, read_photos
from anytag.evaluation.tasks import TagTask
from anytag.progress import SILENT, Reporter, watched
from anytag.text_encoders.prompts import TEMPLATES, article, ensemble, prompt_name, template_prompts, unit

BATCH = 16
MIN_SIDE = 384  # photos are decoded no smaller than this, so that the baseline's own resizing is decisive


class Encoder(Protocol):
    """An image and a text encoder with a joint embedding space."""

    def photos(self, pixels: Sequence[Bytes]) -> Floats:
        """Embed N images RGB uint8 H×W×3: N×D."""
        ...

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed M texts: M×D."""
        ...


class ZeroShot:
    """Ranks by the cosine similarity of photos and prompts; has no probabilities or thresholds.

    Args:
        name: for tables.
        prompts: "one" is "a photo of a NAME."; "ensemble" averages RAM's 63 prompts.
    """

    trained_on = "pairs of photo and text; zero-shot: no label of this data, as far as its authors say"

    def __init__(self, name: str, encoder: Encoder, *, prompts: PromptSet = "one") -> None:
        self.encoder, self.prompts = encoder, prompts
        self.name = name if prompts == "one" else f"{name}, {len(TEMPLATES)} prompts"
        self._vectors = lru_cache(maxsize=4)(self._encode)

    def predict(self, task: TagTask, *, report: Reporter = SILENT) -> Predictions:
        """Cosine similarities of photos and tags."""
        names = [one.name for one in task.tags]
        scores, failed = self._cosines(task.photos, self._named(names), report=report)
        return Predictions(scores, failed)

    def _named(self, names: Sequence[str]) -> Floats:
        """Unit vectors K×D of tag names."""
        if self.prompts == "one":
            return self._vectors(tuple(map(prompt, names)))
        return np.concatenate([ensemble(self._vectors(tuple(template_prompts(n)))[None]) for n in names])

    def similar(
        self, photos: Sequence[Path], texts: Sequence[str], *, report: Reporter = SILENT
    ) -> tuple[Floats, dict[int, str]]:
        """Cosine similarities N×M of photos and texts, and by index the reasons for unreadable photos."""
        return self._cosines(photos, self._vectors(tuple(texts)), report=report)

    def _cosines(
        self, photos: Sequence[Path], vectors: Floats, *, report: Reporter
    ) -> tuple[Floats, dict[int, str]]:
        """The same for unit vectors M×D."""
        scores, failed = np.zeros((len(photos), len(vectors)), np.float32), {}
        for numbers in batches(watched(range(len(photos)), report, total=len(photos), what=self.name), BATCH):
            pixels, why = read_photos([photos[number] for number in numbers], min_side=MIN_SIDE)
            failed.update({numbers[place]: reason for place, reason in why.items()})
            good = [number for place, number in enumerate(numbers) if place not in why]
            if good:
                scores[good] = unit(self.encoder.photos(pixels)) @ vectors.T
        return scores, failed

    def _encode(self, texts: tuple[str, ...]) -> Floats:
        """Unit vectors M×D."""
        return unit(np.concatenate([self.encoder.texts(part) for part in batches(texts, 4 * BATCH)]))


def prompt(name: str) -> str:
    """ "a photo of an apple." """
    return f"a photo of {article(name)} {prompt_name(name)}."


def zero_shot(kind: str, name: str, *, prompts: PromptSet = "one") -> ZeroShot:
    """Load a zero-shot baseline.

    Args:
        kind: "open_clip" or "transformers".
        name: for open_clip NAME@WEIGHTS (as in ViT-B-32@laion2b_s34b_b79k), hf-hub:OWNER/NAME or
            local-dir:FOLDER; for transformers a folder, or OWNER/NAME on the Hub. Code in a folder is not
            executed, and weights are loaded without unpickling.

    Raises:
        MissingExtraError: the package is not installed.
        AnytagError: the model cannot be loaded.
    """
    library = _library(kind)
    encoder = OpenClip if kind == "open_clip" else Transformers
    try:
        return ZeroShot(f"{kind}:{name}", encoder(library, name), prompts=prompts)
    except AnytagError:
        raise
    except Exception as error:  # libraries raise various errors for unknown names
        raise AnytagError(f"{kind} cannot load {name!r}: {error}") from error


def _library(kind: str) -> Any:
    try:
        return import_module(kind)
    except ImportError as error:
        raise MissingExtraError(f"the baseline {kind}", "baselines") from error


class OpenClip:
    """A model of open_clip."""

    def __init__(self, library: Any, name: str) -> None:
        model, _, weights = name.partition("@")
        if not weights and not model.startswith(("hf-hub:", "local-dir:")):
            raise AnytagError(
                f"open_clip:{model} specifies no weights, and random weights are meaningless; give "
                f"open_clip:{model}@WEIGHTS (open_clip.list_pretrained() lists them) or "
                "open_clip:local-dir:FOLDER"
            )
        self.torch = import_module("torch")
        self.model, self.transform = library.create_model_from_pretrained(model, pretrained=weights or None)
        self.model.eval()
        self.tokenize = library.get_tokenizer(model)

    def photos(self, pixels: Sequence[Bytes]) -> Floats:
        from PIL import Image

        batch = self.torch.stack([self.transform(Image.fromarray(one)) for one in pixels])
        with self.torch.no_grad():
            return np.asarray(self.model.encode_image(batch).float().numpy())

    def texts(self, texts: Sequence[str]) -> Floats:
        with self.torch.no_grad():
            return np.asarray(self.model.encode_text(self.tokenize(list(texts))).float().numpy())


class Transformers:
    """A CLIP-like model of transformers: AutoModel with get_image_features and get_text_features."""

    def __init__(self, library: Any, name: str) -> None:
        self.torch = import_module("torch")
        # safetensors only, and no code from the folder
        safe = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": Path(name).is_dir()}
        model, loading_info = library.AutoModel.from_pretrained(name, output_loading_info=True, **safe)
        if missing := sorted(loading_info["missing_keys"]):
            raise AnytagError(f"transformers:{name} lacks weights: {', '.join(missing[:3])}")
        self.model = model.eval()
        self.processor = library.AutoProcessor.from_pretrained(name, trust_remote_code=False)
        if not hasattr(self.model, "get_image_features"):
            raise AnytagError(
                f"transformers:{name} is not a zero-shot model: it has no image and text features"
            )

    def photos(self, pixels: Sequence[Bytes]) -> Floats:
        return self._run(self.model.get_image_features, images=list(pixels))

    def texts(self, texts: Sequence[str]) -> Floats:
        # SigLIP was trained with texts padded to the full length; CLIP ignores padding
        return self._run(
            self.model.get_text_features, text=list(texts), padding="max_length", truncation=True
        )

    def _run(self, encode: Any, **arguments: Any) -> Floats:
        inputs = self.processor(return_tensors="pt", **arguments)
        with self.torch.no_grad():
            output = encode(**inputs)
        output = getattr(output, "pooler_output", output)  # a tensor up to transformers 4
        return np.asarray(output.float().numpy())
