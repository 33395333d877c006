"""Python's search for reference cycles, paused while thousands of small objects are made that all stay in use."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """No search for reference cycles inside of the block; afterwards as before.

    A result set is some hundred thousand objects, each new thousand of which would have all others looked through: a
    tenth of the time of a result set, with nothing to be found. Counts for the whole process, which only collects a
    second later.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
