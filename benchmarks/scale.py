"""What the store costs when there is much in it, and what more workers bring: `python benchmarks/scale.py`.

Six questions, each by its name or all: `claims` (a claim among 100,000 waiting studies), `instances` (listing,
claiming and completing beside 1,000,000 instances), `share` (the store's share of a study), `workers` (two against one,
compact packages, PostgreSQL), `arrivals` (waiting times of 500 studies against the simulation of `lungnode capacity`;
the work of a study is a pause there), `ray` (what Ray adds to a study). SQLite and, where it can be started,
PostgreSQL. Some minutes on a quiet machine with two cores.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import numpy as np
import structlog
from postgresql_server import NoServer, started_server
from sqlalchemy import func, insert, select, text

from engine.loading import load_series
from engine.series_choice import SeriesRules
from node.capacity.queueing import PERCENTILES, waiting_times
from node.casework import Occasion, open_casework, runner_options
from node.caseworks import Caseworks
from node.configuration import Configuration, ScreeningConfiguration
from node.phantom import phantom_study, phantom_volume
from node.worker import Worker
from reporting import ObjectKind
from reporting.study_time import last_acquisition
from store import claims, deliveries, queries, receipts, results, revisions
from store.database import Database, open_database
from store.migrations import upgrade
from store.models import Instance, Revision, Series, Study, Transition
from store.receipts import ReceivedInstance
from store.repeated_receipts import RepeatedReceipts
from store.states import StudyState

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime.datetime(2026, 1, 5, 8, tzinfo=datetime.UTC)
LEASE = datetime.timedelta(minutes=5)
KINDS: tuple[ObjectKind, ...] = ("seg", "gsps", "pm", "sr")
PER_STUDY = 300
PAGE = 100
"""Studies on a page of the list."""


def utc_now() -> datetime.datetime:
    """The time of day."""
    return datetime.datetime.now(datetime.UTC)


def measure_ray(slices: int) -> None:
    """What Ray adds to a study of so many slices of 512 x 512, beside its stages; the target is 0.3 s."""
    try:
        from node.executors.ray_executor import RayExecutor, RayOptions
    except ModuleNotFoundError:
        print("ray       is not installed: pip install 'lungnode[ray]'")
        return
    configuration = Configuration(screening=ScreeningConfiguration(threads=1))
    with tempfile.TemporaryDirectory(prefix="lungnode-scale-") as name:
        for number, dataset in enumerate(phantom_study(phantom_volume(slices), NOW)):
            dataset.save_as(Path(name) / f"{number:04d}.dcm", enforce_file_format=True)
        volume = load_series(sorted(Path(name).iterdir()))
    options = RayOptions("local", start_seconds=300)
    with RayExecutor(configuration.models, runner_options(configuration), options) as executor:
        found = [executor.screen(volume, SeriesRules()).timings_s for _ in range(6)][1:]
    added = [timings["transfer"] for timings in found]
    whole = statistics.median(sum(timings.values()) for timings in found)
    print(
        f"ray       {slices} slices: {statistics.median(added):.3f} s ({min(added):.3f} to {max(added):.3f}) of "
        f"{whole:.1f} s (target 0.3)"
    )


def add_waiting(database: Database, count: int, *, first: int = 1, at: datetime.datetime = NOW) -> None:
    """Studies that wait to be screened, without instances; one came each second until `at`."""
    numbers = range(first, first + count)
    with database.write() as session:
        came = (at + datetime.timedelta(seconds=n - first - count) for n in numbers)
        session.execute(
            insert(Study), [a_study(n, StudyState.COMPLETE, t) for n, t in zip(numbers, came, strict=True)]
        )
        session.execute(
            insert(Revision),
            [
                {"study_id": n, "number": 1, "digest": f"{n:064x}", "instance_count": 0, "created_at": at}
                for n in numbers
            ],
        )


def a_study(number: int, state: StudyState, at: datetime.datetime) -> dict[str, Any]:
    """The row of a study."""
    times = ("created_at", "receiving_since", "last_received_at", "changed_at", "not_before")
    return {
        "id": number,
        "study_instance_uid": f"1.2.{number}",
        "patient_digest": f"{number:064x}",
        "state": state,
        "revision": 1,
        **dict.fromkeys(times, at),
    }


def add_instances(database: Database, count: int) -> None:
    """So many instances in delivered studies of PER_STUDY; the database makes the rows."""
    studies = count // PER_STUDY
    with database.write() as session:
        session.execute(insert(Study), [a_study(n, StudyState.DELIVERED, NOW) for n in range(1, studies + 1)])
        session.execute(
            insert(Series),
            [
                {"id": n, "study_id": n, "series_instance_uid": f"1.2.{n}.1", "modality": "CT"}
                for n in range(1, studies + 1)
            ],
        )
        session.add(an_instance(1, "seed"))
        session.flush()
        columns = [c.name for c in Instance.__table__.columns]
        made = {
            "id": "n.i + 1",
            "study_id": f"n.i / {PER_STUDY} + 1",
            "series_id": f"n.i / {PER_STUDY} + 1",
            "sop_instance_uid": "'1.3.' || n.i",
            "path": "'spool/' || n.i",
        }
        values = ", ".join(made.get(name, f"seed.{name}") for name in columns)
        session.execute(
            text(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {studies * PER_STUDY - 1}) "
                f"INSERT INTO instances ({', '.join(columns)}) SELECT {values} FROM n, instances seed WHERE seed.id = 1"
            )
        )
        if database.engine.dialect.name == "postgresql":
            for table in ("studies", "series", "instances"):
                session.execute(
                    text(
                        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                    )
                )
    with database.write() as session:
        session.execute(text("ANALYZE"))


def an_instance(study: int, name: str) -> Instance:
    """The row of an instance."""
    return Instance(
        study_id=study,
        series_id=study,
        sop_instance_uid=f"1.2.{study}.{name}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sha256="0" * 64,
        size=526_000,
        path=f"spool/{study}/{name}",
        received_at=NOW,
        first_revision=1,
    )


def received(study: str, number: int, path: str) -> ReceivedInstance:
    """An instance as the listener records it."""
    return ReceivedInstance(
        *(study, f"{study}.1", f"{study}.1.{number}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"),
        *("CT", "0" * 64, f"{number:064x}", 526_000, path),
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` took."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def claim_one(database: Database) -> claims.Claim:
    """Claim a study that is known to wait."""
    with database.write() as session:
        claim = claims.claim_next(session, worker="bench", lease=LEASE, max_attempts=3, now=NOW)
    assert claim is not None
    return claim


def measure_claims(database: Database, name: str, waiting: int) -> None:
    """The median of 200 claims among so many waiting studies; the target is 10 ms."""
    add_waiting(database, waiting)
    with database.write() as session:
        session.execute(text("ANALYZE"))  # as PostgreSQL does by itself after a while
    seconds = sorted(timed(lambda: claim_one(database)) for _ in range(200))
    print(
        f"claims    {name:10} {waiting:,} waiting: median {1000 * statistics.median(seconds):.2f} ms, "
        f"95 % {1000 * seconds[189]:.2f} ms (target 10)"
    )


def study_steps(database: Database, prefix: int) -> dict[str, float]:
    """Seconds of each step in the life of one study of PER_STUDY instances, medians of five."""
    found: dict[str, list[float]] = {}
    short_way = RepeatedReceipts(database)
    for number in range(5):
        uid = f"1.9.{prefix}.{number}"

        def receive(uid: str = uid) -> None:
            receive_study(database, short_way, uid)

        def list_all() -> None:
            with database.read() as session:
                queries.list_studies(session)

        def complete(uid: str = uid) -> None:
            with database.write() as session:
                study = session.scalars(select(Study.id).where(Study.study_instance_uid == uid)).one()
                revisions.complete_study(session, study, who="bench", why="quiet", now=NOW)

        steps: list[tuple[str, Callable[[], object]]] = [
            ("receive", receive),
            ("complete", complete),
            ("list", list_all),
        ]
        for step, work in steps:
            found.setdefault(step, []).append(timed(work))
        begin = time.perf_counter()
        claim = claim_one(database)
        found.setdefault("claim", []).append(time.perf_counter() - begin)
        found.setdefault("record", []).append(timed(partial(finish, database, claim, uid)))
    short_way.close()
    return {step: statistics.median(values) for step, values in found.items()}


def receive_study(database: Database, short_way: RepeatedReceipts, uid: str) -> None:
    """Record PER_STUDY instances as the listener does for one association: each is committed before the next."""
    peer = receipts.Peer("BENCH", "127.0.0.1")
    with database.write() as session:
        association = receipts.open_association(
            session, listener="bench", peer=peer, called_ae="LUNGNODE", now=NOW
        )
        first = received(uid, 0, f"{uid}/0")
        receipt = receipts.record_instance(session, first, association_id=association, now=NOW)
    for number in range(1, PER_STUDY):
        recorded = short_way.record(
            received(uid, number, f"{uid}/{number}"),
            study_id=receipt.study_id,
            series_id=receipt.series_id,
            association_id=association,
            now=NOW,
        )
        assert recorded
    with database.write() as session:
        receipts.close_association(session, association, end="released", now=NOW)


def finish(database: Database, claim: claims.Claim, uid: str) -> None:
    """Record four results and their delivery to one destination."""
    objects = [results.ResultObject(k, "1.2", f"{uid}.{k}", f"{uid}.r", f"outbox/{uid}/{k}") for k in KINDS]
    summary = {
        "timings_s": {},
        "jcs": {"positive": False},
        "m3lung": {"label": "healthy"},
        "discordant": False,
    }
    with database.write() as session:
        results.record_results(
            session,
            claim,
            objects,
            destinations={"pacs": KINDS},
            settings_digest="0" * 64,
            summary=summary,
            now=NOW,
        )
    with database.write() as session:
        due = deliveries.claim_due(
            session, who="bench", lease=LEASE, now=NOW, destinations=["pacs"], limit=32
        )
    for one in due:
        with database.write() as session:
            deliveries.record_delivered(session, one, who="bench", status=0, now=NOW)


def measure_instances(make: Callable[[], Database], name: str, count: int) -> None:
    """Every step beside `count` instances against a store with none; the target is twice.

    The empty store has one page of studies, so that the same number is listed.
    """
    empty_store = make()
    with empty_store.write() as session:
        session.execute(
            insert(Study), [a_study(n, StudyState.DELIVERED, NOW) for n in range(1001, 1001 + PAGE)]
        )
    empty = study_steps(empty_store, 1)
    full_store = make()
    add_instances(full_store, count)
    with full_store.read() as session:
        there = session.scalar(select(func.count()).select_from(Instance))
    full = study_steps(full_store, 2)
    words = ", ".join(
        f"{step} {1000 * full[step]:.1f}/{1000 * empty[step]:.1f} ms = {full[step] / empty[step]:.2f}x"
        for step in ("list", "claim", "complete", "record", "receive")
    )
    print(f"instances {name:10} {there:,} against none: {words} (target 2x)")


def measure_share(database: Database, name: str, study_seconds: float) -> None:
    """What the store costs of a study, 300 receipts included; the target is 5 %."""
    steps = study_steps(database, 3)
    cost = sum(seconds for step, seconds in steps.items() if step != "list")
    print(
        f"share     {name:10} {cost:.3f} s of the store for a study of {PER_STUDY} slices that costs a worker "
        f"{study_seconds:.1f} s: {100 * cost / (cost + study_seconds):.1f} % (target 5), of which receipts "
        f"{steps['receive']:.3f} s, each with its own commit"
    )


def put_studies(database: Database, storage: Path, count: int, slices: int, size: int) -> None:
    """Complete studies, all with the files of one phantom (as hard links)."""
    originals = storage / "phantom"
    originals.mkdir(parents=True)
    files = []
    for number, dataset in enumerate(phantom_study(phantom_volume(slices, size), NOW)):
        files.append(originals / f"{number}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    for number in range(count):
        (storage / f"spool/{number}").mkdir(parents=True)
        with database.write() as session:
            for n, file in enumerate(files):
                path = f"spool/{number}/{n}.dcm"
                os.link(file, storage / path)
                receipt = receipts.record_instance(
                    session, received(f"1.8.{number}", n, path), association_id=None, now=utc_now()
                )
            revisions.complete_study(session, receipt.study_id, who="bench", why="quiet", now=utc_now())


def measure_workers(make: Callable[[], Database], studies: int, slices: int, size: int) -> float:
    """Studies a minute of one worker and of two, each a process on a core of its own; the target is 1.7 times.

    Their processor time for a study is told beside: it says what they cost each other (caches, memory, locks) even
    where other work shares the machine. Returns what a study of PER_STUDY slices costs a worker, seconds.
    """
    rates, costs, cost = [], [], 0.0
    for workers in (1, 2):
        database = make()
        with tempfile.TemporaryDirectory(prefix="lungnode-scale-") as name:
            put_studies(database, Path(name), studies, slices, size)
            url = database.url.render_as_string(hide_password=False)
            seconds, busy = time_workers(url, name, workers)
        rates.append(60 * studies / seconds)
        costs.append(busy / studies)
        if workers == 1:
            cost = seconds / studies * PER_STUDY / slices
    print(
        f"workers   postgresql {studies} studies of {slices} slices of {size} x {size}: one {rates[0]:.1f}, two "
        f"{rates[1]:.1f} studies/min = {rates[1] / rates[0]:.2f}x (target 1.7); processor time of a study "
        f"{costs[0]:.2f} s with one, {costs[1]:.2f} s with two = {costs[1] / costs[0]:.2f}x"
    )
    return cost


def time_workers(url: str, storage: str, workers: int) -> tuple[float, float]:
    """Let so many workers empty the store at once; wall-clock seconds, and processor seconds of all of them."""
    cores = sorted(os.sched_getaffinity(0))
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--as-worker", url, storage, str(cores[number % len(cores)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )
        for number in range(workers)
    ]
    ways = [(process.stdin, process.stdout) for process in running]
    for _, answers in ways:
        assert answers is not None
        answers.readline()  # engines are open
    begin = time.perf_counter()
    for orders, _ in ways:
        assert orders is not None
        orders.write("go\n")
        orders.flush()
    busy = [float(answers.readline()) for _, answers in ways if answers is not None]
    seconds = time.perf_counter() - begin
    for process in running:
        process.communicate()
    return seconds, sum(busy)


def work_as_a_process(url: str, storage: Path, core: int) -> None:
    """A worker with the compact packages on one core, until no study waits; prints its processor time, seconds."""
    os.sched_setaffinity(0, {core})
    casework = open_casework(Configuration(screening=ScreeningConfiguration(threads=1)), KINDS)
    worker = a_worker(open_database(url), storage, casework, f"worker-{os.getpid()}")
    with casework.executor:
        phantom = sorted((storage / "phantom").iterdir())  # graphs are compiled when they first run
        casework.work(phantom, lambda volume: Occasion(last_acquisition(volume)))
        print("ready", flush=True)
        sys.stdin.readline()
        begin = time.process_time()
        while worker.work_one(threading.Event()):
            pass
        print(time.process_time() - begin, flush=True)


def a_worker(database: Database, storage: Path, casework: Any, name: str) -> Worker:
    """A worker whose results nobody wants."""
    return Worker(
        database=database,
        storage=storage,
        caseworks=lambda: Caseworks(casework),
        destinations={},
        name=name,
        lease=LEASE,
        max_attempts=3,
        clock=utc_now,
    )


def measure_arrivals(database: Database, name: str, studies: int, workers: int, mean: float) -> None:
    """Waiting times of studies that come by chance, workers 80 % busy: measured, and simulated.

    The store, the claims and the waking are real; the work of a study is a pause of a length drawn by chance. The
    simulation gets the times that workers were taken, as the store has them: the pause and what is around it.
    """
    chance = np.random.default_rng(5)
    service = chance.gamma(4.0, mean / 4, studies)
    arrivals = np.cumsum(chance.exponential(mean / (0.8 * workers), studies))
    stop = threading.Event()

    def work(*_: Any, **__: Any) -> Any:
        with lock:
            seconds = service[begun[0]]
            begun[0] += 1
        time.sleep(seconds)
        summary = {
            "timings_s": {},
            "jcs": {"positive": False},
            "m3lung": {"label": "healthy"},
            "discordant": False,
        }
        return SimpleNamespace(objects=(), summary=summary, findings=None, volume=None)

    lock, begun = threading.Lock(), [0]
    casework = SimpleNamespace(settings_digest="0" * 64, work=work)
    with tempfile.TemporaryDirectory(prefix="lungnode-scale-") as storage:
        threads = [
            threading.Thread(
                target=a_worker(database, Path(storage), casework, f"w{n}").run, args=(stop, 0.02)
            )
            for n in range(workers)
        ]
        for thread in threads:
            thread.start()
        came = arrive(database, arrivals)
        while begun[0] < studies:
            time.sleep(0.1)
        time.sleep(4 * mean)
        stop.set()
        for thread in threads:
            thread.join()
    measured, held = waits_and_holds(database)
    expected = waiting_times(came, held, workers)
    words = ", ".join(
        f"{p:g} % {a:.3f}/{b:.3f} s"
        for p, a, b in zip(
            PERCENTILES,
            np.percentile(measured, PERCENTILES),
            np.percentile(expected, PERCENTILES),
            strict=True,
        )
    )
    print(
        f"arrivals  {name:10} {len(measured)} studies, {workers} workers, work {mean:g} s: wait measured/simulated "
        f"{words}"
    )


def arrive(database: Database, arrivals: np.ndarray) -> np.ndarray:
    """Put studies into the store at these seconds from now; returns when they came, in seconds from the first."""
    begin, came = time.perf_counter(), []
    for number, at in enumerate(arrivals):
        time.sleep(max(0.0, begin + at - time.perf_counter()))
        with database.write() as session:
            instance = received(f"1.7.{number}", 0, f"spool/{number}")
            receipt = receipts.record_instance(session, instance, association_id=None, now=utc_now())
            revisions.complete_study(session, receipt.study_id, who="bench", why="quiet", now=utc_now())
        came.append(time.perf_counter())
    return np.asarray(came) - came[0]


def waits_and_holds(database: Database) -> tuple[np.ndarray, np.ndarray]:
    """Seconds from complete to claimed, and seconds that a worker was taken, of each study; from the store's account.

    A worker is taken from the claim to the end, and for as long as workers need between two studies where one waits.
    """
    with database.read() as session:
        rows = session.execute(
            select(Transition.after, Transition.at, Transition.who).order_by(
                Transition.study_id, Transition.id
            )
        ).all()
    at = {
        state: np.asarray([when.timestamp() for after, when, _ in rows if after is state])
        for state in (StudyState.COMPLETE, StudyState.SCREENING, StudyState.DELIVERED)
    }
    who = np.asarray([name for after, _, name in rows if after is StudyState.SCREENING])
    came, claimed, ended = at.values()
    between = []
    for worker in set(who):
        mine = np.argsort(claimed + np.where(who == worker, 0.0, np.inf))[: np.count_nonzero(who == worker)]
        queued = came[mine[1:]] < ended[mine[:-1]]
        between += list((claimed[mine[1:]] - ended[mine[:-1]])[queued])
    return claimed - came, ended - claimed + float(np.mean(between)) if between else ended - claimed


@contextmanager
def stores(kind: str) -> Iterator[Callable[[], Database]]:
    """Makes empty stores of one kind. Raises NoServer."""
    opened: list[Database] = []

    def made(url: str) -> Database:
        upgrade(url)
        opened.append(open_database(url))
        return opened[-1]

    with tempfile.TemporaryDirectory(prefix="lungnode-scale-") as folder:
        if kind == "sqlite":
            yield lambda: made(f"sqlite:///{folder}/{len(opened)}.db")
        else:
            with started_server() as server:
                databases: list[Any] = []

                def another() -> Database:
                    databases.append(server.database())
                    return made(databases[-1].__enter__())

                yield another
                for database in opened:
                    database.close()
                for one in databases:
                    one.__exit__(None, None, None)


def main() -> None:
    """Ask the questions that are named, or all."""
    questions = ("claims", "instances", "share", "workers", "arrivals", "ray")
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(questions))
    arguments.add_argument("--waiting", type=int, default=100_000)
    arguments.add_argument("--instances", type=int, default=1_000_000)
    arguments.add_argument("--studies", type=int, default=8, help="of the comparison of workers")
    arguments.add_argument("--slices", type=int, default=100)
    arguments.add_argument("--size", type=int, default=512)
    arguments.add_argument("--arrivals", type=int, default=500)
    arguments.add_argument("--as-worker", nargs=3, metavar=("URL", "FOLDER", "CORE"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if given.as_worker:
        work_as_a_process(given.as_worker[0], Path(given.as_worker[1]), int(given.as_worker[2]))
        return
    asked = given.questions or questions
    if unknown := set(asked) - set(questions):
        arguments.error(f"{', '.join(unknown)}: allowed are {', '.join(questions)}")
    if "ray" in asked:
        measure_ray(PER_STUDY)
    cost = 0.0
    for kind in ("postgresql", "sqlite"):
        try:
            with stores(kind) as make:
                if "workers" in asked and kind == "postgresql":
                    cost = measure_workers(make, given.studies, given.slices, given.size)
                if "claims" in asked:
                    measure_claims(make(), kind, given.waiting)
                if "instances" in asked:
                    measure_instances(make, kind, given.instances)
                if "share" in asked and cost:
                    measure_share(make(), kind, cost)
                if "arrivals" in asked and kind == "postgresql":
                    measure_arrivals(make(), kind, given.arrivals, 2, 0.3)
        except NoServer as reason:
            print(f"          {kind}: {reason}")


if __name__ == "__main__":
    main()
