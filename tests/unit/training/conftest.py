"""Shared by the tests of training: one thread, fixed seed, package metadata."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def metadata() -> dict[str, Any]:
    """Complete package metadata of a JCS package."""
    return {
        "name": "tiny",
        "version": "1.0.0",
        "system": "jcs",
        "variant": "test",
        "preprocessing": {"crop": "centre", "crop_fraction": 0.875},
        "classes": ["not_infected", "covid19"],
        "thresholds": {"slice": 0.5, "patient_count": 25, "patient_mode": "auto", "lesion": 0.5},
        "description": "random weights",
        "authors": "nobody",
        "copyright": "none",
        "license": "Apache-2.0",
        "intended_use": "tests",
        "training_data": [],
        "metrics": {},
    }
