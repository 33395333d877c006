"""Hounsfield units to the tensor that a graph takes, and its output back to scores in one order of dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.own_model.contract import OwnModelMetadata
from engine.own_model.deciding import Scores, activated
from engine.runners.batches import Output

AIR_HU = -1024.0
"""What lies outside of the series."""


def input_tensor(hu: npt.NDArray[np.floating], metadata: OwnModelMetadata) -> npt.NDArray[Any]:
    """The input from HU [N, C, H, W] or [N, C, D, H, W]: windows, value range, mean and std, type, layout."""
    pre, channels = metadata.preprocessing, hu.shape[1]
    shape = (1, channels, *(1,) * (hu.ndim - 2))
    values: npt.NDArray[Any] = np.asarray(hu, dtype=np.float32)
    if pre.hu_windows:
        windows = _per_channel(pre.hu_windows, channels)
        low, high = windows[:, 0].reshape(shape), windows[:, 1].reshape(shape)
        least, most = metadata.input.value_range
        values = np.clip((values - low) / (high - low), 0, 1) * np.float32(most - least)
        values += np.float32(least)
    if pre.mean:
        values = values - _per_channel(pre.mean, channels).reshape(shape)
    if pre.std:
        values = values / _per_channel(pre.std, channels).reshape(shape)
    kind = np.dtype(metadata.input.dtype)
    if kind.kind in "iu":
        limits = np.iinfo(metadata.input.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return np.ascontiguousarray(_in_layout(values.astype(kind), metadata.input_layout))


def segmentation_scores(output: Output, tensor_shape: tuple[int, ...], metadata: OwnModelMetadata) -> Scores:
    """Scores [N, C, (D,) H, W] in [0, 1] of a segmentation; `tensor_shape` of the input tells the size.

    Raises RunnerFailed for another shape, and for values that are not finite.
    """
    sizes = dict(zip(metadata.input_layout, tensor_shape, strict=True)) | {"C": metadata.output_channels}
    layout = metadata.output_layout
    raw = output.floats(metadata.output_name, tuple(sizes.get(letter, 1) for letter in layout))
    return activated(_from_layout(raw, layout), metadata)


def classification_scores(output: Output, count: int, metadata: OwnModelMetadata) -> Scores:
    """Scores [count, C] in [0, 1] of a classification; [count] is taken for one channel, [C] for one item.

    Raises RunnerFailed for another shape, and for values that are not finite.
    """
    name, channels = metadata.output_name, metadata.output_channels
    values = output.tensors.get(name)
    dimensions = 2 if values is None else values.ndim
    if dimensions == 1 and 1 in (count, channels):
        raw = output.floats(name, (count if channels == 1 else channels,)).reshape(-1, channels)
    else:
        raw = output.floats(name, (count, channels, *(1,) * (dimensions - 2))).reshape(count, channels)
    return activated(raw, metadata)


def _per_channel(values: Any, channels: int) -> npt.NDArray[np.float32]:
    """One item for each channel; a single item stands for all."""
    items = np.asarray(values, dtype=np.float32)
    return np.repeat(items, channels, axis=0) if len(items) == 1 else items


def _canonical(dimensions: int) -> str:
    return "NCHW" if dimensions == 4 else "NCDHW"


def _in_layout(values: npt.NDArray[Any], layout: str) -> npt.NDArray[Any]:
    letters = _canonical(values.ndim)
    missing = tuple(i for i, letter in enumerate(letters) if letter not in layout)
    left = [letter for letter in letters if letter in layout]
    return np.squeeze(values, axis=missing).transpose([left.index(letter) for letter in layout])


def _from_layout(values: Scores, layout: str) -> Scores:
    letters = "NCDHW" if "D" in layout else "NCHW"
    present = [letter for letter in letters if letter in layout]
    ordered = values.transpose([layout.index(letter) for letter in present])
    missing = tuple(i for i, letter in enumerate(letters) if letter not in layout)
    return np.expand_dims(ordered, axis=missing)
