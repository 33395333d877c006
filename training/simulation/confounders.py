"""What healthy lungs show that is no pneumonia: the look-alikes that a screen must leave alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.simulation.anatomy import Anatomy
from training.simulation.fields import Field, layered_noise, ramp, smooth_noise


@dataclass(frozen=True)
class Rates:
    """How often each look-alike is put into a volume, 0 to 1."""

    expiration: float = 0.35
    dependent_haze: float = 0.4
    emphysema: float = 0.15
    scars: float = 0.25
    granuloma: float = 0.15


def add_confounders(
    hu: npt.NDArray[np.int16],
    anatomy: Anatomy,
    rng: np.random.Generator,
    rates: Rates = Rates(),
) -> npt.NDArray[np.int16]:
    """A copy of `hu`, int16 [Z, Y, X], with a random choice of look-alikes inside the lungs."""
    out = hu.astype(np.float32)
    steps = (
        (rates.expiration, _expiration),
        (rates.dependent_haze, _dependent_haze),
        (rates.emphysema, _emphysema),
        (rates.scars, _scars),
        (rates.granuloma, _granuloma),
    )
    for rate, step in steps:
        if rng.random() < rate:
            out = step(out, anatomy, rng)
    return np.clip(np.rint(out), -1024, 3071).astype(np.int16)


def _expiration(hu: Field, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Less air (or more, in deep inspiration): the whole lung brighter or darker, evenly."""
    air = np.clip((-300 - hu) / 500, 0, 1) * anatomy.lungs
    return np.asarray(hu + air * rng.uniform(-40, 140), dtype=np.float32)


def _dependent_haze(hu: Field, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Gravity: a thin brighter band along the posterior pleura of a patient lying on the back."""
    rows = np.arange(hu.shape[1], dtype=np.float32)[None, :, None]
    lowest = np.where(anatomy.lungs, rows, -1).max(axis=1, keepdims=True)
    above = (lowest - rows) * anatomy.spacing[1]
    thickness = rng.uniform(3, 12) * (1 + 0.4 * smooth_noise(_shape(hu), anatomy.spacing, 30.0, rng))
    band = (1 - ramp(above / np.maximum(thickness, 1.0), 0.0, 1.0)) * anatomy.lungs
    return np.asarray(hu + band * rng.uniform(40, 160) * (hu < -500), dtype=np.float32)


def _emphysema(hu: Field, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Holes darker than the lung around."""
    holes = ramp(layered_noise(_shape(hu), anatomy.spacing, (8.0, 20.0), rng), rng.uniform(0.4, 1.2), 2.0)
    return np.asarray(hu - holes * anatomy.lungs * rng.uniform(50, 150) * (hu < -700), dtype=np.float32)


def _scars(hu: Field, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """A few thin bright lines (plate atelectasis, scars)."""
    out = hu
    for _ in range(int(rng.integers(1, 4))):
        z, y, x = anatomy.places[rng.integers(len(anatomy.places))]
        steps = anatomy.spacing
        dz = (np.arange(hu.shape[0], dtype=np.float32)[:, None, None] - z) * steps[0]
        dy = (np.arange(hu.shape[1], dtype=np.float32)[None, :, None] - y) * steps[1]
        dx = (np.arange(hu.shape[2], dtype=np.float32)[None, None, :] - x) * steps[2]
        turn, bend = rng.uniform(0, np.pi), rng.uniform(-0.01, 0.01)
        along, across = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        line = np.exp(-(((across + bend * along**2) / rng.uniform(0.8, 1.6)) ** 2))
        line = line * np.exp(-((along / rng.uniform(8, 25)) ** 2)) * np.exp(-((dz / rng.uniform(3, 10)) ** 2))
        out = np.maximum(out, hu + line * anatomy.lungs * (rng.uniform(-250, 50) - hu))
    return np.asarray(out, dtype=np.float32)


def _granuloma(hu: Field, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """One small solid, sharp nodule, sometimes calcified."""
    z, y, x = anatomy.places[rng.integers(len(anatomy.places))]
    steps = anatomy.spacing
    dz = (np.arange(hu.shape[0], dtype=np.float32)[:, None, None] - z) * steps[0]
    dy = (np.arange(hu.shape[1], dtype=np.float32)[None, :, None] - y) * steps[1]
    dx = (np.arange(hu.shape[2], dtype=np.float32)[None, None, :] - x) * steps[2]
    ball = 1 - ramp(np.sqrt(dz**2 + dy**2 + dx**2), 1.5, rng.uniform(2.5, 5))
    return np.asarray(np.maximum(hu, hu + ball * (rng.uniform(0, 500) - hu)), dtype=np.float32)


def _shape(hu: Field) -> tuple[int, int, int]:
    return hu.shape[0], hu.shape[1], hu.shape[2]
