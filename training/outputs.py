"""What a training leaves on disk, written so that an interruption or a full disk spares what was there.

DIR/recipe.yaml, DIR/last.ckpt (to resume), DIR/weights.safetensors (the trained network), DIR/training.json,
DIR/log.csv, DIR/tensorboard/.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.recipe import Recipe, RecipeError, TaskName, parse_recipe
from training.starting import UNREADABLE
from training.tasks import build_network

CHECKPOINT = "last.ckpt"
WEIGHTS = "weights.safetensors"
RECIPE = "recipe.yaml"
SUMMARY = "training.json"
LOG = "log.csv"


def write_whole(path: Path, content: bytes) -> None:
    """Put content at path, all of it or nothing. Raises OSError, leaving what was there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def save_recipe(directory: Path, recipe: Recipe) -> None:
    """The recipe with all overrides in it."""
    text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    write_whole(directory / RECIPE, text.encode())


def save_checkpoint(directory: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint. Raises OSError, leaving the one before."""
    target = directory / CHECKPOINT
    handle, name = tempfile.mkstemp(dir=directory, prefix=f".{CHECKPOINT}-")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def load_checkpoint(directory: Path) -> dict[str, Any]:
    """The checkpoint; tensors and plain values only. Raises RecipeError where it cannot be read."""
    path = directory / CHECKPOINT
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise RecipeError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return state


def save_weights(directory: Path, network: nn.Module) -> None:
    """The network's parameters and statistics as safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    handle, name = tempfile.mkstemp(dir=directory, prefix=f".{WEIGHTS}-")
    os.close(handle)
    try:
        save_file(state, name)
        Path(name).replace(directory / WEIGHTS)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def save_summary(directory: Path, summary: Mapping[str, Any]) -> None:
    """What it was trained on and how it ended, for the package's metadata."""
    write_whole(directory / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())


def load_summary(directory: Path) -> dict[str, Any]:
    """As written by `save_summary`; empty where the training has not ended."""
    path = directory / SUMMARY
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def load_trained(directory: Path) -> tuple[Recipe, nn.Module]:
    """Recipe and network, in evaluation mode, of a training's output. Raises RecipeError."""
    for name in (RECIPE, WEIGHTS):
        if not (directory / name).is_file():
            raise RecipeError(f"{directory} is no finished training: it has no {name}")
    text = (directory / RECIPE).read_text(encoding="utf-8")
    recipe = parse_recipe(yaml.safe_load(text), str(directory / RECIPE))
    network = build_network(recipe)
    _load(network, directory)
    return recipe, network.eval()


def load_training_of(directory: Path, *tasks: TaskName) -> tuple[Recipe, nn.Module]:
    """As `load_trained`. Raises RecipeError where the output is of another task than one of `tasks`."""
    recipe, network = load_trained(directory)
    if recipe.task not in tasks:
        raise RecipeError(f"{directory} is a training of {recipe.task}, needs {' or '.join(tasks)}")
    return recipe, network


def load_earlier(network: nn.Module, directory: Path) -> None:
    """Put the weights of an earlier training of the same network into `network`. Raises RecipeError."""
    if not (directory / WEIGHTS).is_file():
        raise RecipeError(f"start.training: {directory} is no finished training: it has no {WEIGHTS}")
    _load(network, directory)


def _load(network: nn.Module, directory: Path) -> None:
    try:
        state: dict[str, Tensor] = load_file(directory / WEIGHTS)
        network.load_state_dict(state)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"{directory / WEIGHTS} does not fit its recipe: {reason}") from error


class CsvLog:
    """One line per call, columns of the first one; lines after `first_step` of an earlier run are dropped."""

    COLUMNS = ("step", "epoch", "split", "name", "value")

    def __init__(self, path: Path, first_step: int) -> None:
        kept = [",".join(self.COLUMNS)]
        if path.is_file() and first_step:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < first_step]
            kept += [",".join(row[c] for c in self.COLUMNS) for row in rows]
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
        self._path = path

    def write(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """Append values of one step."""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                (step, epoch, split, name, f"{value:.6g}") for name, value in values.items()
            )
