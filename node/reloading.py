"""Running a part of the node so that it can be told to reread its configuration (SIGHUP).

The part is run anew in the same process with what the file now says, and with the files that it names as they are now
(a certificate that was renewed). What cannot be used changes nothing: the part goes on as it was, and the log says why.
What decides where data lie is never reread.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

import structlog

from node.configuration import Configuration, ConfigurationError
from node.configuration_files import FileStates, check_files, file_states
from node.logs import configure_logs
from node.parts import Part
from node.service_manager import ServiceManager, WatchedStop, watchdog

HANG_SECONDS = {"worker": 3600.0}
"""A part whose loop has not come round for this long hangs: a worker's does between stages of a study."""
OTHER_HANG_SECONDS = 60.0

Reread = Callable[[], Configuration]

log: structlog.stdlib.BoundLogger = structlog.get_logger("node")


class ReloadablePart:
    """One part with its present configuration.

    reread: gives the configuration as the file now has it; raises ConfigurationError. announce: called whenever
    the part is ready.
    """

    def __init__(
        self,
        name: str,
        run: Part,
        configuration: Configuration,
        reread: Reread,
        manager: ServiceManager,
        announce: Callable[[], None],
    ) -> None:
        self.configuration = configuration
        self.name, self._run, self._reread = name, run, reread
        self._manager, self._announce = manager, announce
        self._next: Configuration | None = None
        self._files: FileStates = {}
        self._stop = self._new_stop()
        self._ended = threading.Event()
        self._asked = threading.Event()
        self._ready = False

    def end(self) -> None:
        """Stop the part for good; may be called from a signal handler and from any thread."""
        self._ended.set()
        self._stop.set()

    def reload(self) -> None:
        """Reread the configuration soon; may be called from a signal handler and from any thread."""
        self._asked.set()

    def run(self) -> None:
        """Run the part until `end`. Raises what the part raises, except at a reload: then the old one goes on."""
        threading.Thread(target=self._reload_when_asked, name="reload", daemon=True).start()
        with watchdog(self._manager, self._healthy):
            while not self._ended.is_set():
                self._run_once()
        self._manager.stopping()

    def _run_once(self) -> None:
        before = self.configuration
        self._stop = self._new_stop()
        self._ready = False
        reloaded = self._next is not None
        if self._next is not None:
            self.configuration, self._next = self._next, None
            configure_logs(self.configuration.log, self.name)
        self._files = file_states(self.configuration)
        if self._ended.is_set():
            return
        try:
            self._run(self.configuration, self._stop, self._on_ready)
        except Exception as error:
            if not reloaded or self._ready:
                raise
            self.configuration = before
            configure_logs(before.log, self.name)
            self._refused(str(error))

    def _on_ready(self) -> None:
        self._ready = True
        self._manager.ready()
        self._announce()

    @property
    def hanging(self) -> tuple[str, ...]:
        """The loops of the part that hang, in words; none while it starts."""
        return self._stop.hanging if self._ready else ()

    def _new_stop(self) -> WatchedStop:
        return WatchedStop(allowed_seconds=HANG_SECONDS.get(self.name, OTHER_HANG_SECONDS))

    def _healthy(self) -> bool:
        return not self.hanging

    def _reload_when_asked(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            self._take(self._reread)

    def _take(self, reread: Reread) -> None:
        try:
            configuration = reread()
            _check_same_place(self.configuration, configuration)
            check_files(configuration)
        except ConfigurationError as error:
            self._refused(str(error))
            return
        if configuration == self.configuration and file_states(configuration) == self._files:
            log.info("configuration reread: nothing has changed")
            return
        log.info("configuration reread")
        self._manager.reloading()
        self._next = configuration
        self._stop.set()

    def _refused(self, why: str) -> None:
        line = "; ".join(why.splitlines())
        log.error("configuration refused: the old one stays", why=line)
        self._manager.status(f"reload refused: {line}")


def _check_same_place(old: Configuration, new: Configuration) -> None:
    """Raises ConfigurationError where another storage or database is named."""
    for key, before, after in (
        ("storage.path", old.storage.path, new.storage.path),
        ("database.url", old.database.url, new.database.url),
        ("spool.url", old.spool.url, new.spool.url),
    ):
        if before != after:
            raise ConfigurationError(f"{key} has changed: that takes a restart, not a reload")


def on_signals(part: ReloadablePart, *, interruptible: bool) -> ExitStack:
    """SIGTERM ends the part, SIGHUP reloads it, SIGINT ends it where `interruptible`; undone on leaving."""
    handlers: dict[int, object] = {
        signal.SIGTERM: lambda *_: part.end(),
        signal.SIGHUP: lambda *_: part.reload(),
        signal.SIGINT: (lambda *_: part.end()) if interruptible else signal.SIG_IGN,
    }
    stack = ExitStack()
    for number, handler in handlers.items():
        before = signal.signal(number, handler)  # type: ignore[arg-type]
        stack.callback(signal.signal, number, before)
    return stack
