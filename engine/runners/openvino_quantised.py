"""INT8 for OpenVINO by post-training quantisation with NNCF, calibrated on the fixed slices. Off by default."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import RunnerFailed
from engine.verification import fixed_slices

CALIBRATED = ("classify", "segment", "slices")
"""The patient network multiplies features with features and is small work: it stays as it is."""


def quantised(model: Any, graph: str) -> Any:
    """The OpenVINO model `model` of `graph` in INT8. Raises RunnerFailed, also where NNCF is not installed."""
    if graph not in CALIBRATED:
        raise RunnerFailed(f"graph {graph} is not quantised")
    try:
        import nncf
    except ImportError as error:
        raise RunnerFailed(f"int8 needs nncf ({error}): pip install lungnode[int8]") from error
    samples = [np.ascontiguousarray(s[None]) for hu in (fixed_slices(512), fixed_slices(384)) for s in hu]
    try:
        return nncf.quantize(model, nncf.Dataset(samples, lambda hu: {"hu": hu}), subset_size=len(samples))
    except RuntimeError as error:
        raise RunnerFailed(f"NNCF cannot quantise graph {graph}: {error}") from error
