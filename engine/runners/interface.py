"""What every runner offers, and the options that choose one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Tensors = Mapping[str, npt.NDArray[Any]]
Results = dict[str, npt.NDArray[np.generic]]
Precision = Literal["auto", "f32", "bf16", "f16", "int8"]


@dataclass(frozen=True)
class EngineOptions:
    """Where engines are built and kept; see `engine.builder`.

    cache: directory of built engines. recipes: directory of recipe files, one `BACKEND.yaml` each.
    """

    cache: Path
    recipes: Path
    backend: Literal["openvino", "tensorrt", "tensorrt_rtx"] = "openvino"
    precision: Precision = "auto"


@dataclass(frozen=True)
class RunnerOptions:
    """How the graphs are run.

    device: auto takes TensorRT where it works and engines are configured, else torch where that has a GPU, else
    OpenVINO; torch is the reference.
    precision: auto takes the fastest that passes verification (with `engines`); without them nothing is verified, so
    that it is f32. threads: 0 leaves it to the backend (all cores). batch: slices per call, which a
    runner may divide into several (`engine.slices_per_call`).
    at_once: calls under way at the same time, 0 leaves it to the backend; 1 gives all cores to each call.
    engines: None runs the package's ONNX directly, without a built and verified engine.
    own_models: whether a department's own model that fails ends the work, or is left out and said to be.
    """

    precision: Precision = "auto"
    threads: int = 0
    batch: int = 8
    at_once: int = 0
    device: Literal["auto", "openvino", "tensorrt", "torch"] = "auto"
    engines: EngineOptions | None = None
    own_models: Literal["required", "optional"] = "required"


class Runner(Protocol):
    """Runs the graphs of one package.

    The leading dimension of a graph's input may be anything; which slices share a batch changes nothing.
    """

    @property
    def description(self) -> str:
        """Backend, device and precision in a few words, for logs and reports."""
        ...

    def run(self, graph: str, inputs: Tensors) -> Results:
        """All outputs of `graph` by name, as arrays of their own. Raises RunnerFailed."""
        ...

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        """What `run` gives for each of `inputs`, in their order, with several under way at once where that is faster.

        Inputs are taken only as far ahead as are under way, so that no more than these are in memory.
        """
        ...

    def close(self) -> None:
        """Give memory and device back; the runner is not used afterwards."""
        ...
