"""The outbox: result files on disk, complete and safe from power loss before the store names them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from reporting.context import ResultObject
from store import results

OUTBOX = "outbox"
PICTURE = "overview.png"


def study_folder(study_id: int, revision_digest: str) -> str:
    """Name of the folder for the results of one revision of one study."""
    return f"{study_id}-{revision_digest[:16]}"


def write_picture(storage: Path, folder: str, picture: Image.Image) -> None:
    """Write the overview of a study beside its results, whole or not at all. Raises OSError."""
    path = storage / OUTBOX / folder / PICTURE
    part = path.with_suffix(".part")
    picture.save(part, format="PNG")
    part.replace(path)


def write_results(storage: Path, folder: str, objects: Iterable[ResultObject]) -> list[results.ResultObject]:
    """Write `objects` under `storage`/outbox/`folder` and return how the store shall know them.

    Names derive from the SOP Instance UID, which derives from the content: writing the same results twice replaces
    a file by its equal. Raises OSError, for instance when the disk is full.
    """
    place = storage / OUTBOX / folder
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for item in objects:
        path = place / f"{item.kind}-{item.dataset.SOPInstanceUID}.dcm"
        write_durably(path, item.encoded)
        written.append(
            results.ResultObject(
                kind=item.kind,
                sop_class_uid=str(item.dataset.SOPClassUID),
                sop_instance_uid=str(item.dataset.SOPInstanceUID),
                series_instance_uid=str(item.dataset.SeriesInstanceUID),
                path=str(path.relative_to(storage)),
            )
        )
    for directory in (place, place.parent):
        _sync(directory)
    return written


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: other name, fsync, rename."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _sync(directory: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
