"""STOW-RS as a way in (PS3.18 10.5): the same durable receipt as C-STORE, instance by instance, as they arrive."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from scp import instances
from scp.associations import AssociationEnds
from scp.contexts import ACCEPTED_CLASSES, TRANSFER_SYNTAXES
from scp.multipart import MultipartReader, Part
from scp.receipt import Answer, KnownSeries, Receiver, Reception, StoreRequest
from store import receipts
from store.database import Database
from store.receipts import Peer

PREAMBLE = 132
LONGEST_META = 64 * 1024
SOP_CLASS_NOT_SUPPORTED = 0x0122


@dataclass(frozen=True)
class StoredPart:
    """What became of one part. The UIDs are empty where the part did not say them."""

    sop_class_uid: str
    sop_instance_uid: str
    answer: Answer

    @property
    def is_stored(self) -> bool:
        """Whether it was stored."""
        return self.answer.status == instances.SUCCESS

    @property
    def is_named(self) -> bool:
        """Whether the part said which instance it is."""
        return bool(self.sop_class_uid and self.sop_instance_uid)


class StowRequest:
    """One Store transaction: feed it the body, then `end` it; until then its studies are not complete.

    ends: where its end is recorded. only_study: Study Instance UID that the request was addressed to; instances of
    others fail. None for any.
    """

    def __init__(
        self,
        receiver: Receiver,
        database: Database,
        peer: Peer,
        listener: str,
        now: Callable[[], datetime],
        ends: AssociationEnds,
        *,
        only_study: str | None = None,
    ) -> None:
        self._only_study = only_study
        self._receiver = receiver
        self._database = database
        self._peer = peer
        self._listener = listener
        self._now = now
        self._ends = ends
        self._association: int | None = None
        self._known: KnownSeries = {}
        self._current: _FilePart | None = None
        self.parts: list[StoredPart] = []

    def reader(self, boundary: str) -> MultipartReader:
        """What to feed the body to."""
        return MultipartReader(boundary, self._begin)

    def end(self, how: str) -> None:
        """The request is over: `received` or why not. What is half there is dropped; completeness may go on."""
        if self._current is not None:
            self._current.abandon()
            self._current = None
        if self._association is not None:
            self._ends.add(self._association, how)
            self._ends.settle()

    def begin_reception(self, meta: Dataset) -> Reception:
        """For a part whose file meta information is read. Raises InstanceRefused."""
        sop_class = str(meta.get("MediaStorageSOPClassUID") or "")
        syntax = str(meta.get("TransferSyntaxUID") or "")
        if sop_class not in ACCEPTED_CLASSES:
            raise instances.InstanceRefused(SOP_CLASS_NOT_SUPPORTED, "SOP class is not accepted")
        if syntax not in TRANSFER_SYNTAXES:
            raise instances.InstanceRefused(instances.CANNOT_UNDERSTAND, "transfer syntax is not accepted")
        if self._association is None:
            with self._database.write() as session:
                self._association = receipts.open_association(
                    session, listener=self._listener, peer=self._peer, called_ae="STOW-RS", now=self._now()
                )
        request = StoreRequest(
            sop_class_uid=sop_class,
            sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID") or ""),
            abstract_syntax_uid=sop_class,
            transfer_syntax_uid=syntax,
            peer=self._peer,
            association_id=self._association,
            known_series=self._known,
            only_study=self._only_study,
        )
        return Reception(self._receiver, request)

    def done(self, part: StoredPart) -> None:
        """A part is finished."""
        self._current = None
        self.parts.append(part)

    def _begin(self, content_type: str) -> Part:
        self._current = _FilePart(self)
        return self._current


class _FilePart:
    """A DICOM file (PS3.10 7) on its way: its meta information decides, the data set runs through."""

    def __init__(self, request: StowRequest) -> None:
        self._request = request
        self._head = bytearray()
        self._meta = Dataset()
        self._reception: Reception | None = None
        self._refusal: instances.InstanceRefused | None = None

    def write(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._reception is not None:
            self._reception.write(data)
            return
        self._head += data
        try:
            self._try_to_begin()
        except instances.InstanceRefused as refusal:
            self._refusal = refusal
            self._head.clear()

    def finish(self) -> None:
        if self._reception is not None:
            answer = self._reception.finish()
        else:
            refusal = self._refusal
            answer = Answer(instances.CANNOT_UNDERSTAND, "not a DICOM file")
            if refusal is not None:
                answer = Answer(refusal.status, refusal.why)
        uids = [
            str(self._meta.get(k) or "") for k in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")
        ]
        known = [uid if instances.valid_uid(uid) else "" for uid in uids]
        self._request.done(StoredPart(known[0], known[1], answer))

    def abandon(self) -> None:
        """The rest will not come."""
        if self._reception is not None:
            self._reception.abandon()

    def _try_to_begin(self) -> None:
        """Begin once the whole file meta information is here. Raises InstanceRefused."""
        at = data_set_at(self._head)
        if at is None or len(self._head) < at:
            return
        self._meta = _meta(bytes(self._head[:at]))
        self._reception = self._request.begin_reception(self._meta)
        self._reception.write(bytes(self._head[at:]))
        self._head.clear()


def data_set_at(head: bytes | bytearray) -> int | None:
    """Where the data set begins, by File Meta Information Group Length; None until that is here.

    Raises InstanceRefused for what is no DICOM file.
    """
    if len(head) < PREAMBLE + 12:
        return None
    if head[128:132] != b"DICM" or head[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise instances.InstanceRefused(instances.CANNOT_UNDERSTAND, "not a DICOM file")
    (length,) = struct.unpack_from("<I", head, 140)
    if length > LONGEST_META:
        raise instances.InstanceRefused(instances.CANNOT_UNDERSTAND, "file meta information is too long")
    return PREAMBLE + 12 + int(length)


def _meta(head: bytes) -> Dataset:
    try:
        return pydicom.filereader.read_partial(BytesIO(head)).file_meta
    except MALFORMED:
        raise instances.InstanceRefused(
            instances.CANNOT_UNDERSTAND, "file meta information cannot be read"
        ) from None


def response(parts: list[StoredPart]) -> tuple[int, Dataset]:
    """HTTP status and Store Instances Response (PS3.18 10.5.3 and table I.2-1).

    A part that does not say which instance it is fails among the other failures, which name none.
    """
    answer = Dataset()
    stored = [_item(part) for part in parts if part.is_stored]
    failed = [_item(part) for part in parts if not part.is_stored and part.is_named]
    nameless = [_item(part) for part in parts if not part.is_stored and not part.is_named]
    if stored:
        answer.ReferencedSOPSequence = stored
    if failed:
        answer.FailedSOPSequence = failed
    if nameless:
        answer.OtherFailuresSequence = nameless
    if not parts:
        return 400, answer
    if not failed and not nameless:
        return 200, answer
    return (202 if stored else 409), answer


def _item(part: StoredPart) -> Dataset:
    item = Dataset()
    if part.is_named:
        item.ReferencedSOPClassUID = part.sop_class_uid
        item.ReferencedSOPInstanceUID = part.sop_instance_uid
    if not part.is_stored:
        item.FailureReason = part.answer.status
    return item
