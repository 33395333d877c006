"""INT8 for OpenVINO by post-training quantisation with NNCF, calibrated on the fixed slices. Off by default."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import RunnerFailed
from engine.verification import fixed_slices

CALIBRATED = ("classify", "segment", "slices")
"""The patient network multiplies features with features and is small work: it stays as it is."""

PREPARATION = ("Convert", "Subtract", "Divide", "Maximum", "Minimum", "Interpolate")
"""OpenVINO's names of what the graphs do between HU and the first convolution."""


def quantised(model: Any, graph: str) -> Any:
    """The OpenVINO model `model` of `graph` in INT8. Raises RunnerFailed, also where NNCF is not installed."""
    if graph not in CALIBRATED:
        raise RunnerFailed(f"graph {graph} is not quantised")
    try:
        import nncf
    except ImportError as error:
        raise RunnerFailed(f"int8 needs nncf ({error}): pip install lungnode[int8]") from error
    # Left as they are: the preparation of the HU, which the CPU plugin would fuse with quantisation and then refuse.
    kept = nncf.IgnoredScope(types=list(PREPARATION), validate=False)
    samples = [np.ascontiguousarray(s[None]) for hu in (fixed_slices(512), fixed_slices(384)) for s in hu]
    try:
        dataset = nncf.Dataset(samples, lambda hu: {"hu": hu})
        return nncf.quantize(model, dataset, subset_size=len(samples), ignored_scope=kept)
    except RuntimeError as error:
        raise RunnerFailed(f"NNCF cannot quantise graph {graph}: {error}") from error
