"""Slices of a volume through a graph, batch by batch, with outputs that are checked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine.errors import OutOfDeviceMemory, RunnerFailed
from engine.facing import Facing
from engine.lungs import Box
from engine.runners.interface import Runner, Tensors

T = TypeVar("T")
Indices = npt.NDArray[np.intp]


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
    runner: Runner,
    graph: str,
    hu: npt.NDArray[np.int16],
    indices: Indices,
    box: Box,
    batch: int,
    facing: Facing = Facing(),  # noqa: B008 (frozen)
) -> Iterator[tuple[Indices, Output]]:
    """Run `graph` on the crop `box` of the slices `indices` of int16 [Z, Y, X] HU; yields (indices, outputs).

    The crop is turned as `facing` says, and so are outputs that are maps of it. A runner that is out of memory gets
    half as many slices from there on. Raises RunnerFailed.
    """

    def each(batches: Iterable[Indices]) -> Iterator[Output]:
        return (output for _, output in run_batches(runner, graph, hu, batches, box, facing))

    return in_batches(each, indices, batch)


def run_batches(
    runner: Runner,
    graph: str,
    hu: npt.NDArray[np.int16],
    batches: Iterable[Indices],
    box: Box,
    facing: Facing,
) -> Iterator[tuple[Indices, Output]]:
    """As `run_slices`, for batches that are not known before: they are taken as calls become free.

    Raises RunnerFailed, and OutOfDeviceMemory for a batch that is too large.
    """
    under_way: deque[Indices] = deque()

    def crops() -> Iterator[Tensors]:
        for some in batches:
            under_way.append(some)
            yield _cropped(hu, some, box, facing)

    for tensors in runner.run_each(graph, crops()):
        yield under_way.popleft(), Output(graph, tensors)


def _cropped(hu: npt.NDArray[np.int16], some: Indices, box: Box, facing: Facing) -> Tensors:
    top, left, bottom, right = box
    return {"hu": np.ascontiguousarray(facing.turned(hu[some, top:bottom, left:right]))}


def in_batches(
    each: Callable[[Iterable[Indices]], Iterator[T]], indices: Indices, batch: int
) -> Iterator[tuple[Indices, T]]:
    """The indices in batches of at most `batch`, in order; yields (indices, what `each` gave for them).

    each: as `Runner.run_each`, on indices. After OutOfDeviceMemory it gets the rest in half as many at a time, and the
    same again; with one it is raised.
    """
    start = 0
    while start < len(indices):
        batches = [indices[at : at + batch] for at in range(start, len(indices), batch)]
        try:
            for some, output in zip(batches, each(batches), strict=True):
                yield some, output
                start += len(some)
        except OutOfDeviceMemory:
            if batch == 1:
                raise
            batch //= 2
