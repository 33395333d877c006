"""One received instance: from written bytes to the status that its sender gets.

The order is the promise: bytes written, renamed and flushed, row committed, only then 0x0000.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy.exc import SQLAlchemyError

from scp import instances
from scp.deflated import InflatesTooFar, check_inflated_size
from scp.header import Header, UnreadableDataset, read_header
from scp.instances import InstanceRefused
from scp.other_syntax import is_same_in_other_syntax
from scp.spool import HEAD, IncomingFile, KeptFile, Spool, TooLarge
from store import receipts
from store.database import Database
from store.receipts import Outcome, Peer, Receipt, ReceivedInstance, StudyTooLarge
from store.repeated_receipts import RepeatedReceipts

LOGGER = structlog.get_logger(__name__)

Clock = Callable[[], datetime]
KnownSeries = dict[tuple[str, str], tuple[int, int]]
"""Numbers in the store of (Study, Series Instance UID) that an association has brought instances of."""

MAX_KNOWN_SERIES = 256


_NOT_WHOLE = InstanceRefused(instances.PROCESSING_FAILURE, "the data set was given up")


@dataclass(frozen=True)
class StoreRequest:
    """What the C-STORE request and its presentation context say of an instance that is about to come.

    only_study: Study Instance UID that it must have, where the way that it comes is for one study; None for any.
    """

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax_uid: str
    transfer_syntax_uid: str
    peer: Peer
    association_id: int | None
    known_series: KnownSeries
    only_study: str | None = None


@dataclass(frozen=True)
class Answer:
    """The status for the sender, and a comment for Error Comment (0000,0902): empty for success."""

    status: int
    comment: str = ""


@dataclass(frozen=True)
class Receiver:
    """Takes instances into spool and store.

    own_manufacturer: marks the node's own results. reserve_bytes: free space below which nothing is taken. held_by:
    this node's name where what is received goes into an object store (`scp.uploading`).
    """

    spool: Spool
    database: Database
    short_way: RepeatedReceipts
    now: Clock
    own_manufacturer: str
    max_instance_bytes: int
    max_inflated_bytes: int
    max_study_bytes: int
    reserve_bytes: int
    held_by: str | None = None

    def begin(self, request: StoreRequest) -> IncomingFile:
        """Open a file for an instance. Raises InstanceRefused."""
        if request.sop_class_uid != request.abstract_syntax_uid:
            raise InstanceRefused(
                instances.CLASS_NOT_SUPPORTED, "SOP class is not that of the presentation context"
            )
        if not instances.valid_uid(request.sop_instance_uid):
            raise InstanceRefused(instances.CANNOT_UNDERSTAND, "SOP Instance UID is no valid UID")
        try:
            if self.spool.free_bytes() < self.reserve_bytes:
                raise InstanceRefused(instances.OUT_OF_RESOURCES, "not enough free disk space")
            return self.spool.begin(
                request.sop_class_uid,
                request.sop_instance_uid,
                request.transfer_syntax_uid,
                self.max_instance_bytes,
            )
        except OSError as error:
            raise refusal_of(error) from error

    def write(self, incoming: IncomingFile, data: bytes | bytearray | memoryview) -> None:
        """Write the next bytes. Raises InstanceRefused; the file is then to be abandoned."""
        try:
            incoming.write(data)
        except (OSError, TooLarge) as error:
            raise refusal_of(error) from error

    def finish(self, incoming: IncomingFile, request: StoreRequest) -> Answer:
        """Judge, keep and record an instance that is written. Whatever happens, the file is kept or gone."""
        header = None
        try:
            header = self._header(incoming, request)
            kept = self._keep(incoming, header)
            return self._record(kept, header, request)
        except InstanceRefused as refusal:
            return self.refuse(request, refusal, None if header is None else header.study_instance_uid)
        finally:
            incoming.abandon()  # a kept file has another name by now

    def refuse(self, request: StoreRequest, refusal: InstanceRefused, study: str | None = None) -> Answer:
        """Record a refusal and make the answer; a store that is away does not keep it from being given.

        study: Study Instance UID, where the data set has told a valid one.
        """
        uid = request.sop_instance_uid if instances.valid_uid(request.sop_instance_uid) else None
        LOGGER.warning(
            "instance refused",
            status=f"0x{refusal.status:04X}",
            why=refusal.why,
            association=request.association_id,
        )
        try:
            with self.database.write() as session:
                receipts.record_refusal(
                    session,
                    peer=request.peer,
                    why=refusal.why,
                    status=refusal.status,
                    study_instance_uid=study,
                    sop_instance_uid=uid,
                    now=self.now(),
                )
        except SQLAlchemyError as error:
            LOGGER.error("refusal not recorded", why=type(error).__name__)
        return Answer(refusal.status, refusal.why[:64])

    def _header(self, incoming: IncomingFile, request: StoreRequest) -> Header:
        try:
            incoming.finish()
            header = self._read(incoming, request.transfer_syntax_uid)
            if request.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
                check_inflated_size(incoming.path, incoming.data_set_at, self.max_inflated_bytes)
        except OSError as error:
            raise refusal_of(error) from error
        except InflatesTooFar as error:
            raise InstanceRefused(instances.OUT_OF_RESOURCES, str(error)) from error
        except UnreadableDataset as error:
            raise InstanceRefused(instances.CANNOT_UNDERSTAND, str(error)) from error
        instances.check(header, request.sop_class_uid, request.sop_instance_uid)
        if request.only_study not in (None, header.study_instance_uid):
            raise InstanceRefused(instances.CANNOT_UNDERSTAND, "is of another study than the one addressed")
        return header

    def _read(self, incoming: IncomingFile, transfer_syntax_uid: str) -> Header:
        """The header from the first bytes; from the file in the rare case that these do not reach."""
        try:
            return read_header(incoming.head, transfer_syntax_uid)
        except UnreadableDataset:
            if incoming.size <= HEAD:
                raise
        with (
            incoming.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
            whole[incoming.data_set_at :] as data_set,
        ):
            return read_header(data_set, transfer_syntax_uid)

    def _keep(self, incoming: IncomingFile, header: Header) -> KeptFile:
        try:
            return self.spool.keep(incoming, header.study_instance_uid)
        except OSError as error:
            raise refusal_of(error) from error

    def _record(self, kept: KeptFile, header: Header, request: StoreRequest) -> Answer:
        received = ReceivedInstance(
            study_instance_uid=header.study_instance_uid,
            series_instance_uid=header.series_instance_uid,
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            modality=instances.modality_code(header),
            patient_digest=instances.patient_digest(header),
            sha256=kept.sha256,
            size=kept.size,
            path=kept.path,
            kept_out=instances.kept_out(header, self.own_manufacturer),
            held_by=self.held_by,
        )
        try:
            receipt = self._receipt(received, request)
        except SQLAlchemyError as error:
            # Not answered with success, so the sender sends it again; the file without row is swept at start
            LOGGER.error("store does not answer", why=type(error).__name__)
            raise InstanceRefused(instances.OUT_OF_RESOURCES, "the store does not answer") from error
        except StudyTooLarge as error:
            self.spool.drop(kept)
            raise InstanceRefused(instances.OUT_OF_RESOURCES, str(error)) from error
        if receipt.outcome is Outcome.CONFLICTING:
            self._refuse_other_content(kept, receipt.path)
        if receipt.outcome is Outcome.IDENTICAL and not self.spool.has(kept.path):
            # The purge of its study took the file before the store was told that it is wanted again
            raise InstanceRefused(instances.OUT_OF_RESOURCES, "it was just being deleted: send it again")
        return Answer(instances.SUCCESS)

    def _refuse_other_content(self, kept: KeptFile, held: str) -> None:
        """Raise InstanceRefused unless `kept` is what `held` is in another transfer syntax; `held` stays."""
        try:
            same = is_same_in_other_syntax(self.spool.storage / held, self.spool.storage / kept.path)
        finally:
            self.spool.drop(kept)
        if not same:
            raise InstanceRefused(instances.DUPLICATE, "an instance with this UID and other content is held")

    def _receipt(self, received: ReceivedInstance, request: StoreRequest) -> Receipt:
        """What the store makes of it: the short way where it is open, else the one that decides everything."""
        series = (received.study_instance_uid, received.series_instance_uid)
        known = request.known_series.get(series)
        if known is not None and self._recorded_shortly(received, request, known):
            return Receipt(Outcome.NEW, *known, received.path)
        receipt = self._recorded(received, request)
        if receipt.outcome is Outcome.CONFLICTING and self._is_gone(receipt.path):
            receipt = self._recorded(received, request, gone=receipt.path)
        if receipt.outcome is not Outcome.CONFLICTING:  # that tells of the series of the other instance
            if len(request.known_series) >= MAX_KNOWN_SERIES:
                request.known_series.clear()
            request.known_series[series] = (receipt.study_id, receipt.series_id)
        return receipt

    def _recorded(
        self, received: ReceivedInstance, request: StoreRequest, gone: str | None = None
    ) -> Receipt:
        with self.database.write() as session:
            return receipts.record_instance(
                session,
                received,
                association_id=request.association_id,
                now=self.now(),
                max_study_bytes=self.max_study_bytes,
                gone=gone,
            )

    def _is_gone(self, path: str) -> bool:
        """Whether the content of a held instance was deleted; with an object store it may be there."""
        return self.held_by is None and not self.spool.has(path)

    def _recorded_shortly(
        self, received: ReceivedInstance, request: StoreRequest, numbers: tuple[int, int]
    ) -> bool:
        if request.association_id is None:
            return False
        return self.short_way.record(
            received,
            study_id=numbers[0],
            series_id=numbers[1],
            association_id=request.association_id,
            now=self.now(),
            max_study_bytes=self.max_study_bytes,
        )


class Reception:
    """One data set on its way: takes its bytes, whether or not it is refused, and in the end gives the answer.

    A sender listens only when it has sent everything, so the bytes of a refused instance are let run through.
    """

    def __init__(self, receiver: Receiver, request: StoreRequest) -> None:
        self._receiver = receiver
        self._request = request
        self._incoming: IncomingFile | None = None
        self._refusal: InstanceRefused | None = None
        try:
            self._incoming = receiver.begin(request)
        except InstanceRefused as refusal:
            self._refusal = refusal

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        if self._incoming is None:
            return
        try:
            self._receiver.write(self._incoming, data)
        except InstanceRefused as refusal:
            self._refusal = refusal
            self.abandon()

    def finish(self) -> Answer:
        """The data set is whole: keep and record it; returns what the sender is told."""
        incoming, self._incoming = self._incoming, None
        if self._refusal is not None or incoming is None:
            return self._receiver.refuse(self._request, self._refusal or _NOT_WHOLE)
        return self._receiver.finish(incoming, self._request)

    def abandon(self) -> None:
        """The rest will not come, or is not wanted: leave nothing behind."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abandon()


class Unstored:
    """A data set that cannot even be begun: its bytes run through and the answer is ready."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def write(self, data: bytes | memoryview) -> None:
        """Let the bytes go."""

    def finish(self) -> Answer:
        """The answer that was ready."""
        return self._answer

    def abandon(self) -> None:
        """There is nothing to leave behind."""


def refusal_of(error: OSError | TooLarge) -> InstanceRefused:
    """What the sender is told of a fault at the disk."""
    if isinstance(error, TooLarge):
        return InstanceRefused(instances.OUT_OF_RESOURCES, str(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return InstanceRefused(instances.OUT_OF_RESOURCES, f"the spool cannot take it: {error.strerror}")
    return InstanceRefused(instances.PROCESSING_FAILURE, f"the spool failed: {error.strerror}")
