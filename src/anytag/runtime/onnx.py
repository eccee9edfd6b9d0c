"""The runtime of the inner ring: a model folder's two graphs, run by onnxruntime."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from anytag.errors import DeviceError, ModelError
from anytag.models.folder import ModelFolder

if TYPE_CHECKING:  # importing onnxruntime takes longer than importing all the rest
    from onnxruntime import InferenceSession, SessionOptions

Device = Literal["auto", "cpu", "cuda"]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float32 | np.float16]
"""Queries of any runtime; onnxruntime takes float32 alone."""

IMAGE, TAGS = "image.onnx", "tags.onnx"
ROUNDED = "tags_rounded.onnx"  # tags.onnx in fewer bits, asked first where it is there
MEMORY, CAPTION = "caption_memory.onnx", "caption.onnx"  # run by anytag.runtime.caption_onnx
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
_ERRORS_ONLY = 3  # onnxruntime writes its warnings to stderr, which is the user's
_NOTHING = 4  # nor errors, where a failure is an answer


class OnnxRuntime:
    """Runs image.onnx, tags.onnx and, where there is one, tags_rounded.onnx of one model folder.

    A graph is loaded when it is first needed. All methods may be called from several threads at once.

    Args:
        folder: the model.
        device: "cuda" is an error where it is not active; "auto" takes it where it is, else the CPU.
        threads: for one run. Whoever runs many photos does better with one thread each.

    Raises:
        DeviceError: the device was asked for and is not there. Loading a graph, later, can still raise it.
    """

    keeps_rows = False

    def __init__(self, folder: ModelFolder, *, device: Device = "auto", threads: int = 1) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise DeviceError(f"device {device!r}: expected 'auto', 'cpu' or 'cuda'")
        if threads < 1:
            raise DeviceError(f"threads {threads}: expected 1 or more")
        self.folder = folder
        self._asked = device
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}
        self._lock = Lock()
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

    def encode(self, pixels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Image tokens of prepared photos.

        Args:
            pixels: uint8 N×3×S×S, RGB, S as the card says, N of at least 1.

        Returns:
            tokens float32 N×T×D and pooled float32 N×D.

        Raises:
            ModelError: another shape or type, or the graph fails.
        """
        size = self.folder.card.image.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size) or not len(pixels):
            raise _wrong("pixels", pixels, f"uint8 N×3×{size}×{size} with N of at least 1")
        tokens, pooled = self.run(IMAGE, {"pixels": pixels})
        return tokens, pooled

    @property
    def rounds(self) -> bool:
        """Do logits differ from those that `exact` gives?"""
        return ROUNDED in self.folder

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = False) -> Floats:
        """Logits of every tag in every photo.

        Args:
            tokens: float32 N×T×D from `encode`.
            pooled: float32 N×D from `encode`.
            queries: float32 Q×K×P×R; Q is 1 (the same for all photos) or N (each photo its own). K tags of up
                to P descriptions; an all-zero row is padding and gets no weight. R is D but for learned rows.
            exact: by tags.onnx, also where there is a rounded graph.

        Returns:
            float32 N×K.

        Raises:
            ModelError: another shape or type, or the graph fails.
        """
        self._check_asked(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0), np.float32)
        graph = ROUNDED if self.rounds and not exact else TAGS
        (logits,) = self.run(graph, {"tokens": tokens, "pooled": pooled, "queries": queries})
        return logits

    def where(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        """What each token says for each tag in each photo: see `anytag.localization`.

        Args:
            tokens, pooled, queries: as for `score`.

        Returns:
            float32 N×K×T.

        Raises:
            ModelError: as for `score`, or the model was exported without it.
        """
        self._check_asked(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0, tokens.shape[1]), np.float32)
        if WHERE not in (node.name for node in self._session(TAGS).get_outputs()):
            raise ModelError(
                f"{self.folder.path / TAGS} does not tell where tags are (it has no output {WHERE!r}): "
                "export the model again"
            )
        (where,) = self.run(TAGS, {"tokens": tokens, "pooled": pooled, "queries": queries}, (WHERE,))
        return where

    def _check_asked(self, tokens: Floats, pooled: Floats, queries: Rows) -> None:
        width = self.folder.card.width
        if tokens.dtype != np.float32 or tokens.ndim != 3 or tokens.shape[2] != width or not tokens.size:
            raise _wrong("tokens", tokens, f"float32 N×T×{width}, not empty")
        count = len(tokens)
        if pooled.dtype != np.float32 or pooled.shape != (count, width):
            raise _wrong("pooled", pooled, f"float32 {count}×{width}")
        row_width = self._row_width
        if (
            queries.dtype != np.float32
            or queries.ndim != 4
            or len(queries) not in (1, count)
            or queries.shape[2] < 1
            or queries.shape[3] != row_width
        ):
            expected = f"float32 Q×K×P×{row_width} with Q of 1 or {count} and P of at least 1"
            raise _wrong("queries", queries, expected)

    @cached_property
    def _row_width(self) -> int:
        """R, of a row of the queries: D for rows made of words, more for learned ones."""
        width = self.shapes(TAGS)["queries"][-1]
        return width if isinstance(width, int) else self.folder.card.width

    def run(
        self,
        name: str,
        feeds: dict[str, npt.NDArray[Any]],
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


def _quiet() -> Any:
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


def _wrong(name: str, given: npt.NDArray[Any], expected: str) -> ModelError:
    shape = "×".join(map(str, given.shape)) or "scalar"
    return ModelError(f"{name}: expected {expected}, got {given.dtype} {shape}")
