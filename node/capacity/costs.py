"""What a study costs a worker, as measured: by the store's own screenings, or by one of a phantom now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StudyCost:
    """One screened study. stages: seconds each, by name."""

    slices: int
    stages: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """What the study took of a worker's time."""
        return sum(self.stages.values())


class NothingMeasured(Exception):
    """There is no screened study to go by; one line that says what to do."""


def costs_in_summaries(summaries: Iterable[Mapping[str, Any]]) -> list[StudyCost]:
    """The costs of screenings by their summaries (`engine.summary.findings_summary`)."""
    return [StudyCost(int(s["jcs"]["slices"]), dict(s["timings_s"])) for s in summaries if s.get("timings_s")]


def service_times(costs: Sequence[StudyCost], slices: int) -> list[float]:
    """Seconds of a worker for studies of `slices` slices; every stage is taken as proportional to the slices.

    Raises NothingMeasured.
    """
    if not costs:
        raise NothingMeasured("no study was measured; give --seconds-per-study, or screen some first")
    return [cost.seconds * slices / cost.slices for cost in costs]


def stage_medians(costs: Sequence[StudyCost], slices: int) -> dict[str, float]:
    """The median seconds of each stage for studies of `slices` slices, in the order of the first study."""
    return {
        stage: float(np.median([c.stages.get(stage, 0.0) * slices / c.slices for c in costs]))
        for stage in (costs[0].stages if costs else ())
    }


def measured_on_a_phantom(
    work: Callable[[list[Path]], Mapping[str, Any]], folder: Path, slices: int, repeats: int = 2
) -> list[StudyCost]:
    """Screen a phantom of `slices` slices and 512 x 512 pixels; the first time warms up and does not count.

    work: screens the files and gives the summary. folder: where the files are written. Raises OSError.
    """
    from datetime import UTC, datetime

    from node.phantom import phantom_study, phantom_volume

    files = []
    for number, dataset in enumerate(phantom_study(phantom_volume(slices), datetime.now(UTC))):
        files.append(folder / f"{number:04d}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    costs = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        stages = dict(work(files)["timings_s"])
        rest = time.perf_counter() - begin - sum(stages.values())
        costs.append(StudyCost(slices, stages | {"write": max(rest, 0.0)}))
    return costs[1:]
