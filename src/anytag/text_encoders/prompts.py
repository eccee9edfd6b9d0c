"""The words around a tag: CLIP's prompt ensemble as RAM uses it, and the questions of RAM++'s descriptions.

The 63 templates and the rules that fill them were published with ViLD (Gu et al., 2022), after CLIP's prompt
engineering (Radford et al., 2021, section 3.1.4). RAM (Zhang et al., 2023) averages their vectors; RAM++
(Huang et al., 2023, section 3.2) asks a language model five questions about each tag and keeps every answer.
"""

from __future__ import annotations

import numpy as np

from anytag._typing import Floats

_ARTICLE, _NAME = "{article}", "{}"

TEMPLATES: tuple[str, ...] = (
    "There is {article} {} in the scene.",
    "There is the {} in the scene.",
    "a photo of {article} {} in the scene.",
    "a photo of the {} in the scene.",
    "a photo of one {} in the scene.",
    "itap of {article} {}.",
    "itap of my {}.",
    "itap of the {}.",
    "a photo of {article} {}.",
    "a photo of my {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of many {}.",
    "a good photo of {article} {}.",
    "a good photo of the {}.",
    "a bad photo of {article} {}.",
    "a bad photo of the {}.",
    "a photo of a nice {}.",
    "a photo of the nice {}.",
    "a photo of a cool {}.",
    "a photo of the cool {}.",
    "a photo of a weird {}.",
    "a photo of the weird {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of a clean {}.",
    "a photo of the clean {}.",
    "a photo of a dirty {}.",
    "a photo of the dirty {}.",
    "a bright photo of {article} {}.",
    "a bright photo of the {}.",
    "a dark photo of {article} {}.",
    "a dark photo of the {}.",
    "a photo of a hard to see {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of {article} {}.",
    "a low resolution photo of the {}.",
    "a cropped photo of {article} {}.",
    "a cropped photo of the {}.",
    "a close-up photo of {article} {}.",
    "a close-up photo of the {}.",
    "a jpeg corrupted photo of {article} {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of {article} {}.",
    "a blurry photo of the {}.",
    "a pixelated photo of {article} {}.",
    "a pixelated photo of the {}.",
    "a black and white photo of the {}.",
    "a black and white photo of {article} {}.",
    "a plastic {}.",
    "the plastic {}.",
    "a toy {}.",
    "the toy {}.",
    "a plushie {}.",
    "the plushie {}.",
    "a cartoon {}.",
    "the cartoon {}.",
    "an embroidered {}.",
    "the embroidered {}.",
    "a painting of the {}.",
    "a painting of a {}.",
)

QUESTIONS: tuple[str, ...] = (
    "Describe concisely what {article} {} looks like.",
    "How can you identify {article} {} concisely?",
    "What does {article} {} look like concisely?",
    "What are the identifying characteristics of {article} {}?",
    "Please provide a concise description of the visual characteristics of {}.",
)
"""What RAM++ asks of each tag; ten answers to each are kept."""


def article(name: str) -> str:
    """ "an" before a small vowel, else "a": by the letter as it is written, so "Apple" and "hour" get "a"."""
    return "an" if name[:1] in tuple("aeiou") else "a"


def spoken(name: str) -> str:
    """A name as prompts say it: small letters, "_" as a space, "/" as "or", without dots at the end."""
    return name.replace("_", " ").replace("/", " or ").lower().rstrip(".")


def template_prompts(name: str) -> list[str]:
    """The 63 prompts of RAM's ensemble; those that begin with "a" or "the" are led in by "This is"."""
    filled = [_fill(template, name) for template in TEMPLATES]
    return [f"This is {text}" if text.startswith(("a", "the")) else text for text in filled]


def plain_prompt(name: str) -> str:
    """The first description of each tag in RAM++, whatever the language model says."""
    return f"a photo of a {name}."


def questions(name: str) -> list[str]:
    """RAM++'s five questions about a tag."""
    return [_fill(question, name) for question in QUESTIONS]


def ensemble(vectors: Floats) -> Floats:
    """One vector a name of its prompts' vectors: unit length, mean, unit length.

    Args:
        vectors: float32 N×P×D, P prompts of each name.

    Returns:
        float32 N×D, rows of length 1.
    """
    return unit(unit(vectors).mean(axis=1))


def unit(vectors: Floats) -> Floats:
    """Vectors (…×D) scaled to length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32, copy=False)
    return scaled


def _fill(template: str, name: str) -> str:
    return template.replace(_ARTICLE, article(name)).replace(_NAME, spoken(name))
