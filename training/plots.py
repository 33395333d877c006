"""The plots of an evaluation report, as PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_curve

from training.datasets.items import CLASSES
from training.measure import Measured


def draw(results: Mapping[str, Mapping[str, Measured]], directory: Path) -> list[Path]:
    """ROC curves and confusion matrices per level, Dice histogram, Dice against lesion size."""
    paths: list[Path] = []
    for level in ("slices", "patients"):
        present = {name: levels[level] for name, levels in results.items() if level in levels}
        if present:
            paths.append(_roc(present, directory / f"roc_{level}.png"))
            paths += [
                _confusion(name, measured, directory / f"confusion_{level}_{number}.png")
                for number, (name, measured) in enumerate(present.items(), start=1)
            ]
    masks = {name: levels["lesions"] for name, levels in results.items() if "lesions" in levels}
    if masks:
        paths += [
            _dice_histogram(masks, directory / "dice.png"),
            _dice_by_size(masks, directory / "dice_size.png"),
        ]
    return paths


@contextmanager
def _figure(path: Path, title: str, x: str, y: str) -> Iterator[Any]:
    """Axes of a figure that is written when the block ends."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(5, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set(title=title, xlabel=x, ylabel=y)
        yield axes
        figure.savefig(path, dpi=120)


def _roc(present: Mapping[str, Measured], path: Path) -> Path:
    with _figure(path, "ROC", "1 - specificity", "sensitivity") as axes:
        for name, measured in present.items():
            truth, probability = measured.raw["truth"], measured.raw["probability"]
            two = probability.shape[1] == 1
            for column in range(probability.shape[1]):
                positive = truth == (1 if two else column)
                if positive.all() or not positive.any():
                    continue
                fpr, tpr, _ = roc_curve(positive, probability[:, column])
                axes.plot(fpr, tpr, label=name if two else f"{name}: {CLASSES[column]}")
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
        if len(axes.lines) > 1:
            axes.legend()
    return path


def _confusion(name: str, measured: Measured, path: Path) -> Path:
    classes = ("negative", "COVID-19") if measured.raw["probability"].shape[1] == 1 else CLASSES
    matrix = confusion_matrix(measured.raw["truth"], measured.raw["predicted"], labels=range(len(classes)))
    with _figure(path, name, "predicted", "truth") as axes:
        axes.imshow(matrix, cmap="Blues")
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(matrix):
            dark = count > matrix.max() / 2
            axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    return path


def _dice_histogram(masks: Mapping[str, Measured], path: Path) -> Path:
    with _figure(path, "Dice per image", "Dice", "images") as axes:
        for name, measured in masks.items():
            axes.hist(measured.raw["dice"], bins=np.linspace(0, 1, 21), alpha=0.6, label=name)
        axes.legend()
    return path


def _dice_by_size(masks: Mapping[str, Measured], path: Path) -> Path:
    with _figure(path, "Dice against lesion size", "lesion, % of the image", "Dice") as axes:
        for name, measured in masks.items():
            axes.scatter(measured.raw["lesion_share"] * 100, measured.raw["dice"], s=10, label=name)
        axes.set_ylim(0, 1)
        axes.legend()
    return path
