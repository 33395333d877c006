"""SIGKILL at every edge: nothing acknowledged is lost, no result set is doubled, every study reaches its end."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from killed_parts import PROGRAM, Edge
from sqlalchemy import select

from node.phantom import phantom_study, phantom_volume
from store.connection import create_store_engine
from store.migrations import current, head, upgrade
from store.models import Transition

PARTS = ("listener", "worker", "delivery")
TIMES = int(os.environ.get("LUNGNODE_KILL_TIMES", "1"))
ROUNDS = int(os.environ.get("LUNGNODE_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("LUNGNODE_KILL_SEED", "7"))

FEW = (
    "between rename and commit",
    "between commit and answer",
    "in the middle of inference",
    "after the PACS stored, before the node noted",
)
"""Edges that every run of the tests tries; the others take their time in `make test-all`."""

EDGES = [
    ("listener", "during a C-STORE, a data set half written", "scp.receipt:Reception.write", "before", 8),
    ("listener", "during a C-STORE, between write and rename", "scp.spool:Spool.keep", "before", 5),
    ("listener", "between rename and flush", "scp.spool:IncomingFile.flush", "before", 5),
    ("listener", "between rename and commit", "scp.receipt:Receiver._record", "before", 5),
    ("listener", "between commit and answer", "scp.receipt:Receiver._record", "after", 5),
    (
        "listener",
        "while a study is completed, before the commit",
        "store.revisions:complete_study",
        "after",
        1,
    ),
    ("worker", "while claiming, before the commit", "store.claims:_claim", "after", 1),
    ("worker", "after the claim", "node.worker:Worker._screen", "before", 1),
    ("worker", "in the middle of inference", "light_casework:infer", "before", 1),
    ("worker", "between two result objects in the outbox", "node.outbox:write_durably", "before", 3),
    ("worker", "results in the store, before the commit", "store.results:record_results", "after", 1),
    ("worker", "after the commit of the results", "node.worker:Worker._screen", "after", 1),
    ("delivery", "between two result objects on the wire", "reporting.delivery.scu:_send", "before", 3),
    ("delivery", "after the PACS stored, before the node noted", "reporting.delivery.scu:_send", "after", 2),
    ("delivery", "delivery noted, before the commit", "store.deliveries:record_delivered", "after", 2),
]


@pytest.mark.parametrize(
    ("part", "fault", "function", "when", "nth"),
    [pytest.param(*e, id=e[1], marks=() if e[1] in FEW else pytest.mark.slow) for e in EDGES],
)
def test_killed_at_an_edge(
    world: Any,
    study: Callable[..., Any],
    part: str,
    fault: str,
    function: str,
    when: str,
    nth: int,
) -> None:
    edge = Edge(function, when, nth)
    tally = world.tally(fault, f"SIGKILL of the {part}")
    for _ in range(TIMES):
        before = world.deaths[part]
        world.run(*(other for other in PARTS if other != part))
        world.start(part, edge)
        uid, instances = study()
        world.send(instances)
        world.await_end(uid)
        world.await_death(part, before)
        world.check(uid, instances, tally)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("any time, any part", PARTS),
        ("any time, two listeners at one port, two workers", (*PARTS, "listener#2", "worker#2")),
    ],
)
def test_killed_at_any_time(
    world: Any, study: Callable[..., Any], fault: str, parts: tuple[str, ...]
) -> None:
    """Any part, at random times, while studies come in and until they have ended."""
    tally = world.tally(fault, "SIGKILL at random times")
    studies = [study(slices=6, size=128) for _ in range(ROUNDS)]
    world.outlive_random_kills(parts, studies, tally, SEED)


@pytest.mark.slow
def test_a_worker_that_hangs_is_taken_over_and_its_late_result_refused(
    world: Any, study: Callable[..., Any]
) -> None:
    tally = world.tally(
        "a worker hangs in the middle of inference", "SIGSTOP; another worker takes over; SIGCONT"
    )
    world.run("listener", "delivery")
    world.start("worker", Edge("light_casework:infer", "before", 1, signal.SIGSTOP), name="hung")
    uid, instances = study()
    world.send(instances)
    world.until(lambda: is_stopped(world.parts["hung"].pid), "the worker hangs")
    world.start("worker")
    world.await_end(uid)
    world.parts["hung"].send_signal(signal.SIGCONT)
    world.until(lambda: "lease lost" in world.log(), "the late result is refused")
    world.check(uid, instances, tally)
    with world.database.read() as session:
        said = " ".join(session.scalars(select(Transition.why)))
    assert "let its lease run out" in said


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.slow
def test_killed_with_the_real_networks(world: Any) -> None:
    """What the light casework stands for elsewhere: a phantom, both packages, every result object."""
    tally = world.tally("in the middle of inference, the real networks", "SIGKILL of the worker")
    edge = Edge("engine.runners.openvino_runner:OpenVINORunner.run_each", "after", 2)
    before = world.deaths["screening-worker"]
    world.run("listener", "delivery")
    world.start("screening-worker", edge)
    volume = phantom_volume(64, 128, seed=3)
    instances = list(phantom_study(volume, datetime.datetime(2026, 1, 2, 3, 4, 5)))
    uid = str(instances[0].StudyInstanceUID)
    world.send(instances)
    world.await_end(uid)
    world.await_death("screening-worker", before)
    world.check(uid, instances, tally)


@pytest.mark.parametrize("nth", [1, 6, 12])
def test_killed_during_a_migration(world: Any, nth: int) -> None:
    """A migration is one transaction: killed anywhere, the schema that was there is there."""
    tally = world.tally("during a migration", "SIGKILL of the starting node")
    url = world.new_database()
    settings = yaml.safe_load((world.folder / "config.yaml").read_text()) | {"database": {"url": url}}
    file = world.folder / f"other-{nth}.yaml"
    file.write_text(yaml.safe_dump(settings))
    edge = ["alembic.op:create_table", "after", str(nth), str(int(signal.SIGKILL))]
    command = [sys.executable, str(PROGRAM), "migration", str(file), *edge]
    died = subprocess.run(command, capture_output=True, timeout=240, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    engine = create_store_engine(url)
    assert current(engine) is None
    engine.dispose()
    assert upgrade(url) == (None, head())
    tally.tried += 1
