"""Instances that the node fetched itself, or got by another way than C-STORE: the same durable receipt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from scp.pacs_query.source import FetchedInstance, Receive
from scp.receipt import Answer, Receiver, Reception, StoreRequest
from store import receipts
from store.database import Database
from store.receipts import Peer

_PIECE = 64 * 1024


def take_in(
    receiver: Receiver, instance: FetchedInstance, peer: Peer, association_id: int | None = None
) -> Answer:
    """Keep and record one instance; the answer is what a C-STORE sender would get.

    association_id: of the association in the store that it counts for.
    """
    request = StoreRequest(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        abstract_syntax_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        peer=peer,
        association_id=association_id,
        known_series={},
    )
    reception = Reception(receiver, request)
    with memoryview(instance.data_set) as data_set:
        for start in range(0, len(data_set), _PIECE):
            reception.write(data_set[start : start + _PIECE])
    return reception.finish()


def receive_from(receiver: Receiver, peer: Peer) -> Receive:
    """What takes the instances in that were fetched from `peer`."""
    return lambda instance: take_in(receiver, instance, peer).status


@contextmanager
def fetching(
    receiver: Receiver, database: Database, peer: Peer, name: str, now: Callable[[], datetime]
) -> Iterator[Receive]:
    """What takes in the instances of one fetch from `peer`; until it is over, their studies are not complete.

    name: of who fetches, as in `store.receipts.open_association`.
    """
    with database.write() as session:
        number = receipts.open_association(session, listener=name, peer=peer, called_ae="", now=now())
    end = "fetch broke off"
    try:
        yield lambda instance: take_in(receiver, instance, peer, number).status
        end = "fetched"
    finally:
        with database.write() as session:
            receipts.close_association(session, number, end=end, now=now())
