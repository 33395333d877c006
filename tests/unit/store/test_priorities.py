"""The order of claims: urgent first, the oldest first within a priority, and no study waits for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from store.priorities import PATIENCE, Priority, in_turn

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
U, N, B = Priority.URGENT, Priority.NORMAL, Priority.BACKGROUND


def turns(**minutes_waited: int) -> list[int]:
    waiting = {int(Priority(name)): NOW - timedelta(minutes=m) for name, m in minutes_waited.items()}
    return in_turn(waiting)


def test_urgent_comes_first_among_studies_that_came_together() -> None:
    assert turns(background=0, normal=0, urgent=0) == [U, N, B]


def test_a_normal_study_that_waited_longer_than_its_patience_goes_before_a_new_urgent_one() -> None:
    assert turns(normal=9, urgent=0)[0] == U
    assert turns(normal=11, urgent=0)[0] == N


def test_background_goes_first_after_two_hours_at_most() -> None:
    assert turns(background=109, normal=0)[0] == N
    assert turns(background=121, normal=0, urgent=0)[0] == B


def test_nothing_waits() -> None:
    assert in_turn({}) == []


@given(
    priority=st.sampled_from(list(Priority)),
    every=st.integers(1, 30),
    others=st.lists(st.sampled_from(list(Priority)), min_size=1),
)
def test_no_priority_starves_under_a_stream_of_others(
    priority: Priority, every: int, others: list[Priority]
) -> None:
    """A study whose turn has not come within the longest patience goes before every one that comes then."""
    late = NOW + max(PATIENCE.values()) + timedelta(minutes=every)
    waiting = {int(other): late for other in others if other is not priority} | {int(priority): NOW}
    assert in_turn(waiting)[0] == priority


def test_priorities_are_read_by_name() -> None:
    assert Priority("urgent") is Priority.URGENT
