"""Splitting by patient, never by slice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

from training.datasets.items import Dataset, Item, Notes, Split

FRACTIONS: dict[Split, float] = {"train": 0.6, "val": 0.1, "test": 0.3}
"""Shares of the patients where the source has no split; the papers test on 2 of 5."""


def with_splits(dataset: Dataset, seed: int = 0) -> Dataset:
    """The data set with a split on every item; a source's own split is kept.

    Within each class the patients without a split are put in an order that only depends on their ids and the
    seed, and are cut by `FRACTIONS`. An item without a split of a patient with one joins it.
    """
    known: dict[tuple[str, str], Split] = {}
    for item in dataset.items:
        if item.split is not None:
            known.setdefault((item.source, item.patient), item.split)
    drawn = _drawn([item for item in dataset.items if (item.source, item.patient) not in known], seed)
    notes = Notes()
    if drawn and not dataset.patients_known:
        notes.warn(f"{dataset.name}: no patient ids, so slices of one patient may be in two splits")
    splits = drawn | known
    items = tuple(
        item if item.split is not None else replace(item, split=splits[item.source, item.patient])
        for item in dataset.items
    )
    return replace(dataset, items=items, problems=(*dataset.problems, *notes.problems()))


def _drawn(items: list[Item], seed: int) -> dict[tuple[str, str], Split]:
    by_class: dict[tuple[str, int | None], set[tuple[str, str]]] = defaultdict(set)
    for item in items:
        by_class[item.source, item.label].add((item.source, item.patient))
    splits: dict[tuple[str, str], Split] = {}
    for patients in by_class.values():
        ordered = sorted(patients, key=lambda p: hashlib.sha256(f"{seed} {p}".encode()).digest())
        for place, patient in enumerate(ordered):
            splits[patient] = _split_of((place + 0.5) / len(ordered))
    return splits


def _split_of(share: float) -> Split:
    if share < FRACTIONS["train"]:
        return "train"
    return "val" if share < FRACTIONS["train"] + FRACTIONS["val"] else "test"
