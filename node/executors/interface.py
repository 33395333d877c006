"""What every executor offers: `engine.screening.screen`, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from engine.findings import Findings, PackageReference
from engine.series_choice import SeriesRules
from engine.volume import Series


class Executor(Protocol):
    """Both systems, open and ready somewhere. Threads may share it; use as a context manager."""

    @property
    def packages(self) -> tuple[PackageReference, ...]:
        """The model packages in use: JCS, M3Lung-Sys."""
        ...

    @property
    def descriptions(self) -> Mapping[str, str]:
        """Per system: what runs it."""
        ...

    @property
    def reasons(self) -> Mapping[str, str]:
        """Per system: why it is that which runs it; none where it runs on other machines."""
        ...

    def screen(
        self, volume: Series, rules: SeriesRules, *, clock: Callable[[], float] = time.perf_counter
    ) -> Findings:
        """As `engine.screening.screen`; waits while everything is busy. Raises NotScreenable, RunnerFailed."""
        ...

    def __enter__(self) -> Executor: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Give memory and devices back."""
        ...
