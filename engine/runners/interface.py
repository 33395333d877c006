"""What every runner offers, and the options that choose one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Tensors = Mapping[str, npt.NDArray[Any]]
Precision = Literal["auto", "f32", "bf16", "f16"]


@dataclass(frozen=True)
class RunnerOptions:
    """How the graphs are run.

    precision: auto takes bf16 where the CPU multiplies it in hardware, else f32.
    threads: 0 leaves it to the backend (all cores). batch: slices per call.
    """

    precision: Precision = "auto"
    threads: int = 0
    batch: int = 8


class Runner(Protocol):
    """Runs the graphs of one package.

    The leading dimension of a graph's input may be anything; which slices share a batch changes nothing.
    """

    @property
    def description(self) -> str:
        """Backend, device and precision in a few words, for logs and reports."""
        ...

    def run(self, graph: str, inputs: Tensors) -> dict[str, npt.NDArray[np.generic]]:
        """All outputs of `graph` by name, as arrays of their own. Raises RunnerFailed."""
        ...

    def close(self) -> None:
        """Give memory and device back; the runner is not used afterwards."""
        ...
