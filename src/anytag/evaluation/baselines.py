"""Other people's zero-shot models in our tables: two encoders, and a cosine for each photo and name."""

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
from anytag.evaluation.adapters import Answers, PromptSet, read_photos
from anytag.evaluation.tasks import TagTask
from anytag.progress import SILENT, Reporter, watched
from anytag.text_encoders.prompts import TEMPLATES, article, ensemble, spoken, template_prompts, unit

BATCH = 16
NEAR = 384  # photos are decoded no smaller than this, so that the baseline's own resizing decides


class Encoder(Protocol):
    """Two encoders into one space."""

    def photos(self, pixels: Sequence[Bytes]) -> Floats:
        """RGB uint8 H×W×3, N of them -> N×D."""
        ...

    def texts(self, texts: Sequence[str]) -> Floats:
        """M×D."""
        ...


class ZeroShot:
    """Ranks by the cosine of a photo and what is said of a name; without probabilities or thresholds.

    Args:
        name: as tables call it.
        prompts: "one" says "a photo of a NAME."; "ensemble" takes the mean of RAM's 63 sentences.
    """

    trained_on = "pairs of photo and text; zero-shot: no label of this data, as far as its authors say"

    def __init__(self, name: str, encoder: Encoder, *, prompts: PromptSet = "one") -> None:
        self.encoder, self.prompts = encoder, prompts
        self.name = name if prompts == "one" else f"{name}, {len(TEMPLATES)} prompts"
        self._vectors = lru_cache(maxsize=4)(self._encode)

    def answer(self, task: TagTask, *, report: Reporter = SILENT) -> Answers:
        """Cosines."""
        names = [one.name for one in task.tags]
        scores, failed = self._cosines(task.photos, self._named(names), report=report)
        return Answers(scores, failed)

    def _named(self, names: Sequence[str]) -> Floats:
        """Unit vectors K×D of names."""
        if self.prompts == "one":
            return self._vectors(tuple(map(prompt, names)))
        return np.concatenate([ensemble(self._vectors(tuple(template_prompts(n)))[None]) for n in names])

    def similar(
        self, photos: Sequence[Path], texts: Sequence[str], *, report: Reporter = SILENT
    ) -> tuple[Floats, dict[int, str]]:
        """Cosines N×M of photos and texts, and by number why photos could not be read."""
        return self._cosines(photos, self._vectors(tuple(texts)), report=report)

    def _cosines(
        self, photos: Sequence[Path], vectors: Floats, *, report: Reporter
    ) -> tuple[Floats, dict[int, str]]:
        """The same of unit vectors M×D."""
        scores, failed = np.zeros((len(photos), len(vectors)), np.float32), {}
        for numbers in batches(watched(range(len(photos)), report, total=len(photos), what=self.name), BATCH):
            pixels, why = read_photos([photos[number] for number in numbers], min_side=NEAR)
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
    return f"a photo of {article(name)} {spoken(name)}."


def zero_shot(kind: str, name: str, *, prompts: PromptSet = "one") -> ZeroShot:
    """A baseline.

    Args:
        kind: "open_clip" or "transformers".
        name: for open_clip NAME@WEIGHTS (as in ViT-B-32@laion2b_s34b_b79k), hf-hub:OWNER/NAME or
            local-dir:FOLDER; for transformers a folder, or OWNER/NAME of the Hub. No code of a folder is run,
            and weights are read without unpickling.

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
    except Exception as error:  # whatever the library raises for a name it does not know
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
                f"open_clip:{model} names no weights, and random ones measure nothing; give "
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
        self.model = library.AutoModel.from_pretrained(name, **safe).eval()
        self.processor = library.AutoProcessor.from_pretrained(name, trust_remote_code=False)
        if not hasattr(self.model, "get_image_features"):
            raise AnytagError(f"transformers:{name} is no zero-shot model: it has no image and text features")

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
        output = getattr(output, "pooler_output", output)  # a tensor until transformers 4
        return np.asarray(output.float().numpy())
