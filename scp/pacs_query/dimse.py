"""C-FIND, C-GET and C-MOVE as service class user, in the Study Root model (PS3.4 C)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from scp.contexts import SCREENED_CLASSES, TRANSFER_SYNTAXES
from scp.pacs_query.source import (
    SERIES_KEYS,
    STUDY_KEYS,
    FetchedInstance,
    QueryFailed,
    Receive,
    SeriesStatement,
    SourceUnreachable,
    StudyStatement,
    legible,
    series_statement,
    study_statement,
)
from scp.peer import Peer, Timeouts
from scp.requesting import AssociationRejected, NoAssociation, NothingAccepted, associate, released

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
_PENDING = (0xFF00, 0xFF01)
_UIDS_PER_REQUEST = 100
"""SOP Instance UIDs in one retrieve request: a list of UIDs is matched one by one (PS3.4 C.2.2.2.2)."""
_MEANINGS = {
    0xA700: "out of resources",
    0xA701: "unable to count matches",
    0xA702: "unable to perform sub-operations",
    0xA801: "move destination unknown: the PACS must know our AE title and address",
    0xA900: "identifier does not match SOP class",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
}


QUERY_TIMEOUTS = Timeouts(connect=5.0, association=5.0, answer=30.0)


@dataclass(frozen=True)
class DimseSource:
    """A PACS that is asked by DIMSE. retrieve: how missing instances come; move needs our address known there."""

    peer: Peer
    calling_ae: str
    retrieve: Literal["get", "move"] = "get"
    timeouts: Timeouts = QUERY_TIMEOUTS

    @property
    def name(self) -> str:
        return str(self.peer)

    def series(self, study_instance_uid: str) -> tuple[SeriesStatement, ...]:
        """The series of a study, with NumberOfSeriesRelatedInstances where the PACS tells it (PS3.4 C.3.4)."""
        keys = Dataset()
        keys.QueryRetrieveLevel = "SERIES"
        keys.StudyInstanceUID = study_instance_uid
        _want(keys, "SeriesInstanceUID", *SERIES_KEYS)
        with legible(self.name):
            return tuple(series_statement(a) for a in self.find(keys) if a.get("SeriesInstanceUID"))

    def studies_of(self, patient_id: str) -> tuple[StudyStatement, ...]:
        """The studies with CT of a patient id (PS3.4 C.6.2.1)."""
        keys = Dataset()
        if not patient_id.isascii():
            keys.SpecificCharacterSet = "ISO_IR 192"  # without one, letters would go as ?, which matches any
        keys.QueryRetrieveLevel = "STUDY"
        keys.PatientID = patient_id
        keys.ModalitiesInStudy = "CT"
        _want(keys, "StudyInstanceUID", *STUDY_KEYS)
        with legible(self.name):
            return tuple(study_statement(a) for a in self.find(keys) if a.get("StudyInstanceUID"))

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> frozenset[str]:
        """SOP Instance UIDs of a series."""
        keys = _image_keys(study_instance_uid, series_instance_uid)
        keys.SOPInstanceUID = ""
        with legible(self.name):
            found = [answer.get("SOPInstanceUID") for answer in self.find(keys)]
        return frozenset(str(uid) for uid in found if uid)

    def holds(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> bool:
        """Whether the PACS lists this instance. Raises QueryFailed."""
        keys = _image_keys(study_instance_uid, series_instance_uid)
        keys.SOPInstanceUID = sop_instance_uid
        with legible(self.name):
            return any(answer.get("SOPInstanceUID") == sop_instance_uid for answer in self.find(keys))

    def find(self, keys: Dataset) -> list[Dataset]:
        """The answers to a C-FIND (PS3.4 C.4.1). Raises QueryFailed."""
        with self._association([build_context(FIND)]) as association:
            answers = []
            try:
                for status, identifier in association.send_c_find(keys, FIND):
                    if _code(status) in _PENDING and identifier is not None:
                        answers.append(identifier)
                    elif _code(status) not in (*_PENDING, 0x0000):
                        raise QueryFailed(f"{self.peer}: C-FIND: {_said(status)}")
            except (RuntimeError, ValueError) as error:
                raise QueryFailed(f"{self.peer}: C-FIND: {error}") from None
            return answers

    def fetch(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uids: Collection[str],
        receive: Receive,
    ) -> None:
        """Fetch instances by C-GET, or have them sent to our listener by C-MOVE."""
        uids = sorted(sop_instance_uids)
        for start in range(0, len(uids), _UIDS_PER_REQUEST):
            keys = _image_keys(study_instance_uid, series_instance_uid)
            keys.SOPInstanceUID = uids[start : start + _UIDS_PER_REQUEST]
            if self.retrieve == "move":
                self._move(keys)
            else:
                self.get(keys, sorted(SCREENED_CLASSES), receive)

    def get(self, keys: Dataset, sop_classes: Collection[str], receive: Receive) -> None:
        """C-GET (PS3.4 C.4.3): instances come as C-STORE on the same association. Raises QueryFailed."""

        def on_store(event: evt.Event) -> int:
            request: Any = event.request
            return receive(
                FetchedInstance(
                    str(request.AffectedSOPClassUID),
                    str(request.AffectedSOPInstanceUID),
                    str(event.context.transfer_syntax),
                    request.DataSet.getvalue(),
                )
            )

        contexts = [build_context(uid, [syntax]) for uid in sop_classes for syntax in TRANSFER_SYNTAXES]
        roles = [build_role(uid, scp_role=True) for uid in sop_classes]
        # one context for each syntax, so that the PACS may send every object as it has it
        wanted = [build_context(GET), *contexts[:127]]
        with self._association(wanted, roles, [(evt.EVT_C_STORE, on_store)]) as association:
            self._finish(lambda: association.send_c_get(keys, GET), "C-GET")

    def _move(self, keys: Dataset) -> None:
        with self._association([build_context(MOVE)]) as association:
            self._finish(lambda: association.send_c_move(keys, self.calling_ae, MOVE), "C-MOVE")

    def _finish(self, ask: Callable[[], Iterator[tuple[Dataset, Dataset | None]]], verb: str) -> None:
        try:
            status = Dataset()
            for status, _ in ask():  # noqa: B007 - the last one counts
                pass
        except (RuntimeError, ValueError) as error:
            raise QueryFailed(f"{self.peer}: {verb}: {error}") from None
        if _code(status) != 0x0000:
            failed = status.get("NumberOfFailedSuboperations")
            detail = f", {failed} not sent" if failed else ""
            raise QueryFailed(f"{self.peer}: {verb}: {_said(status)}{detail}")

    @contextmanager
    def _association(
        self, contexts: list[Any], roles: list[Any] | None = None, handlers: list[Any] | None = None
    ) -> Iterator[Association]:
        try:
            with released(
                associate(
                    self.peer,
                    self.calling_ae,
                    contexts,
                    self.timeouts,
                    roles=roles or (),
                    handlers=handlers or (),
                )
            ) as association:
                yield association
        except NothingAccepted:
            raise QueryFailed(f"{self.peer} does not offer this query") from None
        except AssociationRejected as error:
            raise QueryFailed(str(error)) from None
        except NoAssociation as error:
            raise SourceUnreachable(str(error)) from None


def _image_keys(study_instance_uid: str, series_instance_uid: str) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE"
    keys.StudyInstanceUID = study_instance_uid
    keys.SeriesInstanceUID = series_instance_uid
    return keys


def _want(keys: Dataset, *keywords: str) -> None:
    """Ask for these attributes, whatever their values (PS3.4 C.2.2.2.3)."""
    for keyword in keywords:
        setattr(keys, keyword, "")


def _code(status: Dataset) -> int | None:
    return int(status.Status) if "Status" in status else None


def _said(status: Dataset) -> str:
    code = _code(status)
    if code is None:
        return "no answer"
    comment = str(status.get("ErrorComment", "")).strip()
    meaning = comment or _MEANINGS.get(code, "")
    return f"status 0x{code:04X}" + (f" ({meaning})" if meaning else "")
