"""Run one part of the node in this process, and send it a signal at a given edge.

    python dying_part.py PART CONFIG [EDGE WHEN NTH SIGNAL]

PART may have a number, worker#2, where several of a kind run.
EDGE is `module:name` of a function; the signal comes before or after (WHEN) its NTH call. SIGKILL leaves no time for
anything, as the loss of power does; SIGSTOP makes the process hang.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def arm(edge: str, when: str, nth: int, number: int) -> None:
    """Put the signal at its edge."""
    module, _, path = edge.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    original = getattr(owner, name)
    calls = itertools.count(1)

    def at_the_edge(*arguments: Any, **options: Any) -> Any:
        this = next(calls)
        if when == "before" and this == nth:
            os.kill(os.getpid(), number)
        result = original(*arguments, **options)
        if when == "after" and this == nth:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, at_the_edge)


PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent dies."""


def die_with_the_tests() -> None:
    """A test run that is killed stops nobody; nothing of it is to stay behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main() -> None:
    from node.configuration import load_configuration
    from node.logs import configure_logs
    from node.parts import PARTS
    from store.migrations import upgrade

    die_with_the_tests()
    part, path = sys.argv[1], Path(sys.argv[2])
    if len(sys.argv) > 3:
        edge, when, nth, number = sys.argv[3:]
        arm(edge, when, int(nth), int(number))
    configuration = load_configuration(path)
    configure_logs(configuration.log, part)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    upgrade(configuration.database.url)
    if part == "migration":
        return
    parts = dict(PARTS) | {"screening-worker": PARTS["worker"]}
    kind = part.partition("#")[0]
    if kind == "worker":
        from light_casework import run_light_worker

        parts["worker"] = run_light_worker
    ready = path.parent / f"{part}-{os.getpid()}.ready"
    parts[kind](configuration, stop, ready.touch)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
