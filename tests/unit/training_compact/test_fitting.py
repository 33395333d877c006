from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.compact.fitting import Losses, Schedule, fit, load_weights, save_weights


def test_fit_learns_averages_and_writes_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    x = torch.randn(64, 2)
    y = x @ torch.tensor([[1.0], [-2.0]])

    def losses(step: int) -> Losses:
        return {"error": (model(x) - y).square().mean()}

    first = losses(0)["error"].item()
    path = tmp_path / "deep" / "weights.safetensors"
    average = fit(model, losses, Schedule(150, peak=0.1, average=0.9), path)
    assert not average.training
    assert (average(x) - y).square().mean().item() < first / 5
    again = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)).eval()
    load_weights(again, path)
    assert torch.equal(again(x), average(x))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)

    def losses(step: int) -> Losses:
        broken: Tensor = model.weight.sum() * float("nan")
        return {"broken": broken}

    with pytest.raises(FloatingPointError, match=r"step 0.*broken"):
        fit(model, losses, Schedule(3), tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_checkpoints_follow_the_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(1, 1)
    ticks = iter(range(0, 10_000, 25))

    def losses(step: int) -> Losses:
        return {"zero": model.weight.sum() * 0}

    fit(
        model,
        losses,
        Schedule(12, checkpoint_seconds=60),
        tmp_path / "w.safetensors",
        lambda: float(next(ticks)),
    )
    assert 2 <= capsys.readouterr().out.count("s/step") < 12


def test_saved_weights_replace_older_ones_whole(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for value in (1.0, 2.0):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, value)
        save_weights(model, path)
    loaded = nn.Linear(1, 1)
    load_weights(loaded, path)
    assert float(loaded.weight.detach()) == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
