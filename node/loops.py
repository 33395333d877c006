"""The loops of a part in threads of their own: watched, ended together, and kept going where that is right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from node.service_manager import stop_of_loop
from reporting.delivery.loop import Stop
from store.connection import STORE_AWAY

LOOP_SECONDS = 600.0
"""A delivery loop that has not come round for this long hangs: as long as its lease on what it sends."""
ERRORS_LOOK_SECONDS = 1.0
AWAY_SECONDS = 1.0
"""A store that does not answer is asked again after this long."""
ANEW_SECONDS = 10.0

Loop = Callable[[Stop, float], None]
"""Runs until told to stop. float: seconds between two looks."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("node")


def run_together(loops: Mapping[str, Loop], stop: Stop, poll_seconds: float) -> None:
    """Run every loop in a thread until told to stop; an error in one ends all, so that the process is restarted.

    Each is watched by its name: one that hangs is seen although the others come round.
    """
    errors: list[BaseException] = []

    def guarded(loop: Loop, its_stop: Stop) -> None:
        try:
            loop(its_stop, poll_seconds)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, which raises it
            errors.append(error)

    threads = [
        threading.Thread(
            target=guarded, args=(loop, stop_of_loop(stop, name, LOOP_SECONDS)), name=name, daemon=True
        )
        for name, loop in loops.items()
    ]
    for thread in threads:
        thread.start()
    while not errors and not stop.wait(ERRORS_LOOK_SECONDS):
        pass
    if errors:
        raise errors[0]
    for thread in threads:
        thread.join()


def waiting_for_store(loop: Loop, begin_anew: Callable[[], None] = lambda: None) -> Loop:
    """The same loop, begun anew whenever the store has not answered: what it does is all in the store.

    begin_anew: is called before, when the store may answer again.
    """

    def run(stop: Stop, poll_seconds: float) -> None:
        away = False
        while not stop.is_set():
            try:
                if away:
                    begin_anew()
                    away = False
                loop(stop, poll_seconds)
                return
            except STORE_AWAY as error:
                away = True
                log.error(
                    "database does not answer: waiting for it", why=" ".join(str(error.orig).split())[:200]
                )
                stop.wait(AWAY_SECONDS)

    return run


def start_beside(loops: Mapping[str, Callable[[Stop], None]], ended: threading.Event) -> None:
    """Run loops beside the one that a part is there for, until `ended`; one that fails is begun anew.

    What they do is wanted, but nothing that was received depends on it.
    """
    for name, loop in loops.items():
        threading.Thread(target=_keep_going, args=(name, loop, ended), name=name, daemon=True).start()


def _keep_going(name: str, loop: Callable[[Stop], None], ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            loop(ended)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: else nobody would see that it is gone
            log.error("loop failed: begun anew", loop=name, why=f"{type(error).__name__}: {error}")
            ended.wait(ANEW_SECONDS)
