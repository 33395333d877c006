"""A series that is used while its slices are still being decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition, Event

import numpy as np
import numpy.typing as npt

from engine.volume import Geometry, Volume


class ArrivingVolume:
    """An `engine.volume.Series` whose slices are decoded in a thread of its own.

    Use as a context manager: at its end decoding has ended too, and what is not there by then never comes.

    empty: the volume, its `hu` yet to be filled. decoding: fills it, and yields the slice index of each slice that is
        there; what it raises is raised to those who wait.
    """

    def __init__(self, empty: Volume, decoding: Iterator[int]) -> None:
        self._volume = empty
        self._there = np.zeros(len(empty.hu), dtype=bool)
        self._changed, self._left = Condition(), Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decoding")
        self._end: Future[None] = self._thread.submit(self._run, decoding)
        self._end.add_done_callback(lambda _: self._tell())

    @property
    def geometry(self) -> Geometry:
        return self._volume.geometry

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._volume.shape

    def wait(self, slices: Sequence[int]) -> npt.NDArray[np.int16]:
        """See `engine.volume.Series`."""
        wanted = list(slices)
        with self._changed:
            self._changed.wait_for(lambda: self._there[wanted].all() or self._end.done())
        if not self._there[wanted].all():
            self._end.result()
            raise RuntimeError("slices were asked for that are no longer being decoded")
        return self._volume.hu

    def whole(self) -> Volume:
        """See `engine.volume.Series`."""
        self.wait(range(len(self._there)))
        return self._volume

    def __enter__(self) -> ArrivingVolume:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.shutdown()

    def _run(self, decoding: Iterator[int]) -> None:
        for z in decoding:
            self._there[z] = True
            self._tell()
            if self._left.is_set():
                return

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
