"""Time that goes only when a test says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that stands still until it is moved, forward or back."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> datetime:
        """Let so many seconds pass, or take them back; returns what it says then."""
        self.now += timedelta(seconds=seconds)
        return self.now
