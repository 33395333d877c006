"""SIGKILL on two nodes that have no disk in common: whatever was acknowledged is screened and delivered once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from killed_parts import Edge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PARTS = ("listener@a", "worker@a", "listener@b", "worker@b", "delivery@b")
ROUNDS = int(os.environ.get("LUNGNODE_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("LUNGNODE_KILL_SEED", "7"))

EDGES = [
    ("listener@a", "before images are uploaded", "store.object_folder:ObjectFolder.put", "before", 1),
    ("listener@a", "between upload and note", "store.uploads:record_uploaded", "before", 1),
    ("listener@a", "upload noted, before the commit", "store.uploads:record_uploaded", "after", 1),
    ("worker@b", "while images are fetched", "store.object_folder:ObjectFolder.fetch", "after", 1),
    (
        "worker@b",
        "results in the object store, not in the store",
        "store.shared_storage:SharedStorage.publish",
        "after",
        1,
    ),
    ("delivery@b", "between two results that another node made", "reporting.delivery.scu:_send", "before", 3),
]


@pytest.mark.parametrize(
    ("part", "fault", "function", "when", "nth"), [pytest.param(*e, id=e[1]) for e in EDGES]
)
def test_killed_at_an_edge_between_nodes(
    two_machines: Any, study: Callable[..., Any], part: str, fault: str, function: str, when: str, nth: int
) -> None:
    """The study comes over both listeners; where a worker is to die, the other node has none."""
    world = two_machines
    kind = part.partition("@")[0]
    tally = world.tally(fault, f"SIGKILL of the {kind}")
    worker = part if kind == "worker" else "worker@a" if kind == "delivery" else "worker@b"
    before = world.deaths[part]
    world.run(*({"listener@a", "listener@b", "delivery@b", worker} - {part}))
    world.start(part, Edge(function, when, nth))
    uid, instances = study(slices=8, size=128)
    world.send(instances)
    world.await_end(uid)
    world.await_death(part, before)
    world.check(uid, instances, tally)


def test_killed_at_any_time_on_two_nodes(two_machines: Any, study: Callable[..., Any]) -> None:
    tally = two_machines.tally("any time, any part of either node", "SIGKILL at random times")
    studies = [study(slices=6, size=128) for _ in range(ROUNDS)]
    two_machines.outlive_random_kills(PARTS, studies, tally, SEED)
