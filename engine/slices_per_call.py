"""How many slices an OpenVINO graph is given in one call, and the graph made for exactly so many.

Where the number is known, the CPU plugin lays out memory and chooses kernels once, at compilation: half the memory and
5 to 10 % less time than a graph for any number of slices, and every call is the same work, so that a slice gets the
same bits in whatever company it comes. More slices in a call gain next to nothing, but each has its own images in
memory, at full size up to a quarter of a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.openvino_offline import ov

MOST = 4
"""Slices of a call. With 8 the compact graphs took as long, in half as much memory again."""

BUDGET = 64 * 2**20
"""Bytes that the images of one call may need at the same time, counted as the graph has them (float32)."""

_SIDE = 512
"""Rows and columns that are counted with."""

Tensors = Mapping[str, npt.NDArray[Any]]


def for_calls(model: ov.Model, most: int) -> ov.Model:
    """Make a graph of slices [N, H, W], in place, one of a fixed N: as many as the budget allows, at most `most`."""
    model.reshape([1, _SIDE, _SIDE])
    model.reshape([_affordable(needed_bytes(model), min(most, MOST)), -1, -1])
    return model


def _affordable(bytes_of_one: int, most: int) -> int:
    return max(1, min(most, BUDGET // max(1, bytes_of_one)))


def needed_bytes(model: ov.Model) -> int:
    """The most that is alive at the same time of what a model of known shapes computes, in bytes, constants apart."""
    operators = model.get_ordered_ops()
    place = {operator.get_name(): at for at, operator in enumerate(operators)}
    constant: set[str] = set()
    freed = [0] * len(operators)
    alive = peak = 0
    for at, operator in enumerate(operators):
        sources = [value.get_node().get_name() for value in operator.input_values()]
        if operator.get_type_name() == "Constant" or (sources and constant.issuperset(sources)):
            constant.add(operator.get_name())
            continue
        if operator.get_type_name() == "Result":  # what is given out stays until the end, and once
            continue
        for output in operator.outputs():
            size = int(np.prod(output.get_shape(), dtype=np.int64)) * output.get_element_type().size
            readers = (place[reader.get_node().get_name()] for reader in output.get_target_inputs())
            freed[max(readers, default=at)] += size
            alive += size
        peak = max(peak, alive)
        alive -= freed[at]
    return peak


def pieces(hu: npt.NDArray[np.int16], slices: int) -> Iterator[npt.NDArray[np.int16]]:
    """int16 [N, H, W] in pieces of exactly `slices`, at least one, the last filled up with 0 HU."""
    for start in range(0, max(1, len(hu)), slices):
        piece = hu[start : start + slices]
        if len(piece) < slices:
            piece = np.concatenate([piece, np.zeros((slices - len(piece), *hu.shape[1:]), hu.dtype)])
        yield piece


def joined(results: Sequence[Tensors], count: int) -> dict[str, npt.NDArray[Any]]:
    """The outputs of all pieces of `count` slices as those of one call."""
    return {name: _joined(name, [result[name] for result in results], count) for name in results[0]}


def _joined(name: str, parts: list[npt.NDArray[Any]], count: int) -> npt.NDArray[Any]:
    axis = slices_axis(name)
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
    return whole[:, :count] if axis else whole[:count]


def slices_axis(output: str) -> int:
    """Which axis of an output of a graph of slices is theirs (docs/architecture.md): `features` come per window."""
    return 1 if output == "features" else 0
