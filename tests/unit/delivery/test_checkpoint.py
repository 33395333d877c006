"""The reactor stands still while a message is sent, however badly the threads are scheduled."""

from __future__ import annotations

import threading
import time

from scp.checkpoint import Checkpoint


def test_the_reactor_stands_still_from_clear_to_set() -> None:
    turns, ended = [0], threading.Event()
    checkpoint: list[Checkpoint] = []

    def reactor() -> None:
        while not ended.is_set():
            checkpoint[0].wait()
            time.sleep(0.002)  # the moment in which pynetdicom's own flag already says that it waits
            turns[0] += 1

    thread = threading.Thread(target=reactor, daemon=True)
    checkpoint.append(Checkpoint(thread))
    thread.start()
    for _ in range(50):
        checkpoint[0].clear()
        before = turns[0]
        time.sleep(0.004)
        assert turns[0] == before
        checkpoint[0].set()
    ended.set()
    thread.join(timeout=5)
    assert not thread.is_alive() and turns[0] >= 50


def test_clear_returns_when_the_reactor_has_ended() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    checkpoint = Checkpoint(thread)
    checkpoint.clear()
    assert not checkpoint.is_set()
