"""Building a pool: real series, figures, and simulated lesions in the lesion-free slices of the series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.findings import PneumoniaClass
from training.datasets.pool import PoolRow, write_pool
from training.pool.lungs import figure_box, lung_box, without_airways
from training.pool.sources import (
    COVID_CT,
    CT100,
    MD,
    NLST,
    Case,
    Figure,
    read_covid_ct,
    read_ct100,
    read_healthy_series,
    read_volumes,
)
from training.simulation import describe, simulate_case

SIMULATED = "simulated"

_DISEASES = (PneumoniaClass.HEALTHY, PneumoniaClass.COVID19, PneumoniaClass.CAP, PneumoniaClass.H1N1)
_DISEASE_SHARES = (0.12, 0.41, 0.33, 0.14)
_BACKGROUND_SHARES = {"normal-1": 0.5, "covid-1": 0.25, "nlst-1": 0.25}
"""Whose lesion-free slices carry simulated lesions. Those of cap-1 do not: bronchiectasis and dense patches are
in slices that its table does not mark as infected."""

_SLICES_PER_CASE = 44
_LEAST_LESION = 25
"""A simulated slice with fewer lesion pixels, but some, is of no use: it counts as unknown."""

_MIN_LUNG = 0.004
"""Slices with less lung than this share of their area are left out, as in screening."""


def build_pool(data: Path, folder: Path, simulated_cases: int, seed: int) -> int:
    """Read the real data, simulate cases, write the pool; gives its slices. The same seed gives the same pool."""
    series = [*read_volumes(data), read_healthy_series(data / "ct" / "nlst-1")]
    rows = [*_series_rows(series), *_figure_rows(read_ct100(data), CT100)]
    rows += _figure_rows(read_covid_ct(data), COVID_CT)
    rows += _simulated_rows(series, simulated_cases, seed)
    return write_pool(folder, rows)


def _series_rows(series: Sequence[Case]) -> Iterator[PoolRow]:
    for case in series:
        box = lung_box(case.lungs)
        for z in np.flatnonzero(case.lungs.mean(axis=(1, 2)) > _MIN_LUNG):
            infected = bool(case.infected[z])
            free = not infected and case.name in _BACKGROUND_SHARES
            yield PoolRow(
                hu=case.hu[z],
                mask=np.zeros(case.hu.shape[1:], dtype=np.bool_) if free else None,
                source=NLST if case.name.startswith("nlst") else MD,
                patient=case.name,
                series=case.name,
                index=int(z),
                label=int(case.disease) if infected or free else None,
                lesion=infected,
                exact=True,
                spacing=case.spacing[1:],
                box=box,
            )


def _figure_rows(figures: Sequence[Figure], source: str) -> Iterator[PoolRow]:
    for figure in figures:
        yield PoolRow(
            hu=figure.pseudo_hu,
            mask=figure.mask,
            source=source,
            patient=figure.patient,
            series=figure.name,
            index=0,
            label=int(figure.covid),
            lesion=None,
            exact=False,
            spacing=(1.0, figure.aspect),
            box=figure_box(figure.pseudo_hu),
            split=figure.split,
        )


def _simulated_rows(series: Sequence[Case], cases: int, seed: int) -> Iterator[PoolRow]:
    backgrounds = [_lesion_free(case) for case in series if case.name in _BACKGROUND_SHARES]
    shares = np.array([_BACKGROUND_SHARES[case.name] for case in backgrounds])
    for number in range(cases):
        rng = np.random.default_rng([seed, number])
        background = backgrounds[rng.choice(len(backgrounds), p=shares / shares.sum())]
        disease = _DISEASES[rng.choice(len(_DISEASES), p=_DISEASE_SHARES)]
        yield from _simulate(background, disease, number, rng)


def _simulate(
    case: Case, disease: PneumoniaClass, number: int, rng: np.random.Generator
) -> Iterator[PoolRow]:
    hu, lungs, spacing = _rescan(case, rng)
    box = lung_box(lungs)
    simulated = simulate_case(hu, describe(without_airways(hu, lungs), spacing, rng), disease, rng)
    for z in range(len(hu)):
        area = int(simulated.mask[z].sum())
        yield PoolRow(
            hu=simulated.hu[z],
            mask=simulated.mask[z],
            source=SIMULATED,
            patient=case.name,
            series=f"{SIMULATED}-{number}",
            index=z,
            label=int(disease) if area >= _LEAST_LESION or area == 0 else None,
            lesion=area > 0,
            exact=True,
            spacing=spacing[1:],
            box=box,
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
