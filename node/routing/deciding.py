"""The rules applied to a study whose reception ends: what the store is told about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from node.routing.facts import SeriesFacts, read_series
from node.routing.matching import route_study
from node.routing.rules import Rule
from scp.completeness import OutOfReach
from store import holdings
from store.database import Database
from store.revisions import ReceivingStudy
from store.routing import Routing
from store.shared_storage import SharedStorage, Storage


class Router:
    """Decides by the rules of the configuration; times of day are local to the node."""

    def __init__(self, database: Database, storage: Storage, rules: Sequence[Rule]) -> None:
        self._database = database
        self._storage = storage
        self._rules = tuple(rules)

    def route(self, study: ReceivingStudy) -> Routing | None:
        """The decision for a study as it is now; None where there are no rules. Reads one header a series.

        Raises OutOfReach where that one is on another node, or in an object store that does not answer.
        """
        if not self._rules:
            return None
        with self._database.read() as session:
            paths = holdings.screenable_paths(session, study.study_id)
            sender = holdings.newest_sender(session, study.study_id)
        arrived = study.last_received_at.astimezone()
        series = [facts for of_series in paths.values() for facts in self._facts(of_series, sender, arrived)]
        decision = route_study(self._rules, series)
        return Routing(
            decision.screened,
            decision.packages,
            decision.destinations,
            int(decision.priority),
            decision.why,
        )

    def _facts(self, paths: Sequence[str], sender: str | None, arrived: datetime) -> list[SeriesFacts]:
        image = self._storage / paths[0]
        if isinstance(self._storage, SharedStorage) and not image.exists():
            raise OutOfReach(paths[0])
        first = read_series([image], calling_ae=sender, arrived_at=arrived)
        return [
            SeriesFacts(f.series_instance_uid, f.sample, len(paths), f.calling_ae, f.arrived_at)
            for f in first
        ]
