"""Readiness, reload and watchdog, against a socket that listens as systemd does."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import openssl

from node import presence, serve
from node.configuration import Configuration, ConfigurationError
from node.loops import LOOP_SECONDS, run_together
from node.reloading import ReloadablePart
from node.service_manager import ServiceManager, WatchedStop, hanging_loops, watchdog
from reporting.delivery.loop import Stop
from store import processes
from store.database import open_database
from store.migrations import upgrade


@dataclass
class Systemd:
    """The other end of NOTIFY_SOCKET."""

    channel: socket.socket
    address: str

    def heard(self, seconds: float = 5) -> str:
        self.channel.settimeout(seconds)
        return self.channel.recv(4096).decode()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        yield Systemd(channel, address)


@pytest.mark.parametrize(
    ("environment", "watchdog_seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_what_the_environment_says(environment: dict[str, str], watchdog_seconds: float | None) -> None:
    manager = ServiceManager.from_environment(environment, pid=7)
    assert manager.watchdog_seconds == watchdog_seconds
    assert manager.present is ("NOTIFY_SOCKET" in environment)


def test_messages_arrive_on_a_path_and_on_an_abstract_socket(systemd: Systemd) -> None:
    ServiceManager(systemd.address).ready()
    assert systemd.heard() == "READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        name = f"lungnode-test-{os.getpid()}"
        channel.bind("\0" + name)
        channel.settimeout(5)
        ServiceManager("@" + name).status("serves")
        assert channel.recv(100) == b"STATUS=serves"


def test_the_watchdog_is_told_only_while_the_loop_comes_round(systemd: Systemd) -> None:
    manager = ServiceManager(systemd.address, watchdog_seconds=0.06)
    hung = threading.Event()
    with watchdog(manager, lambda: not hung.is_set()):
        assert systemd.heard() == "WATCHDOG=1"
        hung.set()
        systemd.channel.settimeout(0.3)
        with pytest.raises(TimeoutError):
            for _ in range(50):  # one that was on its way may still come
                systemd.channel.recv(100)


def test_a_stop_knows_which_of_its_loops_hangs() -> None:
    seconds = [0.0]
    stop = WatchedStop(allowed_seconds=60, clock=lambda: seconds[0])
    courier = stop.loop("delivery to pacs", 600)
    seconds[0] = 61.0
    assert stop.hanging == ("main loop has not come round for 61 s",)
    assert not stop.is_set() and stop.hanging == ()
    seconds[0] = 601.0
    stop.is_set()
    assert stop.hanging == ("delivery to pacs has not come round for 601 s",)
    assert not courier.wait(0) and stop.hanging == ()
    stop.set()
    assert stop.wait(1) and courier.is_set()


def test_a_delivery_that_hangs_takes_pulse_and_watchdog_away_although_the_others_come_round() -> None:
    seconds, entered, hold = [0.0], threading.Event(), threading.Event()

    def hangs(_stop: Stop, _poll: float) -> None:
        entered.set()
        hold.wait()

    def comes_round(stop: Stop, poll: float) -> None:
        while not stop.wait(poll):
            pass

    stop = WatchedStop(clock=lambda: seconds[0])
    loops = {"delivery to archive": comes_round, "delivery to ward": hangs}
    thread = threading.Thread(target=run_together, args=(loops, stop, 0.01), daemon=True)
    thread.start()
    assert entered.wait(5) and hanging_loops(stop) == ()
    seconds[0] = LOOP_SECONDS + 1
    deadline = time.monotonic() + 5
    while len(stop.hanging) != 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stop.hanging == (f"delivery to ward has not come round for {LOOP_SECONDS + 1:.0f} s",)
    stop.set()
    hold.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_part_that_hangs_has_no_pulse_in_the_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lungnode.db"
    upgrade(url)
    database, seconds, done = open_database(url), [0.0], threading.Event()
    stop = WatchedStop(clock=lambda: seconds[0])
    done.set()
    seconds[0] = 100.0
    presence.pulse(database, "delivery-1", "delivery", stop, done, presence.utc_now)
    with database.read() as session:
        assert processes.living(session) == []
    stop.is_set()
    presence.pulse(database, "delivery-1", "delivery", stop, done, presence.utc_now)
    with database.read() as session:
        assert [p.name for p in processes.living(session)] == ["delivery-1"]
    database.close()


class Part:
    """A part that tells how it was run."""

    def __init__(self) -> None:
        self.levels: list[str] = []
        self.ready = threading.Semaphore(0)

    def run(self, configuration: Configuration, stop: Any, ready: Any) -> None:
        level = configuration.log.level
        if level == "error":
            raise OSError("this cannot be used")
        self.levels.append(level)
        ready()
        self.ready.release()
        while not stop.wait(0.05):
            pass


def _with_level(level: str, **changes: object) -> Configuration:
    configuration = Configuration()
    log = configuration.log.model_copy(update={"level": level})
    return configuration.model_copy(update={"log": log, **changes})


def test_reload_runs_the_part_with_what_the_file_now_says_and_never_with_what_cannot_be_used(
    systemd: Systemd,
) -> None:
    part, answers = Part(), [_with_level("warning"), ConfigurationError("a: is wrong"), _with_level("error")]
    changed = threading.Semaphore(0)

    def reread() -> Configuration:
        answer = answers.pop(0)
        changed.release()
        if isinstance(answer, Exception):
            raise answer
        return answer

    manager = ServiceManager(systemd.address)
    runner = ReloadablePart("web", part.run, _with_level("info"), reread, manager, lambda: None)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    assert part.ready.acquire(timeout=5) and systemd.heard() == "READY=1"
    runner.reload()
    assert part.ready.acquire(timeout=5)
    assert systemd.heard().startswith("RELOADING=1\nMONOTONIC_USEC=") and systemd.heard() == "READY=1"
    runner.reload()  # the file is broken
    assert systemd.heard() == "STATUS=reload refused: a: is wrong"
    runner.reload()  # the file is right, but the part cannot run with it
    assert systemd.heard().startswith("RELOADING=1")
    assert systemd.heard() == "STATUS=reload refused: this cannot be used"
    assert part.ready.acquire(timeout=5) and systemd.heard() == "READY=1"
    runner.end()
    thread.join(5)
    assert not thread.is_alive() and systemd.heard() == "STOPPING=1"
    assert part.levels == ["info", "warning", "warning"]


def test_a_renewed_certificate_is_taken_at_a_reload_and_a_broken_one_refused(
    systemd: Systemd, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = {"certificate": tmp_path / "own.pem", "key": tmp_path / "own.key"}
    configuration = Configuration.model_validate({"listener": {"tls": files}})

    def renew(subject: str) -> None:
        openssl(tmp_path, "req", "-x509", "-subj", subject, "-keyout", "own.key", "-out", "own.pem")

    renew("/CN=first")
    part, manager = Part(), ServiceManager(systemd.address)
    runner = ReloadablePart("web", part.run, configuration, lambda: configuration, manager, lambda: None)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    assert part.ready.acquire(timeout=30) and systemd.heard() == "READY=1"
    files["certificate"].write_text("half a certificate")
    runner.reload()
    assert "reload refused: listener.tls: TLS certificate" in systemd.heard(30)
    renew("/CN=second one")
    runner.reload()
    assert systemd.heard(30).startswith("RELOADING=1") and systemd.heard(30) == "READY=1"
    runner.end()
    thread.join(5)


def test_a_service_manager_that_does_not_listen_ends_nothing(tmp_path: Path) -> None:
    ServiceManager(str(tmp_path / "nobody")).alive()


def test_another_database_takes_a_restart(systemd: Systemd) -> None:
    part = Part()
    elsewhere = Configuration().database.model_copy(update={"url": "sqlite:///elsewhere.db"})
    other = _with_level("warning", database=elsewhere)
    manager = ServiceManager(systemd.address)
    runner = ReloadablePart("web", part.run, _with_level("info"), lambda: other, manager, lambda: None)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    assert part.ready.acquire(timeout=5) and systemd.heard() == "READY=1"
    runner.reload()
    assert "database.url has changed" in systemd.heard()
    runner.end()
    thread.join(5)
    assert part.levels == ["info"]


def test_a_child_that_hangs_says_so_and_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging:
        name, hanging = "delivery", ("delivery to ward has not come round for 601 s",)

    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(serve.os, "kill", lambda pid, number: killed.append((pid, number)))
    ours, theirs = multiprocessing.Pipe()
    serve._end_when_hanging(theirs, Hanging())  # type: ignore[arg-type]
    assert ours.recv() == "delivery: delivery to ward has not come round for 601 s"
    assert killed == [(os.getpid(), signal.SIGKILL)]
