"""Pictures of every slice of a screened study in one file, so that the page shows them without reading DICOM.

The CT is a JPEG in the lung window; lesion mask, both heatmaps and what own models mark, class by class, are PNGs with
transparency, to be laid over it. They are for looking at on a page, not for reading: the PACS has the images. The file
holds no identity.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from engine.findings import Findings
from engine.volume import Volume
from reporting.lung_window import LUNG_WINDOW
from reporting.presentation_state import JCS_COLOR, M3LUNG_COLOR
from reporting.rendering import orientation_letters
from reporting.segmentation import LESION_COLOR

NAME = "pictures.zip"
SIDE = 512
"""Longest side of a CT picture in pixels."""
JPEG_QUALITY = 88

CT, LESION, JCS, M3LUNG = "ct", "lesion", "jcs", "m3lung"
OWN_LAYER = re.compile(r"own\d{1,3}-\d{1,3}")
"""Layer of what an own model marks: number of the model, label of the class, as in `OwnModelFindings.labels`."""
INDEX = "index.json"


class NoPictures(Exception):
    """There are no pictures for what was asked."""


@dataclass(frozen=True)
class OwnLayer:
    """What one own model marks of one class. model, meaning: in words. color: as #rrggbb."""

    layer: str
    model: str
    meaning: str
    color: str


@dataclass(frozen=True)
class PictureIndex:
    """What a file of pictures holds.

    width, height: of a CT picture, in the true ratio of the sides. orientation: patient directions at the left,
    right, top and bottom border. positions: of each slice along the patient's axis, mm. shown: for each layer, in
    which slices it has something; the CT is in all. own: the layers of own models, those that have something.
    """

    slices: int
    width: int
    height: int
    orientation: tuple[str, str, str, str]
    positions: tuple[float, ...]
    shown: dict[str, tuple[int, ...]]
    own: tuple[OwnLayer, ...] = ()


def write_pictures(path: Path, volume: Volume, findings: Findings) -> None:
    """Write the pictures of all slices to `path`, whole or not at all. Raises OSError."""
    width, height = _size(volume)
    shown: dict[str, tuple[int, ...]] = {}
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for layer, pictures in _layers(volume, findings, (width, height)):
            slices = []
            for z, content in pictures:
                archive.writestr(_entry(layer, z), content)
                slices.append(z)
            shown[layer] = tuple(slices)
        index = {
            "slices": volume.shape[0],
            "width": width,
            "height": height,
            "orientation": orientation_letters(volume.geometry),
            "positions": [round(float(p[2]), 2) for p in volume.geometry.positions],
            "shown": shown,
            "own": [asdict(own) for own in _own_layers(findings) if shown[own.layer]],
        }
        archive.writestr(INDEX, json.dumps(index))
    part.replace(path)


def read_index(path: Path) -> PictureIndex:
    """What the file at `path` holds. Raises NoPictures."""
    content: dict[str, Any] = json.loads(_read(path, INDEX))
    left, right, top, bottom = content["orientation"]
    return PictureIndex(
        slices=content["slices"],
        width=content["width"],
        height=content["height"],
        orientation=(left, right, top, bottom),
        positions=tuple(content["positions"]),
        shown={layer: tuple(slices) for layer, slices in content["shown"].items()},
        own=tuple(OwnLayer(**own) for own in content.get("own", ())),
    )


def media_type(layer: str) -> str | None:
    """Of a layer's pictures; None for what is no layer."""
    if layer == CT:
        return "image/jpeg"
    return "image/png" if layer in (LESION, JCS, M3LUNG) or OWN_LAYER.fullmatch(layer) else None


def read_picture(path: Path, layer: str, z: int) -> bytes:
    """One picture of the file at `path`. Raises NoPictures where the layer has nothing in this slice."""
    return _read(path, _entry(layer, z))


def _read(path: Path, entry: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(entry)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise NoPictures(f"{path.name} has no {entry}") from error


def _entry(layer: str, z: int) -> str:
    return f"{layer}/{z:05d}"


def _size(volume: Volume) -> tuple[int, int]:
    """Width and height that keep the ratio of mm and fit into SIDE."""
    height = volume.shape[1] * volume.geometry.pixel_spacing[0]
    width = volume.shape[2] * volume.geometry.pixel_spacing[1]
    scale = SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _layers(
    volume: Volume, findings: Findings, size: tuple[int, int]
) -> Iterator[tuple[str, Iterator[tuple[int, bytes]]]]:
    slices = range(volume.shape[0])
    yield CT, ((z, _ct(volume.hu[z], size)) for z in slices)
    lesions = ((z, findings.lesion_labels[z] > 0) for z in slices)
    yield LESION, _marked(lesions, size, LESION_COLOR)
    for layer, maps, color in (
        (JCS, findings.jcs.activation_maps, JCS_COLOR),
        (M3LUNG, findings.m3lung.location_maps, M3LUNG_COLOR),
    ):
        yield layer, ((z, _heat(maps[z], color)) for z in range(len(maps)) if maps[z].any())
    for number, own in enumerate(findings.own_models):
        labels = own.labels
        for k, found in enumerate(own.classes, start=1):
            if labels is not None:
                marked = ((z, labels[z] == k) for z in slices)
                yield _own_layer(number, k), _marked(marked, size, found.which.color)


def _own_layers(findings: Findings) -> Iterator[OwnLayer]:
    """A layer for each class that an own model can mark."""
    for number, own in enumerate(findings.own_models):
        for k, found in enumerate(own.classes, start=1):
            if own.labels is not None:
                red, green, blue = found.which.color
                color = f"#{red:02x}{green:02x}{blue:02x}"
                yield OwnLayer(_own_layer(number, k), own.title, found.which.code.meaning, color)


def _own_layer(model: int, label: int) -> str:
    return f"own{model}-{label}"


def _marked(
    planes: Iterable[tuple[int, npt.NDArray[np.bool_]]], size: tuple[int, int], color: tuple[int, int, int]
) -> Iterator[tuple[int, bytes]]:
    """Pictures of the slices in which something is marked."""
    return ((z, _outlined(plane, size, color)) for z, plane in planes if plane.any())


def _ct(hu: npt.NDArray[np.int16], size: tuple[int, int]) -> bytes:
    center, width = LUNG_WINDOW
    grey = np.clip((hu.astype(np.float32) - (center - width / 2)) * (255 / width), 0, 255).astype(np.uint8)
    picture = Image.fromarray(grey)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return _encoded(picture, "JPEG", quality=JPEG_QUALITY)


def _outlined(mask: npt.NDArray[np.bool_], size: tuple[int, int], color: tuple[int, int, int]) -> bytes:
    """The border opaque, the inside faint."""
    larger = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=bool)
    border = larger & ~ndimage.binary_erosion(larger)
    alpha = np.where(border, 255, np.where(larger, 56, 0)).astype(np.uint8)
    return _encoded(_colored(alpha, color), "PNG")


def _heat(values: npt.NDArray[np.float32], color: tuple[int, int, int]) -> bytes:
    """A heatmap on its own grid, the stronger the less transparent; the page enlarges it smoothly."""
    alpha = np.round(np.clip(values, 0, 1) * 230).astype(np.uint8)
    return _encoded(_colored(alpha, color), "PNG")


def _colored(alpha: npt.NDArray[np.uint8], color: tuple[int, int, int]) -> Image.Image:
    pixels = np.empty((*alpha.shape, 4), dtype=np.uint8)
    pixels[:, :, :3] = color
    pixels[:, :, 3] = alpha
    return Image.fromarray(pixels)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
