"""Losses of JCS eq. 4 and eq. 6 with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from networks.losses import deep_supervision_loss, segmentation_guided_loss, side_loss

AM = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]])
MASK = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])

LOGITS = torch.tensor([0.0, 0.0, math.log(3), -math.log(3)]).reshape(1, 1, 2, 2)
"""Probabilities 0.5, 0.5, 0.75, 0.25."""
TARGET = torch.tensor([1, 0, 1, 0]).reshape(1, 1, 2, 2)


def test_segmentation_guided_loss_as_printed() -> None:
    """Differences 0, -1, 0, 0.5: sqrt(1.25) / 4."""
    assert segmentation_guided_loss(AM, MASK).item() == pytest.approx(math.sqrt(1.25) / 4)


def test_segmentation_guided_loss_mse() -> None:
    assert segmentation_guided_loss(AM, MASK.bool(), form="mse").item() == pytest.approx(1.25 / 4)


def test_segmentation_guided_loss_is_the_mean_over_images() -> None:
    am, mask = torch.cat([AM, MASK]), torch.cat([MASK, MASK])
    assert segmentation_guided_loss(am, mask).item() == pytest.approx(math.sqrt(1.25) / 8)


def test_segmentation_guided_loss_of_a_perfect_map_has_a_finite_gradient() -> None:
    am = MASK.clone().requires_grad_()
    segmentation_guided_loss(am, MASK).backward()  # type: ignore[no-untyped-call]
    assert am.grad is not None
    assert torch.isfinite(am.grad).all()


def test_segmentation_guided_loss_without_images_is_zero() -> None:
    assert segmentation_guided_loss(AM[:0], MASK[:0]).item() == 0.0


def test_segmentation_guided_loss_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="differ"):
        segmentation_guided_loss(AM, MASK[:, :1])
    with pytest.raises(ValueError, match="form"):
        segmentation_guided_loss(AM, MASK, form="l1")  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "overlap"), [(1.0, 1.25 / 4), (2.0, 2.5 / 4)])
def test_side_loss_by_hand(factor: float, overlap: float) -> None:
    """P.G = 1.25, |P| = |G| = 2; BCE = (2 ln 2 + 2 ln 4/3) / 4."""
    bce = (2 * math.log(2) + 2 * math.log(4 / 3)) / 4
    assert side_loss(LOGITS, TARGET, factor).item() == pytest.approx(bce + 1 - overlap, abs=1e-5)


def test_side_loss_of_a_perfect_map_is_a_half_as_printed_and_0_with_factor_2() -> None:
    perfect = (TARGET.float() - 0.5) * 200
    assert side_loss(perfect, TARGET).item() == pytest.approx(0.5, abs=1e-5)
    assert side_loss(perfect, TARGET, 2.0).item() == pytest.approx(0.0, abs=1e-5)


def test_side_loss_of_empty_maps() -> None:
    nothing, empty = torch.full((1, 1, 2, 2), -100.0), torch.zeros(1, 1, 2, 2)
    assert side_loss(nothing, empty).item() == pytest.approx(1.0)
    assert side_loss(nothing, empty, 2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_side_loss_overlap_per_image_or_per_batch() -> None:
    """Second image: nothing predicted, nothing there. Per image (0.5 + 0) / 2, per batch 0.5."""
    logits = torch.cat([(TARGET.float() - 0.5) * 200, torch.full((1, 1, 2, 2), -100.0)])
    target = torch.cat([TARGET, torch.zeros_like(TARGET)])
    assert side_loss(logits, target).item() == pytest.approx(1 - 0.25, abs=1e-5)
    assert side_loss(logits, target, dice_reduction="batch").item() == pytest.approx(0.5, abs=1e-5)


def test_side_loss_refuses_another_reduction() -> None:
    with pytest.raises(ValueError, match="dice_reduction"):
        side_loss(LOGITS, TARGET, dice_reduction="mean")  # type: ignore[arg-type]


def test_side_loss_resizes_logits_to_the_target() -> None:
    coarse = torch.full((1, 1, 1, 1), 0.0)
    assert side_loss(coarse, TARGET).item() == pytest.approx(math.log(2) + 1 - 1 / 4, abs=1e-5)


def test_deep_supervision_is_the_sum_over_the_sides() -> None:
    one = side_loss(LOGITS, TARGET).item()
    stacked = LOGITS.expand(1, 5, 2, 2)
    assert deep_supervision_loss(stacked, TARGET).item() == pytest.approx(5 * one)
    assert deep_supervision_loss([LOGITS] * 3, TARGET).item() == pytest.approx(3 * one)
