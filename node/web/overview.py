"""The overview: whether the node works, at a glance. Part of it renews itself."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import psutil
from starlette.responses import Response

from engine.accelerators import gpu_models
from node.web.site import Site, Visit
from store import engines, overview, processes, queries
from store.engines import EngineState
from store.overview import DestinationStanding, Intake
from store.processes import LivingProcess
from store.queries import HistoryEntry
from store.states import StudyState

RATE_MINUTES = 5
REFUSALS = 5
"""So many of the newest refusals are shown."""
SILENT = timedelta(seconds=60)
"""A process that has not been heard of for this long is shown as silent."""


@dataclass(frozen=True)
class Machine:
    """The machine that shows the page.

    disk_reserve: bytes below which instances are refused. accelerators: names of the GPUs that its drivers name.
    """

    processor_percent: float
    memory_percent: float
    disk_free: int
    disk_total: int
    disk_reserve: int
    accelerators: tuple[str, ...]

    @property
    def disk_is_short(self) -> bool:
        """Whether instances are refused, or soon will be."""
        return self.disk_free < 2 * self.disk_reserve


@dataclass(frozen=True)
class ProcessLine:
    """A part of the node and whether it lives."""

    process: LivingProcess
    silent: bool


@dataclass(frozen=True)
class Standing:
    """Everything that the overview shows."""

    counts: dict[StudyState, int]
    intake: Intake
    intake_day: Intake
    delivered_day: int
    failed_day: int
    waiting_seconds: float
    destinations: tuple[DestinationStanding, ...]
    processes: tuple[ProcessLine, ...]
    missing_parts: tuple[str, ...]
    machine: Machine
    engines: Mapping[EngineState, int]
    """How many there are in each state that some are in."""
    refusals: tuple[HistoryEntry, ...]
    """The newest of the last day."""

    @property
    def per_minute(self) -> float:
        """Instances received in a minute, over the last RATE_MINUTES."""
        return self.intake.instances / RATE_MINUTES


def standing(site: Site) -> Standing:
    """Ask the store and the machine."""
    now = site.now()
    day = now - timedelta(days=1)
    names = list(site.configuration.destination_objects)
    with site.database.read() as session:
        oldest = overview.oldest_change(session, StudyState.COMPLETE)
        living = processes.living(session)
        return Standing(
            counts=queries.counts_by_state(session),
            intake=overview.intake_since(session, now - timedelta(minutes=RATE_MINUTES)),
            intake_day=overview.intake_since(session, day),
            delivered_day=overview.ended_since(session, StudyState.DELIVERED, day),
            failed_day=overview.ended_since(session, StudyState.FAILED, day),
            waiting_seconds=0.0 if oldest is None else (now - oldest).total_seconds(),
            destinations=tuple(overview.destination_standings(session, names)),
            processes=tuple(ProcessLine(p, now - p.heartbeat_at > SILENT) for p in living),
            missing_parts=tuple(
                kind
                for kind in ("listener", "worker", "delivery")
                if not any(p.kind == kind and now - p.heartbeat_at <= SILENT for p in living)
            ),
            machine=machine(site),
            engines=Counter(engine.news.state for engine in engines.known(session)),
            refusals=tuple(queries.recent_refusals(session, since=day, limit=REFUSALS)),
        )


def machine(site: Site) -> Machine:
    """How busy this machine is and how much room its storage has."""
    place = next(p for p in (site.storage, *site.storage.parents) if p.exists())
    usage = shutil.disk_usage(place)
    return Machine(
        processor_percent=psutil.cpu_percent(),
        memory_percent=psutil.virtual_memory().percent,
        disk_free=usage.free,
        disk_total=usage.total,
        disk_reserve=site.configuration.storage.reserve_mb * 2**20,
        accelerators=gpu_models(),
    )


def show(visit: Visit) -> Response:
    """The whole page."""
    return visit.page("overview.html", standing=standing(visit.site), states=tuple(StudyState))


def show_live(visit: Visit) -> Response:
    """The part that renews itself."""
    return visit.page("overview_live.html", standing=standing(visit.site), states=tuple(StudyState))
