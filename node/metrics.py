"""Metrics for Prometheus, read from the store when they are asked for.

The store is the truth about all parts of the node, so one process can tell for all of them, and nothing is lost
when another part is started again. Counters begin at 0 with this process, as Prometheus expects: each scrape reads the
rows that are new since the last, however many there are already.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as Counting
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from store import engines, gauges, overview, processes, queries
from store.database import Database
from store.engines import KnownEngine
from store.gauges import Marks
from store.states import StudyState

STAGE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
DELIVERY_BUCKETS = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)


class StoreMetrics:
    """Everything that /metrics tells.

    since: what is counted came after these marks.
    """

    def __init__(self, database: Database, storage: Path, now: Callable[[], datetime], since: Marks) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._marks = since
        self._registry = CollectorRegistry()
        registry = self._registry
        self._stage = Histogram(
            "lungnode_stage_seconds",
            "Time a stage of a screening took",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self._arrival_to_result = Histogram(
            "lungnode_complete_to_screened_seconds",
            "Time from a complete study to its results in the outbox",
            buckets=DELIVERY_BUCKETS,
            registry=registry,
        )
        self._verdicts = Counting(
            "lungnode_verdicts", "Screenings by verdict", ["system", "verdict"], registry=registry
        )
        self._discordant = Counting(
            "lungnode_discordant", "Screenings in which both systems disagree", registry=registry
        )
        self._associations = Counting(
            "lungnode_associations", "Associations accepted, by how they ended", ["end"], registry=registry
        )
        self._refused = Counting(
            "lungnode_refusals", "Associations and instances refused", ["what", "reason"], registry=registry
        )
        self._errors = Counting("lungnode_errors", "Studies that came to failed", ["kind"], registry=registry)
        registry.register(_Present(database, storage, now))

    def render(self) -> tuple[bytes, str]:
        """The text of /metrics and its media type."""
        with self._lock:
            self._take_new_rows()
            return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _take_new_rows(self) -> None:
        with self._database.read() as session:
            news = gauges.news_since(session, self._marks)
        self._marks = news.marks
        for screening in news.screenings:
            self._take_screening(screening)
        for end, count in news.association_ends.items():
            self._associations.labels(end).inc(count)
        for (what, reason), count in news.refusals.items():
            self._refused.labels(what, reason).inc(count)
        for kind, count in news.failures.items():
            self._errors.labels(kind).inc(count)

    def _take_screening(self, screening: gauges.NewScreening) -> None:
        for stage, seconds in screening.stages.items():
            self._stage.labels(stage).observe(seconds)
        self._arrival_to_result.observe(screening.wait_seconds)
        for system, verdict in screening.verdicts.items():
            self._verdicts.labels(system, verdict).inc()
        if screening.discordant:
            self._discordant.inc()


class _Present(Collector):
    """What is counted afresh at every scrape."""

    def __init__(self, database: Database, storage: Path, now: Callable[[], datetime]) -> None:
        self._database, self._storage, self._now = database, storage, now

    def describe(self) -> list[Metric]:
        """Nothing is asked of the store only to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All present values."""
        now = self._now()
        with self._database.read() as session:
            totals = gauges.totals(session)
            counts = queries.counts_by_state(session)
            oldest = overview.oldest_change(session, StudyState.COMPLETE)
            standings = overview.destination_standings(session)
            living = processes.living(session)
            known = engines.known(session)
        yield CounterMetricFamily(
            "lungnode_instances_received", "Instances acknowledged", value=totals.instances
        )
        yield CounterMetricFamily("lungnode_bytes_received", "Bytes acknowledged", value=totals.bytes)
        yield GaugeMetricFamily(
            "lungnode_open_associations", "Associations that are open", value=totals.open_associations
        )
        yield _labelled(
            "lungnode_studies", "Studies by state", ["state"], {(s.value,): n for s, n in counts.items()}
        )
        yield GaugeMetricFamily(
            "lungnode_queue_age_seconds",
            "How long the study that waits longest has been complete",
            value=0.0 if oldest is None else (now - oldest).total_seconds(),
        )
        objects = {(s.name, "pending"): s.pending for s in standings}
        objects |= {(s.name, "delivered"): s.delivered for s in standings}
        objects |= {(s.name, "refused"): s.refused for s in standings}
        yield _labelled(
            "lungnode_delivery_objects", "Result objects by destination", ["destination", "state"], objects
        )
        yield _labelled(
            "lungnode_delivery_attempts",
            "Attempts of the deliveries in the store",
            ["destination"],
            {(s.name,): s.attempts for s in standings},
        )
        yield _labelled(
            "lungnode_delivery_retrying_objects",
            "Pending result objects that have failed at least once",
            ["destination"],
            {(s.name,): s.retrying for s in standings},
        )
        yield _labelled(
            "lungnode_delivery_waiting_seconds",
            "How long the result that waits longest has waited for its destination",
            ["destination"],
            {
                (s.name,): (now - s.waiting_since).total_seconds() if s.waiting_since else 0.0
                for s in standings
            },
        )
        yield _labelled(
            "lungnode_part_heartbeat_age_seconds",
            "How long ago a part of the node was heard of",
            ["part", "name"],
            {(p.kind, p.name): (now - p.heartbeat_at).total_seconds() for p in living},
        )
        place = next(p for p in (self._storage, *self._storage.parents) if p.exists())
        usage = shutil.disk_usage(place)
        yield GaugeMetricFamily(
            "lungnode_disk_free_bytes", "Free on the disk of the storage", value=usage.free
        )
        yield GaugeMetricFamily(
            "lungnode_disk_size_bytes", "Size of the disk of the storage", value=usage.total
        )
        yield from _engine_families(known)


def _engine_families(known: Sequence[KnownEngine]) -> Iterator[Metric]:
    """How many engines are ready, building or failed; how often each was built, in vain, and how long it took."""
    counted = Counter(engine.news.state for engine in known)
    states = {(state,): float(counted[state]) for state in ("building", "ready", "failed")}
    yield _labelled("lungnode_engines", "Engines that workers have reported, by state", ["state"], states)
    labels = ["package", "graph", "precision", "backend"]
    builds = CounterMetricFamily("lungnode_engine_builds", "Builds that have ended", labels=labels)
    failures = CounterMetricFamily("lungnode_engine_build_failures", "Builds that have failed", labels=labels)
    seconds = GaugeMetricFamily(
        "lungnode_engine_build_seconds", "Time that the last build and verification took", labels=labels
    )
    for engine in known:
        values = [str(getattr(engine.news, label)) for label in labels]
        builds.add_metric(values, engine.builds)
        failures.add_metric(values, engine.failures)
        if engine.news.state == "ready":
            seconds.add_metric(values, engine.news.seconds)
    yield from (builds, failures, seconds)


def _labelled(name: str, words: str, labels: list[str], values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family
