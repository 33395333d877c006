"""Talking to systemd over the socket that it names: readiness, reload, status, watchdog (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from reporting.delivery.loop import Stop

BEATS_PER_WATCHDOG = 3
"""How often systemd is told within its limit, so that one late beat does not end the service."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("node")


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
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.connect(name)
                channel.sendall(message.encode())
        except OSError as error:  # no reason to end a node, nor the thread of the watchdog
            log.warning("service manager not told", why=error.strerror)


class WatchedStop:
    """A stop event that knows when the loops that it stops last looked at it: a loop that hangs does not look.

    name: of the loop that looks at this one. allowed_seconds: how long it may be away.
    """

    def __init__(
        self,
        name: str = "main loop",
        allowed_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        event: threading.Event | None = None,
    ) -> None:
        self._name, self._allowed, self._clock = name, allowed_seconds, clock
        self._event = event or threading.Event()
        self._looked = clock()
        self._loops = [self]

    def loop(self, name: str, allowed_seconds: float) -> WatchedStop:
        """The same stop for a loop in a thread of its own, which is watched beside this one."""
        loop = WatchedStop(name, allowed_seconds, self._clock, event=self._event)
        self._loops.append(loop)
        return loop

    def set(self) -> None:
        """Tell the loops to end."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether to end now."""
        self._looked = self._clock()
        return self._event.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait until told to end, at most `timeout` seconds; whether told."""
        self._looked = self._clock()
        told = self._event.wait(timeout)
        self._looked = self._clock()
        return told

    @property
    def hanging(self) -> tuple[str, ...]:
        """The loops that have been away for longer than they may, in words."""
        now = self._clock()
        late = [
            (loop._name, now - loop._looked) for loop in self._loops if now - loop._looked > loop._allowed
        ]
        return tuple(f"{name} has not come round for {seconds:.0f} s" for name, seconds in late)


def stop_of_loop(stop: Stop, name: str, allowed_seconds: float) -> Stop:
    """`stop` for a loop in a thread of its own, watched where the part is."""
    return stop.loop(name, allowed_seconds) if isinstance(stop, WatchedStop) else stop


def hanging_loops(stop: Stop) -> tuple[str, ...]:
    """The loops of a part that hang, in words; none where the part is not watched."""
    return stop.hanging if isinstance(stop, WatchedStop) else ()


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
