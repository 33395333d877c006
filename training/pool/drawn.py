"""Masks drawn by a segmenter where a pool has none: a half-trained network teaches the next one where to look."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.candidates import open_candidate
from training.datasets.items import DatasetError, Item
from training.datasets.pixels import PixelSource
from training.datasets.pool import add_masks, read_pool
from training.lung_boxes import LungBoxes
from training.measure import as_int16


def draw_missing_masks(pool: Path, segmenter: Path) -> tuple[int, int]:
    """Draw the masks of ill slices that have none, test splits left alone; gives how many were taken and asked for.

    Raises DatasetError where `pool` is none, and as `open_candidate` does.
    """
    dataset = read_pool(pool)
    if dataset is None:
        raise DatasetError(f"{pool} is no pool; `lungnode datasets simulate` writes one")
    candidate = open_candidate(segmenter)
    pixels = PixelSource(pool)
    places = np.array([place for place, item in enumerate(dataset.items) if _asks(item)], dtype=np.int64)
    boxes = LungBoxes(pixels)
    masks = [
        candidate.lesions(as_int16(pixels.hu(item)), item, boxes) >= candidate.lesion_threshold
        for item in (dataset.items[place] for place in places)
    ]
    taken = add_masks(pool, places, np.stack(masks)) if masks else 0
    return taken, len(places)


def _asks(item: Item) -> bool:
    return bool(item.label) and item.lesion is not False and item.mask is None and item.split != "test"
