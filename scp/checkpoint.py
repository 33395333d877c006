"""A checkpoint for pynetdicom's reactor thread without the race of the one that it comes with.

pynetdicom 3.0 pauses its reactor while a message is sent, lest the reactor takes the answer off the queue. It takes a
flag that the reactor sets before it waits for the sign that it waits; a busy machine lets the sender pass between
flag and wait, the reactor swallows the answer, and the sender waits for it until its timeout ends the association.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pynetdicom.association import Association

PATIENCE_S = 0.5
"""How often the sender looks whether the reactor still lives."""


class Checkpoint(threading.Event):
    """An Event whose `clear` returns when the thread that waits at it really stands still."""

    def __init__(self, reactor: threading.Thread) -> None:
        super().__init__()
        self._reactor = reactor
        self._change = threading.Condition()
        self._open = True
        self._parked = False
        self._turn_due = False

    def is_set(self) -> bool:
        """Whether the reactor may run."""
        return self._open

    def set(self) -> None:
        """Let the reactor run, for one turn at least: it is the reactor that sees an abort."""
        with self._change:
            self._open = self._turn_due = True
            self._change.notify_all()

    def clear(self) -> None:
        """Stop the reactor; returns when it waits, or has ended."""
        with self._change:
            self._await(lambda: not self._turn_due)
            self._open = False
            self._await(lambda: self._parked)

    def wait(self, timeout: float | None = None) -> bool:
        """What the reactor calls: stand still until it may run."""
        with self._change:
            self._parked = True
            self._change.notify_all()
            passed = self._change.wait_for(lambda: self._open, timeout)
            self._parked = self._turn_due = False
            self._change.notify_all()
            return passed

    def _await(self, condition: Callable[[], bool]) -> None:
        while not condition() and self._reactor.is_alive():
            self._change.wait(PATIENCE_S)


def settle(association: Association) -> None:
    """Return when the reactor has had a turn, so that `is_established` tells of an abort that has come.

    Else the release of an association that its peer aborted would wait for an answer until its timeout.
    """
    association._reactor_checkpoint.clear()
    association._reactor_checkpoint.set()


def guard(association: Association) -> None:
    """Give an association that we requested a checkpoint without the race."""
    association._reactor_checkpoint = Checkpoint(association)
