"""Batches of fixed shares of sources and classes, so that scarce ones are seen often enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.items import CLASSES, Item
from training.recipe import RecipeError
from training.samples import Keys, shown_class

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shares:
    """Groups of samples and what share of every batch each has; the shares sum to 1."""

    groups: tuple[Places, ...]
    shares: npt.NDArray[np.float64]

    def draw(self, count: int, rng: np.random.Generator) -> Places:
        """`count` samples: each share's whole part for sure, the rest by chance."""
        wanted = self.shares * count
        numbers = np.floor(wanted).astype(int)
        rest = count - int(numbers.sum())
        if rest:
            left = wanted - numbers
            np.add.at(numbers, rng.choice(len(numbers), size=rest, p=left / left.sum()), 1)
        drawn = [rng.choice(group, size=n) for group, n in zip(self.groups, numbers, strict=True)]
        return np.asarray(np.concatenate(drawn), dtype=np.int64)


def group_name(item: Item) -> str:
    """SOURCE/class of what the slice shows."""
    label = shown_class(item)
    return f"{item.source}/{'unknown' if label is None else CLASSES[label]}"


def shares_of(items: Sequence[Item], wanted: Mapping[str, float]) -> Shares:
    """The groups of `items` that `wanted` names; groups that have no slice give their share to the others.

    Raises RecipeError where none has any.
    """
    members: dict[str, list[int]] = {name: [] for name, share in wanted.items() if share > 0}
    for place, item in enumerate(items):
        if (name := group_name(item)) in members:
            members[name].append(place)
    kept = {name: places for name, places in members.items() if places}
    if not kept:
        found = ", ".join(sorted({group_name(item) for item in items}))
        raise RecipeError(f"shares: none of {', '.join(wanted)} is in the data, which holds {found}")
    shares = np.array([wanted[name] for name in kept])
    return Shares(tuple(np.array(places, dtype=np.int64) for places in kept.values()), shares / shares.sum())


def drawn_batches(shares: Shares, batch: int, seed: int, first_step: int, last_step: int) -> Keys:
    """Keys (step, place) of the batches from `first_step` to before `last_step`; each depends on its step alone."""
    for step in range(first_step, last_step):
        drawn = shares.draw(batch, np.random.default_rng([seed, step, 1]))
        yield [(step, place) for place in drawn.tolist()]
