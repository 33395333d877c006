"""What crosses between machines: model packages as bytes, volumes without their headers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import PackageInvalid
from engine.volume import Volume


@dataclass(frozen=True)
class ShippedPackage:
    """The files of a model package by their names, so that every machine runs the same bytes."""

    name: str
    files: tuple[tuple[str, bytes], ...]


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
