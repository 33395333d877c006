"""Where the lungs of an item are: of its series, of its own slice, or nowhere that could be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from engine.lungs import crop_box
from training.candidates import Candidate
from training.datasets.items import GREY_UNKNOWN_WINDOW, HOUNSFIELD, Item, Plane
from training.datasets.pixels import PixelSource
from training.datasets.volumes import volume_items
from training.lung_boxes import LungBoxes
from training.patients import series_of, with_lung
from training.preprocessing import resize_square, window
from training.recipe import LungScope, Recipe, load_recipe
from training.samples import SliceSamples


def chest() -> np.ndarray:
    """24 slices of 96 x 96, 4 mm: two lungs, higher up smaller, none in the lowest three and highest three slices."""
    z, y, x = np.mgrid[0:24, 0:96, 0:96]
    body = ((y - 48) / 44) ** 2 + ((x - 48) / 46) ** 2 < 1
    hu = np.where(body, 30, -1000)
    for middle in (28, 68):
        inside = ((z - 12) / 9) ** 2 + ((y - 48) / 30) ** 2 + ((x - middle) / 15) ** 2 < 1
        hu[inside] = -850
    return hu.astype(np.int16)


@pytest.fixture
def slices(tmp_path: Path) -> list[Item]:
    image = SimpleITK.GetImageFromArray(chest())
    image.SetSpacing((4.0, 4.0, 8.0))
    SimpleITK.WriteImage(image, str(tmp_path / "chest.mha"))
    return volume_items("t", "p", tmp_path / "chest.mha", label=0)


def test_every_slice_of_a_volume_has_the_box_of_the_series(slices: list[Item], tmp_path: Path) -> None:
    boxes, hu = LungBoxes(PixelSource(tmp_path / "cache")), chest()
    middle, upper = boxes.of(slices[12], hu[12], 3), boxes.of(slices[17], hu[17], 3)
    assert middle is not None
    assert middle == upper
    assert middle == pytest.approx((48 - 30 - 3, 28 - 15 - 3, 48 + 30 + 4, 68 + 15 + 4), abs=2)
    single = crop_box(hu[17], 3)
    assert single is not None
    assert single[0] > middle[0]


def test_a_slice_without_lung_has_none(slices: list[Item], tmp_path: Path) -> None:
    assert LungBoxes(PixelSource(tmp_path / "cache")).of(slices[0], chest()[0], 3) is None


def test_both_systems_are_spared_slices_without_lung(slices: list[Item], tmp_path: Path) -> None:
    """As the node spares them: they count as healthy and hold no lesion."""
    boxes, hu = LungBoxes(PixelSource(tmp_path / "cache")), chest()
    assert (boxes.shows_lung(slices[0]), boxes.shows_lung(slices[12])) == (False, True)

    def everywhere(_graph: str, seen: np.ndarray) -> dict[str, np.ndarray]:
        return {"lesion_probability": np.full(seen.shape, 255, np.uint8)}

    candidate = Candidate("jcs", "jcs", frozenset({"classify", "segment"}), everywhere, "0" * 64)
    assert candidate.crop(hu[0], slices[0], boxes) is None
    assert candidate.crop(hu[12], slices[12], boxes) is not None
    assert not candidate.lesions(hu[0], slices[0], boxes).any()
    assert candidate.lesions(hu[12], slices[12], boxes).all()


def test_pictures_and_named_boxes(tmp_path: Path) -> None:
    boxes, hu = LungBoxes(PixelSource(tmp_path / "cache")), chest()[12]
    picture = Item("t", "p", "s", 0, Plane(tmp_path / "x.png"), GREY_UNKNOWN_WINDOW)
    assert boxes.of(picture, hu, 3) == (0, 0, 96, 96)
    assert boxes.of(replace(picture, lung_box=(0.25, 0.0, 0.75, 1.0)), hu, 3) == (24, 0, 72, 96)
    assert boxes.of(replace(picture, calibration=HOUNSFIELD), hu, 3) == crop_box(hu, 3)


def seen_part(hu: np.ndarray, box: tuple[int, int, int, int], recipe: Recipe) -> torch.Tensor:
    """What a network of the recipe is shown of a box, as the serving graph cuts it."""
    top, left, bottom, right = box
    values = torch.from_numpy(hu[top:bottom, left:right].astype(np.float32))[None, None]
    return window(resize_square(values, recipe.image.size), *recipe.image.middle_window)[0]


@pytest.mark.parametrize("free_view", [False, True])
@pytest.mark.parametrize("scope", ["slice", "volume"])
def test_a_slice_is_learned_on_the_box_that_it_is_served_with(
    slices: list[Item], tmp_path: Path, scope: LungScope, free_view: bool
) -> None:
    changes = ("image.size=32", f"image.lung_scope={scope}", f"augmentation.free_view={free_view}")
    recipe, pixels = load_recipe("m3-slice", changes), PixelSource(tmp_path / "cache")
    box = LungBoxes(pixels).of(slices[17], chest()[17], recipe.image.lung_margin, scope)
    assert box is not None
    assert (box == crop_box(chest()[17], recipe.image.lung_margin)) == (scope == "slice")
    sample = SliceSamples(slices, pixels, recipe, training=False)[0, 17]
    torch.testing.assert_close(sample["grey"], seen_part(chest()[17], box, recipe), rtol=0, atol=1e-3)
    candidate = Candidate("m3", "m3lung", frozenset({"slices"}), lambda *_: {}, "0" * 64, lung_scope=scope)
    crop = candidate.crop(chest()[17], slices[17], LungBoxes(pixels))
    assert crop is not None
    assert crop.shape == (box[2] - box[0], box[3] - box[1])


def test_patients_are_learned_on_the_slices_that_they_are_served_with(
    slices: list[Item], tmp_path: Path
) -> None:
    boxes = LungBoxes(PixelSource(tmp_path / "cache"))
    (kept,) = with_lung(series_of(slices), boxes)
    assert [item.index for item in kept.items] == [i for i in range(24) if boxes.shows_lung(slices[i])]
    assert 0 < len(kept.items) < 24
    (lungless,) = with_lung(series_of(slices[:3]), boxes)
    assert len(lungless.items) == 3
