"""What crosses between machines: model packages as bytes, findings without what is mostly nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import PackageInvalid
from engine.findings import Findings
from engine.volume import Volume


@dataclass(frozen=True)
class ShippedPackage:
    """The files of a model package by their names, so that every machine runs the same bytes."""

    name: str
    files: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, eq=False)
class ShippedFindings:
    """Findings whose two masks are packed: 235 MB become some ten for 300 slices of 512 x 512.

    findings: with empty masks. lung_bits: the lung mask, eight voxels a byte. lesions: the labels inside of `where`,
    beyond which there are none.
    """

    findings: Findings
    shape: tuple[int, int, int]
    lung_bits: npt.NDArray[np.uint8]
    where: tuple[tuple[int, int], ...]
    lesions: npt.NDArray[np.uint16]


def packed_package(path: Path) -> ShippedPackage:
    """The package at `path`. Raises PackageInvalid."""
    try:
        files = tuple((file.name, file.read_bytes()) for file in sorted(path.iterdir()) if file.is_file())
    except OSError as error:
        raise PackageInvalid(f"{path}: cannot be read ({error.strerror})") from None
    return ShippedPackage(path.name, files)


def unpacked_package(package: ShippedPackage, folder: Path) -> Path:
    """Write a package below `folder`; returns where. Raises OSError."""
    place = folder / package.name
    place.mkdir()
    for name, content in package.files:
        (place / name).write_bytes(content)
    return place


def without_headers(volume: Volume) -> Volume:
    """All that screening looks at: headers are needed only where results are built."""
    return replace(volume, headers=())


def packed_findings(findings: Findings) -> ShippedFindings:
    """Findings for the way."""
    labels = findings.lesion_labels
    spans = _extent(labels)
    inside = labels[tuple(slice(*span) for span in spans)]
    empty = np.zeros((0, 0, 0), dtype=np.uint16)
    return ShippedFindings(
        replace(findings, lesion_labels=empty, lung_mask=empty.astype(np.bool_)),
        (labels.shape[0], labels.shape[1], labels.shape[2]),
        np.packbits(findings.lung_mask.reshape(-1)),
        spans,
        np.ascontiguousarray(inside),
    )


def unpacked_findings(shipped: ShippedFindings) -> Findings:
    """Findings as they were."""
    labels = np.zeros(shipped.shape, dtype=np.uint16)
    labels[tuple(slice(*span) for span in shipped.where)] = shipped.lesions
    bits = np.unpackbits(shipped.lung_bits, count=labels.size)
    return replace(
        shipped.findings, lesion_labels=labels, lung_mask=bits.view(np.bool_).reshape(shipped.shape)
    )


def _extent(labels: npt.NDArray[np.uint16]) -> tuple[tuple[int, int], ...]:
    """First and last index (exclusive) of what is not 0, an axis; (0, 0) each where all is."""
    across = labels.max(axis=0, initial=0)
    spans = []
    for largest in (labels.reshape(len(labels), -1).max(axis=1), across.max(axis=1), across.max(axis=0)):
        places = np.flatnonzero(largest)
        spans.append((int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0))
    return tuple(spans)
