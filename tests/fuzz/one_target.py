"""One target under coverage guidance: `python one_target.py NAME FOLDER [libFuzzer's options and corpora]`.

Ends with 77 for a finding that libFuzzer wrote down, and with another status than 0 for an input that hangs or ends the
process: that one lies in FOLDER/last-input. libFuzzer's own watch for hanging inputs must be put off by a -timeout that
never comes: its alarm now and then finds no handler and ends the process.
"""

from __future__ import annotations

import faulthandler
import logging
import mmap
import sys
import time
import warnings
from pathlib import Path

import atheris
import structlog
from hostile_input import TARGETS, target
from hostile_input.target import Take

LAST_INPUT = "last-input"
LONGEST = 2**20


HANG_S = 120.0
"""An input that lasts so long hangs. By the clock on the wall: a busy machine may leave the process without a core."""


def watched(take: Take, folder: Path) -> Take:
    """`take`, with each input kept where it outlives the process, which ends when one input lasts HANG_S."""
    path = folder / LAST_INPUT
    path.write_bytes(bytes(4 + LONGEST))
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    armed = -HANG_S

    def take_watched(data: bytes) -> None:
        nonlocal armed
        memory[: 4 + len(data)] = len(data).to_bytes(4, "little") + data
        now = time.monotonic()
        if now - armed > HANG_S / 4:
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            armed = now
        take(data)

    return take_watched


def last_input(folder: Path) -> bytes:
    """The input that was taken when the process ended."""
    content = (folder / LAST_INPUT).read_bytes()
    return content[4 : 4 + int.from_bytes(content[:4], "little")]


def main() -> None:
    """Fuzz until libFuzzer's options say that it is enough."""
    name, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(include=list(TARGETS[name].watched)):
        fuzzed = target(name)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with fuzzed.opened(Path(folder)) as take:
        atheris.Setup([sys.argv[0], *options], watched(take, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
