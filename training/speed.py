"""How fast a recipe's data and its training step are on this machine: `python -m training.speed RECIPE --data DIR`.

Prints slices per second of the loader (one process, cache warm) and of the training step, so that one sees which
of the two a training waits for. Times are of the processor, not of the clock, so that others on the machine count
little; a step's time is divided by its threads.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from training.datasets.items import Item
from training.datasets.pixels import PixelSource
from training.datasets.registry import open_dataset
from training.datasets.splits import with_splits
from training.recipe import Recipe, load_recipe
from training.samples import Sample, SliceSamples
from training.tasks import SliceTraining, build_network, wanted_items


def main(
    recipe: Annotated[str, typer.Argument()],
    data: Annotated[Path, typer.Option()],
    set_: Annotated[list[str] | None, typer.Option("--set")] = None,
    steps: Annotated[int, typer.Option(help="Training steps timed, after one that is not.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of the training step.")] = 2,
) -> None:
    """Time the loader and the training step of a slice recipe."""
    torch.set_num_threads(threads)
    chosen = load_recipe(recipe, set_ or ())
    items = wanted_items(chosen, with_splits(open_dataset(data)))
    with tempfile.TemporaryDirectory() as cache:
        batch, per_second = timed_loader(chosen, items, PixelSource(Path(cache)))
    step = timed_steps(chosen, batch, steps) / threads
    size = len(batch["label"])
    typer.echo(f"{recipe}: loader {per_second:.1f} slices/s per process")
    typer.echo(f"    step {step:.2f} s for {size} slices: {size / step:.2f} slices/s on {threads} threads")


def timed_loader(recipe: Recipe, items: tuple[Item, ...], pixels: PixelSource) -> tuple[Sample, float]:
    """A batch, and slices per second of loading it a second time."""
    samples = SliceSamples(items, pixels, recipe, training=True)
    places = np.random.default_rng(0).permutation(len(items))[: recipe.batch]
    for place in places:
        samples[0, int(place)]
    start = time.process_time()
    loaded = [samples[1, int(place)] for place in places]
    seconds = time.process_time() - start
    return torch.utils.data.default_collate(loaded), len(loaded) / seconds


def timed_steps(recipe: Recipe, batch: Sample, steps: int) -> float:
    """Median processor seconds of a training step, summed over its threads."""
    half = recipe.precision == "bf16-mixed"
    layout = torch.channels_last if half else torch.contiguous_format
    module = SliceTraining(build_network(recipe), recipe).train().to(memory_format=layout)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-6)
    seconds = []
    for step in range(steps + 1):
        start = time.process_time()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = module(batch, step)["loss"]
        loss.backward()
        optimiser.step()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:]))


if __name__ == "__main__":
    typer.run(main)
