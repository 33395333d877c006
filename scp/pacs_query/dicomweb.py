"""QIDO-RS and WADO-RS as query source (PS3.18 10.6, 10.4). What is fetched is kept as it came, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from io import BytesIO
from typing import Any

import pydicom
import requests
from authlib.common.errors import AuthlibBaseError
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from scp.instances import InstanceRefused
from scp.multipart import Malformed, MultipartReader, boundary_of
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
from scp.stow import data_set_at

_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_PIECE = 256 * 1024
_PAGE = 1000
"""Matches in one answer."""
_AWAY = (429, 502, 503, 504)


class DicomwebSource:
    """A DICOMweb server that is asked. session: authenticates itself (certificates, tokens)."""

    def __init__(self, url: str, session: requests.Session, timeout_s: float = 30.0) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._timeout_s = timeout_s
        self._client = DICOMwebClient(self._url, session=session, timeout=timeout_s)
        self._client.set_http_retry_params(retry=False)

    @property
    def name(self) -> str:
        return self._url

    def studies(self, dates: str) -> list[str]:
        """QIDO-RS for CT studies of a range of StudyDate, empty for all; their UIDs. Raises QueryFailed."""
        wanted = {"ModalitiesInStudy": "CT"} | ({"StudyDate": dates} if dates else {})
        with legible(self._url):
            return [str(answer.StudyInstanceUID) for answer in self._studies(wanted, [])]

    def series(self, study_instance_uid: str) -> tuple[SeriesStatement, ...]:
        """QIDO-RS for series, with NumberOfSeriesRelatedInstances where the server tells it. Raises QueryFailed."""
        search = partial(self._client.search_for_series, study_instance_uid, fields=list(SERIES_KEYS))
        with legible(self._url):
            return tuple(series_statement(answer) for answer in self._all(search, "SeriesInstanceUID"))

    def studies_of(self, patient_id: str) -> tuple[StudyStatement, ...]:
        """QIDO-RS for the studies with CT of a patient id. Raises QueryFailed."""
        wanted = {"PatientID": patient_id, "ModalitiesInStudy": "CT"}
        with legible(self._url):
            return tuple(study_statement(answer) for answer in self._studies(wanted, list(STUDY_KEYS)))

    def _studies(self, wanted: dict[str, str], fields: list[str]) -> list[Dataset]:
        search = partial(self._client.search_for_studies, search_filters=wanted, fields=fields or None)
        return self._all(search, "StudyInstanceUID")

    def _all(self, search: Callable[..., list[dict[str, Any]]], uid_keyword: str) -> list[Dataset]:
        """All matches with a UID, page by page, until a page has nothing new: a server may ignore the offset."""
        found: dict[str, Dataset] = {}
        while True:
            page = self._found(partial(search, limit=_PAGE, offset=len(found)))
            new = {str(answer.get(uid_keyword) or ""): answer for answer in page}
            if new.keys() <= found.keys() | {""}:
                return list(found.values())
            found |= {uid: answer for uid, answer in new.items() if uid}

    def _found(self, ask: Callable[[], list[dict[str, Any]]]) -> list[Dataset]:
        """The matches of a question; none where the server says 404. Raises QueryFailed."""
        try:
            return [Dataset.from_json(item) for item in ask()]
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return []
            raise self._failed("QIDO-RS", error) from None
        except (requests.RequestException, AuthlibBaseError, *MALFORMED) as error:
            raise self._failed("QIDO-RS", error) from None

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> frozenset[str]:
        """QIDO-RS for instances. Raises QueryFailed."""
        search = partial(self._client.search_for_instances, study_instance_uid, series_instance_uid)
        with legible(self._url):
            return frozenset(str(answer.SOPInstanceUID) for answer in self._all(search, "SOPInstanceUID"))

    def fetch(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uids: Collection[str],
        receive: Receive,
    ) -> None:
        """WADO-RS, instance by instance. Raises QueryFailed."""
        for uid in sorted(sop_instance_uids):
            path = f"studies/{study_instance_uid}/series/{series_instance_uid}/instances/{uid}"
            try:
                self._retrieve(f"{self._url}/{path}", receive)
            except Malformed as error:
                raise QueryFailed(f"{self._url}: WADO-RS: {error}") from None
            except (requests.RequestException, AuthlibBaseError, OSError) as error:
                raise self._failed("WADO-RS", error) from None

    def _retrieve(self, url: str, receive: Receive) -> None:
        headers = {"Accept": _ACCEPT}
        with self._session.get(url, headers=headers, stream=True, timeout=self._timeout_s) as answer:
            answer.raise_for_status()
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            reader = MultipartReader(boundary, lambda kind: _Collected(receive))
            for piece in answer.iter_content(_PIECE):
                reader.feed(piece)
            reader.finish()

    def _failed(self, what: str, error: Any) -> QueryFailed:
        text = " ".join(str(error).split())[:160]
        code = getattr(getattr(error, "response", None), "status_code", None)
        away = (
            isinstance(error, requests.ConnectionError | requests.Timeout | AuthlibBaseError) or code in _AWAY
        )
        return (SourceUnreachable if away else QueryFailed)(f"{self._url}: {what}: {text}")


class _Collected:
    """One DICOM file, handed on when it is whole."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._content = bytearray()

    def write(self, data: bytes) -> None:
        self._content += data

    def finish(self) -> None:
        try:
            at = data_set_at(self._content)
            if at is None:
                raise Malformed("a part is no DICOM file")
            meta = pydicom.filereader.read_partial(BytesIO(self._content[:at])).file_meta
        except (InstanceRefused, *MALFORMED) as error:
            raise Malformed(f"a part cannot be read: {error}") from None
        self._receive(
            FetchedInstance(
                str(meta.get("MediaStorageSOPClassUID") or ""),
                str(meta.get("MediaStorageSOPInstanceUID") or ""),
                str(meta.get("TransferSyntaxUID") or ""),
                bytes(self._content[at:]),
            )
        )
