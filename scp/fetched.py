"""Instances that the node fetched itself, or got by another way than C-STORE: the same durable receipt."""

from __future__ import annotations

from scp.pacs_query.source import FetchedInstance, Receive
from scp.receipt import Answer, Receiver, Reception, StoreRequest
from store.receipts import Peer

_PIECE = 64 * 1024


def take_in(receiver: Receiver, instance: FetchedInstance, peer: Peer) -> Answer:
    """Keep and record one instance; the answer is what a C-STORE sender would get."""
    request = StoreRequest(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        abstract_syntax_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        peer=peer,
        association_id=None,
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
