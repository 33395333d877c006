"""OpenVINO on the CPU: graphs compiled from a package's ONNX, or engines that were built before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backends import WantedEngine
from engine.errors import RunnerFailed
from engine.openvino_graph import in_planes
from engine.openvino_offline import ov
from engine.openvino_stem import grey_once
from engine.packages import M3Metadata, ModelPackage
from engine.recipes import Backend, BuildPrecision
from engine.runners.interface import Results, RunnerOptions, Tensors
from engine.slices_per_call import MOST, for_calls, joined, pieces

DEVICE = "CPU"

_HEADER = 64
"""Bytes in front of the exported model that name its precision, which OpenVINO settles anew at each import. As many as
a cache line has: weights are used where they lie in the file, and lie there aligned to the model's begin."""

MOST_STREAMS = 4
"""Batches that are computed at once. A stream on one core waits for nobody, but each has its own memory."""

_NATIVE_NAMES = {"bf16": "BF16", "int8": "INT8", "f32": "FP32"}

SLICES = "hu"
"""The input of the graphs of slices, but not of an own model's, which says itself how many it takes at once."""


@dataclass(frozen=True, eq=False)
class _Opened:
    """A compiled graph: a request for each stream, and of how many slices each call is; None: of any number.

    content: what its weights lie in, to be kept as long as it is used.
    """

    requests: tuple[Any, ...]
    slices: int | None
    content: npt.NDArray[np.uint8] | None


class OpenVINORunner:
    """The graphs of one package, compiled (or their engines opened) when they are first used."""

    def __init__(
        self,
        package: ModelPackage,
        options: RunnerOptions,
        engines: Mapping[str, Path] | None = None,
        precisions: str = "",
    ) -> None:
        self._package = package
        self._engines = dict(engines or {})
        self._core = ov.Core()
        self._precision = "f32" if options.precision == "auto" else options.precision
        self._said = precisions or self._precision
        self._threads, self._at_once, self._batch = options.threads, options.at_once, options.batch
        self._opened: dict[str, _Opened] = {}

    @property
    def description(self) -> str:
        return f"OpenVINO {_version()}, CPU, {self._said}"

    def run(self, graph: str, inputs: Tensors) -> Results:
        """See `engine.runners.interface.Runner`."""
        return next(self.run_each(graph, [inputs]))

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        """See `engine.runners.interface.Runner`: one request under way on each stream.

        Slices are given to the graph as many at a time as it is made for (`engine.slices_per_call`).
        """
        opened = self._opened.get(graph) or self._open(graph)
        if opened.slices is None:
            yield from self._calls(graph, opened, inputs)
            return
        slices, counts = opened.slices, deque[int]()

        def divided() -> Iterator[Tensors]:
            for given in inputs:
                counts.append(len(given[SLICES]))
                for piece in pieces(given[SLICES], slices):
                    yield {SLICES: piece}

        with closing(self._calls(graph, opened, divided())) as results:
            for first in results:
                count = counts.popleft()
                yield joined([first, *islice(results, max(0, count - 1) // slices)], count)

    def _calls(self, graph: str, opened: _Opened, inputs: Iterable[Tensors]) -> Generator[Results]:
        under_way: deque[tuple[Any, Tensors]] = deque()
        free = list(opened.requests)
        try:
            for given in inputs:
                request = free.pop() if free else None
                if request is None:
                    request, _ = under_way.popleft()
                    yield _waited_for(request)
                request.start_async(dict(given), share_inputs=True)
                under_way.append((request, given))  # the inputs are read where they lie until it has ended
            while under_way:
                yield _waited_for(under_way.popleft()[0])
        except RuntimeError as error:
            raise RunnerFailed(f"graph {graph} of {self._package.metadata.name} failed: {error}") from error
        finally:
            for request, _ in under_way:
                request.cancel()

    def close(self) -> None:
        self._opened.clear()

    def _open(self, graph: str) -> _Opened:
        try:
            compiled, content = self._compiled(graph)
            count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            requests = tuple(compiled.create_infer_request() for _ in range(count))
        except RuntimeError as error:
            raise RunnerFailed(f"graph {graph} of {self._package.metadata.name} failed: {error}") from error
        first = compiled.input(0).get_partial_shape()[0]
        known = _of_slices(self._package, compiled) and first.is_static
        self._opened[graph] = _Opened(requests, first.get_length() if known else None, content)
        return self._opened[graph]

    def _compiled(self, graph: str) -> tuple[Any, npt.NDArray[np.uint8] | None]:
        """The compiled graph, and the file that it lies in: mapped, so that weights are its pages and no copies."""
        if graph in self._engines:
            content = np.asarray(np.memmap(self._engines[graph], np.uint8, "c"))
            precision = content[:_HEADER].tobytes().decode().strip()
            settings = _settings(precision, self._threads, self._at_once)
            blob = ov.Tensor(content[_HEADER:], shared_memory=True)
            return self._core.import_model(blob, DEVICE, settings), content
        model = _for_calls(_read(self._core, self._package, graph), self._package, self._batch)
        settings = _settings(self._precision, self._threads, self._at_once)
        return self._core.compile_model(model, DEVICE, settings), None


def _read(core: Any, package: ModelPackage, graph: str) -> ov.Model:
    return grey_once(in_planes(core.read_model(package.graph_path(graph))))


def _for_calls(model: ov.Model, package: ModelPackage, most: int) -> ov.Model:
    if not _of_slices(package, model):
        return model
    metadata = package.metadata
    of_own_size = isinstance(metadata, M3Metadata) and metadata.preprocessing.crop_scope == "slice"
    return for_calls(model, 1 if of_own_size else most)


def _of_slices(package: ModelPackage, graph: Any) -> bool:
    """Whether a model, compiled or not, is one of the graphs of slices."""
    return package.metadata.system != "onnx" and SLICES in graph.input(0).get_names()


def _waited_for(request: Any) -> Results:
    request.wait()
    return {
        name: np.array(request.get_tensor(port).data)
        for port in request.model_outputs
        for name in sorted(port.names)
    }


class OpenVINOBackend:
    """Builds OpenVINO engines; see `engine.backends.EngineBackend`."""

    def identity(self) -> str:
        core = ov.Core()
        name = core.get_property(DEVICE, "FULL_DEVICE_NAME")
        return f"openvino {ov.__version__}, {name}, {' '.join(sorted(_capabilities(core)))}"

    def offers(self, precision: BuildPrecision) -> bool:
        return _NATIVE_NAMES.get(precision) in _capabilities(ov.Core())

    def build(self, wanted: WantedEngine) -> bytes:
        core = ov.Core()
        try:
            model = _read(core, wanted.package, wanted.graph)
            # What is not quantised stays in f32: bf16 gains next to nothing, and results of a graph in both have
            # differed by what memory held before (OpenVINO 2026.4).
            hint = "f32" if wanted.precision == "int8" else wanted.precision
            if wanted.precision == "int8":
                from engine.runners.openvino_quantised import quantised

                model = quantised(model, wanted.package, wanted.graph, wanted.calibration)
            model = _for_calls(model, wanted.package, MOST)
            stream = BytesIO()
            core.compile_model(model, DEVICE, _settings(hint)).export_model(stream)
            return hint.encode().ljust(_HEADER) + stream.getvalue()
        except RuntimeError as error:
            raise RunnerFailed(f"OpenVINO cannot build graph {wanted.graph}: {error}") from error

    def open(
        self, package: ModelPackage, engines: Mapping[str, Path], options: RunnerOptions, precisions: str = ""
    ) -> OpenVINORunner:
        return OpenVINORunner(package, options, engines, precisions)


def backend(name: Backend) -> OpenVINOBackend:
    """See `engine.backends.backend_named`."""
    return OpenVINOBackend()


def _capabilities(core: Any) -> list[str]:
    return list(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


def _version() -> str:
    return str(ov.__version__).split("-", maxsplit=1)[0]


def _settings(precision: str, threads: int = 0, at_once: int = 0) -> dict[str, Any]:
    cores = threads or len(os.sched_getaffinity(0))
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": at_once or min(cores, MOST_STREAMS),
        "INFERENCE_NUM_THREADS": cores,
    }
