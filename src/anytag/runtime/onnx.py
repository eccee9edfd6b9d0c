"""The onnxruntime runtime, which runs the graphs of a model folder."""

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
from anytag.runtime.torch_fallback import open_in_torch

if TYPE_CHECKING:  # importing onnxruntime takes longer than importing everything else
    from onnxruntime import InferenceSession, RunOptions, SessionOptions

IMAGE, TAGS = "image.onnx", "tags.onnx"
QUANTIZED_TAGS = "tags_rounded.onnx"  # tags.onnx quantised; run first where it exists
MEMORY, CAPTION = "caption_memory.onnx", "caption.onnx"
TEXT = "text.onnx"  # in a subfolder; run by anytag.runtime.text_onnx
EVIDENCE = "where"  # optional output of tags.onnx
_GRAPHS = {
    IMAGE: (("pixels",), ("tokens", "pooled")),
    TAGS: (("tokens", "pooled", "queries"), ("logits",)),
    QUANTIZED_TAGS: (("tokens", "pooled", "queries"), ("logits",)),
    MEMORY: (("tag_ids", "tag_mask", "tokens"), ("memory",)),
    CAPTION: (("ids", "memory", "past"), ("logits", "grown")),
    TEXT: (("ids",), ("vectors",)),
}
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
State = tuple[Floats, Floats]
"""Keys and values of the memory and of the text: layers×2×N×heads×S×d and layers×2×N×heads×P×d."""
_LOG_ERRORS = 3  # onnxruntime logs to stderr, which belongs to the user: no warnings
_LOG_FATAL = 4  # and no errors, where failure is an expected result


class OnnxRuntime(Runtime):
    """Runs the graphs of one model folder; heads that have torch weights but no graphs are run by torch.

    A graph is loaded when it is first needed.

    Args:
        folder: the model.
        device: "cuda" raises an error if it is not available; "auto" uses it if it is, else the CPU.
        threads: per run. One thread each is best when many photos are processed in parallel.

    Raises:
        DeviceError: the device is not available. It may also be raised later, when a graph is loaded.
    """

    def __init__(self, folder: ModelFolder, *, device: Device = "auto", threads: int = 1) -> None:
        check_device(device)
        if threads < 1:
            raise DeviceError(f"threads {threads}: expected 1 or more")
        self.folder = folder
        self._requested = device
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}
        self._in_torch: Runtime | None = None
        self._lock = RLock()
        if device == "cuda" and _CUDA not in available_providers():
            raise _no_cuda("this onnxruntime was built without it")

    @property
    def provider(self) -> str:
        """Name of the execution provider; loads the image graph."""
        return str(self._session(IMAGE).get_providers()[0])

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device; loads the image graph."""
        return "cuda" if self.provider == _CUDA else "cpu"

    @property
    def is_approximate(self) -> bool:
        """Whether logits differ from those with `exact`."""
        return QUANTIZED_TAGS in self.folder

    def captions(self) -> Captions:
        """The caption head, as graphs or in torch."""
        name = self.folder.card.name
        return OnnxCaptions(self) if MEMORY in self.folder else self._torch(f"captions by {name}").captions()

    def matcher(self) -> Matcher:
        """The alignment heads in torch: they are not exported as graphs."""
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
        graph = QUANTIZED_TAGS if self.is_approximate and not exact else TAGS
        (logits,) = self.run(graph, {"tokens": tokens, "pooled": pooled, "queries": queries})
        return logits

    def _locate(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        if EVIDENCE not in (node.name for node in self._session(TAGS).get_outputs()):
            raise ModelError(
                f"{self.folder.path / TAGS} cannot localise tags (it has no output {EVIDENCE!r}): "
                "export the model again"
            )
        (evidence,) = self.run(TAGS, {"tokens": tokens, "pooled": pooled, "queries": queries}, (EVIDENCE,))
        return evidence

    def run(
        self,
        name: str,
        feeds: dict[str, Array],
        outputs: tuple[str, ...] | None = None,
        *,
        quiet: bool = False,
    ) -> list[Floats]:
        """Run one of the folder's graphs.

        Args:
            name: its file, with the subfolder.
            feeds: its inputs.
            outputs: names of outputs; None is the outputs that every such graph has.
            quiet: suppress onnxruntime's error log.

        Raises:
            ModelError: the graph does not exist, cannot be loaded, or fails.
        """
        session = self._session(name)
        try:
            options = _quiet() if quiet else None
            return list(session.run(list(outputs or _names(name)[1]), feeds, options))
        except Exception as error:  # onnxruntime's errors have no other common class
            raise ModelError(f"{self.folder.path / name} cannot be run: {error}") from error

    def shapes(self, name: str) -> dict[str, list[int | str]]:
        """The axes of each input of a graph: numbers, or names of dynamic axes."""
        return {node.name: list(node.shape) for node in self._session(name).get_inputs()}

    def _session(self, name: str) -> InferenceSession:
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._load(name)
            return self._sessions[name]

    def _load(self, name: str) -> InferenceSession:
        wants_cuda = self._requested != "cpu" and _CUDA in available_providers()
        session = self._open(name, [_CUDA, _CPU] if wants_cuda else [_CPU])
        if self._requested == "cuda" and session.get_providers()[0] != _CUDA:
            raise _no_cuda("it is built in, but could not be started")
        _check_names(session, name, f"{self.folder.path / name}")
        return session

    def _open(self, name: str, providers: list[str]) -> InferenceSession:
        import onnxruntime

        path = self.folder.file(name)
        if _CUDA in providers and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds CUDA libraries installed by pip
        try:
            # `enable_fallback` would retry on the CPU and print that it does
            return onnxruntime.InferenceSession(
                path, session_options(self._threads), providers=providers, enable_fallback=0
            )
        except Exception as error:  # as in `run`
            if _CUDA not in providers:
                raise ModelError(f"{path} is not a graph that onnxruntime can load: {error}") from error
            if self._requested == "cuda":
                raise _no_cuda(str(error)) from error
            return self._open(name, [_CPU])


@dataclass(frozen=True)
class OnnxCaptions:
    """Runs caption_memory.onnx once per photo and caption.onnx once per wordpiece."""

    runtime: OnnxRuntime

    def decoder(self, tag_ids: Ints, tag_mask: Ints, tokens: Floats) -> OnnxCaptionDecoder:
        """Return a decoder for captions of N photos, for `anytag.generation`.

        Args:
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
            tokens: float32 N×T×D, of the photos.

        Raises:
            ModelError: the graph does not accept these shapes, or does not exist.
        """
        feeds: dict[str, Array] = {"tag_ids": tag_ids, "tag_mask": tag_mask, "tokens": tokens}
        (memory,) = self.runtime.run(MEMORY, feeds)
        return OnnxCaptionDecoder(self.runtime, memory)

    def supports_length(self, length: int) -> bool:
        """Whether the graph has positions for captions of `length` wordpieces, including the prompt."""
        layers, two, _, heads, _, depth = self.runtime.shapes(CAPTION)["memory"]

        def zeros(count: int) -> Floats:
            return np.zeros((int(layers), int(two), 1, int(heads), count, int(depth)), np.float32)

        # the last wordpiece is never an input; this is the one before it
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
class OnnxCaptionDecoder:
    """An `anytag.generation.Decoder` whose state is the KV cache."""

    runtime: OnnxRuntime
    memory: Floats

    def start(self, prompts: Ints) -> tuple[Floats, State]:
        """Process prompts N×L; return the scores of the next wordpiece N×V, and the state."""
        layers, two, count, heads, _, depth = self.memory.shape
        nothing = np.zeros((layers, two, count, heads, 0, depth), np.float32)
        return self._run(prompts, (self.memory, nothing))

    def step(self, ids: Ints, state: State) -> tuple[Floats, State]:
        """Process one wordpiece of each text, N; return the scores of the next N×V, and the state."""
        return self._run(ids[:, None], state)

    def reorder(self, state: State, index: Ints) -> State:
        """Select the states of the texts at `index`."""
        memory, past = state
        return memory[:, :, index], past[:, :, index]

    def _run(self, ids: Ints, state: State) -> tuple[Floats, State]:
        memory, past = state
        logits, grown = self.runtime.run(CAPTION, {"ids": ids, "memory": memory, "past": past})
        return logits, (memory, grown)


def _quiet() -> RunOptions:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _LOG_FATAL
    return options


def available_providers() -> list[str]:
    """Execution providers of the installed onnxruntime; not all of them work on every machine."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def open_session(graph: Path | bytes, options: SessionOptions | None = None) -> InferenceSession:
    """Open a single graph, from a file or from memory, on one CPU thread; used to verify exports.

    Args:
        options: by default `session_options(1)`.
    """
    import onnxruntime

    options = options or session_options(1)
    return onnxruntime.InferenceSession(graph, options, providers=[_CPU])


def session_options(threads: int) -> SessionOptions:
    """Session options for a small memory footprint and little interference with other processes.

    Measured on a network like EfficientNet-Lite0 at 208 pixels with onnxruntime 1.32. Arena on and memory
    pattern off gave the smallest peak memory of the process (batch of 8, int8: 90 MB; both on 96, both off
    119;
    float32: 178, 223, 306; one photo in int8: no difference) and was as fast as any. Weights outside the
    arena save up to 17 MB more in float32. All optimisations stay on, also for graphs that are shipped
    optimised, because some depend on the machine (int8 9.2 ms per photo, 10.8 without; float32 14.4 and 41).
    One run each, random weights, on a busy two-core machine: times are approximate, and the loading time
    saved without optimisations was within the noise.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS
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
        f"device 'cuda' was requested, but {_CUDA} is not available ({why}). "
        f"This onnxruntime has: {', '.join(available_providers())}. "
        "Install the GPU build instead (pip uninstall onnxruntime; pip install "
        "'onnxruntime-gpu[cuda,cudnn]') or use device 'cpu' or 'auto'."
    )
