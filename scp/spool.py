"""The spool: received instances as Part 10 files, raw bytes as they came.

    <storage>/incoming/<random>.part             being written
    <storage>/spool/<study>/<content>.dcm        kept; named by two SHA-256, so that no received value names a file

An instance is on disk for good once `keep` returned: written, renamed, file and directory flushed. The store row that
names it comes after, and is what counts: `sweep` clears away whatever has none.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IMPLEMENTATION_CLASS_UID = "2.25.301826312947210733209472290155387061249"
"""Names this program in the files that it writes (PS3.10 7.1); fixed, since a file's SHA-256 covers it."""
WRITE_PIECE = 256 * 1024
"""What is written at once, at a multiple of it: the page cache then takes it in few large pieces."""
BUFFER = 4 * WRITE_PIECE
"""What is gathered before it is hashed. Most instances are smaller: they are hashed while the disk writes them."""
HEAD = 64 * 1024
"""So much of the beginning of a data set is kept in memory for reading its header."""

_EXPLICIT_OB = b"OB\0\0"


class TooLarge(Exception):
    """The data set is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"data set is larger than {limit // 2**20} MiB")


@dataclass(frozen=True)
class KeptFile:
    """A file in the spool. path: relative to the storage folder. sha256: of the file. size: of the data set in it."""

    path: str
    sha256: str
    size: int


class Spool:
    """The spool of one storage folder. Several listeners and threads may share the folder."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.incoming = storage / "incoming"
        self.kept = storage / "spool"
        self._buffers: deque[memoryview] = deque()

    def prepare(self) -> None:
        """Make the folders, readable by the service user alone. Raises OSError."""
        for folder in (self.storage, self.incoming, self.kept):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _flush_directory(folder.parent)

    def begin(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, max_bytes: int
    ) -> IncomingFile:
        """Begin to write one instance. Raises OSError."""
        path = self.incoming / f"{secrets.token_hex(16)}.part"
        meta = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        return IncomingFile(path, meta, max_bytes, self._buffers)

    def keep(self, incoming: IncomingFile, study_instance_uid: str) -> KeptFile:
        """Give a written file its name and make it last. Raises OSError, and then the file is not kept.

        The name derives from the content: the same instance again lands on the same name. What has it may have been
        acknowledged, so only bytes that the disk has by then take its place; a new name needs no such order.
        """
        study = hashlib.sha256(study_instance_uid.encode("ascii")).hexdigest()[:32]
        folder, sha256 = f"{self.kept}/{study}", incoming.sha256
        final = f"{folder}/{sha256}.dcm"
        if Path(final).exists():
            incoming.sync()
        try:
            incoming.rename(final)
        except FileNotFoundError:
            Path(folder).mkdir(mode=0o700, exist_ok=True)
            _flush_directory(self.kept)
            incoming.rename(final)
        incoming.flush()
        _flush_directory(folder)
        return KeptFile(f"{self.kept.name}/{study}/{sha256}.dcm", sha256, incoming.size)

    def drop(self, kept: KeptFile) -> None:
        """Remove a kept file that the store did not take."""
        (self.storage / kept.path).unlink(missing_ok=True)

    def has(self, path: str) -> bool:
        """Whether a kept file is there still. path: relative to the storage folder."""
        return (self.storage / path).exists()

    def free_bytes(self) -> int:
        """Free space for the service user on the spool's file system. Raises OSError."""
        status = os.statvfs(self.kept)
        return status.f_bavail * status.f_frsize

    def kept_paths(self, changed_since: float = 0.0) -> Iterator[str]:
        """Kept files, relative to the storage folder, of folders that changed since then (seconds since the epoch)."""
        for folder in sorted(self.kept.iterdir()):
            if folder.stat().st_mtime < changed_since:
                continue
            for file in sorted(folder.glob("*.dcm")):
                yield str(file.relative_to(self.storage))

    def unfinished(self) -> Iterator[Path]:
        """Every file that was being written when its listener ended, or is being written now."""
        yield from sorted(self.incoming.glob("*.part"))


class IncomingFile:
    """One instance while it is being written: preamble and meta information, then the data set as it comes.

    path: where it is until it is renamed. size: of the data set so far. head: the beginning of the data set, once
    the file is finished. buffers: what is free of the memory that the files of a spool take turns with.
    """

    def __init__(self, path: Path, meta: bytes, max_bytes: int, buffers: deque[memoryview]) -> None:
        self.path = path
        self.size = 0
        self.head = memoryview(b"")
        self.data_set_at = len(meta)
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._named = False
        self._buffers = buffers
        self._buffer = buffers.pop() if buffers else memoryview(bytearray(BUFFER))
        self._begin = 0
        self._filled = len(meta)
        self._written = 0
        self._buffer[: len(meta)] = meta

    @property
    def sha256(self) -> str:
        """SHA-256 hex of the finished file: the transfer syntax is part of what the bytes of a data set mean."""
        return self._digest.hexdigest()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the data set. Raises OSError, TooLarge."""
        self.size += len(data)
        if self.size > self._max_bytes:
            raise TooLarge(self._max_bytes)
        with memoryview(data) as view:
            at = 0
            while at < len(view):
                part = view[at : at + BUFFER - self._filled]
                self._buffer[self._filled : self._filled + len(part)] = part
                self._filled += len(part)
                at += len(part)
                self._write_out(self._filled - self._filled % WRITE_PIECE)
                if self._filled == BUFFER:
                    self._settle()

    def finish(self) -> None:
        """Hand everything to the kernel. Raises OSError."""
        self._write_out(self._filled)
        self._settle()

    def rename(self, final: str) -> None:
        """Give the file its name for good. Raises OSError."""
        self.path.rename(final)
        self._named = True

    def sync(self) -> None:
        """Make the content last (fsync). Raises OSError."""
        if self._file is not None:
            os.fsync(self._file)

    def flush(self) -> None:
        """Make the content last, then close. Raises OSError."""
        self.sync()
        self._close()

    def abandon(self) -> None:
        """Close the file, and remove it unless it has its name for good."""
        self._close()
        if not self._named:
            self.path.unlink(missing_ok=True)

    def _write_out(self, end: int) -> None:
        """Write the buffer up to `end`."""
        if self._file is None:
            raise OSError("the file is closed")
        while self._written < end:
            self._written += os.write(self._file, self._buffer[self._written : end])

    def _settle(self) -> None:
        """Have the disk begin with what the kernel holds, and hash it meanwhile: `flush` then waits half as long."""
        if self._file is None:
            raise OSError("the file is closed")
        # Linux starts to write what is dirty; a system that does not leaves it to `flush`
        os.posix_fadvise(self._file, self._begin, self._filled, os.POSIX_FADV_DONTNEED)
        whole = self._buffer[: self._filled]
        self._digest.update(whole)
        if not self._begin:
            self.head = memoryview(bytes(whole[self.data_set_at : self.data_set_at + HEAD]))
        self._begin += self._filled
        self._filled = self._written = 0

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._buffers.append(self._buffer)


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1), the same bytes for the same three UIDs."""
    elements = b"".join(
        (
            struct.pack("<HH", 0x0002, 0x0001) + _EXPLICIT_OB + struct.pack("<L", 2) + b"\0\1",
            _uid_element(0x0002, sop_class_uid),
            _uid_element(0x0003, sop_instance_uid),
            _uid_element(0x0010, transfer_syntax_uid),
            _uid_element(0x0012, IMPLEMENTATION_CLASS_UID),
        )
    )
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + length + elements


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, element, b"UI", len(value)) + value


def _flush_directory(folder: str | Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
