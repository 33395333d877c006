"""Features of whole series by a frozen slice network, for the patient network."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from networks.m3lung import M3SliceNet
from training.datasets.items import DatasetError, Item
from training.datasets.pixels import PixelSource
from training.lung_boxes import LungBoxes
from training.outputs import write_whole
from training.preprocessing import normalise_grey
from training.recipe import Recipe
from training.samples import SliceSamples

BATCH = 8


@dataclass(frozen=True)
class Series:
    """All slices of one series, feet to head, and the patient's class."""

    items: tuple[Item, ...]
    label: int


def series_of(items: Sequence[Item]) -> tuple[Series, ...]:
    """Items grouped by series. Raises DatasetError where a series has slices of two classes."""
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.source, item.patient, item.series), []).append(item)
    found = []
    for key, slices in groups.items():
        labels = {item.label for item in slices}
        if len(labels) > 1 or None in labels:
            raise DatasetError(f"series {'/'.join(key)} needs one label, it has {sorted(map(str, labels))}")
        ordered = tuple(sorted(slices, key=lambda item: item.index))
        found.append(Series(ordered, int(ordered[0].label or 0)))
    return tuple(found)


def with_lung(series: Sequence[Series], boxes: LungBoxes) -> tuple[Series, ...]:
    """The series without slices that show no lung, which the node gives to no network; all of one that has no other."""
    kept = (tuple(item for item in one.items if boxes.shows_lung(item)) for one in series)
    return tuple(replace(one, items=items or one.items) for one, items in zip(series, kept, strict=True))


class PatientFeatures(Dataset[tuple[Tensor, Tensor]]):
    """Features [windows, n, D] and label [] of series; computed once and kept in `cache`.

    Args:
        series: see `series_of`.
        network: the trained slice network, in evaluation mode.
        fingerprint: tells its weights apart from others in the cache.
        pixels, recipe: as for `SliceSamples`; the windows are `Image.three_centres`.
        cache: folder for the features.
    """

    def __init__(
        self,
        series: Sequence[Series],
        network: M3SliceNet,
        fingerprint: str,
        pixels: PixelSource,
        recipe: Recipe,
        cache: Path,
    ) -> None:
        self.series = series
        self.network = network.eval()
        self.fingerprint = fingerprint
        self.pixels = pixels
        self.recipe = recipe
        self.cache = cache

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        series = self.series[key[1]]
        return self._features(series), torch.tensor(series.label)

    def prepare(self, device: torch.device) -> None:
        """Compute the features that the cache lacks on `device`, before loader processes would on the processor."""
        self.network.to(device)
        for series in self.series:
            self._features(series)
        self.network.cpu()

    def _features(self, series: Series) -> Tensor:
        names = f"{self.fingerprint} {self.recipe.image} " + " ".join(i.name for i in series.items)
        path = self.cache / f"{hashlib.sha256(names.encode()).hexdigest()[:24]}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            features = np.stack(
                [self._of_window(series, centre) for centre in self.recipe.image.three_centres]
            )
            content = io.BytesIO()
            np.save(content, features)
            write_whole(path, content.getvalue())
        return torch.from_numpy(np.load(path))

    @torch.no_grad()
    def _of_window(self, series: Series, centre: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        image = replace_centre(self.recipe, centre)
        samples = SliceSamples(series.items, self.pixels, image, training=False)
        device = next(self.network.parameters()).device
        found = []
        for first in range(0, len(series.items), BATCH):
            places = range(first, min(first + BATCH, len(series.items)))
            grey = torch.stack([samples[0, place]["grey"] for place in places])
            found.append(self.network(normalise_grey(grey.to(device))).features)
        return torch.cat(found).cpu().numpy()


def replace_centre(recipe: Recipe, centre: float) -> Recipe:
    """The recipe with a window of that centre."""
    return recipe.model_copy(update={"image": recipe.image.model_copy(update={"centre": (centre, centre)})})


def weights_fingerprint(path: Path) -> str:
    """SHA-256 of a weights file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def patient_split(series: Sequence[Series], split: str) -> tuple[Series, ...]:
    """The series of a split."""
    return tuple(replace(s) for s in series if s.items[0].split == split)
