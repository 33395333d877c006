"""What a query source answers, whatever it is asked with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SeriesStatement:
    """What the PACS says of one series. count: None where it does not tell."""

    series_instance_uid: str
    modality: str
    count: int | None


@dataclass(frozen=True)
class FetchedInstance:
    """An instance that came in answer to a request of ours: its encoded data set as received."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes


Receive = Callable[[FetchedInstance], int]
"""Takes a fetched instance in with the same durable receipt as C-STORE; returns the DIMSE status."""


class QueryFailed(Exception):
    """The source was not reached, refused, or answered an error; one line that says which."""


class SourceUnreachable(QueryFailed):
    """Nobody is there to ask: it may be another time."""


class QuerySource(Protocol):
    """A PACS that can be asked."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    def series(self, study_instance_uid: str) -> tuple[SeriesStatement, ...]:
        """The series of a study; empty where the source does not know it. Raises QueryFailed."""
        ...

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> frozenset[str]:
        """SOP Instance UIDs of a series. Raises QueryFailed."""
        ...

    def fetch(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uids: Collection[str],
        receive: Receive,
    ) -> None:
        """Fetch instances of one series; they come through `receive` or the listener. Raises QueryFailed."""
        ...
