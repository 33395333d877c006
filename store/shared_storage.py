"""The files of the nodes of one store: where they lie on this machine, fetched from the object store where they do not.

Without an object store the storage folder itself does all that is asked here: `folder / path`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import structlog

from store.object_folder import ObjectFolder

FETCHED = "fetched"
"""Folder for copies of what lies in the object store."""
KEEP_COPIES_S = 3 * 3600.0
"""So long is a copy good for another look; by then whoever left one behind is dead, too."""
CLEAR_EVERY_S = 600.0
PIECE = 64
"""So many objects are asked for at once."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")


class Storage(Protocol):
    """What paths in the store are relative to: a folder, or a `SharedStorage`."""

    def __truediv__(self, path: str, /) -> Path:
        """Where the file can be read on this machine; there may be none."""
        ...


class DamagedObject(OSError):
    """An object is not what was received."""


class SharedStorage:
    """A storage folder whose files go into an object store, which every node of the store reaches.

    clock: seconds since the epoch, as file systems count them.
    """

    def __init__(self, folder: Path, objects: ObjectFolder, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.objects = objects
        self._clock = clock
        self._cleared_at = 0.0

    @property
    def copies(self) -> Path:
        """The folder of copies, laid out as the storage folder is. What lies there may be gone after some hours."""
        return self.folder / FETCHED

    def __truediv__(self, path: str, /) -> Path:
        """The file itself, or a copy of it; a path without a file where neither can be had, which is logged."""
        own, copy = self.folder / path, self.copies / path
        if own.exists() or copy.exists():
            return own if own.exists() else copy
        try:
            self._copy(path, copy)
        except FileNotFoundError:
            return own
        except OSError as error:
            log.warning("not fetched", path=path, why=str(error))
        return copy

    @contextmanager
    def gathered(self, paths: Sequence[str]) -> Iterator[list[Path]]:
        """Received images on this machine while the context lasts, in the order of `paths`.

        Raises ObjectStoreAway, FileNotFoundError, DamagedObject.
        """
        self._clear()
        self.copies.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="study-", dir=self.copies))
        try:
            files = [folder / Path(path).name for path in paths]
            wanted = list(zip(paths, files, strict=True))
            for start in range(0, len(wanted), PIECE):
                self.objects.fetch(wanted[start : start + PIECE])
            for file in files:
                _check_content(file)
            yield files
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, paths: Sequence[str]) -> None:
        """Put what was written among the copies into the object store. Raises ObjectStoreAway."""
        self.objects.put([(self.copies / path, path) for path in paths])

    def _copy(self, path: str, copy: Path) -> None:
        self._clear()
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}.part")
        try:
            self.objects.fetch([(path, part)])
            part.rename(copy)
        finally:
            part.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove copies that are old, once in a while."""
        now = self._clock()
        if now - self._cleared_at < CLEAR_EVERY_S:
            return
        self._cleared_at = now
        # os.walk passes over folders that others remove meanwhile, as every worker does with a study that it has done
        files = [Path(place) / name for place, _, names in os.walk(self.copies) for name in names]
        for file in files:
            with suppress(OSError):  # somebody else clears, too; only with the last file the folder is empty
                if now - file.stat().st_mtime > KEEP_COPIES_S:
                    file.unlink()
                    file.parent.rmdir()


def _check_content(file: Path) -> None:
    """Received images are named by their SHA-256. Raises DamagedObject."""
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != file.stem:
            raise DamagedObject(f"{file.name} in the object store is not what was received")
