"""What a fuzzer drives: inputs to begin with, and a function that takes bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

Take = Callable[[bytes], None]
"""Takes one input. Whatever it raises is a finding: errors that the code under test promises are caught in it."""


@dataclass(frozen=True)
class Target:
    """One place where foreign bytes come in.

    seeds: inputs to begin with, among them right ones. opened: with a folder of its own, gives the function that
    takes inputs.
    """

    seeds: Callable[[], Sequence[bytes]]
    opened: Callable[[Path], AbstractContextManager[Take]]


def stateless(seeds: Callable[[], Sequence[bytes]], take: Take) -> Target:
    """A target that needs nothing but its input."""
    return Target(seeds, lambda _folder: nullcontext(take))
