"""The pool: all slices that the compact models may learn from, simulated cases included, on disk once.

The pool is a folder of memory-mapped arrays, so that trainings beside each other share the pages:

    hu.npy    int16 [N, 256, 256]   mask.npy  bool [N, 256, 256]
    table.npz per slice, see `Table`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.findings import PneumoniaClass
from training.compact.lungs import Box, figure_box, lung_box, without_airways
from training.compact.sources import (
    GRID,
    Case,
    Figure,
    read_covid_ct,
    read_ct100,
    read_healthy_series,
    read_volumes,
)
from training.simulation import describe, simulate_case

UNKNOWN = -1
NOT_COVID = -2
"""Classes of figures: of COVID-CT's negatives only that much is known."""

_DISEASES = (PneumoniaClass.HEALTHY, PneumoniaClass.COVID19, PneumoniaClass.CAP, PneumoniaClass.H1N1)
_DISEASE_SHARES = (0.12, 0.41, 0.33, 0.14)
_BACKGROUND_SHARES = {"normal-1": 0.5, "covid-1": 0.25, "nlst-1": 0.25}
"""Whose lesion-free slices carry simulated lesions. Those of cap-1 do not: bronchiectasis and dense patches are
in slices that its table does not mark as infected."""

_SLICES_PER_CASE = 44
_MIN_LUNG = 0.004
"""Slices with less lung than this share of their area are left out, as in screening."""


@dataclass(frozen=True, eq=False)
class Table:
    """What is known of the N slices of a pool.

    kind: "series", "simulated", "ct100" or "covid-ct". patient: whose series it is or is based on; the picture's
    name for figures. case: number of the series or simulated case, -1 for figures. order: place in it, feet first.
    label: `PneumoniaClass` of the slice (a lesion-free slice of a patient is HEALTHY), UNKNOWN or NOT_COVID.
    disease: that of the whole case. masked: whether mask.npy tells where the lesions are.
    box: lung box (top, left, bottom, right, fractions). aspect: width / height before squeezing.
    split: "test" is never learnt from.
    """

    kind: npt.NDArray[np.str_]
    patient: npt.NDArray[np.str_]
    case: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    disease: npt.NDArray[np.int64]
    masked: npt.NDArray[np.bool_]
    box: npt.NDArray[np.float64]
    aspect: npt.NDArray[np.float64]
    split: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, eq=False)
class Pool:
    """A pool opened for reading; `hu` int16 and `mask` bool, both [N, 256, 256]."""

    hu: npt.NDArray[np.int16]
    mask: npt.NDArray[np.bool_]
    table: Table


@dataclass(frozen=True, eq=False)
class _Row:
    hu: npt.NDArray[np.int16]
    mask: npt.NDArray[np.bool_] | None
    kind: str
    patient: str
    case: int
    order: int
    label: int
    disease: int
    box: Box
    aspect: float = 1.0
    split: str = "train"


def open_pool(folder: Path) -> Pool:
    """Open a pool that `build_pool` wrote."""
    with np.load(folder / "table.npz") as table:
        columns = {name: table[name] for name in table.files}
    return Pool(
        hu=np.load(folder / "hu.npy", mmap_mode="r"),
        mask=np.load(folder / "mask.npy", mmap_mode="r"),
        table=Table(**columns),
    )


def add_masks(
    folder: Path, indices: npt.NDArray[np.int64], masks: npt.NDArray[np.bool_], least_pixels: int = 30
) -> int:
    """Give slices of a pool that have no mask those of `masks`, bool [n, 256, 256]; returns how many were taken.

    Masks of fewer than `least_pixels` are left out: an ill slice with an empty mask would teach the wrong thing.
    """
    taken = masks.sum(axis=(1, 2)) >= least_pixels
    stored = np.load(folder / "mask.npy", mmap_mode="r+")
    stored[indices[taken]] = masks[taken]
    stored.flush()
    columns: dict[str, Any] = dict(np.load(folder / "table.npz").items())
    columns["masked"][indices[taken]] = True
    np.savez(folder / "table.npz", **columns)
    return int(taken.sum())


def build_pool(data: Path, folder: Path, simulated_cases: int, seed: int) -> None:
    """Read the real data, simulate `simulated_cases` cases, and write the pool; the same seed gives the same."""
    series = [*read_volumes(data), read_healthy_series(data / "ct" / "nlst-1")]
    rows = [*_series_rows(series), *_figure_rows(read_ct100(data), "ct100")]
    rows += _figure_rows(read_covid_ct(data), "covid-ct")
    rows += _simulated_rows(series, simulated_cases, seed)
    folder.mkdir(parents=True, exist_ok=True)
    no_mask = np.zeros((GRID, GRID), dtype=np.bool_)
    np.save(folder / "hu.npy", np.stack([row.hu for row in rows]))
    np.save(folder / "mask.npy", np.stack([no_mask if row.mask is None else row.mask for row in rows]))
    columns: dict[str, Any] = {
        field.name: np.array([getattr(row, field.name) for row in rows])
        for field in fields(Table)
        if field.name != "masked"
    }
    columns["masked"] = np.array([row.mask is not None for row in rows])
    np.savez(folder / "table.npz", **columns)


def _series_rows(series: Sequence[Case]) -> Iterator[_Row]:
    for number, case in enumerate(series):
        box = lung_box(case.lungs)
        for z in np.flatnonzero(case.lungs.mean(axis=(1, 2)) > _MIN_LUNG):
            infected = bool(case.infected[z])
            free = not infected and case.name in _BACKGROUND_SHARES
            yield _Row(
                hu=case.hu[z],
                mask=np.zeros(case.hu.shape[1:], dtype=np.bool_) if free else None,
                kind="series",
                patient=case.name,
                case=number,
                order=int(z),
                label=int(case.disease) if infected else int(PneumoniaClass.HEALTHY) if free else UNKNOWN,
                disease=int(case.disease),
                box=box,
            )


def _figure_rows(figures: Sequence[Figure], kind: str) -> Iterator[_Row]:
    for figure in figures:
        label = int(PneumoniaClass.COVID19) if figure.covid else NOT_COVID
        yield _Row(
            hu=figure.pseudo_hu,
            mask=figure.mask,
            kind=kind,
            patient=figure.name,
            case=-1,
            order=0,
            label=label,
            disease=label,
            box=figure_box(figure.pseudo_hu),
            aspect=figure.aspect,
            split=figure.split,
        )


def _simulated_rows(series: Sequence[Case], cases: int, seed: int) -> Iterator[_Row]:
    backgrounds = [_lesion_free(case) for case in series if case.name in _BACKGROUND_SHARES]
    shares = np.array([_BACKGROUND_SHARES[case.name] for case in backgrounds])
    for number in range(cases):
        rng = np.random.default_rng([seed, number])
        background = backgrounds[rng.choice(len(backgrounds), p=shares / shares.sum())]
        disease = _DISEASES[rng.choice(len(_DISEASES), p=_DISEASE_SHARES)]
        yield from _simulate(background, disease, 1000 + number, rng)


def _simulate(case: Case, disease: PneumoniaClass, number: int, rng: np.random.Generator) -> Iterator[_Row]:
    hu, lungs, spacing = _rescan(case, rng)
    box = lung_box(lungs)
    simulated = simulate_case(hu, describe(without_airways(hu, lungs), spacing, rng), disease, rng)
    for z in range(len(hu)):
        area = int(simulated.mask[z].sum())
        label = int(disease) if area >= 25 else int(PneumoniaClass.HEALTHY) if area == 0 else UNKNOWN
        yield _Row(
            simulated.hu[z], simulated.mask[z], "simulated", case.name, number, z, label, int(disease), box
        )


def _lesion_free(case: Case) -> Case:
    """The slices of a case that are not infected nor next to one that is."""
    near = case.infected.copy()
    for shift in range(1, 4):
        near[shift:] |= case.infected[:-shift]
        near[:-shift] |= case.infected[shift:]
    usable = ~near & (case.lungs.mean(axis=(1, 2)) > _MIN_LUNG)
    return replace(
        case,
        disease=PneumoniaClass.HEALTHY,
        hu=case.hu[usable],
        lungs=case.lungs[usable],
        infected=case.infected[usable],
    )


def _rescan(
    case: Case, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], tuple[float, float, float]]:
    """HU, lungs and spacing of a scan with thicker slices at a larger pitch, from a random first slice."""
    thickness = int(rng.choice([1, 1, 2, 3]))
    pitch = max(1, len(case.hu) // _SLICES_PER_CASE)
    firsts = np.arange(rng.integers(pitch), len(case.hu) - thickness + 1, pitch)
    hu = np.stack([case.hu[first : first + thickness].mean(axis=0) for first in firsts])
    lungs = case.lungs[firsts + thickness // 2]
    return np.rint(hu).astype(np.int16), lungs, (case.spacing[0] * pitch, *case.spacing[1:])
