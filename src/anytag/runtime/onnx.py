"""The runtime of layer 1: a model folder's graphs, run by onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Literal

import numpy as np

from anytag._typing import Array, Bytes, Floats, Ints, Rows
from anytag.errors import DeviceError, ModelError
from anytag.models.folder import ModelFolder
from anytag.runtime.base import Captions, Device, Matcher, Runtime, check_device
from anytag.runtime.door import open_in_torch

if TYPE_CHECKING:  # importing onnxruntime takes longer than importing all the rest
    from onnxruntime import InferenceSession, RunOptions, SessionOptions

IMAGE, TAGS = "image.onnx", "tags.onnx"
ROUNDED = "tags_rounded.onnx"  # tags.onnx quantised; used first where it exists
MEMORY, CAPTION = "caption_memory.onnx", "caption.onnx"
TEXT = "text.onnx"  # in a subfolder; run by anytag.runtime.text_onnx
WHERE = "where"  # what tags.onnx may give besides
_GRAPHS = {
    IMAGE: (("pixels",), ("tokens", "pooled")),
    TAGS: (("tokens", "pooled", "queries"), ("logits",)),
    ROUNDED: (("tokens", "pooled", "queries"), ("logits",)),
    MEMORY: (("tag_ids", "tag_mask", "tokens"), ("memory",)),
    CAPTION: (("ids", "memory", "past"), ("logits", "grown")),
    TEXT: (("ids",), ("vectors",)),
}
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
State = tuple[Floats, Floats]
"""Keys and values of the memory and of the text so far: layers×2×N×heads×S×d and layers×2×N×heads×P×d."""
_ERRORS_ONLY = 3  # onnxruntime writes its warnings to stderr, which is the user's
_NOTHING = 4  # nor errors, where a failure is an answer


class OnnxRuntime(Runtime):
    """Runs the graphs of one model folder; what the folder has torch weights for and no graphs, torch runs.

    A graph is loaded when it is first needed.

    Args:
        folder: the model.
        device: "cuda" is an error where it is not active; "auto" takes it where it is, else the CPU.
        threads: for one run. Whoever runs many photos does better with one thread each.

    Raises:
        DeviceError: the device was asked for and is not there. Loading a graph, later, can still raise it.
    """

    def __init__(self, folder: ModelFolder, *, device: Device = "auto", threads: int = 1) -> None:
        check_device(device)
        if threads < 1:
            raise DeviceError(f"threads {threads}: expected 1 or more")
        self.folder = folder
        self._asked = device
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}
        self._in_torch: Runtime | None = None
        self._lock = RLock()
        if device == "cuda" and _CUDA not in available_providers():
            raise _no_cuda("this onnxruntime was built without it")

    @property
    def provider(self) -> str:
        """onnxruntime's name of what runs the graphs; loads the image graph."""
        return str(self._session(IMAGE).get_providers()[0])

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the graphs run; loads the image graph."""
        return "cuda" if self.provider == _CUDA else "cpu"

    @property
    def is_approximate(self) -> bool:
        """Do logits differ from those that `exact` gives?"""
        return ROUNDED in self.folder

    def captions(self) -> Captions:
        """By graphs, or by the caption head in torch."""
        name = self.folder.card.name
        return OnnxCaptions(self) if MEMORY in self.folder else self._torch(f"captions by {name}").captions()

    def matcher(self) -> Matcher:
        """The alignment heads in torch: there are no graphs of them."""
        name = self.folder.card.name
        return self._torch(f"ranking photos by the alignment heads of {name}").matcher()

    def _torch(self, what: str) -> Runtime:
        """The same model in torch, loaded once."""
        with self._lock:
            if self._in_torch is None:
                self._in_torch = open_in_torch(self.folder, what, device=self.device)
            return self._in_torch

    @property
    def _size(self) -> int:
        return self.folder.card.image.size

    @property
    def _width(self) -> int:
        return self.folder.card.width

    @cached_property
    def _row_width(self) -> int:
        width = self.shapes(TAGS)["queries"][-1]
        return width if isinstance(width, int) else self.folder.card.width

    def _encode(self, pixels: Bytes) -> tuple[Floats, Floats]:
        tokens, pooled = self.run(IMAGE, {"pixels": pixels})
        return tokens, pooled

    def _score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool) -> Floats:
        graph = ROUNDED if self.is_approximate and not exact else TAGS
        (logits,) = self.run(graph, {"tokens": tokens, "pooled": pooled, "queries": queries})
        return logits

    def _locate(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        if WHERE not in (node.name for node in self._session(TAGS).get_outputs()):
            raise ModelError(
                f"{self.folder.path / TAGS} does not tell where tags are (it has no output {WHERE!r}): "
                "export the model again"
            )
        (where,) = self.run(TAGS, {"tokens": tokens, "pooled": pooled, "queries": queries}, (WHERE,))
        return where

    def run(
        self,
        name: str,
        feeds: dict[str, Array],
        outputs: tuple[str, ...] | None = None,
        *,
        quiet: bool = False,
    ) -> list[Floats]:
        """Runs one of the folder's graphs as it is.

        Args:
            name: its file, with the subfolder.
            feeds: its inputs.
            outputs: which, all that every such graph has when None.
            quiet: onnxruntime says nothing on stderr where it fails.

        Raises:
            ModelError: the graph is not there, cannot be loaded, or fails.
        """
        session = self._session(name)
        try:
            options = _quiet() if quiet else None
            return list(session.run(list(outputs or _names(name)[1]), feeds, options))
        except Exception as error:  # onnxruntime's errors have no common class but this one
            raise ModelError(f"{self.folder.path / name} cannot be run: {error}") from error

    def shapes(self, name: str) -> dict[str, list[int | str]]:
        """The axes of each input of one of the folder's graphs: numbers, or names of those that are free."""
        return {node.name: list(node.shape) for node in self._session(name).get_inputs()}

    def _session(self, name: str) -> InferenceSession:
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._load(name)
            return self._sessions[name]

    def _load(self, name: str) -> InferenceSession:
        wants_cuda = self._asked != "cpu" and _CUDA in available_providers()
        session = self._open(name, [_CUDA, _CPU] if wants_cuda else [_CPU])
        if self._asked == "cuda" and session.get_providers()[0] != _CUDA:
            raise _no_cuda("it is built in, and could not be started")
        _check_names(session, name, f"{self.folder.path / name}")
        return session

    def _open(self, name: str, providers: list[str]) -> InferenceSession:
        import onnxruntime

        path = self.folder.file(name)
        if _CUDA in providers and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds CUDA's libraries where pip puts them
        try:
            # `enable_fallback` would retry on the CPU and print that it does
            return onnxruntime.InferenceSession(
                path, session_options(self._threads), providers=providers, enable_fallback=0
            )
        except Exception as error:  # as in `run`
            if _CUDA not in providers:
                raise ModelError(f"{path} is not a graph that onnxruntime can load: {error}") from error
            if self._asked == "cuda":
                raise _no_cuda(str(error)) from error
            return self._open(name, [_CPU])


@dataclass(frozen=True)
class OnnxCaptions:
    """Runs caption_memory.onnx once for each photo and caption.onnx once for each wordpiece."""

    runtime: OnnxRuntime

    def about(self, tag_ids: Ints, tag_mask: Ints, tokens: Floats) -> OnnxWriter:
        """What writes about N photos, for `anytag.generation`.

        Args:
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
            tokens: float32 N×T×D, of the photos.

        Raises:
            ModelError: the graph does not take these shapes, or is not there.
        """
        feeds: dict[str, Array] = {"tag_ids": tag_ids, "tag_mask": tag_mask, "tokens": tokens}
        (memory,) = self.runtime.run(MEMORY, feeds)
        return OnnxWriter(self.runtime, memory)

    def takes(self, length: int) -> bool:
        """Does the graph have positions for captions of so many wordpieces, the prompt's included?"""
        layers, two, _, heads, _, depth = self.runtime.shapes(CAPTION)["memory"]

        def zeros(count: int) -> Floats:
            return np.zeros((int(layers), int(two), 1, int(heads), count, int(depth)), np.float32)

        # the last wordpiece is never read, and the one before it is what is read here
        feeds: dict[str, Array] = {
            "ids": np.ones((1, 1), np.int64),
            "memory": zeros(1),
            "past": zeros(length - 2),
        }
        try:
            self.runtime.run(CAPTION, feeds, quiet=True)
        except ModelError:
            return False
        return True


@dataclass(frozen=True)
class OnnxWriter:
    """An `anytag.generation.Decoder` whose state is keys and values, so that nothing is read twice."""

    runtime: OnnxRuntime
    memory: Floats

    def start(self, prompts: Ints) -> tuple[Floats, State]:
        """Prompts N×L -> scores of the next wordpiece N×V, and the state."""
        layers, two, count, heads, _, depth = self.memory.shape
        nothing = np.zeros((layers, two, count, heads, 0, depth), np.float32)
        return self._read(prompts, (self.memory, nothing))

    def step(self, ids: Ints, state: State) -> tuple[Floats, State]:
        """One wordpiece of each text, N -> scores of the next N×V, and the state."""
        return self._read(ids[:, None], state)

    def reorder(self, state: State, index: Ints) -> State:
        """The state of the texts at `index`."""
        memory, past = state
        return memory[:, :, index], past[:, :, index]

    def _read(self, ids: Ints, state: State) -> tuple[Floats, State]:
        memory, past = state
        logits, grown = self.runtime.run(CAPTION, {"ids": ids, "memory": memory, "past": past})
        return logits, (memory, grown)


def _quiet() -> RunOptions:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _NOTHING
    return options


def available_providers() -> list[str]:
    """Execution providers that the installed onnxruntime was built with; not all of them start everywhere."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def open_session(graph: Path | bytes, options: SessionOptions | None = None) -> InferenceSession:
    """A graph by itself, from a file or memory, on one thread of the CPU: what exports are compared by.

    Args:
        options: others than `session_options(1)`.
    """
    import onnxruntime

    options = options or session_options(1)
    return onnxruntime.InferenceSession(graph, options, providers=[_CPU])


def session_options(threads: int) -> SessionOptions:
    """Options for a process that stays small and quiet beside other work.

    Measured on a network like EfficientNet-Lite0 at 208 pixels with onnxruntime 1.32. Arena on and memory
    pattern off gave the smallest peak of the process (batch of 8, int8: 90 MB; both on 96, both off 119;
    float32: 178, 223, 306; one photo in int8: no difference) and was as fast as any. Weights outside of the
    arena save up to 17 MB more in float32. All optimisations stay on, also for graphs that are shipped
    optimised: what depends on the machine is left to do (int8 9.2 ms a photo, 10.8 without; float32 14.4
    and 41). One run of each, random weights, on a busy two-core machine: times are rough, and what loading
    would gain without optimisations was lost in the noise.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _names(file: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and outputs of a graph."""
    return _GRAPHS[file.rpartition("/")[2]]


def _check_names(session: InferenceSession, name: str, where: str) -> None:
    inputs, outputs = _names(name)
    takes = [node.name for node in session.get_inputs()]
    gives = [node.name for node in session.get_outputs()]
    if set(takes) != set(inputs) or not set(gives) >= set(outputs):
        raise ModelError(
            f"{where} maps {', '.join(takes)} to {', '.join(gives)}; "
            f"expected {', '.join(inputs)} to {', '.join(outputs)}. Export the model again."
        )


def _no_cuda(why: str) -> DeviceError:
    return DeviceError(
        f"device 'cuda' was asked for and {_CUDA} is not active ({why}). "
        f"This onnxruntime has: {', '.join(available_providers())}. "
        "Put the GPU build in its place (pip uninstall onnxruntime; pip install "
        "'onnxruntime-gpu[cuda,cudnn]') or ask for device 'cpu' or 'auto'."
    )
