"""C-STORE and C-ECHO as a service class user (PS3.4 B and A, PS3.7 9.1).

Presentation contexts are asked for from what is really sent: the default list of a toolkit lacks segmentations or
overflows. Each answer is looked at; an object without a status of success has not arrived.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from scp.peer import DEFAULT_TIMEOUTS, Peer, Timeouts
from scp.requesting import NoAssociation, NothingAccepted, associate, leave

_VERIFICATION = "1.2.840.10008.1.1"
_MAX_CONTEXTS = 128
"""Presentation contexts in one association: odd one-byte identifiers (PS3.8 9.3.2.2)."""
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_SOP_CLASS_NOT_SUPPORTED = 0x0122
_WARNINGS = {0xB000: "coerced data elements", 0xB006: "dropped elements", 0xB007: "data set and class differ"}


class Verdict(enum.Enum):
    """What became of one object."""

    STORED = "stored"
    """The peer answered success, or a warning, which also means stored (PS3.4 B.2.3)."""
    NOT_ACCEPTED = "not accepted"
    """The peer does not take objects of this SOP class; sending it again is no use."""
    FAILED = "failed"
    """The peer refused it, or did not answer; it may be sent again."""


@dataclass(frozen=True)
class Outcome:
    """What became of one object: `status` is the DIMSE status where there was an answer."""

    path: Path
    verdict: Verdict
    status: int | None
    reason: str


@dataclass(frozen=True)
class Parcel:
    """One file to send, with what its presentation context must say."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class PeerUnreachableError(Exception):
    """No association: the peer is away, rejects us, or cannot be reached. One line that says which."""


class NotSendableError(Exception):
    """A file that cannot be sent; one line with the reason."""


def parcel(path: Path) -> Parcel:
    """What the file meta information (PS3.10 7.1) says of `path`. Raises NotSendableError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"]
            )
        values = (header.SOPClassUID, header.SOPInstanceUID, header.file_meta.TransferSyntaxUID)
    except InvalidDicomError:
        raise NotSendableError("no DICOM file") from None
    except AttributeError as error:
        raise NotSendableError(f"no {str(error).rpartition(' ')[2].strip(chr(39))}") from None
    except Exception as error:  # noqa: BLE001 - a hostile file can raise anything in the parser
        raise NotSendableError(f"cannot be read: {error}") from None
    if not all(isinstance(v, UID) and v for v in values):
        raise NotSendableError("SOP Class UID, SOP Instance UID or Transfer Syntax UID is empty")
    return Parcel(path, *(str(v) for v in values))


def echo(peer: Peer, calling_ae_title: str, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
    """C-ECHO (PS3.7 9.1.5). Raises PeerUnreachableError."""
    try:
        association = associate(peer, calling_ae_title, [build_context(_VERIFICATION)], timeouts)
    except NoAssociation as error:
        raise PeerUnreachableError(str(error)) from None
    try:
        status = association.send_c_echo() if association.accepted_contexts else Dataset()
    except (RuntimeError, ValueError) as error:
        raise PeerUnreachableError(f"{peer}: C-ECHO could not be sent: {error}") from None
    finally:
        leave(association)
    if status.get("Status") != 0x0000:
        answer = f"0x{status.Status:04X}" if "Status" in status else "no answer"
        raise PeerUnreachableError(f"{peer}: C-ECHO was not answered with success ({answer})")


def store(
    peer: Peer,
    parcels: Sequence[Parcel],
    calling_ae_title: str,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> Generator[Outcome, None, None]:
    """Send all parcels, in as few associations as their presentation contexts allow; one outcome each, in order.

    Raises PeerUnreachableError when an association cannot be made; parcels without an outcome were not sent.
    """
    for batch in _batches(parcels):
        try:
            association = associate(peer, calling_ae_title, _contexts(batch), timeouts)
        except NothingAccepted:
            yield from (_not_accepted(item) for item in batch)
            continue
        except NoAssociation as error:
            raise PeerUnreachableError(str(error)) from None
        try:
            for item in batch:
                yield _send(association, item)
        finally:
            leave(association)


def _wishes(item: Parcel) -> tuple[tuple[str, str], ...]:
    """The (SOP class, transfer syntax) pairs that would carry the parcel; uncompressed data can be converted."""
    if item.transfer_syntax_uid in _UNCOMPRESSED:
        return tuple((item.sop_class_uid, str(syntax)) for syntax in _UNCOMPRESSED)
    return ((item.sop_class_uid, item.transfer_syntax_uid),)


def _batches(parcels: Iterable[Parcel]) -> Iterator[list[Parcel]]:
    batch: list[Parcel] = []
    wishes: set[tuple[str, str]] = set()
    for item in parcels:
        more = wishes.union(_wishes(item))
        if len(more) > _MAX_CONTEXTS:
            yield batch
            batch, more = [], set(_wishes(item))
        batch.append(item)
        wishes = more
    if batch:
        yield batch


def _contexts(batch: Iterable[Parcel]) -> list[PresentationContext]:
    """One context a pair, so that the peer's choice for one syntax does not shut out another."""
    wishes = dict.fromkeys(pair for item in batch for pair in _wishes(item))
    return [build_context(sop_class, syntax) for sop_class, syntax in wishes]


def _send(association: Association, item: Parcel) -> Outcome:
    if association.is_established and not _is_accepted(association, item):
        return _not_accepted(item)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = association.send_c_store(pydicom.dcmread(item.path))
    except RuntimeError:
        return Outcome(item.path, Verdict.FAILED, None, "the association ended before this object was sent")
    except Exception as error:  # noqa: BLE001 - reading and encoding a foreign file can raise anything
        return Outcome(item.path, Verdict.FAILED, None, f"could not be read or encoded: {error}")
    if "Status" not in answer:
        if association.is_established:
            association.abort()  # an answer that comes late would be taken for the next one's
        return Outcome(item.path, Verdict.FAILED, None, "the peer did not answer")
    return _judged(item.path, int(answer.Status), str(answer.get("ErrorComment", "")).strip())


def _not_accepted(item: Parcel) -> Outcome:
    reason = "the peer does not accept this SOP class in a transfer syntax that we can send"
    return Outcome(item.path, Verdict.NOT_ACCEPTED, None, reason)


def _is_accepted(association: Association, item: Parcel) -> bool:
    accepted = {(c.abstract_syntax, t) for c in association.accepted_contexts for t in c.transfer_syntax}
    return not accepted.isdisjoint(_wishes(item))


def _judged(path: Path, status: int, comment: str) -> Outcome:
    """The outcome that a C-STORE status stands for (PS3.4 B.2.3, PS3.7 C)."""
    said = f"status 0x{status:04X}" + (f" ({comment})" if comment else "")
    if status == 0x0000:
        return Outcome(path, Verdict.STORED, status, "")
    if status in _WARNINGS:
        return Outcome(path, Verdict.STORED, status, f"{said}: {_WARNINGS[status]}")
    if status == _SOP_CLASS_NOT_SUPPORTED:
        return Outcome(path, Verdict.NOT_ACCEPTED, status, f"{said}: SOP class not supported")
    return Outcome(path, Verdict.FAILED, status, said)
