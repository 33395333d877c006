"""From a recipe and a data set to a trained network on disk: what `lungnode train` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from networks.m3lung import M3SliceNet
from training.datasets.check import require, require_kinds
from training.datasets.items import Dataset, DatasetError, Item
from training.datasets.pixels import PixelSource
from training.datasets.registry import open_dataset
from training.datasets.splits import with_splits
from training.distillation import Teachers
from training.fit import FitResult, Machine, TrainingData, finish, fit
from training.lung_boxes import LungBoxes
from training.outputs import WEIGHTS, load_earlier, load_trained, load_training_of
from training.patients import PatientFeatures, patient_split, series_of, weights_fingerprint, with_lung
from training.recipe import Recipe, RecipeError
from training.samples import SliceSamples
from training.sampling import shares_of
from training.starting import imagenet_weights, load_joint_parts, load_start_weights, recipe_directory
from training.tasks import PatientTraining, SliceTraining, build_network, wanted_items


def train(
    recipe: Recipe,
    data: Path,
    directory: Path,
    machine: Machine = Machine(),  # noqa: B008 (frozen)
    resume: bool = False,
    cache: Path | None = None,
) -> FitResult:
    """Train a recipe on a data set.

    Args:
        recipe: see `training.recipe`.
        data: CSV manifest or data set folder.
        directory: output, see `training.outputs`.
        machine: devices, workers.
        resume: go on from the checkpoint in `directory`.
        cache: folder for decoded volumes and features; default `directory`/cache.

    Raises:
        DatasetError, RecipeError: before anything is trained.
        TrainingStopped: the loss is not finite.
    """
    recipe = _completed(recipe)
    torch.manual_seed(recipe.seed)
    cache = cache or directory / "cache"
    dataset, items = _items(recipe, data, PixelSource(cache))
    if recipe.task == "m3-patient":
        module, samples = _patients(recipe, items, cache, _device(machine))
    else:
        module, samples = _slices(recipe, items, cache)
    result = fit(module, recipe, samples, directory, machine, resume)
    if result.finished:
        finish(directory, dataset, items, result)
    return result


def _completed(recipe: Recipe) -> Recipe:
    """The patient network takes its input width from the slice network."""
    if recipe.task != "m3-patient":
        return recipe
    width = {"features": _slice_training(recipe)[1].feature_width}
    return recipe.model_copy(update={"network": {**width, **recipe.network}})


def _slice_training(recipe: Recipe) -> tuple[Path, M3SliceNet]:
    """The output of a slice network's training that gives the features, and the network."""
    home = recipe_directory(recipe.start.slice, "slice")
    slices, network = load_training_of(home, "m3-slice")
    if not isinstance(network, M3SliceNet):
        raise RecipeError(f"start.slice: {home} is a baseline; the patient network has no features of it")
    mine, its = recipe.image.model_dump(), slices.image.model_dump()
    if other := [key for key, value in mine.items() if value != its[key]]:
        raise RecipeError(
            f"image: {', '.join(other)} not as in {home}, and the features are of what its network learned on"
        )
    return home, network


def _items(recipe: Recipe, data: Path, pixels: PixelSource) -> tuple[Dataset, tuple[Item, ...]]:
    dataset = with_splits(open_dataset(data), recipe.seed)
    items = wanted_items(recipe, dataset)
    wanted = replace(dataset, items=items)
    masks = recipe.task in ("jcs-segmenter", "jcs-joint")
    require_kinds(wanted, masks=masks, hu=recipe.task == "m3-patient")
    require(wanted, pixels.stored)
    learnt = wanted.of("train")
    if not learnt:
        raise DatasetError(f"{dataset.name}: no item is in the training split")
    both = (0, 1) if recipe.task == "jcs-classifier" else ()
    only = replace(wanted, name=f"{dataset.name}, split train", items=learnt)
    require_kinds(only, classes=both, distinct=2, masks=masks)
    return dataset, items


def _slices(recipe: Recipe, items: tuple[Item, ...], cache: Path) -> tuple[nn.Module, TrainingData]:
    pixels = PixelSource(cache)
    train_items = [i for i in items if i.split == "train"]
    validation_items = [i for i in items if i.split == "val"]
    network = build_network(recipe)
    load_start_weights(network, recipe, imagenet_weights(network, recipe.start.encoder))
    if recipe.task == "jcs-joint":
        segmenter, classifier = recipe.start.segmenter, recipe.start.classifier
        load_joint_parts(
            network,
            None if segmenter is None else load_training_of(segmenter, "jcs-segmenter")[1],
            None if classifier is None else load_training_of(classifier, "jcs-classifier")[1],
        )
    if recipe.start.training is not None:
        load_earlier(network, recipe.start.training)
    teachers = recipe.distillation.teachers
    taught_by = Teachers([load_trained(home)[1] for home in teachers]) if teachers else None
    return SliceTraining(network, recipe, taught_by), TrainingData(
        train=SliceSamples(train_items, pixels, recipe, training=True),
        count=len(train_items),
        validation=SliceSamples(validation_items, pixels, recipe, training=False),
        validation_count=len(validation_items),
        shares=shares_of(train_items, recipe.shares) if recipe.shares else None,
    )


def _device(machine: Machine) -> torch.device:
    """Where a network that is not trained runs."""
    on_gpu = machine.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _patients(
    recipe: Recipe, items: tuple[Item, ...], cache: Path, device: torch.device
) -> tuple[nn.Module, TrainingData]:
    home, slice_network = _slice_training(recipe)
    series = with_lung(series_of(items), LungBoxes(PixelSource(cache)))

    def features(split: str) -> PatientFeatures:
        return PatientFeatures(
            patient_split(series, split),
            slice_network,
            weights_fingerprint(home / WEIGHTS),
            PixelSource(cache),
            recipe,
            cache / "features",
        )

    training, validation = features("train"), features("val")
    for part in (training, validation):
        part.prepare(device)
    return PatientTraining(build_network(recipe), recipe), TrainingData(
        training, len(training), validation, len(validation), collate=_as_list
    )


def _as_list(batch: list[Any]) -> list[Any]:
    return batch
