"""Talking to systemd over the socket that it names: readiness, reload, status, watchdog (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

BEATS_PER_WATCHDOG = 3
"""How often systemd is told within its limit, so that one late beat does not end the service."""


@dataclass(frozen=True)
class ServiceManager:
    """systemd as this process sees it.

    address: the datagram socket of NOTIFY_SOCKET; None where the process was not started by systemd, and then
        every message goes nowhere. watchdog_seconds: systemd kills a service that is silent for this long.
    """

    address: str | None = None
    watchdog_seconds: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> ServiceManager:
        """What NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say to the process `pid`."""
        address = environment.get("NOTIFY_SOCKET") or None
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        limit = int(microseconds) / 1e6 if address and meant and microseconds.isdecimal() else 0.0
        return cls(address, limit or None)

    @property
    def present(self) -> bool:
        """Whether systemd listens."""
        return self.address is not None

    def ready(self) -> None:
        """The service serves (again, after a reload)."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The service rereads its configuration."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._tell("STOPPING=1")

    def status(self, words: str) -> None:
        """What `systemctl status` shows of the service."""
        self._tell(f"STATUS={words}")

    def alive(self) -> None:
        """The watchdog's beat."""
        self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if self.address is None:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(name)
            channel.sendall(message.encode())


class WatchedStop:
    """A stop event that knows when the loop that it stops last looked at it: a loop that hangs does not look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._event = threading.Event()
        self._clock = clock
        self._looked = clock()

    def set(self) -> None:
        """Tell the loop to end."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether to end now."""
        self._looked = self._clock()
        return self._event.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait until told to end, at most `timeout` seconds; whether told."""
        told = self._event.wait(timeout)
        self._looked = self._clock()
        return told

    @property
    def silent_seconds(self) -> float:
        """How long ago the loop last looked."""
        return self._clock() - self._looked


@contextmanager
def watchdog(manager: ServiceManager, healthy: Callable[[], bool]) -> Iterator[None]:
    """Beat to systemd from a thread of its own for as long as `healthy` says so."""
    if manager.watchdog_seconds is None:
        yield
        return
    done = threading.Event()
    pause = manager.watchdog_seconds / BEATS_PER_WATCHDOG
    thread = threading.Thread(
        target=_beat, args=(manager, healthy, pause, done), name="watchdog", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _beat(manager: ServiceManager, healthy: Callable[[], bool], pause: float, done: threading.Event) -> None:
    while True:
        if healthy():
            manager.alive()
        if done.wait(pause):
            return


def this_service() -> ServiceManager:
    """systemd as the environment of this process names it."""
    return ServiceManager.from_environment(os.environ, os.getpid())
