"""STOW-RS as a destination (PS3.18 10.5), by dicomweb-client; OAuth2 client credentials and mutual TLS."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from reporting.delivery.confirmation import FAILURE_REASONS, altered, differently_compressed
from reporting.delivery.scu import Outcome, Parcel, PeerUnreachableError, Verdict
from scp.peer import SYSTEM_TRUST, ClientTLS

_SOP_CLASS_NOT_SUPPORTED = 0x0122
_NOT_FOR_US = (401, 403, 407)
_AWAY = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class ClientCredentials:
    """OAuth2 client credentials (RFC 6749 4.4)."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str = ""


@dataclass(frozen=True)
class StowService:
    """A DICOMweb server. url: up to before /studies. compare: retrieve what was stored and compare (WADO-RS)."""

    url: str
    credentials: ClientCredentials | None = None
    tls: ClientTLS = SYSTEM_TRUST
    compare: bool = True
    timeout_s: float = 60.0

    def __str__(self) -> str:
        return self.url


def open_session(service: StowService) -> requests.Session:
    """A session that authenticates itself: with a client certificate, a token that is renewed, or both."""
    session: requests.Session
    if service.credentials is None:
        session = requests.Session()
    else:
        given = service.credentials
        session = OAuth2Session(
            given.client_id,
            given.client_secret,
            scope=given.scope or None,
            token_endpoint=given.token_url,
            grant_type="client_credentials",
            token={"access_token": "", "expires_at": 1},  # expired, so that the first request fetches one
        )
    tls = service.tls
    session.trust_env = False
    if tls.certificate is not None:
        session.cert = (str(tls.certificate), str(tls.key)) if tls.key else str(tls.certificate)
    if tls.ca is not None:
        session.verify = str(tls.ca)
    return session


class StowSender:
    """Stores objects at one DICOMweb server, one request each: an answer then speaks of one object."""

    def __init__(self, service: StowService, session: requests.Session | None = None) -> None:
        self._service = service
        self._client = DICOMwebClient(
            service.url, session=session or open_session(service), timeout=service.timeout_s
        )
        self._client.set_http_retry_params(retry=False)  # the delivery loop waits, and outlives this process

    def __call__(self, parcels: Sequence[Parcel]) -> Generator[Outcome, None, None]:
        """One outcome each, in order. Raises PeerUnreachableError; parcels without an outcome were not sent."""
        for item in parcels:
            yield self._send(item)

    def _send(self, item: Parcel) -> Outcome:
        dataset = _read(item.path)
        if dataset is None:
            return Outcome(item.path, Verdict.FAILED, None, "could not be read")
        try:
            answer = self._client.store_instances([dataset])
        except requests.HTTPError as error:
            return self._refused(item, error)
        except requests.exceptions.JSONDecodeError as error:
            return Outcome(item.path, Verdict.FAILED, None, f"answer is no JSON: {_short(error)}")
        except (requests.RequestException, AuthlibBaseError, OSError) as error:
            raise PeerUnreachableError(f"{self._service}: {_short(error)}") from None
        except MALFORMED as error:
            return _illegible(item, error)
        try:
            outcome = judged(item, answer)
        except MALFORMED as error:
            return _illegible(item, error)
        if outcome.verdict is Verdict.STORED and self._service.compare:
            return self._compared(item, dataset, outcome)
        return outcome

    def _refused(self, item: Parcel, error: requests.HTTPError) -> Outcome:
        code = error.response.status_code if error.response is not None else 0
        if code in _NOT_FOR_US:
            raise PeerUnreachableError(f"{self._service}: answered {code}: check its credentials") from None
        if code in _AWAY:
            raise PeerUnreachableError(f"{self._service}: answered {code}") from None
        try:
            said = _reasons(error.response)
            if said is not None:
                return judged(item, said)
        except MALFORMED:
            pass  # a body that tells no more than the code does
        return Outcome(item.path, Verdict.FAILED, None, f"answered HTTP {code}")

    def _compared(self, item: Parcel, ours: Dataset, stored: Outcome) -> Outcome:
        try:
            theirs = self._client.retrieve_instance(
                ours.StudyInstanceUID, ours.SeriesInstanceUID, ours.SOPInstanceUID
            )
            syntaxes = (ours.file_meta.TransferSyntaxUID, theirs.file_meta.TransferSyntaxUID)
            other = altered(ours, theirs, recompressed=differently_compressed(*syntaxes))
        except (requests.RequestException, AuthlibBaseError, *MALFORMED) as error:
            remark = f"stored, but could not be retrieved to compare: {_short(error)}"
            return Outcome(item.path, Verdict.STORED, stored.status, remark)
        if other is None:
            return stored
        why = (
            f"answered success, but keeps another object under this SOP Instance UID ({other} differs); "
            "delete that one and resend"
        )
        return Outcome(item.path, Verdict.NOT_ACCEPTED, stored.status, why)


def judged(item: Parcel, answer: Dataset) -> Outcome:
    """The outcome that a Store Instances Response stands for (PS3.18 10.5.3, PS3.3 table I.1-1)."""
    for failed in answer.get("FailedSOPSequence") or ():
        code = int(failed.get("FailureReason") or 0x0110)
        said = f"failure reason 0x{code:04X} ({FAILURE_REASONS.get(code, 'not said why')})"
        verdict = Verdict.NOT_ACCEPTED if code == _SOP_CLASS_NOT_SUPPORTED else Verdict.FAILED
        return Outcome(item.path, verdict, code, said)
    for stored in answer.get("ReferencedSOPSequence") or ():
        if stored.get("ReferencedSOPInstanceUID") == item.sop_instance_uid:
            warning = stored.get("WarningReason")
            remark = f"warning reason 0x{int(warning):04X}" if warning else ""
            return Outcome(item.path, Verdict.STORED, int(warning or 0), remark)
    return Outcome(item.path, Verdict.FAILED, None, "the answer does not name the object as stored")


def _read(path: Path) -> Dataset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path)
    except (OSError, ValueError, AttributeError):
        return None


def _illegible(item: Parcel, error: BaseException) -> Outcome:
    return Outcome(item.path, Verdict.FAILED, None, f"answer cannot be read: {_short(error)}")


def _reasons(response: Any) -> Dataset | None:
    """The body of a 409 (conflict), where it says what failed. Raises MALFORMED for what is no answer."""
    content = response.json()
    answer = Dataset.from_json(content[0] if isinstance(content, list) else content)
    return answer if "FailedSOPSequence" in answer else None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
