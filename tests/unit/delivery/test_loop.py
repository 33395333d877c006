"""The delivery loop against a scripted PACS, with a clock that the test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from delivery_desk import AWAY, BOTH, KINDS, Desk

from store.states import DeliveryState, StudyState

SEG, SR, ENHANCED_SR = KINDS.values()

PACSWith = Callable[..., Any]


def test_a_study_is_delivered_with_its_last_object(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    desk.screen("seg", "sr")
    assert desk.study.state is StudyState.DELIVERING
    assert desk.deliver(pacs.peer) == 2
    assert desk.study.state is StudyState.DELIVERED
    assert len(pacs.stored) == 2 and pacs.associations == 1
    assert desk.deliver(pacs.peer) == 0


def test_a_pacs_that_is_away_is_tried_again_ever_later_and_then_gets_everything(
    desk: Desk, pacs_with: PACSWith
) -> None:
    desk.screen("sr")
    waits = []
    for _ in range(5):
        assert desk.deliver(AWAY) == 1
        (line,) = desk.deliveries
        assert line.state is DeliveryState.PENDING and "no association" in line.last_error
        waits.append((line.next_attempt_at - desk.clock()).total_seconds())
        assert desk.deliver(AWAY) == 0, "tried before it was due"
        desk.clock.forward(waits[-1])
    assert waits == [10, 20, 40, 60, 60]
    pacs = pacs_with({SR: BOTH})
    assert desk.deliver(pacs.peer) == 1
    assert desk.study.state is StudyState.DELIVERED


def test_waiting_times_vary_by_chance(desk: Desk) -> None:
    desk.screen("sr")
    desk.deliver(AWAY, chance=lambda: 1.0)
    (line,) = desk.deliveries
    assert line.next_attempt_at - desk.clock() == timedelta(seconds=12)


def test_only_the_object_that_failed_is_sent_again(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    seg = desk.screen("seg", "sr")["seg"]
    pacs.status = lambda uid: 0xA700 if uid == seg.stem else 0xB000
    desk.deliver(pacs.peer)
    by_kind = desk.by_kind
    assert (by_kind["seg"].state, by_kind["seg"].last_status) == (DeliveryState.PENDING, 0xA700)
    assert by_kind["sr"].state is DeliveryState.DELIVERED
    assert "coerced" in by_kind["sr"].last_error
    pacs.status = lambda uid: 0x0000
    desk.clock.forward(10)
    assert desk.deliver(pacs.peer) == 1
    assert desk.study.state is StudyState.DELIVERED


def test_a_class_that_is_not_accepted_is_recorded_and_not_tried_again(
    desk: Desk, pacs_with: PACSWith
) -> None:
    pacs = pacs_with({SR: BOTH})
    desk.screen("seg", "sr")
    desk.deliver(pacs.peer)
    desk.clock.forward(3600)
    assert desk.deliver(pacs.peer) == 0
    by_kind = desk.by_kind
    assert by_kind["seg"].state is DeliveryState.NOT_ACCEPTED
    assert by_kind["sr"].state is DeliveryState.DELIVERED
    study = desk.study
    assert study.state is StudyState.DELIVERED and "does not accept seg" in study.reason


def test_a_destination_that_accepts_nothing_fails_the_study(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with({SR: BOTH})
    desk.screen("seg")
    desk.deliver(pacs.peer)
    study = desk.study
    assert study.state is StudyState.FAILED and "does not accept seg" in study.reason


def test_the_enhanced_report_stands_in_where_the_other_is_not_accepted(
    desk: Desk, pacs_with: PACSWith
) -> None:
    pacs = pacs_with({SEG: BOTH, ENHANCED_SR: BOTH})
    desk.screen("seg", "sr", "sr_enhanced", wanted=("seg", "sr"))
    while desk.deliver(pacs.peer):
        pass
    by_kind = desk.by_kind
    assert by_kind["sr"].state is DeliveryState.NOT_ACCEPTED
    assert by_kind["sr_enhanced"].state is DeliveryState.DELIVERED
    study = desk.study
    assert study.state is StudyState.DELIVERED and "does not accept sr:" in study.reason


def test_a_result_file_that_is_gone_is_said_and_the_others_are_sent(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    desk.screen("seg", "sr")["seg"].unlink()
    desk.deliver(pacs.peer)
    by_kind = desk.by_kind
    assert "result file" in by_kind["seg"].last_error
    assert by_kind["sr"].state is DeliveryState.DELIVERED


def test_stopping_hands_back_what_was_not_sent(desk: Desk, pacs_with: PACSWith) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    desk.screen("seg", "sr")
    stop = threading.Event()

    def stop_after_first(uid: str) -> int:
        stop.set()
        return 0x0000

    pacs.status = stop_after_first
    desk.courier(pacs.peer).deliver_due(stop)
    states = [line.state for line in desk.deliveries]
    assert states == [DeliveryState.DELIVERED, DeliveryState.PENDING]
    assert desk.deliver(pacs.peer, who="delivery-2") == 1, (
        "the successor need not wait for a lease to run out"
    )


def test_the_loop_delivers_what_comes_and_ends_when_told(desk: Desk, pacs_with: PACSWith) -> None:
    """It is woken: by itself it would look again after a minute only."""
    pacs = pacs_with({SR: BOTH})
    stop = threading.Event()
    loop = threading.Thread(target=desk.courier(pacs.peer).run, args=(stop, 60.0), daemon=True)
    loop.start()
    desk.screen("sr")
    deadline = time.monotonic() + 30
    while desk.study.state is not StudyState.DELIVERED and time.monotonic() < deadline:
        time.sleep(0.02)
    assert desk.study.state is StudyState.DELIVERED
    stop.set()
    loop.join(10)
    assert not loop.is_alive()
