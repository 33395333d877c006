"""How far a batch is, for people: a bar with rate and remaining time, or lines where nobody watches a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from node.batch.running import Tally

LINE_SECONDS = 30.0
"""Without a terminal there is a line this often."""


class BatchProgress:
    """Shows tallies as they come. Use as a context manager; threads may share it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = self._said = clock()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("looking for studies", total=None, words="")

    def __enter__(self) -> BatchProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def looked(self, files: int) -> None:
        """So many files were looked at on the search for studies."""
        self._progress.update(self._task, words=f"{files} files")

    def tell(self, tally: Tally) -> None:
        """A study has ended, or the first is about to begin."""
        now = self._clock()
        if tally.now == 0:
            self._began = self._said = now
        words = progress_words(tally, now - self._began)
        self._progress.update(
            self._task,
            description="screening",
            total=tally.total,
            completed=tally.before + tally.now,
            words=words,
        )
        if not self._console.is_terminal and now - self._said >= LINE_SECONDS:
            self._said = now
            self._console.print(f"{tally.before + tally.now} of {tally.total} studies: {words}")


def progress_words(tally: Tally, seconds: float) -> str:
    """Rate, remaining time and failures after so many seconds of this run."""
    left = tally.total - tally.before - tally.now
    parts = []
    if tally.now and seconds > 0:
        rate = tally.now / seconds
        parts.append(f"{60 * rate:.1f} studies/min")
        if left:
            parts.append(f"{_span(left / rate)} left")
    if tally.counts["failed"]:
        parts.append(f"{tally.counts['failed']} failed")
    return ", ".join(parts)


def _span(seconds: float) -> str:
    """1 d 2 h, 3 h 04 min, 5 min 06 s."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
