"""Label Studio's ML backend API: the choices of a project's label config are scored as custom tags.

These routes are enabled by `--label-studio FOLDER`, since they read photos below these folders. Nothing is
fetched: the path below /data/ in a photo's URL names a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, Field

from anytag.errors import brief
from anytag.queries.requests import CustomTag
from anytag.results import Failure
from anytag.server import schemas
from anytag.server.refusals import Refusal
from anytag.server.service import Service, Serving, errors
from anytag.server.settings import Settings
from anytag.server.uploads import from_data_url
from anytag.tagger import Encoded

Row = dict[str, Any]
Scores = dict[str, float]
_THRESHOLD = 0.5
_MAX_CHOICES = 1000
_UPLOADS, _LOCAL = "/data/upload/", "/data/local-files/"

routes = APIRouter(prefix="/label-studio", tags=["Label Studio"], responses=errors(schemas.Error))


class Setup(BaseModel):
    """A project; the other fields that Label Studio sends (hostname, access_token, ...) are ignored."""

    label_config: str = Field("", alias="schema", max_length=1_000_000)


class Task(BaseModel):
    """A task: its data by the variable names of the label config."""

    data: dict[str, Any] = Field({}, description="{'image': '/data/upload/1/photo.jpg'}")


class Predict(BaseModel):
    """Tasks to predict; other fields are ignored."""

    label_config: str = Field(max_length=1_000_000)
    tasks: list[Task] = []


class Choices(NamedTuple):
    """A Choices control of a label config, about one image.

    Attributes:
        name, image: names of the control and of its image in the config.
        key: key of the image in a task's data.
        is_multiple: whether several choices may be selected.
        values: values written into a result (aliases), by the choice that is scored.
    """

    name: str
    image: str
    key: str
    is_multiple: bool
    values: dict[str, str]

    def choose(self, scores: Scores) -> tuple[list[str], float]:
        """The selected choices, and the confidence of the least certain decision.

        Args:
            scores: probabilities by choice.
        """
        mine = {name: scores[name.strip()] for name in self.values}
        if not self.is_multiple:
            best = max(mine, key=mine.__getitem__)
            return [best], mine[best]
        chosen = [name for name, score in mine.items() if score >= _THRESHOLD]
        return chosen, min(max(score, 1 - score) for score in mine.values())


@routes.get("/health")
async def health(service: Serving) -> Row:
    """Health check of Label Studio."""
    return {"status": "UP", "model_class": service.tagger.card.name}


@routes.post("/setup")
async def setup(project: Setup, service: Serving) -> Row:
    """Check that the label config has choices about an image, and return the model's version."""
    read_config(project.label_config)
    return {"model_version": _version(service)}


@routes.get("/versions")
async def versions(service: Serving) -> Row:
    """The version of the loaded model."""
    return {"versions": [_version(service)]}


@routes.post("/webhook", status_code=201)
async def webhook(event: Annotated[Row, Body()]) -> Row:
    """Accept Label Studio's events and ignore them: nothing is trained or stored."""
    return {}


@routes.post("/predict")
async def predict(payload: Predict, request: Request, service: Serving) -> Row:
    """Predict the choices of all tasks, in order; a task whose photo cannot be read has an `error`."""
    settings: Settings = request.app.state.settings
    controls = read_config(payload.label_config)
    results: list[Row] = []
    for start in range(0, len(payload.tasks), settings.batch_size):  # bounds the photos in memory
        tasks = [task.data for task in payload.tasks[start : start + settings.batch_size]]
        results += await _predict(tasks, controls, request, service)
    version = _version(service)
    return {"results": [{**one, "model_version": version} for one in results], "model_version": version}


async def _predict(
    tasks: Sequence[Row], controls: Sequence[Choices], request: Request, service: Service
) -> list[Row]:
    """Predict a batch of tasks; all images of all tasks are encoded together."""
    settings: Settings = request.app.state.settings
    keys = list(dict.fromkeys(control.key for control in controls))
    photos = await asyncio.to_thread(
        lambda: [[read_photo(task.get(key), settings) for key in keys] for task in tasks]
    )
    names = tuple(dict.fromkeys(name for control in controls for name in control.values))

    def answer(encoded: Encoded) -> Scores | Failure:
        if encoded.error is not None:
            return encoded.error
        found = service.tagger.score(encoded, [CustomTag(name.strip()) for name in names])
        return {tag.name: tag.score for tag in found.tags}

    sent = [one for task in photos for one in task if isinstance(one, bytes)]
    scores = iter(await service.map_encoded(request, sent, answer))
    given = ([next(scores) if isinstance(one, bytes) else one for one in task] for task in photos)
    return [_prediction(controls, dict(zip(keys, task, strict=True))) for task in given]


def _prediction(controls: Sequence[Choices], scores: Mapping[str, Scores | Failure]) -> Row:
    """The prediction of a task from the scores of its images; its score is that of the least certain choice.

    If a photo cannot be read, it is an error without a result, which Label Studio logs and retries.
    """
    results: list[Row] = []
    sure: list[float] = []
    for control in controls:
        found = scores[control.key]
        if isinstance(found, Failure):
            return {"error": asdict(found)}
        chosen, score = control.choose(found)
        sure.append(score)
        if chosen:
            value = {"choices": [control.values[name] for name in chosen]}
            place = {"from_name": control.name, "to_name": control.image, "type": "choices"}
            results.append({**place, "value": value, "score": score})
    return {"result": results, "score": min(sure)}


def read_photo(source: object, settings: Settings) -> bytes | Failure:
    """Read the photo of a task from a data URL or a file below the folders of the settings, nowhere else."""
    if not isinstance(source, str) or not source:
        return Failure("ImageError", f"expected the URL of a photo in the task, got {brief(source)}")
    if source.startswith("data:"):
        try:
            return from_data_url(source)
        except Refusal as refusal:
            return Failure("ImageError", refusal.message)
    name = file_name(source)
    for folder in settings.label_studio if name else ():
        try:
            file = (folder / name).resolve(strict=True)
            if _is_below(file, folder) and file.stat().st_size <= settings.max_body:
                return file.read_bytes()
        except (OSError, ValueError):
            continue
    return Failure(
        "ImageError",
        f"{brief(source)} is not a photo below a folder of --label-studio: expected /data/upload/... or "
        "/data/local-files/?d=..., in a folder that was given when the server started",
    )


def _is_below(file: Path, folder: Path) -> bool:
    return file.is_file() and file.is_relative_to(folder.resolve())


def file_name(source: str) -> str:
    """The relative path of the file that a Label Studio URL names; "" if it names none.

    An upload /data/upload/1/a.jpg is upload/1/a.jpg below Label Studio's media folder; the path of a local
    file is in the query. Host and path prefix of the URL are ignored.
    """
    try:
        url = urlsplit(source)
    except ValueError:
        return ""
    if _LOCAL.rstrip("/") in url.path:
        (name,) = parse_qs(url.query).get("d", [""])[:1]
    elif _UPLOADS in url.path:
        name = "upload/" + unquote(url.path.partition(_UPLOADS)[2])
    else:
        name = ""
    return name.lstrip("/")


def _version(service: Service) -> str:
    card = service.tagger.card
    return f"{card.name} {card.version}"


def read_config(xml: str) -> list[Choices]:
    """Parse the choices about images of a label config.

    Raises:
        Refusal: 422 if it is not valid XML, has a DOCTYPE, no choices about an image, or too many.
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise Refusal(422, "label_config", "the label config has a DOCTYPE: remove it")
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise Refusal(422, "label_config", f"the label config is not valid XML: {error}") from None
    images = {one.get("name"): one.get("value", "").removeprefix("$") for one in root.iter("Image")}
    controls = [
        Choices(
            one.get("name", ""),
            one.get("toName", ""),
            images[one.get("toName")],
            one.get("choice") == "multiple",
            dict(_values(one)),
        )
        for one in root.iter("Choices")
        if one.get("toName") in images and one.get("perRegion") != "true"
    ]
    count = sum(len(control.values) for control in controls)
    if count > _MAX_CHOICES:
        raise Refusal(
            422, "label_config", f"the label config has {count:,} choices, the limit is {_MAX_CHOICES:,}"
        )
    if not count:
        raise Refusal(
            422, "label_config", "the label config has no choices about an image: expected "
            '<Image name="image" value="$image"/> and <Choices name="tags" toName="image" choice="multiple">'
            '<Choice value="dog"/></Choices>',
        )  # fmt: skip
    return [control for control in controls if control.values]


def _values(control: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for choice in control.iter("Choice"):
        value = choice.get("value", "")
        if value.strip():
            yield value, choice.get("alias") or value
