"""A PACS that fails in every way: what an admin reads of it, and that everything arrives when it is over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from delivery_desk import AWAY, BOTH, KINDS, Desk
from pynetdicom import evt
from pynetdicom.pdu import P_DATA_TF

from scp.peer import Peer, Timeouts
from store import processes, set_back
from store.states import DeliveryState, StudyState

PACSWith = Callable[..., Any]
CLASSES = {KINDS["seg"]: BOTH, KINDS["sr"]: BOTH}
SHORT = Timeouts(connect=5, association=0.3, answer=0.3)


def waits(desk: Desk, *words: str) -> None:
    """The objects wait, `status` counts them, and the study's history says why in these words."""
    assert desk.study.state is StudyState.DELIVERING
    assert "Waiting to be delivered destination objects pacs 2" in desk.status
    for word in words:
        assert word in desk.why, desk.why


def arrives(desk: Desk, peer: Peer) -> None:
    """When its time has come, everything is delivered, by itself."""
    desk.clock.forward(60)
    assert desk.deliver(peer) == 2
    assert desk.study.state is StudyState.DELIVERED
    assert "Waiting to be delivered" not in desk.status


@contextmanager
def silent() -> Iterator[Peer]:
    """Somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Peer("PACS", "127.0.0.1", server.getsockname()[1])


def test_one_that_does_not_let_us_in(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with(CLASSES)
    desk.screen("seg", "sr")
    desk.deliver(Peer("OTHER", "127.0.0.1", pacs.peer.port))
    waits(desk, "rejected the association", "Called AE title")
    arrives(desk, pacs.peer)


def test_one_that_says_nothing(desk: Desk, pacs_with: PACSWith) -> None:
    desk.screen("seg", "sr")
    with silent() as peer:
        desk.deliver(peer, timeouts=SHORT)
    waits(desk, "no association")
    arrives(desk, pacs_with(CLASSES).peer)


def test_one_that_is_slow_gets_everything(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with(CLASSES)
    pacs.status = lambda uid: int(threading.Event().wait(2 * SHORT.answer))
    desk.screen("seg", "sr")
    assert desk.deliver(pacs.peer) == 2
    assert desk.study.state is StudyState.DELIVERED


def test_one_that_is_slower_than_we_wait(desk: Desk, pacs_with: PACSWith) -> None:
    pacs, at_last = pacs_with(CLASSES), threading.Event()
    pacs.status = lambda uid: int(not at_last.wait(30))
    desk.screen("seg", "sr")
    desk.deliver(pacs.peer, timeouts=SHORT)
    at_last.set()
    waits(desk, "the peer did not answer", "the association ended before this object was sent")
    arrives(desk, pacs.peer)


@pytest.mark.parametrize("status", [0x0110, 0xA700, 0xC000])
def test_one_that_answers_a_failure(desk: Desk, pacs_with: PACSWith, status: int) -> None:
    pacs = pacs_with(CLASSES)
    pacs.status = lambda uid: status
    desk.screen("seg", "sr")
    desk.deliver(pacs.peer)
    waits(desk, f"0x{status:04X}")
    pacs.status = lambda uid: 0x0000
    arrives(desk, pacs.peer)


def test_one_that_answers_a_warning_has_it(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with(CLASSES)
    pacs.status = lambda uid: 0xB000
    desk.screen("seg", "sr")
    desk.deliver(pacs.peer)
    assert desk.study.state is StudyState.DELIVERED
    assert "0xB000" in desk.why and "coerced" in desk.why


def test_one_that_drops_the_association_in_the_middle_of_an_object(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with(CLASSES)
    pieces: list[int] = []

    def drop(event: evt.Event) -> None:
        if isinstance(event.pdu, P_DATA_TF):
            pieces.append(len(event.pdu))
            if len(pieces) == 3:  # the command and one fragment of many have come
                event.assoc.dul.socket.close()

    dropping = pacs_with(CLASSES, handlers=[(evt.EVT_PDU_RECV, drop)])
    desk.screen("seg", "sr", size=500_000)
    desk.deliver(dropping.peer)
    assert sum(pieces) < 500_000 and dropping.stored == {}
    waits(desk, "the peer did not answer", "the association ended before this object was sent")
    arrives(desk, pacs.peer)


def test_one_that_is_gone_for_twelve_hours(desk: Desk, pacs_with: PACSWith) -> None:
    desk.screen("seg", "sr")
    end = desk.clock().timestamp() + 12 * 3600
    while desk.clock().timestamp() < end:
        desk.deliver(AWAY)
        desk.clock.forward(900)
    waits(desk, "no association", "attempts: 48")
    assert all(line.state is DeliveryState.PENDING for line in desk.deliveries)
    arrives(desk, pacs_with(CLASSES).peer)


def test_the_clock_is_set_back_while_one_is_away(desk: Desk, pacs_with: PACSWith) -> None:
    desk.screen("seg", "sr")
    with desk.database.write() as session:
        processes.beat(session, name="delivery-1", kind="delivery", doing="running", now=desk.clock())
    desk.deliver(AWAY)
    desk.clock.forward(-7 * 24 * 3600)
    pacs = pacs_with(CLASSES)
    assert desk.deliver(pacs.peer) == 0, "the clock reaches its time in a week"
    with desk.database.write() as session:
        set_back.follow(session, desk.clock())
    arrives(desk, pacs.peer)
