"""Screening in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from engine.findings import Findings, PackageReference
from engine.screening import ScreeningSystems, screen
from engine.series_choice import SeriesRules
from engine.volume import Series


class LocalExecutor:
    """Runs the systems that it is given, one volume at a time: they use every core that they may."""

    def __init__(self, systems: ScreeningSystems) -> None:
        self._systems = systems
        self._busy = threading.Lock()

    @property
    def packages(self) -> tuple[PackageReference, ...]:
        return self._systems.packages

    @property
    def descriptions(self) -> Mapping[str, str]:
        return self._systems.descriptions

    @property
    def reasons(self) -> Mapping[str, str]:
        return self._systems.reasons

    def screen(
        self, volume: Series, rules: SeriesRules, *, clock: Callable[[], float] = time.perf_counter
    ) -> Findings:
        with self._busy:
            return screen(volume, self._systems, rules, clock=clock)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._systems.close()
