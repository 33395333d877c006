"""Drawn chest slices: what engines are verified on and calibrated with, where no patient's images may be.

They have what the networks look at, in HU: clear lungs, vessels, ground glass, consolidation, nodules. They are no
simulation of anatomy; the phantom of the demonstration is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SLICES = 6
"""Of each chest."""

Slices = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]

_AIR, _SOFT, _VESSEL = -1000.0, 45.0, 30.0
_VESSELS = 60
_LESIONS = {2: (4, 0.06, -500), 3: (2, 0.07, 0), 4: (40, 0.012, -350)}
"""By slice: how many, their radius as a part of the image, HU."""

_PATCHES = {5: (8, 0.03, -200)}


@dataclass(frozen=True)
class Chest:
    """A chest: height, width and radius of lesions as parts of the usual, HU of clear lung, standard deviation of the
    noise, HU, and whether the last slice has dense patches instead of lying above the lungs.

    The same seed draws the same.
    """

    seed: int
    height: float = 1.0
    width: float = 1.0
    extent: float = 1.0
    lung_hu: float = -860
    noise_hu: float = 18
    patches: bool = True


FIXED = Chest(20, patches=False)
"""What engines are verified on."""

CALIBRATION = (
    Chest(1, 0.95, 1.05, 0.5, -880, 8),
    Chest(2, 1.08, 0.92, 1.0, -800, 18),
    Chest(3, 0.88, 1.0, 1.6, -840, 35),
    Chest(4, 1.0, 1.06, 2.2, -900, 60),
)
"""What engines in INT8 are calibrated with: hardly to severely ill, quiet to noisy,
none of them what they are verified on.

Severe ones matter: what excites a network more than anything here is cut off.
"""


def draw(chest: Chest, size: int = 512) -> tuple[Slices, Mask]:
    """Slices int16 [6, size, size] HU, and where the lungs are in them, bool [1, size, size].

    In order: clear lungs, vessels, ground glass, consolidation, nodules, and one above the lungs or with patches.
    """
    rng = np.random.default_rng(chest.seed)
    y, x = (v / size - 0.5 for v in np.ogrid[:size, :size])
    y, x = y / chest.height, x / chest.width
    body = (y / 0.36) ** 2 + (x / 0.44) ** 2 < 1
    lungs = np.zeros((size, size), dtype=bool)
    for side in (-1, 1):
        lungs |= (y / 0.25) ** 2 + ((x - side * 0.2) / 0.14) ** 2 < 1
    above = np.where(body, _SOFT, _AIR)
    empty = np.where(lungs, chest.lung_hu, above)
    vessels = empty.copy()
    for _ in range(_VESSELS):
        cy, cx, r = rng.uniform(-0.2, 0.2), rng.uniform(-0.3, 0.3), rng.uniform(0.002, 0.008)
        vessels[lungs & ((y - cy) ** 2 + (x - cx) ** 2 < r**2)] = _VESSEL
    slices = np.stack([empty, vessels, vessels, vessels, vessels, vessels if chest.patches else above])
    for k, (count, radius, hu) in (_LESIONS | (_PATCHES if chest.patches else {})).items():
        for _ in range(count):
            cy, cx = rng.uniform(-0.18, 0.18), rng.choice([-1, 1]) * rng.uniform(0.12, 0.28)
            ry, rx = chest.extent * radius, 1.4 * chest.extent * radius
            blob = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
            slices[k][blob & lungs] = np.maximum(slices[k][blob & lungs], hu)
    noise = rng.normal(0, chest.noise_hu, slices.shape)
    return np.clip(np.rint(slices + noise), -1024, 3071).astype(np.int16), lungs[None]
