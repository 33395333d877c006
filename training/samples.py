"""From items to training samples: crop, resize, window, augmentation.

All random choices of a sample depend only on the recipe's seed, the epoch and the item's place, so that a
resumed training, or one with another number of loader processes, sees the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from training.datasets.items import Item
from training.datasets.pixels import PixelSource
from training.distortion import seen
from training.lung_boxes import LungBoxes, PixelBox
from training.preprocessing import resize_square, window
from training.recipe import Image, Recipe
from training.views import WHOLE, Box, View, centred_square, moved_edges, of_box, random_part


class Sample(TypedDict):
    """One slice for a network; batches have the same keys with a leading axis."""

    grey: Tensor
    """float32 [1, S, S] in [0, 1]."""
    mask: Tensor
    """float32 [1, S, S], 1 is lesion; zeros where there is no mask."""
    has_mask: Tensor
    """bool []."""
    label: Tensor
    """int64 []."""
    source: Tensor
    """int64 [], number of the item's data set."""
    picture: Tensor
    """bool [], a picture of unknown window rather than a slice in HU."""
    only_not_covid19: Tensor
    """bool [], `label` says no more than that it is not COVID-19."""


class SliceSamples(Dataset[Sample]):
    """Samples of items; indexed by (epoch, place).

    Args:
        items: every item has a label; masks are optional.
        pixels: opens them.
        recipe: image and augmentation.
        training: False is without augmentation: middle of the window's range, centred crop.
    """

    def __init__(self, items: Sequence[Item], pixels: PixelSource, recipe: Recipe, training: bool) -> None:
        self.items = items
        self.pixels = pixels
        self.recipe = recipe
        self.training = training
        self._boxes = LungBoxes(pixels)
        names = sorted({item.source for item in items})
        self.sources = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, place = key
        item = self.items[place]
        rng = np.random.default_rng([self.recipe.seed, epoch, place]) if self.training else None
        grey, mask = self._planes(item, rng)
        label = shown_class(item) or 0
        return Sample(
            grey=grey[0],
            mask=mask[0],
            has_mask=torch.tensor(item.mask is not None),
            label=torch.tensor(label),
            source=torch.tensor(self.sources[item.source]),
            picture=torch.tensor(not item.calibration.exact),
            only_not_covid19=torch.tensor(label == 0 and item.source in self.recipe.classes.only_not_covid19),
        )

    def _planes(self, item: Item, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        """Grey and mask, each [1, 1, S, S]."""
        hu = self.pixels.hu(item)
        found = self.pixels.mask(item)
        if self.recipe.augmentation.free_view:
            return self._freely_seen(item, hu, np.zeros(hu.shape, np.bool_) if found is None else found, rng)
        mask = np.zeros_like(hu) if found is None else found.astype(np.float32)
        image = self.recipe.image
        if image.lung_crop:
            top, left, bottom, right = self._lung_box(item, hu)
            hu, mask = hu[top:bottom, left:right], mask[top:bottom, left:right]
        planes = torch.from_numpy(np.stack([hu, mask]))[:, None]
        planes = _augmented(planes, self.recipe, rng)
        centre, width = _window(image, rng)
        return _resized(planes[:1], planes[1:], image, centre, width, self.recipe, rng)

    def _freely_seen(
        self,
        item: Item,
        hu: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        rng: np.random.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """As `_planes`, through a random view and distortion; without `rng` the crop as serving takes it."""
        image, augmentation = self.recipe.image, self.recipe.augmentation
        centre, width = _window(image, rng)
        crop = self._crop_view(item, hu, training=rng is not None)
        if rng is None:
            values, lesion = seen(hu, mask, crop, image.size, None, np.random.default_rng(0))
        else:
            view = _drawn_view(crop, self.recipe, rng)
            values, lesion = seen(hu, mask, view, image.size, augmentation, rng)
        return window(values, centre, width), lesion

    def _crop_view(self, item: Item, hu: npt.NDArray[np.float32], training: bool) -> View:
        """What a free view is a part of."""
        image = self.recipe.image
        if image.lung_crop:
            return of_box(item.lung_box or _as_shares(self._lung_box(item, hu), hu.shape))
        if image.shorter_side is None:
            return WHOLE
        row, column = item.spacing or (1.0, 1.0)
        # In training the whole square is the frame that parts are taken from.
        fraction = 1.0 if training else image.size / image.shorter_side
        if image.pictures_squeezed and not item.calibration.exact:
            return View(half=(fraction, fraction))
        return centred_square(hu.shape[1] * column / (hu.shape[0] * row), fraction)

    def _lung_box(self, item: Item, hu: npt.NDArray[np.float32]) -> PixelBox:
        """The box that the recipe wants; of a slice without lung the whole slice."""
        image = self.recipe.image
        found = self._boxes.of(item, hu, image.lung_margin, image.lung_scope)
        return found or (0, 0, hu.shape[0], hu.shape[1])


def shown_class(item: Item) -> int | None:
    """The class that a slice shows: the patient's, but healthy where the slice is known to be free of lesions."""
    return 0 if item.lesion is False else item.label


def _as_shares(box: PixelBox, shape: tuple[int, ...]) -> Box:
    (top, left, bottom, right), (height, width) = box, shape
    return top / height, left / width, bottom / height, right / width


def _drawn_view(crop: View, recipe: Recipe, rng: np.random.Generator) -> View:
    augmentation = recipe.augmentation
    if rng.random() < augmentation.whole_share:
        return random_part(WHOLE, augmentation.zoom, augmentation.stretch, rng)
    if recipe.image.lung_crop:
        return moved_edges(crop, augmentation.edges, rng)
    return random_part(crop, augmentation.zoom, augmentation.stretch, rng)


def _window(image: Image, rng: np.random.Generator | None) -> tuple[float, float]:
    if rng is None:
        return image.middle_window
    return float(rng.uniform(*image.centre)), float(rng.uniform(*image.width))


def _augmented(planes: Tensor, recipe: Recipe, rng: np.random.Generator | None) -> Tensor:
    """Mirrored and cropped at the borders; planes [2, 1, H, W]."""
    if rng is None:
        return planes
    augmentation = recipe.augmentation
    if rng.random() < augmentation.flip:
        planes = planes.flip(-1)
    if rng.random() < augmentation.border_crop_share:
        share = rng.uniform(0, augmentation.border_crop)
        rows, columns = (int(share * side) for side in planes.shape[-2:])
        planes = planes[..., rows : planes.shape[-2] - rows, columns : planes.shape[-1] - columns]
    return planes


def _resized(
    hu: Tensor,
    mask: Tensor,
    image: Image,
    centre: float,
    width: float,
    recipe: Recipe,
    rng: np.random.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Windowed grey (bilinear) and mask (nearest) at the network's size."""
    grey = window(resize_square(hu, image.size) if image.lung_crop else hu, centre, width)
    if image.shorter_side is None:
        side = (image.size, image.size)
        return resize_square(grey, image.size), functional.interpolate(mask, size=side, mode="nearest-exact")
    scale = image.shorter_side / min(grey.shape[-2:])
    shape = [max(image.size, round(scale * side)) for side in grey.shape[-2:]]
    grey = functional.interpolate(grey, size=shape, mode="bilinear", align_corners=False)
    mask = functional.interpolate(mask, size=shape, mode="nearest-exact")
    top, left = (_offset(side - image.size, recipe, rng) for side in shape)
    crop = (..., slice(top, top + image.size), slice(left, left + image.size))
    return grey[crop], mask[crop]


def _offset(spare: int, recipe: Recipe, rng: np.random.Generator | None) -> int:
    if rng is None or not recipe.augmentation.random_crop:
        return spare // 2
    return int(rng.integers(0, spare + 1))


Keys = Iterator[list[tuple[int, int]]]
"""Per batch the (epoch, place) of its samples, drawn as they are wanted: a long training has millions."""


def batches(count: int, recipe: Recipe, first_step: int, last_step: int) -> Keys:
    """Keys of every batch from `first_step` to before `last_step`; each epoch is a new permutation.

    An incomplete last batch of an epoch is left out, unless it is the only one.
    """
    per_epoch = steps_per_epoch(count, recipe)
    orders: dict[int, list[int]] = {}
    for step in range(first_step, last_step):
        epoch, place = divmod(step, per_epoch)
        if epoch not in orders:
            orders = {epoch: np.random.default_rng([recipe.seed, epoch]).permutation(count).tolist()}
        chosen = orders[epoch][place * recipe.batch : (place + 1) * recipe.batch]
        yield [(epoch, index) for index in chosen]


def steps_per_epoch(count: int, recipe: Recipe) -> int:
    """Iterations of one epoch over `count` samples."""
    return max(1, count // recipe.batch)
