"""Prompts for tags: CLIP's prompt ensemble as used by RAM, and the questions for RAM++'s descriptions.

The 63 templates and the rules to fill them were published with ViLD (Gu et al., 2022), after CLIP's prompt
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
"""RAM++'s questions about each tag; ten answers to each are kept."""


def article(name: str) -> str:
    """ "an" before a lower-case vowel, else "a", judged by spelling: "Apple" and "hour" get "a"."""
    return "an" if name[:1] in tuple("aeiou") else "a"


def prompt_name(name: str) -> str:
    """A name as used in prompts: lower case, "_" as a space, "/" as "or", without trailing dots."""
    return name.replace("_", " ").replace("/", " or ").lower().rstrip(".")


def template_prompts(name: str) -> list[str]:
    """The 63 prompts of RAM's ensemble; "This is" is put before those that begin with "a" or "the"."""
    filled = [_fill(template, name) for template in TEMPLATES]
    return [f"This is {text}" if text.startswith(("a", "the")) else text for text in filled]


def plain_prompt(name: str) -> str:
    """The first description of each tag in RAM++, before those of the language model."""
    return f"a photo of a {name}."


def questions(name: str) -> list[str]:
    """RAM++'s five questions about a tag."""
    return [_fill(question, name) for question in QUESTIONS]


def ensemble(vectors: Floats) -> Floats:
    """Average the vectors of a name's prompts: unit length, mean, unit length.

    Args:
        vectors: float32 N×P×D, P prompts per name.

    Returns:
        float32 N×D, unit vectors.
    """
    return unit(unit(vectors).mean(axis=1))


def unit(vectors: Floats) -> Floats:
    """Normalise vectors (…×D) to length 1; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32, copy=False)
    return scaled


def _fill(template: str, name: str) -> str:
    return template.replace(_ARTICLE, article(name)).replace(_NAME, prompt_name(name))
