"""A worklist of unified procedure steps by UPS-RS (PS3.18 11, PS3.4 CC), as who performs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from pydicom.dataset import Dataset

from engine.headers import MALFORMED

JSON = "application/dicom+json"
_GONE = (400, 403, 404, 409, 410)
"""Answers that sending again does not change (PS3.18 tables 11.6.2-1, 11.7.2-1)."""


class WorklistFailed(Exception):
    """The worklist was not reached, or answered an error that may pass; one line that says which."""


class WorkitemTaken(WorklistFailed):
    """The workitem is not ours to perform, or no longer."""


@dataclass(frozen=True)
class WorkitemCode:
    """What is to be done, as a coded concept (PS3.3 8.1): which scheduled workitems are for this node."""

    value: str
    scheme: str
    meaning: str

    def is_in(self, codes: Sequence[Dataset]) -> bool:
        """Whether a code sequence has it."""
        return any(
            (code.get("CodeValue"), code.get("CodingSchemeDesignator")) == (self.value, self.scheme)
            for code in codes
        )


@dataclass(frozen=True)
class Workitem:
    """A scheduled procedure step. studies: Study Instance UIDs of its input."""

    uid: str
    studies: tuple[str, ...]


class Worklist:
    """One UPS-RS server. session: authenticates itself (certificates, tokens)."""

    def __init__(self, url: str, session: requests.Session, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """How messages call it."""
        return self._url

    def scheduled(self, code: WorkitemCode) -> tuple[Workitem, ...]:
        """The workitems with this code that nobody has claimed (11.9). Raises WorklistFailed."""
        wanted = {
            "ProcedureStepState": "SCHEDULED",
            "ScheduledWorkitemCodeSequence.CodeValue": code.value,
            "ScheduledWorkitemCodeSequence.CodingSchemeDesignator": code.scheme,
            "includefield": "all",
        }
        answer = self._ask(lambda: self._session.get(f"{self._url}/workitems", params=wanted, **self._common))
        if answer.status_code == 204:
            return ()
        try:
            found = [Dataset.from_json(item) for item in answer.json()]
            return tuple(
                _workitem(item)
                for item in found
                if item.get("SOPInstanceUID")
                and item.get("ProcedureStepState", "SCHEDULED") == "SCHEDULED"
                and code.is_in(item.get("ScheduledWorkitemCodeSequence") or ())
            )
        except MALFORMED as error:
            raise WorklistFailed(f"{self._url}: answer cannot be read: {_short(error)}") from None

    def change_state(self, workitem: str, transaction_uid: str, state: str) -> None:
        """Claim (IN PROGRESS), complete (COMPLETED) or cancel (CANCELED) (11.7). Raises WorklistFailed."""
        change = Dataset()
        change.TransactionUID = transaction_uid
        change.ProcedureStepState = state
        self._send("PUT", f"workitems/{workitem}/state", change)

    def update(self, workitem: str, transaction_uid: str, changes: Dataset) -> None:
        """Change attributes of a workitem that we claimed (11.6). Raises WorklistFailed."""
        self._send("POST", f"workitems/{workitem}?{transaction_uid}", changes)

    @property
    def _common(self) -> dict[str, Any]:
        return {"headers": {"Accept": JSON}, "timeout": self._timeout_s}

    def _send(self, method: str, path: str, content: Dataset) -> None:
        headers = {"Content-Type": JSON, "Accept": JSON}
        body = f"[{content.to_json()}]"
        self._ask(
            lambda: self._session.request(
                method, f"{self._url}/{path}", data=body, headers=headers, timeout=self._timeout_s
            )
        )

    def _ask(self, send: Callable[[], requests.Response]) -> requests.Response:
        try:
            answer = send()
        except requests.ConnectionError as error:
            unsafe = isinstance(error, requests.exceptions.SSLError)
            why = f"TLS: {_short(error)}" if unsafe else "could not be reached"
            raise WorklistFailed(f"{self._url}: {why}") from None
        except (requests.RequestException, AuthlibBaseError, OSError) as error:
            raise WorklistFailed(f"{self._url}: {_short(error)}") from None
        if answer.ok:
            return answer
        said = answer.headers.get("Warning") or answer.reason
        kind = WorkitemTaken if answer.status_code in _GONE else WorklistFailed
        raise kind(f"{self._url}: answered {answer.status_code} ({said})")


def progress(percent: int, what: str) -> Dataset:
    """The attributes of an update that tell how far it is (PS3.3 C.30.1)."""
    item = Dataset()
    item.ProcedureStepProgress = str(percent)
    item.ProcedureStepProgressDescription = what[:1024]
    changes = Dataset()
    changes.ProcedureStepProgressInformationSequence = [item]
    return changes


def _workitem(item: Dataset) -> Workitem:
    inputs = item.get("InputInformationSequence") or ()
    studies = dict.fromkeys(str(i.StudyInstanceUID) for i in inputs if i.get("StudyInstanceUID"))
    return Workitem(str(item.SOPInstanceUID), tuple(studies))


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
