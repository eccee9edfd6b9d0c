"""The model card, `card.json`: schema, strict reading and atomic writing.

The dataclasses below are the schema: `Card.read` walks their annotations, so a missing, unknown or wrongly
typed field is reported with its path, as in ``image.size``. A field with its default value is omitted from
the file, so older cards stay valid.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from anytag.errors import CardError
from anytag.text_encoders.queries import Prompts

FORMAT = 1
FILE_NAME = "card.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HINT = "Correct the card, or get the model again."

Family = Literal["mini", "ram", "ram-plus", "tag2text"]
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]


def _require(condition: bool, field: str, expected: str, value: object) -> None:
    if not condition:
        raise CardError(f"{field}: expected {expected}, got {value!r}")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Image preprocessing: photos are resized to `size`×`size` pixels with the filter `resample`.

    `mean` and `std` (RGB, for values in [0, 1]) are applied by the image graph, not by the caller. With
    `plain` photos are decoded and resized without shortcuts, as for the published models.
    """

    size: int
    resample: Resample
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    plain: bool = False

    def __post_init__(self) -> None:
        _require(self.size > 0, "size", "a positive number of pixels", self.size)
        _require(min(self.std) > 0, "std", "three positive numbers", self.std)


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The text encoder that makes queries from the user's words.

    Attributes:
        kind: "static" is a table of token vectors; "onnx" the graph of a network, such as CLIP's text tower.
        folder: its subfolder.
        prompts: the prompts that the model was trained with.
    """

    kind: Literal["static", "onnx"]
    folder: str
    prompts: Prompts = "words"


@dataclass(frozen=True, slots=True)
class CaptionSpec:
    """Caption settings; the defaults are Tag2Text's.

    Attributes:
        prompt: start of every caption; it is not part of the result.
        tag_length: wordpieces of the tags' text.
        min_length, max_length: of a caption in wordpieces, including the prompt.
        beams: beam width.
        length_penalty: beam search ranks captions by log-probability / length ** length_penalty.
        guide: minimum score of the recognised tags that guide a caption if the user gives none; 0 uses all
            recognised tags, a value above 1 none.
        wordpieces: the vocabulary file, one entry per line.
        support: minimum score of the things that a caption without user guidance may name. A caption that
            names others, or no confident tag, is generated again, guided by confident tags, or replaced by a
            plain list of them. 0 disables the check.
        sure: minimum score of confident tags.
    """

    prompt: str = "a picture of "
    tag_length: int = 40
    min_length: int = 10
    max_length: int = 30
    beams: int = 3
    length_penalty: float = 1.0
    guide: float = 0.0
    wordpieces: str = "text/vocab.txt"
    support: float = 0.0
    sure: float = 0.6

    def __post_init__(self) -> None:
        _require(self.tag_length > 2, "tag_length", "more than 2", self.tag_length)
        _require(0 <= self.min_length <= self.max_length, "min_length", "0 to max_length", self.min_length)
        _require(self.beams > 0, "beams", "a positive number", self.beams)


@dataclass(frozen=True, slots=True)
class Platt:
    """Platt scaling: probability = sigmoid(scale · logit + bias)."""

    scale: float
    bias: float

    def __post_init__(self) -> None:
        _require(self.scale > 0, "scale", "a positive number", self.scale)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of trained queries, and of queries made from the user's words."""

    vocabulary: Platt
    own: Platt


@dataclass(frozen=True, slots=True)
class SearchFit:
    """How image embeddings score sentences; fitted by `scripts/fit_search.py`.

    A term's log-odds are linear in the dot product of the embedding and the term's vector. A sentence with
    one term is also bounded by the sentence's own dot product. With n terms, that product plus `term_weight`
    times the terms' log-probabilities is the fit, and the log-odds are `scale` · fit + `per_term` · n +
    `bias`. The values depend on the model's embeddings, so only `term_weight` has a default.

    Attributes:
        tag_scale, tag_bias: of the first pass over tags.
        word_scale, word_bias: of terms that are embedded from their words.
        term_weight: weight of a term's log-probability relative to the sentence.
        scale, per_term, bias: of sentences with several terms.
        whole_scale, whole_bias: of the dot product of a sentence with one term.
    """

    tag_scale: float
    tag_bias: float
    word_scale: float
    word_bias: float
    scale: float
    per_term: float
    bias: float
    whole_scale: float
    whole_bias: float
    term_weight: float = 0.5

    def __post_init__(self) -> None:
        for name in ("tag_scale", "word_scale", "scale", "whole_scale"):
            _require(getattr(self, name) > 0, name, "a positive number", getattr(self, name))


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Expected hash and size of a file."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _require(_SHA256.fullmatch(self.sha256) is not None, "sha256", "64 hexadecimal digits", self.sha256)
        _require(self.bytes >= 0, "bytes", "a size", self.bytes)


@dataclass(frozen=True, slots=True)
class Fewest:
    """A photo gets at least `tags` tags by default, if as many score `share` of their thresholds.

    Tags whose threshold is above `max_threshold` are not added: they need their evidence.
    """

    tags: int
    share: float
    max_threshold: float = 1.0

    def __post_init__(self) -> None:
        _require(self.tags > 0, "tags", "a positive number", self.tags)
        _require(0 < self.share <= 1, "share", "a number in (0, 1]", self.share)
        _require(0 <= self.max_threshold <= 1, "max_threshold", "a number in [0, 1]", self.max_threshold)


@dataclass(frozen=True, slots=True)
class Card:
    """A model card.

    Attributes:
        name: letters, digits, ``. _ -``.
        width: D, the width of image tokens, pooled image vectors and queries.
        shortlist: number of tags that the first pass selects per photo for the decoder.
        files: by path relative to the folder, with forward slashes.
        text: None if queries are learned and cannot be made from words.
        metrics: free form; metric names to values.
        thresholds: how the vocabulary's thresholds were chosen, in words.
        network: the numbers from which `anytag.torch.checkpoints.load_network` builds the torch network.
        source: origin of converted weights: a file's name, size, sha256.
        captions: caption settings, None if the model has no caption head.
        strict: scores must exceed the threshold, as in the published models; otherwise they may equal it.
        fewest: tags that a photo gets at least, None if only thresholds select tags.
        search: scoring of sentences, for models whose embeddings are comparable; None if not fitted.
    """

    name: str
    family: Family
    version: str
    description: str
    image: ImageSpec
    width: int
    text: TextSpec | None
    calibration: Calibration
    shortlist: int
    licence: str
    training_data: str
    thresholds: str
    metrics: Mapping[str, Any]
    files: Mapping[str, FileFacts]
    network: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    captions: CaptionSpec | None = None
    strict: bool = False
    fewest: Fewest | None = None
    search: SearchFit | None = None

    def __post_init__(self) -> None:
        _require(NAME.fullmatch(self.name) is not None, "name", "letters, digits, '.', '_' or '-'", self.name)
        _require(self.width > 0, "width", "a positive number", self.width)
        _require(self.shortlist > 0, "shortlist", "a positive number", self.shortlist)

    @classmethod
    def read(cls, path: str | Path) -> Card:
        """Read the card from the file `path`, or from the folder `path`.

        Raises:
            CardError: the file is missing, is not JSON, has an unknown format, or a missing, unknown or wrong
                field.
        """
        path = _card_file(Path(path))
        data = _load(path)
        try:
            return _card(data)
        except CardError as error:
            raise CardError(f"{path}: {error}. {_HINT}") from None

    def write(self, path: str | Path) -> None:
        """Write the card to the file `path`, or to card.json in the folder `path`, atomically."""
        path = _card_file(Path(path))
        text = json.dumps({"format": FORMAT, **_to_json(self)}, indent=2, ensure_ascii=False, allow_nan=False)
        draft = path.with_name(path.name + ".new")
        draft.write_bytes(f"{text}\n".encode(errors="backslashreplace"))  # names of files may be no Unicode
        draft.replace(path)


def _card_file(path: Path) -> Path:
    return path / FILE_NAME if path.is_dir() else path


def _load(path: Path) -> object:
    try:
        data: object = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        return data
    except FileNotFoundError:
        raise CardError(f"{path} does not exist; a model is a folder with a {FILE_NAME}") from None
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, NaN, or nested too deeply
        raise CardError(f"{path} is not JSON: {error}. {_HINT}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _card(data: object) -> Card:
    if not isinstance(data, dict):
        raise CardError(f"expected an object, got {_short(data)}")
    version = data.get("format")
    if type(version) is not int or version != FORMAT:
        raise CardError(
            f"format: this anytag reads {FORMAT}, the card has {_short(version)}; "
            "if it is newer, upgrade: pip install --upgrade anytag"
        )
    card: Card = record(Card, {key: value for key, value in data.items() if key != "format"}, "")
    return card


def record(kind: Any, data: object, where: str) -> Any:
    """Build the dataclass `kind` from a JSON object; `where` is its path in the card, "" at the top.

    Raises:
        CardError: a field is missing, unknown or invalid.
    """
    if not isinstance(data, dict):
        raise CardError(f"{where}: expected an object, got {_short(data)}")
    types = get_type_hints(kind)
    field_names = [one.name for one in fields(kind)]
    needed = [one.name for one in fields(kind) if _default(one) is MISSING]
    for complaint, names in (
        ("is missing", [name for name in needed if name not in data]),
        ("is not a field of this format", [name for name in data if name not in field_names]),
    ):
        if names:
            raise CardError(f"{_join(where, names[0])} {complaint}")
    values = {
        name: _value(types[name], data[name], _join(where, name)) for name in field_names if name in data
    }
    try:
        return kind(**values)
    except CardError as error:
        raise CardError(_join(where, str(error))) from None


def _to_json(value: Any) -> Any:
    """Convert to JSON types, without fields that have their default value."""
    if is_dataclass(value):
        values = {one: getattr(value, one.name) for one in fields(value)}
        return {one.name: _to_json(held) for one, held in values.items() if held != _default(one)}
    if isinstance(value, Mapping):
        return {name: _to_json(held) for name, held in value.items()}
    return value


def _default(of: Field[Any]) -> Any:
    """The default of a field; MISSING if it is required."""
    return of.default if of.default_factory is MISSING else of.default_factory()


def _value(kind: Any, data: object, where: str) -> Any:
    """Check and convert one JSON value according to an annotation."""
    if is_dataclass(kind):
        return record(kind, data, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if data is None and NoneType in args else _value(_union_member(args, data), data, where)
    if origin is Literal:
        if data not in args:
            raise CardError(f"{where}: expected {' or '.join(map(repr, args))}, got {_short(data)}")
        return data
    if origin is tuple:
        if args[-1] is Ellipsis and isinstance(data, list):
            args = (args[0],) * len(data)
        if not isinstance(data, list) or len(data) != len(args):
            raise CardError(f"{where}: expected a list of {len(args)}, got {_short(data)}")
        return tuple(
            _value(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, data, strict=True))
        )
    if origin is Mapping:
        if not isinstance(data, dict):
            raise CardError(f"{where}: expected an object, got {_short(data)}")
        return {key: _value(args[1], item, _join(where, key)) for key, item in data.items()}
    return data if kind is Any else _scalar(kind, data, where)


def _union_member(kinds: tuple[Any, ...], data: object) -> Any:
    """The member of a union: the dataclass with most fields of an object, else the first other type."""
    records = [kind for kind in kinds if is_dataclass(kind)]
    if isinstance(data, dict) and records:
        return max(records, key=lambda kind: len({one.name for one in fields(kind)} & set(data)))
    return next((kind for kind in kinds if kind is not NoneType and kind not in records), kinds[0])


def _scalar(kind: type, data: object, where: str) -> object:
    expected, fits = _SCALARS[kind]
    if not fits(data):
        raise CardError(f"{where}: expected {expected}, got {_short(data)}")
    return kind(data)


def _is_number(data: Any) -> bool:
    # 1e999 is valid JSON but infinite; a 400-digit integer is valid JSON but not a float
    try:
        return type(data) in (int, float) and math.isfinite(data)
    except OverflowError:
        return False


_SCALARS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    str: ("text", lambda data: type(data) is str),
    int: ("a whole number", lambda data: type(data) is int),  # `type`, because True is an int too
    float: ("a number", _is_number),
    bool: ("true or false", lambda data: type(data) is bool),
}


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _short(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
