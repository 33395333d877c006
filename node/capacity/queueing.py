"""Studies that wait for workers: first come, first served, by as many workers as there are."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.capacity.arrivals import DAY_SHAPE, HOUR, arrival_times

PERCENTILES = (50.0, 90.0, 95.0, 99.0)

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Waiting:
    """How long studies wait for a worker. percentiles: seconds, by PERCENTILES. busy: share of the workers' time."""

    workers: int
    studies: int
    percentiles: dict[float, float]
    longest: float
    busy: float


def waiting_times(arrivals: Times, service: Times, workers: int) -> Times:
    """Seconds that each study waits, float64 [N]: exact for `workers` that take the study that came first.

    arrivals: ascending seconds [N]. service: seconds of work [N].
    """
    free = [0.0] * workers
    waits = np.empty(len(arrivals))
    for number, (arrival, work) in enumerate(zip(arrivals, service, strict=True)):
        begin = max(arrival, heapq.heappop(free))
        waits[number] = begin - arrival
        heapq.heappush(free, begin + work)
    return waits


def described(waits: Times, service: Times, workers: int, seconds: float) -> Waiting:
    """Waiting times of studies that came within so many seconds."""
    found = np.percentile(waits, PERCENTILES) if len(waits) else np.zeros(len(PERCENTILES))
    return Waiting(
        workers=workers,
        studies=len(waits),
        percentiles={p: float(value) for p, value in zip(PERCENTILES, found, strict=True)},
        longest=float(waits.max(initial=0.0)),
        busy=float(service.sum() / (workers * seconds)),
    )


@dataclass(frozen=True)
class Load:
    """What workers are planned for. service: measured seconds a study, of which each study draws one."""

    per_day: float
    service: Sequence[float]
    shape: Sequence[float] = DAY_SHAPE
    days: int = 20
    seed: int = 1

    @property
    def least_workers(self) -> int:
        """With fewer the queue grows from day to day."""
        return max(1, int(np.ceil(self.per_day * float(np.mean(self.service)) / (24 * HOUR) + 1e-9)))


def simulated(load: Load, workers: int) -> Waiting:
    """Days on end through so many workers; what was left of a day is there the next morning."""
    chance = np.random.default_rng(load.seed)
    arrivals = arrival_times(load.per_day, load.days, chance, load.shape)
    service = chance.choice(np.asarray(load.service, dtype=np.float64), len(arrivals))
    waits = waiting_times(arrivals, service, workers)
    return described(waits, service, workers, load.days * 24 * HOUR)


def workers_for(load: Load, wait_seconds: float, percentile: float = 95.0, most: int = 10_000) -> int:
    """The fewest workers with which so many percent of studies wait no longer. Raises ValueError beyond `most`."""
    low = high = load.least_workers
    while True:
        if high > most:
            raise ValueError(f"more than {most} workers")
        if simulated(load, high).percentiles[percentile] <= wait_seconds:
            break
        low, high = high + 1, high * 2
    while low < high:
        middle = (low + high) // 2
        if simulated(load, middle).percentiles[percentile] > wait_seconds:
            low = middle + 1
        else:
            high = middle
    return high
