"""One simulated case: a real lesion-free volume, look-alikes, and the lesions of one disease with their mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.findings import PneumoniaClass
from training.simulation.anatomy import Anatomy
from training.simulation.confounders import Rates, add_confounders
from training.simulation.families import sample_lesions
from training.simulation.lesions import Lesion, render

_MIN_OPACITY = 0.35
_MIN_RISE = 60.0
_GRAIN = 0.35
_MAX_GRAIN = 150.0


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """hu: int16 [Z, Y, X]. mask: bool [Z, Y, X], the lesions. disease: whose lesions they are."""

    hu: npt.NDArray[np.int16]
    mask: npt.NDArray[np.bool_]
    disease: PneumoniaClass


def simulate_case(
    hu: npt.NDArray[np.int16],
    anatomy: Anatomy,
    disease: PneumoniaClass,
    rng: np.random.Generator,
    rates: Rates = Rates(),  # noqa: B008
) -> SimulatedCase:
    """Put a random case of `disease` into a lesion-free volume.

    hu: int16 [Z, Y, X], slices from feet to head; left untouched. anatomy: of the same grid.
    The same `rng` state gives the same case.
    """
    background = add_confounders(hu, anatomy, rng, rates)
    return insert_lesions(background, anatomy, disease, sample_lesions(disease, anatomy, rng), rng)


def insert_lesions(
    hu: npt.NDArray[np.int16],
    anatomy: Anatomy,
    disease: PneumoniaClass,
    lesions: Iterable[Lesion],
    rng: np.random.Generator,
) -> SimulatedCase:
    """Lay `lesions` into the lungs of `hu`; a lesion only ever adds density, so vessels and noise stay visible.

    The mask holds the lung voxels that a lesion covers with an opacity above 0.35 and raised by more
    than 60 HU, so that invisible fringes are not asked for.
    """
    out = hu.astype(np.float32)
    aerated = out[anatomy.lungs & (hu < -600)]
    air_level = np.median(aerated) if aerated.size else np.float32(-850)
    covered = np.zeros(hu.shape, dtype=np.bool_)
    for lesion in lesions:
        patch = render(lesion, anatomy, rng)
        if patch is None:
            continue
        under = out[patch.window]
        grain = np.clip(_GRAIN * (under - air_level), -_MAX_GRAIN, _MAX_GRAIN)
        rise = np.maximum(patch.target + grain - under, 0)
        out[patch.window] = under + patch.opacity * anatomy.rim[patch.window] * rise
        covered[patch.window] |= patch.opacity > _MIN_OPACITY
    mask = covered & anatomy.lungs & (out - hu > _MIN_RISE)
    return SimulatedCase(np.clip(np.rint(out), -1024, 3071).astype(np.int16), mask, disease)
