"""Slices of a volume through a graph, batch by batch, with outputs that are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine.errors import OutOfDeviceMemory, RunnerFailed
from engine.lungs import Box
from engine.runners.interface import Runner

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Output:
    """The outputs of one call of a graph, handed out by name with their shape and values checked."""

    graph: str
    tensors: Mapping[str, npt.NDArray[Any]]

    def floats(self, name: str, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
        """Output `name` as float32 of `shape` (None: any length). Raises RunnerFailed, also for inf and nan."""
        values = np.asarray(self._of_shape(name, shape), dtype=np.float32)
        if not np.isfinite(values).all():
            raise RunnerFailed(f"graph {self.graph}: output {name} is not finite")
        return values

    def bytes(self, name: str, shape: tuple[int | None, ...]) -> npt.NDArray[np.uint8]:
        """Output `name` as uint8 of `shape`. Raises RunnerFailed."""
        values = self._of_shape(name, shape)
        if values.dtype != np.uint8:
            raise RunnerFailed(f"graph {self.graph}: output {name} is {values.dtype}, not uint8")
        return values

    def _of_shape(self, name: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
        if name not in self.tensors:
            raise RunnerFailed(f"graph {self.graph}: no output {name}")
        values = self.tensors[name]
        if len(values.shape) != len(shape) or any(
            w not in (None, s) for w, s in zip(shape, values.shape, strict=True)
        ):
            raise RunnerFailed(f"graph {self.graph}: output {name} is {values.shape}, not {shape}")
        return values


def run_slices(
    runner: Runner, graph: str, hu: npt.NDArray[np.int16], indices: npt.NDArray[np.intp], box: Box, batch: int
) -> Iterator[tuple[npt.NDArray[np.intp], Output]]:
    """Run `graph` on the crop `box` of the slices `indices` of int16 [Z, Y, X] HU; yields (indices, outputs).

    A runner that is out of memory gets half as many slices from there on. Raises RunnerFailed.
    """
    top, left, bottom, right = box

    def call(slices: npt.NDArray[np.intp]) -> Output:
        crop = np.ascontiguousarray(hu[slices, top:bottom, left:right])
        return Output(graph, runner.run(graph, {"hu": crop}))

    return in_batches(call, indices, batch)


def in_batches(
    call: Callable[[npt.NDArray[np.intp]], T], indices: npt.NDArray[np.intp], batch: int
) -> Iterator[tuple[npt.NDArray[np.intp], T]]:
    """Call with at most `batch` of the indices at a time; yields (indices, what the call gave).

    After OutOfDeviceMemory with half as many from there on, and the same again; with one it is raised.
    """
    start = 0
    while start < len(indices):
        some = indices[start : start + batch]
        try:
            output = call(some)
        except OutOfDeviceMemory:
            if batch == 1:
                raise
            batch //= 2
            continue
        yield some, output
        start += len(some)
