"""What speaks for a study being complete, from whoever can tell: announcements, the PACS, the slices themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from scp.evidence import Evidence, announced_evidence
from scp.gap_check import GapCheck
from scp.pacs_query.asking import Asker
from store import holdings
from store.database import Database
from store.revisions import ReceivingStudy


class Grounds:
    """Asks in the order of certainty. asker: None without a query source."""

    def __init__(
        self,
        database: Database,
        gap_check: GapCheck,
        asker: Asker | None,
        short_quiet: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._gap_check = gap_check
        self._asker = asker
        self._short_quiet = short_quiet
        self._now = now
        self.receiving = True
        """Whether a study was being received when this was last asked about."""

    def evidence(self, study: ReceivingStudy) -> Evidence | None:
        """The best evidence that there is now; None for none."""
        if study.open_associations:
            return None
        found = self._announced(study)
        if found is None and self._asker is not None:
            found = self._asker.evidence(study)
        if found is None and self._now() - study.last_received_at >= self._short_quiet:
            found = self._gap_check.evidence(study)
        return found

    def forget_all_but(self, receiving: set[int]) -> None:
        """Drop what is known of studies that are no longer received."""
        self.receiving = bool(receiving)
        self._gap_check.forget_all_but(receiving)
        if self._asker is not None:
            self._asker.forget_all_but(receiving)

    def _announced(self, study: ReceivingStudy) -> Evidence | None:
        with self._database.read() as session:
            said = holdings.announced(session, study.study_id)
            if not said:
                return None
            held = holdings.instances_by_series(session, study.study_id)
        return announced_evidence(said, frozenset().union(*held.values()))
