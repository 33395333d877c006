"""Which slices a batch is made of: fixed shares of sources, so that scarce ones are seen often enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.findings import PneumoniaClass
from training.compact.pool import NOT_COVID, Table

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Drawer:
    """Draws batches from named groups of slices with fixed shares."""

    groups: tuple[Indices, ...]
    shares: npt.NDArray[np.float64]

    def draw(self, count: int, rng: np.random.Generator) -> Indices:
        """`count` slices: each share's whole part for sure, the rest by chance."""
        wanted = self.shares * count
        numbers = np.floor(wanted).astype(int)
        rest = count - numbers.sum()
        if rest:
            left = wanted - numbers
            extra = rng.choice(len(numbers), size=rest, p=left / left.sum())
            np.add.at(numbers, extra, 1)
        drawn = [rng.choice(group, size=n) for group, n in zip(self.groups, numbers, strict=True)]
        return np.asarray(np.concatenate(drawn), dtype=np.int64)


def groups_of(table: Table, without: Sequence[str] = ()) -> dict[str, Indices]:
    """Training slices by source and class; patients of `without` and the sources' test splits are left out.

    Simulated cases on a left-out patient's lungs are left out too.
    """
    learnable = (table.split != "test") & ~np.isin(table.patient, list(without))
    series, simulated = table.kind == "series", table.kind == "simulated"
    chosen = {
        "healthy": series & (table.label == PneumoniaClass.HEALTHY),
        "covid": series & (table.label == PneumoniaClass.COVID19),
        "cap": series & (table.label == PneumoniaClass.CAP),
        "simulated healthy": simulated & (table.label == PneumoniaClass.HEALTHY),
        "simulated covid": simulated & (table.label == PneumoniaClass.COVID19),
        "simulated h1n1": simulated & (table.label == PneumoniaClass.H1N1),
        "simulated cap": simulated & (table.label == PneumoniaClass.CAP),
        "ct100": table.kind == "ct100",
        "figure covid": (table.kind == "covid-ct") & (table.label == PneumoniaClass.COVID19),
        "figure other": (table.kind == "covid-ct") & (table.label == NOT_COVID),
    }
    return {name: np.flatnonzero(where & learnable) for name, where in chosen.items()}


def drawer(groups: Mapping[str, Indices], shares: Mapping[str, float]) -> Drawer:
    """A drawer over those groups of `shares` that are not empty."""
    kept = {name: share for name, share in shares.items() if len(groups[name])}
    total = sum(kept.values())
    return Drawer(tuple(groups[name] for name in kept), np.array([share / total for share in kept.values()]))
