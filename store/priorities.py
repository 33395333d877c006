"""Priorities of studies, and the order of claims in which none starves. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any


class Priority(enum.IntEnum):
    """How urgent a study is; configured by name. The lowest number comes first."""

    URGENT = -10
    NORMAL = 0
    BACKGROUND = 10
    IDLE = 20
    """Only where nothing else waits or is being received: priors, which may wait for ever."""

    @classmethod
    def _missing_(cls, value: Any) -> Priority | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


PATIENCE: Mapping[Priority, timedelta] = {
    Priority.URGENT: timedelta(0),
    Priority.NORMAL: timedelta(minutes=10),
    Priority.BACKGROUND: timedelta(hours=2),
    Priority.IDLE: timedelta(days=36_500),
}
"""How much later than it came a study of a priority counts as waiting.

So a normal study gives way to urgent ones that come within ten minutes after it, and to none that come later: under
any load every study's turn comes. A priority that is not named here has the patience of the next better one that is.
"""


def in_turn(waiting: Mapping[int, datetime]) -> list[int]:
    """The priorities in the order of their turns.

    waiting: for each priority, since when its oldest study waits.
    """
    return sorted(waiting, key=lambda priority: (waiting[priority] + _patience(priority), priority))


def _patience(priority: int) -> timedelta:
    better = [known for known in PATIENCE if known <= priority]
    return PATIENCE[max(better)] if better else timedelta(0)
