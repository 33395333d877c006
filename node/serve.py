"""`lungnode serve`: the parts as child processes, watched; SIGTERM stops them cleanly.

Each part is a process of its own, so that a decoder that crashes takes down the worker alone, which is started
again, and the listener answers while networks run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from node.configuration import Configuration, ConfigurationError
from node.logs import configure_logs
from node.parts import PARTS, parts_of
from node.reloading import ReloadablePart, Reread, on_signals
from node.service_manager import ServiceManager, this_service, watchdog
from node.shared_spool import shared_storage
from store.migrations import upgrade
from store.object_folder import ObjectStoreUnusable

START_SECONDS = 300.0
"""Longest time that a part may take to be ready, as in the worker's unit: a busy machine compiles networks too."""
STOP_GRACE_SECONDS = 60.0
"""What a part has beyond the listener's grace time before it is killed; nothing acknowledged is lost then either."""
FIRST_RESTART_SECONDS, LONGEST_RESTART_SECONDS = 1.0, 30.0
STEADY_SECONDS = 60.0
"""A part that ran this long before it died begins with the short waiting time again."""

HANG_LOOK_SECONDS = 5.0
STORE_SECONDS, STORE_LOOK_SECONDS = 75.0, 2.0
"""A service waits so long for its database server: systemd gives up after five failed starts in five minutes, and these
take longer."""

READY = "ready"

log: structlog.stdlib.BoundLogger = structlog.get_logger("node")


class StartError(Exception):
    """The node cannot start; one line that says what to do."""


class StoreUnreachable(Exception):
    """The store does not answer, and may later: one line. Whoever started the node may start it again."""


def prepare(configuration: Configuration, *, screens: bool = True) -> None:
    """What must hold before anything starts: spool writable, schema current, packages whole where it `screens`.

    Raises StartError, StoreUnreachable, engine.errors.PackageInvalid, store.migrations.SchemaMismatch.
    """
    if screens:
        _check_packages(configuration)
    try:
        shared_storage(configuration)
    except ObjectStoreUnusable as error:
        raise StartError(str(error)) from None
    try:
        _try_to_write(configuration.storage.path)
        before, after = upgrade(configuration.database.url)
    except OSError as error:
        raise StartError(
            f"{error.filename or configuration.storage.path}: {error.strerror}; check its rights"
        ) from None
    except DBAPIError as error:
        place = make_url(configuration.database.url)
        said = str(error.orig).strip().partition("\n")[0]
        line = f"the store {place.render_as_string(hide_password=True)} cannot be used: {said}"
        if place.get_backend_name() == "sqlite":
            raise StartError(f"{line}; check database.url and the rights of the file") from None
        raise StoreUnreachable(f"{line}; check database.url and that its server runs") from None
    if before is not None and before != after:
        log.info("database upgraded", before=before, after=after)


def prepare_patiently(
    configuration: Configuration,
    *,
    screens: bool = True,
    seconds: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """As `prepare`, asking a store that does not answer again for so many seconds. Raises as `prepare` does."""
    deadline = clock() + seconds
    while True:
        try:
            prepare(configuration, screens=screens)
            return
        except StoreUnreachable as error:
            if clock() >= deadline:
                raise
            log.warning("waiting for the store", why=str(error))
        pause(STORE_LOOK_SECONDS)


def _check_packages(configuration: Configuration) -> None:
    from engine.packages import read_package  # a listener is a third smaller without it

    for path in configuration.models:
        read_package(path)


def _try_to_write(folder: Path) -> None:
    """Raises OSError where nothing can be written in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def run_part(name: str, configuration: Configuration, reread: Reread) -> None:
    """Run one part in this process until SIGTERM or SIGINT; SIGHUP rereads the configuration."""
    configure_logs(configuration.log, name)
    manager = this_service()
    patience = STORE_SECONDS if manager.present else 0.0
    prepare_patiently(configuration, screens=name == "worker", seconds=patience)
    part = ReloadablePart(name, PARTS[name], configuration, reread, manager, lambda: log.info("ready"))
    with on_signals(part, interruptible=True):
        part.run()


def serve_all(configuration: Configuration, reread: Reread) -> int:
    """Run all parts until SIGTERM or SIGINT; SIGHUP rereads the configuration. Returns the exit code.

    Raises what `prepare` raises, and StartError when a part cannot start.
    """
    configure_logs(configuration.log, "node")
    prepare(configuration)
    supervisor = Supervisor(configuration, reread)
    with _Signals() as signals:
        return supervisor.run(signals)


class _Signals:
    """SIGTERM, SIGINT and SIGHUP as something that can be waited for beside processes.

    received: told to end. hangup: told to reread the configuration.
    """

    def __enter__(self) -> _Signals:
        self._read, self._write = os.pipe()
        self.received = self.hangup = False
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self._before = {n: signal.signal(n, self._note) for n in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """Readable once a signal came."""
        return self._read

    def take_hangup(self) -> bool:
        """Whether a SIGHUP came since the last call."""
        if not self.hangup:
            return False
        self.hangup = False
        os.read(self._read, 1)
        return True

    def _note(self, number: int, _frame: object) -> None:
        if number != signal.SIGHUP:
            self.received = True
        elif self.hangup:
            return
        else:
            self.hangup = True
        os.write(self._write, b"!")


@dataclass
class _Child:
    """One part and its process; `line` stays open while we live, so that the child notices when we die."""

    part: str
    process: SpawnProcess
    line: Connection
    started: float
    ready: bool = False
    refusal: str = ""


@dataclass
class Supervisor:
    """Starts the parts, restarts one that dies, stops them all."""

    configuration: Configuration
    reread: Reread
    manager: ServiceManager = field(default_factory=this_service)
    children: dict[str, _Child] = field(default_factory=dict)
    _waits: dict[str, float] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)

    def run(self, signals: _Signals) -> int:
        """Start all, watch until a signal, stop all."""
        try:
            for part in parts_of(self.configuration):
                self._start(part)
            self._await_ready(signals)
            if not signals.received:
                listener = self.configuration.listener
                log.info("node ready", ae_title=listener.ae_title, host=listener.host, port=listener.port)
                self.manager.ready()
            with watchdog(self.manager, lambda: True):
                while not signals.received:
                    self._watch(signals)
        finally:
            self.manager.stopping()
            self._stop()
        return 0

    def _start(self, part: str) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_child, args=(part, self.configuration, self.reread, theirs), name=f"lungnode-{part}"
        )
        process.start()
        theirs.close()
        self.children[part] = _Child(part, process, ours, time.monotonic())

    def _await_ready(self, signals: _Signals) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not signals.received and not all(child.ready for child in self.children.values()):
            if time.monotonic() > deadline:
                late = ", ".join(c.part for c in self.children.values() if not c.ready)
                raise StartError(f"{late} was not ready within {START_SECONDS:g} s")
            wait([signals.fileno(), *(c.line for c in self.children.values() if not c.ready)], timeout=1.0)
            if signals.take_hangup():
                log.info("configuration not reread: the node still starts")
            for child in self.children.values():
                _listen(child)
                if not child.ready and (child.refusal or child.process.exitcode is not None):
                    code = child.process.exitcode
                    raise StartError(child.refusal or f"{child.part} ended at its start with code {code}")

    def _watch(self, signals: _Signals) -> None:
        """Wait for a signal, the end of a child or the time to start one again."""
        now = time.monotonic()
        pause = min((due - now for due in self._due.values()), default=None)
        timeout = None if pause is None else max(pause, 0.0)
        wait([signals.fileno(), *(c.process.sentinel for c in self.children.values())], timeout=timeout)
        if signals.received:
            return
        if signals.take_hangup():
            self._reload()
        for child in list(self.children.values()):
            if child.process.exitcode is not None:
                self._bury(child)
        for part, due in list(self._due.items()):
            if time.monotonic() >= due:
                del self._due[part]
                self._start(part)

    def _reload(self) -> None:
        """Pass SIGHUP on where the file can be used; each part rereads it by itself."""
        try:
            self.configuration = self.reread()
        except ConfigurationError as error:
            log.error("configuration refused: the old one stays", why="; ".join(str(error).splitlines()))
            return
        for child in self.children.values():
            if child.process.pid is not None:
                os.kill(child.process.pid, signal.SIGHUP)

    def _bury(self, child: _Child) -> None:
        _listen(child)
        lived = time.monotonic() - child.started
        before = self._waits.get(child.part, 0.0) if lived < STEADY_SECONDS else 0.0
        pause = min(max(before * 2, FIRST_RESTART_SECONDS), LONGEST_RESTART_SECONDS)
        self._waits[child.part] = pause
        self._due[child.part] = time.monotonic() + pause
        log.error(
            "part died",
            died=child.part,
            code=child.process.exitcode,
            why=child.refusal or None,
            restart_s=pause,
        )
        child.line.close()
        child.process.close()
        del self.children[child.part]

    def _stop(self) -> None:
        for child in self.children.values():
            child.process.terminate()
        deadline = time.monotonic() + self.configuration.listener.grace_seconds + STOP_GRACE_SECONDS
        for child in self.children.values():
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.exitcode is None:
                log.error("part killed: it did not stop in time", killed=child.part)
                child.process.kill()
                child.process.join()
        log.info("node stopped")


def _listen(child: _Child) -> None:
    """Take the messages of a child: that it is ready, or why it cannot be."""
    try:
        while child.line.poll():
            message = child.line.recv()
            if message == READY:
                child.ready = True
            else:
                child.refusal = message
    except (EOFError, OSError):
        return


def _child(name: str, configuration: Configuration, reread: Reread, line: Connection) -> None:
    """The main function of a child process."""
    configure_logs(configuration.log, name)
    part = ReloadablePart(
        name, PARTS[name], configuration, reread, ServiceManager(), lambda: line.send(READY)
    )
    threading.Thread(target=_stop_with_parent, args=(line, part), name="parent-watch", daemon=True).start()
    threading.Thread(target=_end_when_hanging, args=(line, part), name="hang-watch", daemon=True).start()
    try:
        # A terminal sends Ctrl-C to all; the parent passes it on
        with on_signals(part, interruptible=False):
            part.run()
    except Exception as error:  # the edge of the process: the parent says why the part ended
        log.debug("part ended by an error", exc_info=True)
        line.send(f"{name}: {error}" if str(error) else f"{name}: {type(error).__name__}")
        sys.exit(1)


def _stop_with_parent(line: Connection, part: ReloadablePart) -> None:
    """When the parent dies, however, the pipe ends and so does this part: nobody would restart or stop it."""
    try:
        while True:
            line.recv()
    except (EOFError, OSError):
        part.end()


def _end_when_hanging(line: Connection, part: ReloadablePart) -> None:
    """End this process where a loop of its part hangs; the parent says why and starts it again."""
    while not (hanging := part.hanging):
        time.sleep(HANG_LOOK_SECONDS)
    line.send(f"{part.name}: {'; '.join(hanging)}")
    os.kill(os.getpid(), signal.SIGKILL)  # a thread that hangs lets no other way end the process
