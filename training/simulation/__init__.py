"""Simulated pneumonia: lesions with exact masks, laid into real lesion-free CT, reproducible by seed.

`describe` the lungs of a volume, then `simulate_case` as often as wanted.
"""

from training.simulation.anatomy import Anatomy, describe
from training.simulation.case import SimulatedCase, insert_lesions, simulate_case
from training.simulation.confounders import Rates
from training.simulation.families import sample_lesions

__all__ = [
    "Anatomy",
    "Rates",
    "SimulatedCase",
    "describe",
    "insert_lesions",
    "sample_lesions",
    "simulate_case",
]
