"""The training loop: Lightning Fabric for devices and precision, checkpoints that resume bit for bit.

Nothing random depends on how far the run has come: the order of the samples, their augmentation and the mixing
follow from the recipe's seed and the step, the learning rate from the step.
"""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.tensorboard import SummaryWriter

from training.averaging import averaged
from training.datasets.items import Dataset, DatasetError, Item
from training.outputs import (
    CHECKPOINT,
    LOG,
    CsvLog,
    load_checkpoint,
    save_checkpoint,
    save_recipe,
    save_summary,
    save_weights,
)
from training.recipe import Recipe, RecipeError
from training.samples import Keys, batches, steps_per_epoch
from training.sampling import Shares, drawn_batches


class TrainingStopped(RuntimeError):
    """The training cannot go on; what to do about it."""


@dataclass(frozen=True)
class Machine:
    """Where and how a training runs; none of it changes the recipe.

    `checkpoint_every`: iterations between checkpoints, besides the one after each epoch. `stop_after`: iterations
    after which this run ends, None to go on to the end.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    workers: int = 0
    checkpoint_every: int = 500
    log_every: int = 10
    progress: bool = True
    stop_after: int | None = None


@dataclass(frozen=True)
class TrainingData:
    """Samples to train on and to watch, indexed by (epoch, place), and how batches are put together.

    `shares`: what batches are drawn from; None is every sample once an epoch.
    """

    train: TorchDataset[Any]
    count: int
    validation: TorchDataset[Any]
    validation_count: int
    collate: Callable[[list[Any]], Any] | None = None
    shares: Shares | None = None

    def batches(self, recipe: Recipe, first_step: int, last_step: int) -> Keys:
        """Keys of the samples of every batch from `first_step` to before `last_step`."""
        if self.shares is None:
            return batches(self.count, recipe, first_step, last_step)
        return drawn_batches(self.shares, recipe.batch, recipe.seed, first_step, last_step)


@dataclass(frozen=True)
class FitResult:
    """Steps done and the mean training loss of the first and the last tenth of this run's steps."""

    steps: int
    finished: bool
    first_loss: float
    last_loss: float


def fit(
    module: nn.Module,
    recipe: Recipe,
    data: TrainingData,
    directory: Path,
    machine: Machine = Machine(),
    resume: bool = False,
) -> FitResult:
    """Train `module.network` and leave the outcome in `directory` (see `training.outputs`).

    Args:
        module: `SliceTraining` or `PatientTraining`.
        recipe: the recipe the module was made with.
        data: samples.
        directory: made where it does not exist.
        machine: devices, workers, checkpoints.
        resume: go on from the checkpoint in `directory`.

    Raises:
        RecipeError: there is a checkpoint but `resume` is not set, or the other way round; or the batch cannot be
            shared out evenly.
        TrainingStopped: the loss is not finite, or the disk is full.
    """
    fabric = Fabric(accelerator=machine.accelerator, devices=machine.devices, precision=recipe.precision)
    fabric.launch()
    if recipe.batch % fabric.world_size:
        raise RecipeError(f"batch {recipe.batch} must be a multiple of the {fabric.world_size} devices")
    start = _prepare(directory, recipe, resume)
    if recipe.precision == "bf16-mixed":
        # The layout that CPUs multiply bfloat16 fastest in, about twice.
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(module, recipe)
    average = None if recipe.average is None else averaged(cast(nn.Module, module.network), recipe.average)
    if start:
        state = load_checkpoint(directory)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        if average is not None:
            average.load_state_dict(state["average"])
    wrapped, optimiser = fabric.setup(module, optimiser)
    if start and state.get("precision"):
        fabric.strategy.precision.load_state_dict(state["precision"])
    loop = _Loop(fabric, wrapped, optimiser, average, recipe, data, directory, machine, start)
    try:
        return loop.run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrainingStopped(
            f"{directory} cannot be written: {error.strerror}; free space, and --resume goes on from the checkpoint"
        ) from error


def _prepare(directory: Path, recipe: Recipe, resume: bool) -> int:
    """The step to start from."""
    checkpoint = directory / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise RecipeError(f"{directory} holds a training; --resume goes on with it, or choose another --out")
    if resume and not checkpoint.exists():
        raise RecipeError(f"{directory} holds no {CHECKPOINT} to resume from")
    directory.mkdir(parents=True, exist_ok=True)
    if not resume:
        save_recipe(directory, recipe)
        return 0
    state = load_checkpoint(directory)
    if state["recipe"] != recipe.model_dump_json():
        raise RecipeError(f"{directory} was started with another recipe; resume it with the same one")
    return int(state["step"])


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    chosen = recipe.optimiser
    trainable = [p for p in module.parameters() if p.requires_grad]
    if chosen.name == "sgd":
        return torch.optim.SGD(
            trainable, lr=chosen.rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay
        )
    kind = torch.optim.Adam if chosen.name == "adam" else torch.optim.AdamW
    return kind(trainable, lr=chosen.rate, betas=chosen.betas, weight_decay=chosen.weight_decay)


class _Loop:
    def __init__(
        self,
        fabric: Fabric,
        module: Any,
        optimiser: Any,
        average: AveragedModel | None,
        recipe: Recipe,
        data: TrainingData,
        directory: Path,
        machine: Machine,
        start: int,
    ) -> None:
        self.fabric, self.module, self.optimiser, self.average = fabric, module, optimiser, average
        self.recipe, self.data, self.directory, self.machine = recipe, data, directory, machine
        self.start = start
        self.per_epoch = steps_per_epoch(data.count, recipe)
        self.total = recipe.total_steps(self.per_epoch)
        last = self.total if machine.stop_after is None else min(self.total, start + machine.stop_after)
        self.last = max(start, last)
        self.losses: list[float] = []

    def run(self) -> FitResult:
        leads = self.fabric.is_global_zero
        log = CsvLog(self.directory / LOG, self.start) if leads else None
        board = (
            SummaryWriter(str(self.directory / "tensorboard"), purge_step=self.start or None)
            if leads
            else None
        )
        self.module.train()
        with _progress(self.machine.progress and leads) as progress:
            bar = progress.add_task(self.recipe.task, total=self.total, completed=self.start)
            for step, batch in enumerate(self._batches(), start=self.start):
                values = self._step(step, batch)
                progress.update(bar, completed=step + 1, description=f"loss {values['loss']:.4f}")
                if log is not None and board is not None and step % self.machine.log_every == 0:
                    self._note(log, board, step, "train", values)
                ends_epoch = (step + 1) % self.per_epoch == 0 or step + 1 == self.total
                if ends_epoch and (watched := self._validate(step)) and log is not None and board is not None:
                    self._note(log, board, step, "val", watched)
                due = ends_epoch or (step + 1) % self.machine.checkpoint_every == 0 or step + 1 == self.last
                if due and leads:
                    self._checkpoint(step + 1)
        if board is not None:
            board.close()
        if leads and self.last == self.total:
            save_weights(self.directory, self.module.network if self.average is None else self.average.module)
        return self._result()

    def _step(self, step: int, batch: Any) -> dict[str, float]:
        rate = self.recipe.rate_at(step, self.per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # Networks with dropout (baselines have it) then draw the same after a resume.
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)
        losses = self.module(batch, step)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(values["loss"]):
            raise TrainingStopped(_advice(self.recipe, step, values))
        self.optimiser.zero_grad()
        self.fabric.backward(losses["loss"])
        if self.recipe.optimiser.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimiser, max_norm=self.recipe.optimiser.clip)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.module.network)
        self.losses.append(values["loss"])
        return {**values, "rate": rate}

    def _batches(self) -> Iterator[Any]:
        keys = self.data.batches(self.recipe, self.start, self.last)
        rank, world = self.fabric.global_rank, self.fabric.world_size
        yield from self._loader(self.data.train, (batch[rank::world] for batch in keys))

    def _loader(self, samples: TorchDataset[Any], keys: Iterable[list[tuple[int, int]]]) -> Any:
        loader = DataLoader(
            samples,
            batch_sampler=keys,
            num_workers=self.machine.workers,
            collate_fn=self.data.collate,
        )
        return self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    @torch.no_grad()
    def _validate(self, step: int) -> dict[str, float]:
        count = self.data.validation_count
        if not count:
            return {}
        places = range(self.fabric.global_rank, count, self.fabric.world_size)
        keys = [
            [(0, place) for place in places[i : i + self.recipe.batch]]
            for i in range(0, len(places), self.recipe.batch)
        ]
        self.module.eval()
        losses = [
            float(self.module(batch, step)["loss"]) for batch in self._loader(self.data.validation, keys)
        ]
        self.module.train()
        return {"loss": float(np.mean(losses))} if losses else {}

    def _note(
        self, log: CsvLog, board: SummaryWriter, step: int, split: str, values: dict[str, float]
    ) -> None:
        log.write(step, step // self.per_epoch, split, values)
        for name, value in values.items():
            board.add_scalar(f"{split}/{name}", value, step)

    def _checkpoint(self, step: int) -> None:
        state = {
            "step": step,
            "recipe": self.recipe.model_dump_json(),
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        save_checkpoint(self.directory, state)

    def _result(self) -> FitResult:
        tenth = max(1, len(self.losses) // 10)
        first, last = (
            float(np.mean(part)) if part else math.nan for part in (self.losses[:tenth], self.losses[-tenth:])
        )
        return FitResult(self.last, self.last == self.total, first, last)


def _progress(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not shown,
    )


def _advice(recipe: Recipe, step: int, values: dict[str, float]) -> str:
    parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
    advice = "lower optimiser.rate or set optimiser.clip"
    if recipe.task == "m3-patient" and recipe.network.get("norm", "sum") == "sum":
        advice = "rows of eq. 2 can sum to nothing; set network.norm=relu_sum (or softmax), or " + advice
    return f"the loss is not finite at iteration {step} ({parts}); {advice}. The last checkpoint is kept."


def summary_of(dataset: Dataset, items: Sequence[Item], result: FitResult) -> dict[str, Any]:
    """What a training was made of, for training.json."""
    if not items:
        raise DatasetError(f"{dataset.name}: nothing to train on")
    by_split = Counter(item.split or "none" for item in items)
    by_class = Counter(str(item.label) for item in items if item.split == "train")
    return {
        "data": sorted({item.source for item in items}),
        "slices": dict(by_split),
        "train_slices_by_label": dict(by_class),
        "patients": {
            split: len({(i.source, i.patient) for i in items if i.split == split}) for split in by_split
        },
        "steps": result.steps,
        "last_training_loss": result.last_loss,
        "warnings": [str(problem) for problem in dataset.problems],
    }


def finish(directory: Path, dataset: Dataset, items: Sequence[Item], result: FitResult) -> None:
    """Write training.json of a training that ran to its end."""
    save_summary(directory, summary_of(dataset, items, result))
