"""What a request for storage commitment and its report hold (PS3.4 J.3), and what the node commits to. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from scp.instances import valid_uid
from store.commitment import HeldInstance

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT = 1
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event type IDs (PS3.4 J.3.3.1)."""
NO_SUCH_INSTANCE, CLASS_CONFLICT, PROCESSING_FAILURE = 0x0112, 0x0119, 0x0110
"""Failure Reason (PS3.3 C.14.1.1)."""

MAX_REFERENCES = 100_000


class RequestRefused(Exception):
    """An N-ACTION that cannot be taken; `status` is the answer (PS3.7 C)."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Judgement:
    """What the node commits to. Pairs of SOP Class UID and SOP Instance UID; failed with its reason."""

    committed: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str, int], ...]

    @property
    def event_type(self) -> int:
        return SOME_FAILED if self.failed else ALL_COMMITTED


def parse_request(action: int, information: Dataset) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Transaction UID and references of an N-ACTION (PS3.4 table J.3-1). Raises RequestRefused."""
    if action != REQUEST_COMMITMENT:
        raise RequestRefused(0x0123, f"no such action: {action}")
    transaction = str(information.get("TransactionUID") or "")
    if not valid_uid(transaction):
        raise RequestRefused(0x0115, "Transaction UID is no valid UID")
    items = information.get("ReferencedSOPSequence") or ()
    pairs = tuple(
        (str(i.get("ReferencedSOPClassUID") or ""), str(i.get("ReferencedSOPInstanceUID") or ""))
        for i in items
    )
    if not pairs:
        raise RequestRefused(0x0120, "Referenced SOP Sequence is missing or empty")
    if len(pairs) > MAX_REFERENCES or not all(valid_uid(uid) for pair in pairs for uid in pair):
        raise RequestRefused(0x0115, "Referenced SOP Sequence holds what is no valid UID")
    return transaction, pairs


def judge(
    references: Sequence[tuple[str, str]],
    held: Mapping[str, HeldInstance],
    size_on_disk: Callable[[HeldInstance], int | None],
) -> Judgement:
    """Commit to what the store names and the disk holds in full. Pure but for `size_on_disk`, None for no file."""
    committed: list[tuple[str, str]] = []
    failed: list[tuple[str, str, int]] = []
    for sop_class, uid in references:
        instance = held.get(uid)
        if instance is None:
            failed.append((sop_class, uid, NO_SUCH_INSTANCE))
        elif instance.sop_class_uid != sop_class:
            failed.append((sop_class, uid, CLASS_CONFLICT))
        elif (size_on_disk(instance) or 0) < instance.size:
            failed.append((sop_class, uid, PROCESSING_FAILURE))
        else:
            committed.append((sop_class, uid))
    return Judgement(tuple(committed), tuple(failed))


def action_information(transaction_uid: str, references: Iterable[tuple[str, str]]) -> Dataset:
    """Action information of a request for pairs of SOP Class UID and SOP Instance UID (PS3.4 table J.3-1)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = Items([_item(*pair) for pair in references])
    return information


def event_information(transaction_uid: str, judgement: Judgement) -> Dataset:
    """Event information of the report (PS3.4 table J.3-2)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    if judgement.committed:
        information.ReferencedSOPSequence = Items([_item(*pair) for pair in judgement.committed])
    if judgement.failed:
        information.FailedSOPSequence = Items([_item(*failure) for failure in judgement.failed])
    return information


def _item(sop_class: str, sop_instance: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    if reason is not None:
        item.FailureReason = reason
    return item
