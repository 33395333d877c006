"""INT8 for OpenVINO by post-training quantisation with NNCF, calibrated on drawn chests. Off by default.

Three things decide whether a network survives it (measured, docs/engines.md): what lies before the first convolution
and after the last stays in floating point; ranges are the largest over all calibration slices, since most of a chest
is healthy and the mean over slices, NNCF's default, cuts off what only lesions excite; and biases are not corrected,
since the correction is learned from a few slices and is larger than the error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.drawn_chests import CALIBRATION
from engine.errors import RunnerFailed
from engine.packages import JCSMetadata, ModelPackage
from engine.verification import crops

CALIBRATED = ("classify", "segment")
"""M3Lung-Sys stays as it is: quantised, its slice network gave other classes in some processes than in others (OpenVINO
2026.4, docs/engines.md), and its patient network, which multiplies features with features, is small work.
"""


def quantised(model: Any, package: ModelPackage, graph: str, most: int | None = None) -> Any:
    """The OpenVINO model `model` of `graph` in INT8, calibrated with at most so many slices.

    Raises RunnerFailed, also where NNCF is not installed.
    """
    metadata = package.metadata
    if graph not in CALIBRATED or not isinstance(metadata, JCSMetadata):
        raise RunnerFailed(f"graph {graph} is not quantised")
    try:
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    except ImportError as error:
        install = "pip install 'lungnode[int8]', then lungnode engines build --again"
        raise RunnerFailed(f"int8 needs nncf ({error}): {install}") from error
    samples = calibration_slices(graph, metadata)[:most]
    try:
        return nncf.quantize(
            model,
            nncf.Dataset(samples, lambda hu: {"hu": hu}),
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=list(outside_convolutions(model))),
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
    except RuntimeError as error:
        raise RunnerFailed(f"NNCF cannot quantise graph {graph}: {error}") from error


def calibration_slices(graph: str, metadata: JCSMetadata) -> list[npt.NDArray[np.int16]]:
    """What a graph is calibrated with: int16 [1, H, W] HU each, cut as screening cuts them for it."""
    return [hu[None] for chest in CALIBRATION for hu in crops(graph, metadata, chest)]


def outside_convolutions(model: Any) -> tuple[str, ...]:
    """Names of the operators that follow no convolution, or that none follows: HU to image, scores and maps.

    They are little work. Quantised, a window of 256 steps over all HU, or a map whose largest value is one lesion's,
    is what is left of them.
    """
    operators = model.get_ordered_ops()
    follows: set[str] = set()
    for node in operators:
        sources = (value.get_node() for value in node.input_values())
        if _is_convolution(node) or any(source.get_name() in follows for source in sources):
            follows.add(node.get_name())
    leads: set[str] = set()
    for node in reversed(operators):
        readers = [target.get_node() for value in node.outputs() for target in value.get_target_inputs()]
        if any(_is_convolution(reader) or reader.get_name() in leads for reader in readers):
            leads.add(node.get_name())
    return tuple(
        node.get_friendly_name()
        for node in operators
        if not _is_convolution(node)
        and node.get_type_name() not in ("Constant", "Parameter", "Result")
        and not (node.get_name() in follows and node.get_name() in leads)
    )


def _is_convolution(node: Any) -> bool:
    return bool(node.get_type_name() == "Convolution")
