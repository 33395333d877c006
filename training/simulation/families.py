"""How the lesions of each disease look and where they sit: the random choice of a case's lesions.

The patterns follow the usual radiological descriptions: COVID-19 is peripheral, posterior, of both lungs and
mostly ground glass; community-acquired (bacterial) pneumonia is a consolidation of one lobe or segment, or a
bronchopneumonia of centrilobular nodules and patches around the bronchi; H1N1 influenza is diffuse, central
ground glass with many small nodules. Each disease has several families, and their ranges overlap on purpose:
a network must not learn one stamp per disease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engine.findings import PneumoniaClass
from training.simulation.anatomy import Anatomy
from training.simulation.fields import Field
from training.simulation.lesions import Ellipsoid, Filling, Lesion, Lobe, Point, Wedge

Family = Callable[[Anatomy, np.random.Generator], list[Lesion]]


def sample_lesions(disease: PneumoniaClass, anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """The lesions of one random case of `disease`; none for HEALTHY."""
    if disease is PneumoniaClass.HEALTHY:
        return []
    families, shares = zip(*_FAMILIES[disease], strict=True)
    chosen = rng.choice(len(families), p=np.asarray(shares) / sum(shares))
    lesions: list[Lesion] = families[chosen](anatomy, rng)
    return lesions


# --- COVID-19 ---------------------------------------------------------------------------------------------


def _covid_multifocal(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """Several ground-glass patches under the pleura of both lungs, more of them posterior and basal."""
    weights = _peripheral(anatomy, rng.uniform(6, 18)) * _toward(anatomy.dorsal, rng.uniform(0, 3))
    weights *= _toward(1 - anatomy.height, rng.uniform(0, 1.5))
    size = rng.uniform(7, 22)
    tone = rng.uniform(-700, -420)
    return [
        _ground_glass(anatomy, rng, place, size * rng.uniform(0.5, 1.6), tone)
        for place in _places(anatomy, weights, int(rng.integers(3, 13)), rng)
    ]


def _covid_early(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """One to three small rounded ground-glass opacities, in one lung or both."""
    weights = _peripheral(anatomy, 10)
    return [
        _ground_glass(anatomy, rng, place, rng.uniform(5, 14), rng.uniform(-720, -480))
        for place in _places(anatomy, weights, int(rng.integers(1, 4)), rng)
    ]


def _covid_bands(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """Crescents along the pleura, ground glass to dense, as in the second week."""
    weights = _peripheral(anatomy, 4) * _toward(anatomy.dorsal, rng.uniform(1, 3))
    thickness = rng.uniform(6, 22)
    lesions = []
    for place in _places(anatomy, weights, int(rng.integers(2, 8)), rng):
        size = rng.uniform(15, 42)
        axes = (size * rng.uniform(0.4, 1.0), size, size * rng.uniform(0.5, 1.0))
        outline = Ellipsoid(place, axes, rng.uniform(0, np.pi))
        filling = _glass_filling(rng, rng.uniform(-650, -250))
        lesions.append(Lesion(outline, filling, 0.2, rng.uniform(0.2, 0.5), 10.0, thickness))
    return lesions


def _covid_diffuse(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """Large confluent ground glass with reticular lines in most of both lungs, as in severe disease."""
    weights = np.ones(len(anatomy.places), dtype=np.float32) * _toward(anatomy.dorsal, rng.uniform(0, 2))
    tone = rng.uniform(-650, -380)
    return [
        _ground_glass(anatomy, rng, place, rng.uniform(18, 40), tone, warp=0.5)
        for place in _places(anatomy, weights, int(rng.integers(6, 16)), rng)
    ]


def _covid_consolidating(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """Peripheral patches of both lungs whose middle has become dense, with ground glass around."""
    weights = _peripheral(anatomy, 7) * _toward(anatomy.dorsal, 2)
    lesions = []
    for place in _places(anatomy, weights, int(rng.integers(3, 9)), rng):
        size = rng.uniform(9, 24)
        filling = _glass_filling(rng, rng.uniform(-560, -380), core_hu=rng.uniform(-250, 10))
        outline = Ellipsoid(place, _irregular(size, rng), rng.uniform(0, np.pi))
        lesions.append(Lesion(outline, filling, 0.3, rng.uniform(0.25, 0.5), rng.uniform(6, 14)))
    return lesions


# --- Community-acquired pneumonia -------------------------------------------------------------------------


def _cap_lobar(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """One dense lobe or part of it, sharp at the fissure, with air bronchograms; some ground glass beside."""
    side = int(rng.integers(2))
    weights = (anatomy.side == side) * _toward(1 - anatomy.height, rng.uniform(0, 2))
    place = _places(anatomy, weights, 1, rng)[0]
    radius = rng.uniform(25, 70)
    plane = _direction(rng)
    dense = Lesion(Lobe(place, radius, plane), _dense_filling(rng), 0.12, rng.uniform(0.05, 0.25), 12.0)
    halo = Lesion(Ellipsoid(place, _irregular(radius * 0.9, rng)), _glass_filling(rng, -520), 0.4, 0.4, 12.0)
    return [halo, dense] if rng.random() < 0.6 else [dense]


def _cap_segmental(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """One to three wedges from the hilum to the pleura, mostly of one lung."""
    side = int(rng.integers(2))
    weights = np.where(anatomy.side == side, 1.0, 0.06) * _peripheral(anatomy, 25)
    lesions = []
    for place in _places(anatomy, weights, int(rng.integers(1, 4)), rng):
        hilum = anatomy.hila[int(place[2] > anatomy.hila[:, 2].mean())]
        apex = (hilum - np.asarray(place)) * np.asarray(anatomy.spacing) * rng.uniform(0.4, 0.9)
        wedge = Wedge(place, (apex[0], apex[1], apex[2]), rng.uniform(0.25, 0.6), rng.uniform(25, 60))
        if rng.random() < 0.6:
            halo = Wedge(place, wedge.apex, wedge.spread * 1.4, wedge.reach * 1.15)
            lesions.append(Lesion(halo, _glass_filling(rng, rng.uniform(-600, -420)), 0.4, 0.3, 10.0))
        lesions.append(Lesion(wedge, _dense_filling(rng), 0.25, rng.uniform(0.15, 0.45), rng.uniform(6, 14)))
    return lesions


def _cap_round(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """A single dense patch, anywhere, often with a soft halo."""
    weights = np.ones(len(anatomy.places), dtype=np.float32)
    lesions = []
    for place in _places(anatomy, weights, int(rng.choice([1, 1, 2])), rng):
        size = rng.uniform(10, 30)
        if rng.random() < 0.6:
            halo = Ellipsoid(place, _irregular(size * rng.uniform(1.2, 1.7), rng), rng.uniform(0, np.pi))
            lesions.append(Lesion(halo, _glass_filling(rng, rng.uniform(-620, -430)), 0.5, 0.3, 10.0))
        dense = Ellipsoid(place, _irregular(size, rng), rng.uniform(0, np.pi))
        lesions.append(Lesion(dense, _dense_filling(rng), 0.3, rng.uniform(0.2, 0.5), rng.uniform(5, 12)))
    return lesions


def _cap_bronchopneumonia(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """Clusters of nodules around small airways with patches around the bronchi, in one or two lobes."""
    lesions = []
    base = _toward(1 - anatomy.height, rng.uniform(0, 3))
    for heart in _places(anatomy, base, int(rng.integers(1, 5)), rng):
        near = base * _near(anatomy, heart, rng.uniform(14, 35))
        nodules = _places(anatomy, near * (anatomy.place_depth > 3), int(rng.integers(15, 60)), rng)
        tone = rng.uniform(-450, -50)
        lesions += [_nodule(place, rng.uniform(1.8, 4.5), tone, rng) for place in nodules]
        for place in _places(anatomy, near, int(rng.integers(1, 5)), rng):
            outline = Ellipsoid(place, _irregular(rng.uniform(5, 15), rng), rng.uniform(0, np.pi))
            lesions.append(Lesion(outline, _dense_filling(rng), 0.4, 0.5, rng.uniform(4, 9)))
        if rng.random() < 0.5:
            haze = Ellipsoid(heart, _irregular(rng.uniform(15, 30), rng), rng.uniform(0, np.pi))
            lesions.append(Lesion(haze, _glass_filling(rng, rng.uniform(-720, -550)), 0.6, 0.5, 8.0))
    return lesions


# --- H1N1 influenza ---------------------------------------------------------------------------------------


def _h1n1_diffuse(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """Many small nodules all over both lungs in a patchy mosaic of faint ground glass."""
    everywhere = (anatomy.place_depth > 3).astype(np.float32)
    tone = rng.uniform(-650, -300)
    count = int(rng.integers(80, 260))
    lesions = [
        _nodule(place, rng.uniform(1.5, 3.6), tone, rng) for place in _places(anatomy, everywhere, count, rng)
    ]
    lesions += [
        _ground_glass(anatomy, rng, place, rng.uniform(10, 26), rng.uniform(-740, -620), warp=0.6)
        for place in _places(anatomy, everywhere, int(rng.integers(3, 9)), rng)
    ]
    return lesions


def _h1n1_central(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """Ground glass and dense patches around the bronchi of both lungs, the periphery spared."""
    lesions = []
    for hilum in anatomy.hila:
        near = _near(anatomy, (hilum[0], hilum[1], hilum[2]), rng.uniform(35, 60)) * (
            anatomy.place_depth > 10
        )
        if not near.any():
            continue
        tone = rng.uniform(-600, -350)
        for place in _places(anatomy, near, int(rng.integers(3, 8)), rng):
            lesions.append(_ground_glass(anatomy, rng, place, rng.uniform(8, 20), tone, warp=0.5))
        for place in _places(anatomy, near, int(rng.integers(10, 50)), rng):
            lesions.append(_nodule(place, rng.uniform(1.5, 3.6), rng.uniform(-550, -200), rng))
    return lesions


_FAMILIES: dict[PneumoniaClass, Sequence[tuple[Family, float]]] = {
    PneumoniaClass.COVID19: (
        (_covid_multifocal, 0.38),
        (_covid_early, 0.16),
        (_covid_bands, 0.18),
        (_covid_diffuse, 0.12),
        (_covid_consolidating, 0.16),
    ),
    PneumoniaClass.CAP: (
        (_cap_lobar, 0.25),
        (_cap_segmental, 0.28),
        (_cap_round, 0.15),
        (_cap_bronchopneumonia, 0.32),
    ),
    PneumoniaClass.H1N1: ((_h1n1_diffuse, 0.55), (_h1n1_central, 0.45)),
}


# --- Building blocks --------------------------------------------------------------------------------------


def _ground_glass(
    anatomy: Anatomy, rng: np.random.Generator, place: Point, size: float, tone: float, warp: float = 0.35
) -> Lesion:
    core = rng.uniform(-420, -120) if rng.random() < 0.3 else None
    filling = _glass_filling(rng, tone + rng.normal(0, 40), core)
    outline = Ellipsoid(place, _irregular(size, rng), rng.uniform(0, np.pi))
    return Lesion(outline, filling, rng.uniform(0.25, 0.7), warp * rng.uniform(0.3, 1.2), rng.uniform(7, 20))


def _glass_filling(rng: np.random.Generator, tone: float, core_hu: float | None = None) -> Filling:
    return Filling(
        hu=tone,
        contrast=rng.uniform(25, 110),
        opacity=rng.uniform(0.6, 1.0),
        core_hu=core_hu,
        lines=rng.uniform(60, 250) if rng.random() < 0.4 else 0.0,
        bronchi=rng.uniform(0.5, 0.9) if rng.random() < 0.15 else 0.0,
        rim=rng.random() < 0.06,
    )


def _dense_filling(rng: np.random.Generator) -> Filling:
    return Filling(
        hu=rng.uniform(-200, 50),
        contrast=rng.uniform(15, 60),
        opacity=rng.uniform(0.85, 1.0),
        bronchi=rng.uniform(0.6, 1.0) if rng.random() < 0.6 else 0.0,
    )


def _nodule(place: Point, radius: float, tone: float, rng: np.random.Generator) -> Lesion:
    outline = Ellipsoid(place, (radius, radius * rng.uniform(0.7, 1.4), radius))
    return Lesion(outline, Filling(tone + rng.normal(0, 60), contrast=0, opacity=1.0), 0.6, warp=0.0)


def _irregular(size: float, rng: np.random.Generator) -> tuple[float, float, float]:
    return size * rng.uniform(0.6, 1.2), size * rng.uniform(0.7, 1.5), size * rng.uniform(0.6, 1.1)


def _places(anatomy: Anatomy, weights: npt.ArrayLike, count: int, rng: np.random.Generator) -> list[Point]:
    """`count` lung voxels drawn with these weights; evenly where all weights vanish."""
    share = np.asarray(weights, dtype=np.float64)
    total = share.sum()
    chosen = rng.choice(len(share), size=count, p=share / total if total > 0 else None)
    return [(float(z), float(y), float(x)) for z, y, x in anatomy.places[chosen]]


def _peripheral(anatomy: Anatomy, decay_mm: float) -> Field:
    return np.asarray(np.exp(-anatomy.place_depth / decay_mm), dtype=np.float32)


def _toward(fraction: Field, strength: float) -> Field:
    return np.asarray(np.exp(strength * fraction), dtype=np.float32)


def _near(anatomy: Anatomy, heart: Point, width_mm: float) -> Field:
    away = (anatomy.places - np.asarray(heart)) * np.asarray(anatomy.spacing)
    return np.asarray(np.exp(-0.5 * (away**2).sum(axis=1) / width_mm**2), dtype=np.float32)


def _direction(rng: np.random.Generator) -> tuple[float, float, float]:
    vector = rng.standard_normal(3)
    z, y, x = vector / np.linalg.norm(vector)
    return float(z), float(y), float(x)
