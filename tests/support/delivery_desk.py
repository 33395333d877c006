"""A store with one screened study, and what delivers its results, for tests of delivery."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
from clocks import Clock
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from rich.console import Console

from node.inspection import Answer, node_status, study_history
from reporting.delivery.loop import Courier, Destination
from scp.peer import Peer, Timeouts
from store import claims, queries, receipts, results, revisions
from store.database import Database
from store.deliveries import Backoff

CT = "1.2.840.10008.5.1.4.1.1.2"
KINDS = {
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",
    "sr": "1.2.840.10008.5.1.4.1.1.88.34",
    "sr_enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
}
BOTH = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
STUDY = "1.2.3.4"
AWAY = Peer("PACS", "127.0.0.1", 1)
"""Nobody listens there."""
FIRST, LONGEST = timedelta(seconds=10), timedelta(seconds=60)


@dataclass
class Desk:
    """A store with one screened study, and what delivers its results."""

    database: Database
    clock: Clock
    storage: Path
    write_object: Callable[..., Path]

    def screen(self, *kinds: str, wanted: tuple[str, ...] = (), size: int = 0) -> dict[str, Path]:
        """Put a study in the store with results of these kinds; `pacs` wants them, or `wanted`.

        size: bytes of a value in each object. Returns the files by kind.
        """
        files = {kind: self.write_object(KINDS[kind], size=size) for kind in kinds}
        now = self.clock()
        instance = receipts.ReceivedInstance(
            STUDY, "1.2.3.5", "1.2.3.6", CT, ExplicitVRLittleEndian, "CT", "0" * 64, "1" * 64, 1, "in.dcm"
        )
        with self.database.write() as session:
            receipt = receipts.record_instance(session, instance, association_id=None, now=now)
            revisions.complete_study(session, receipt.study_id, who="t", why="quiet", now=now)
            claim = claims.claim_next(session, worker="w", lease=FIRST, max_attempts=3, now=now)
            assert claim is not None
            results.record_results(
                session,
                claim,
                [self._result(kind, path) for kind, path in files.items()],
                destinations={"pacs": list(wanted or kinds)},
                settings_digest="2" * 64,
                summary={},
                now=now,
            )
        return files

    def _result(self, kind: str, path: Path) -> results.ResultObject:
        header = pydicom.dcmread(path)
        return results.ResultObject(
            kind, header.SOPClassUID, header.SOPInstanceUID, "1.9", str(path.relative_to(self.storage))
        )

    def deliver(self, peer: Peer, **changes: Any) -> int:
        """Try what is due once, with `changes` of what a courier is told; returns how many objects that were."""
        return self.courier(peer, **changes).deliver_due(threading.Event())

    def courier(self, peer: Peer, **changes: Any) -> Courier:
        """What delivers to the destination `pacs`, at `peer`."""
        settings: dict[str, Any] = {
            "database": self.database,
            "storage": self.storage,
            "destination": Destination("pacs", peer),
            "who": "delivery-1",
            "calling_ae_title": "LUNGNODE",
            "backoff": Backoff(FIRST, LONGEST),
            "clock": self.clock,
            "chance": lambda: 0.5,
            "timeouts": Timeouts(connect=10, association=10, answer=10),
        }
        return Courier(**(settings | changes))

    @property
    def status(self) -> str:
        """What `lungnode status` shows."""
        return _shown(node_status(self.database, self.clock()))

    @property
    def why(self) -> str:
        """What `lungnode studies why` shows of the study."""
        return _shown(study_history(self.database, STUDY))

    @property
    def study(self) -> queries.StudyLine:
        return self._account().study

    @property
    def deliveries(self) -> tuple[queries.DeliveryLine, ...]:
        return self._account().deliveries

    @property
    def by_kind(self) -> dict[str, queries.DeliveryLine]:
        return {line.kind: line for line in self.deliveries}

    def _account(self) -> queries.StudyAccount:
        with self.database.read() as session:
            return queries.why(session, STUDY)


def _shown(answer: Answer) -> str:
    """An answer as a terminal shows it: its words, without lines and line ends."""
    console = Console(width=500, highlight=False)
    with console.capture() as captured:
        answer.paint(console)
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", captured.get()).split())
