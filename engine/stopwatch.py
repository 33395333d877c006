"""How long the stages of a study take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by stage.

    clock: seconds from any beginning. seconds: what is added to; its own where none is given.
    """

    def __init__(self, clock: Callable[[], float], seconds: dict[str, float] | None = None) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {} if seconds is None else seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is done inside counts for stage `name`; a stage that fails is not counted."""
        start = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - start
