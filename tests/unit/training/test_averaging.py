"""The moving average, the one-cycle schedule and the mask heads, against numbers worked out by hand or by torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from networks.jcs import JCSClassifier
from training.averaging import averaged
from training.recipe import RecipeError, load_recipe
from training.supervision import MaskHeads, pixel_loss, stage_maps


def test_the_average_follows_by_hand() -> None:
    """Taken over at the first update, then decays 2/11 and 3/12 (below 0.5): 1, 4, 8 -> 1, 3.4545, 6.8636."""
    network = nn.Linear(1, 1, bias=False)
    average = averaged(network, 0.5)
    for value in (1.0, 4.0, 8.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
    second = 1 * 2 / 11 + 4 * 9 / 11
    expected = second * 3 / 12 + 8 * 9 / 12
    assert float(average.module.weight.detach()) == pytest.approx(expected)


def test_statistics_of_normalisations_are_averaged_too() -> None:
    network = nn.BatchNorm1d(1)
    average = averaged(network, 0.9)
    average.update_parameters(network)
    network(torch.tensor([[10.0], [30.0]]))
    average.update_parameters(network)
    assert float(average.module.running_mean) == pytest.approx(2.0 * 9 / 11)
    assert int(average.module.num_batches_tracked) == 1


def test_one_cycle_is_that_of_torch() -> None:
    recipe = load_recipe("compact/jcs-segmenter", ("iterations=50", "optimiser.rate=0.003"))
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.003)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.003, total_steps=50, pct_start=0.1, div_factor=10, final_div_factor=100
    )
    theirs = []
    for _ in range(50):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        cycle.step()
    assert [recipe.rate_at(step, 7) for step in range(50)] == pytest.approx(theirs)


def test_pixel_loss_by_hand() -> None:
    """Logits 0 against a half-full cell: cross-entropy log 2, overlap (2 * 0.25 + 1) / (0.5 + 0.5 + 1) = 0.75."""
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    loss = pixel_loss(torch.zeros(2, 1, 1, 1), mask, torch.tensor([True, False]))
    assert float(loss) == pytest.approx(0.693147 + 0.5 * 0.25, abs=1e-5)
    none = pixel_loss(torch.ones(2, 1, 1, 1), mask, torch.tensor([False, False]))
    assert float(none) == 0


def test_heads_see_strides_8_and_16_and_go_with_the_watching() -> None:
    network = JCSClassifier(depths=(1, 1, 1, 1), planes=(16, 16, 16, 16))
    heads = MaskHeads(network, (3, 2))
    with stage_maps(network, heads.stages) as maps:
        network(torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape[-2:]) for m in maps] == [(8, 8), (4, 4)]
    network(torch.zeros(1, 3, 64, 64))
    assert len(maps) == 2
    assert float(heads.loss(maps, torch.zeros(1, 1, 64, 64), torch.tensor([True])).detach()) > 0


def test_a_baseline_has_no_stages_to_supervise() -> None:
    with pytest.raises(RecipeError, match=r"supervision\.weight=0"):
        MaskHeads(nn.Linear(1, 1), (2,))
