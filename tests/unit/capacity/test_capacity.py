"""Capacity: the simulation agrees with what queueing theory says, and the calculator with the simulation."""

from __future__ import annotations

import json
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from node.capacity.arrivals import DAY_SHAPE, arrival_times
from node.capacity.costs import NothingMeasured, costs_in_summaries, service_times, stage_medians
from node.capacity.queueing import Load, described, simulated, waiting_times, workers_for
from node.cli import app


def erlang_c(workers: int, load: float) -> float:
    """Probability that a customer of an M/M/c queue waits (Erlang's second formula). load: in Erlang."""
    last = load**workers / factorial(workers) * workers / (workers - load)
    return last / (sum(load**k / factorial(k) for k in range(workers)) + last)


@pytest.mark.parametrize(("workers", "busy"), [(1, 0.7), (2, 0.8), (8, 0.9)])
def test_waiting_agrees_with_erlang(workers: int, busy: float) -> None:
    chance = np.random.default_rng(3)
    mean, count = 10.0, 400_000
    rate = workers * busy / mean
    arrivals = np.cumsum(chance.exponential(1 / rate, count))
    waits = waiting_times(arrivals, chance.exponential(mean, count), workers)
    waiting = erlang_c(workers, workers * busy)
    assert np.mean(waits > 0) == pytest.approx(waiting, rel=0.05)
    assert np.mean(waits) == pytest.approx(waiting * mean / (workers * (1 - busy)), rel=0.1)


@settings(max_examples=50, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 50), min_size=1, max_size=40),
    seed=st.integers(0, 999),
    workers=st.integers(1, 4),
)
def test_waiting_is_never_negative_and_more_workers_never_harm(
    gaps: list[float], seed: int, workers: int
) -> None:
    arrivals = np.cumsum(np.asarray(gaps))
    service = np.random.default_rng(seed).exponential(20.0, len(gaps))
    waits, more = (waiting_times(arrivals, service, n) for n in (workers, workers + 1))
    assert (more >= 0).all()
    assert (more <= waits + 1e-9).all()
    assert (waiting_times(arrivals, service, len(gaps)) == 0).all()


def test_arrivals_follow_the_day() -> None:
    times = arrival_times(2000, 200, np.random.default_rng(1))
    assert len(times) == pytest.approx(400_000, rel=0.01)
    assert (np.diff(times) >= 0).all()
    hours = np.bincount((times // 3600 % 24).astype(int), minlength=24) / len(times)
    np.testing.assert_allclose(hours, np.asarray(DAY_SHAPE) / sum(DAY_SHAPE), rtol=0.05)


def test_the_fewest_workers_that_keep_the_wait_are_found() -> None:
    load = Load(2000, [20.0, 30.0, 40.0])
    enough = workers_for(load, 120.0)
    assert simulated(load, enough).percentiles[95.0] <= 120.0
    assert simulated(load, enough - 1).percentiles[95.0] > 120.0
    assert load.least_workers <= enough


def test_costs_scale_with_slices() -> None:
    timings = {"load": 1.0, "jcs_classify": 2.0}
    costs = costs_in_summaries([{"jcs": {"slices": 100}, "timings_s": timings}])
    assert service_times(costs, 300) == [9.0]
    assert stage_medians(costs, 50) == {"load": 0.5, "jcs_classify": 1.0}
    with pytest.raises(NothingMeasured, match="--seconds-per-study"):
        service_times([], 300)


def test_nobody_waits_where_nobody_comes() -> None:
    nothing = np.zeros(0)
    assert described(waiting_times(nothing, nothing, 2), nothing, 2, 60.0).longest == 0.0


def test_the_command_answers() -> None:
    words = ["capacity", "--studies-per-day", "2000", "--seconds-per-study", "30"]
    said = CliRunner().invoke(app, [*words, "--json"])
    assert said.exit_code == 0, said.output
    answer = json.loads(said.stdout)
    by_workers = {s["workers"]: s["percentiles"]["95"] for s in answer["simulated"]}
    assert by_workers[answer["workers"]] <= 600 < by_workers[answer["workers"] - 1]
    assert "hours of work: at least 1 worker(s)" in CliRunner().invoke(app, words).stdout


def test_hours_that_are_no_numbers_are_told() -> None:
    said = CliRunner().invoke(app, ["capacity", "--studies-per-day", "9", "--hours", "a,b"])
    assert "write numbers with commas" in str(said.exception) + said.output
