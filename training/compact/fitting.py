"""The training loop that all compact networks share: AdamW, one cycle, moving average of the weights."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

Losses = Mapping[str, Tensor]
"""Named parts of the loss of one step; their sum is minimised."""


@dataclass(frozen=True)
class Schedule:
    """steps: how many. peak: highest learning rate, after a tenth of them. average: decay of the moving average."""

    steps: int
    peak: float = 3e-3
    weight_decay: float = 1e-2
    average: float = 0.99
    clip: float = 5.0
    checkpoint_seconds: float = 60.0


def fit(
    model: nn.Module,
    losses: Callable[[int], Losses],
    schedule: Schedule,
    checkpoint: Path,
    clock: Callable[[], float] = time.monotonic,
) -> nn.Module:
    """Minimise `losses(step)` and return the averaged model in evaluation mode.

    The averaged weights are written to `checkpoint` (safetensors) every `checkpoint_seconds` and at the end, so that
    a run can be cut short. One line a minute goes to standard output.

    Raises FloatingPointError when a loss is not finite.
    """
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.peak, weight_decay=schedule.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        schedule.peak,
        total_steps=schedule.steps,
        pct_start=0.1,
        div_factor=10,
        final_div_factor=100,
    )
    model.train()
    start = saved = clock()
    recent: dict[str, float] = {}
    for step in range(schedule.steps):
        parts = losses(step)
        total = torch.stack(list(parts.values())).sum()
        if not math.isfinite(total.item()):
            raise FloatingPointError(
                f"loss is not finite at step {step}: { {k: v.item() for k, v in parts.items()} }"
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        cycle.step()
        _follow(average, model, min(schedule.average, (1 + step) / (10 + step)))
        recent |= {k: 0.95 * recent.get(k, v.item()) + 0.05 * v.item() for k, v in parts.items()}
        if clock() - saved > schedule.checkpoint_seconds or step + 1 == schedule.steps:
            saved = clock()
            save_weights(average, checkpoint)
            pace = (saved - start) / (step + 1)
            shown = " ".join(f"{name} {value:.3f}" for name, value in recent.items())
            print(f"step {step + 1}/{schedule.steps} {pace:.2f} s/step  {shown}", flush=True)
    return average


def save_weights(model: nn.Module, path: Path) -> None:
    """Write parameters and buffers; the old file stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(state, partial)
    partial.replace(path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote into a model of the same sizes."""
    model.load_state_dict(load_file(path))


def quiet_cpu() -> None:
    """One thread, and no slow denormal numbers: trainings run beside each other."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)


def channels_last(model: Network) -> Network:
    """The model with its kernels laid out as CPUs multiply bfloat16 fastest."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)
