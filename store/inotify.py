"""Waiting without cost until a file is touched: inotify(7), which Linux has and Python does not name."""

from __future__ import annotations

import ctypes
import errno
import os
import select
from pathlib import Path

_IN_ATTRIB = 0x4
"""Times or number of links have changed: the file was touched, replaced or deleted (linux/inotify.h)."""
_EVENTS_BYTES = 4096


class FileWatch:
    """Waits for one file to be touched. What happened since it was made, or since the last wait, counts."""

    def __init__(self, path: Path) -> None:
        """Watch `path`. Raises OSError where it cannot be watched: no such file, no inotify, no watches left."""
        self._path = path
        self._inode = path.stat().st_ino
        self._descriptor = _inotify("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _inotify("inotify_add_watch", self._descriptor, os.fsencode(path), _IN_ATTRIB)
        except OSError:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait, at most `seconds`; whether the file was touched."""
        if not self._poll.poll(seconds * 1000):
            return False
        os.read(self._descriptor, _EVENTS_BYTES)
        return True

    @property
    def in_force(self) -> bool:
        """Whether the path still leads to the file that is watched."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """End the watch."""
        os.close(self._descriptor)


def _inotify(function: str, *arguments: int | bytes) -> int:
    """Call a function of the C library. Raises OSError where it fails or there is none."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, function):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    answer: int = getattr(library, function)(*arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
