"""Volumes with known content, and own models opened on the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import CTImageStorage
from tiny_own_models import dense_lung, write_own_package

from engine.findings import OwnModelFindings
from engine.label_volume import LabelVolume
from engine.own_model.contract import OwnModelMetadata
from engine.own_model.screening import OwnModelSystem, screen_with
from engine.packages import read_package
from engine.runners.interface import RunnerOptions
from engine.runners.openvino_runner import OpenVINORunner
from engine.volume import Geometry, SourceSlice, Volume

Say = Callable[..., OwnModelFindings]
EXACT = RunnerOptions(precision="f32", threads=1, batch=5)


@pytest.fixture
def block() -> Volume:
    """24 slices 3 mm apart, 48 x 40 pixels of 1.5 mm: air of -900 HU, and a block of 0 HU off the middle."""
    hu = np.full((24, 48, 40), -900, dtype=np.int16)
    hu[6:18, 8:24, 20:36] = 0
    return as_volume(hu)


def as_volume(
    hu: np.ndarray,
    row: tuple[float, ...] = (1, 0, 0),
    column: tuple[float, ...] = (0, 1, 0),
    gap: float = 3.0,
) -> Volume:
    """A volume of straight slices with these directions of rows and columns."""
    normal = np.cross(row, column)
    positions = np.outer(np.arange(len(hu)) * gap, normal)
    geometry = Geometry(positions, np.array(row, float), np.array(column, float), (1.5, 1.5), gap)
    sources = tuple(SourceSlice(CTImageStorage, f"1.2.3.{z}", None, z) for z in range(len(hu)))
    return Volume(hu, geometry, sources, "1.2", "1.2.3", "1.2.4")


@pytest.fixture
def volume_like() -> Callable[..., Volume]:
    return as_volume


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., OwnModelSystem]]:
    """An own model of a graph and changes to the metadata of `dense_lung` on whole slices."""
    made: list[OwnModelSystem] = []

    def make(graph: bytes, batch: int = 5, **changes: Any) -> OwnModelSystem:
        metadata = dense_lung(**({"preprocessing": {"hu_windows": [[-900, -400]]}} | changes))
        package = read_package(write_own_package(tmp_path / f"own-{len(made)}", graph, **metadata))
        assert isinstance(package.metadata, OwnModelMetadata)
        made.append(OwnModelSystem(package, package.metadata, OpenVINORunner(package, EXACT), batch))
        return made[-1]

    yield make
    for system in made:
        system.runner.close()


@pytest.fixture
def say(opened: Callable[..., OwnModelSystem]) -> Say:
    """What an own model says of a volume that is all lung."""

    def run(volume: Volume, graph: bytes, batch: int = 5, **changes: Any) -> OwnModelFindings:
        lungs = np.ones(volume.shape, dtype=bool)
        mask = LabelVolume.of(lungs)
        return screen_with(opened(graph, batch, **changes), volume, mask, lungs.any(axis=(1, 2)))

    return run
