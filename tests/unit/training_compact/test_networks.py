"""Losses and sizes of the compact networks, on random inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.findings import PneumoniaClass
from training.compact.evaluation import mean_dice
from training.compact.jcs import CompactJCS
from training.compact.m3 import SupervisedSliceNet, patient_network, slice_network
from training.compact.masks import pixel_loss
from training.compact.patient import _part

MEGABYTES = 1_000_000


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_half_weights_of_either_package_fit_eight_megabytes() -> None:
    assert 2 * parameters(CompactJCS()) < 7.5 * MEGABYTES
    assert 2 * (parameters(slice_network()) + parameters(patient_network())) < 7.5 * MEGABYTES


def test_jcs_shares_one_trunk_between_classifier_and_segmenter() -> None:
    model = CompactJCS().eval()
    assert model.joint.trunk is model.classifier.encoder
    with torch.no_grad():
        seen = model.classify(torch.randn(2, 3, 64, 64))
        sides = model.joint(torch.randn(2, 3, 64, 64))
    assert seen.logits.shape == (2, 2)
    assert seen.signed_map.shape == (2, 1, 2, 2)
    assert [m.shape[-1] for m in seen.masks] == [8, 4]
    assert sides.shape == (2, 5, 64, 64)


def test_map_of_the_lesion_prototype_follows_the_location_map() -> None:
    torch.manual_seed(0)
    model = SupervisedSliceNet(slice_network()).eval()
    with torch.no_grad():
        output, masks, near = model(torch.randn(2, 3, 64, 64))
    assert masks.shape == (2, 1, 8, 8)
    assert near.shape == (2, 1, 4, 4)
    assert output.features.shape == (2, patient_network().classifier.in_features)
    assert output.location_map.shape == (2, 4, 4)


def test_pixel_loss_prefers_the_right_map_and_ignores_unknown_masks() -> None:
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, :16] = 1
    right = torch.where(torch.nn.functional.avg_pool2d(mask, 8) > 0.5, 6.0, -6.0)
    known = torch.tensor([True, True])
    assert pixel_loss(right, mask, known) < 0.1 < pixel_loss(-right, mask, known)
    first_only = torch.tensor([True, False])
    spoilt = right.clone()
    spoilt[1] = 9.0
    assert torch.equal(pixel_loss(right, mask, first_only), pixel_loss(spoilt, mask, first_only))
    assert pixel_loss(right, mask, torch.tensor([False, False])) == 0


@pytest.mark.parametrize("seed", range(30))
def test_parts_of_an_ill_case_still_show_illness(seed: int) -> None:
    free = np.ones(40, dtype=np.bool_)
    free[15:25] = False
    part = _part(np.arange(40), free, PneumoniaClass.CAP, np.random.default_rng(seed))
    assert len(part) >= 4
    assert (np.diff(part) > 0).all()
    assert (~free[part]).mean() > 0.1


@pytest.mark.parametrize("seed", range(10))
def test_parts_of_healthy_slices_are_long_enough(seed: int) -> None:
    rows = np.array([1, 2, 3, 5, 8, 13, 21])
    part = _part(rows, np.ones(30, dtype=np.bool_), PneumoniaClass.HEALTHY, np.random.default_rng(seed))
    assert len(part) >= 4
    assert set(part) <= set(rows)


def test_mean_dice_by_hand() -> None:
    truth = np.zeros((2, 4, 4), dtype=np.bool_)
    truth[0, :2] = True
    probabilities = np.zeros((2, 4, 4), dtype=np.float32)
    probabilities[0, 1:3] = 0.9
    dice, iou = mean_dice(probabilities, truth)
    assert dice == pytest.approx((0.5 + 1) / 2)
    assert iou == pytest.approx((4 / 12 + 1) / 2)
