"""Answers from the store for the command line: as tables for people, as JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from node.command_options import CommandError
from node.configuration import Configuration, StorageConfiguration
from node.storage_account import storage_account
from node.verdicts import verdict_lines
from store import processes, queries, uploads
from store.database import Database, open_database
from store.ledger import UnknownStudy
from store.states import StudyState
from store.verdicts import VerdictChoice

WATCH_SECONDS = 1.0
REFUSALS = 10
"""So many of the newest refusals are shown, of the last day."""
STALE_SECONDS = 60
"""A process that has not been heard of for this long is called silent."""


@dataclass(frozen=True)
class Answer:
    """`data` is the JSON form; `paint` prints the same on a terminal."""

    data: Any
    paint: Callable[[Console], None]


@contextmanager
def opened(configuration: Configuration) -> Iterator[Database]:
    """The store of the configuration. Raises CommandError where there is none, store.migrations.SchemaMismatch."""
    url = make_url(configuration.database.url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise CommandError(
            f"{url.database}: there is no store yet; start the node, or name its file with --config"
        )
    database = open_database(configuration.database.url)
    try:
        yield database
    finally:
        database.close()


def print_answer(answer: Answer, as_json: bool) -> None:
    """Print the answer in the form asked for."""
    if as_json:
        print(json.dumps(answer.data, indent=1, default=_plain))
    else:
        answer.paint(Console(highlight=False))


def watched(configuration: Configuration, question: Callable[[Database], Answer]) -> NoReturn:
    """Show an answer and renew it until somebody ends the program."""
    screen = Console(highlight=False)
    with opened(configuration) as database, Live(console=screen, screen=True, auto_refresh=False) as live:
        while True:
            with screen.capture() as painted:
                question(database).paint(screen)
            live.update(Text.from_ansi(painted.get()), refresh=True)
            time.sleep(WATCH_SECONDS)


def node_status(database: Database, now: datetime, storage: StorageConfiguration | None = None) -> Answer:
    """Processes with their last heartbeat, studies by state, objects waiting by destination, refusals of a day.

    storage: the storage folder to tell of, None for none.
    """
    with database.read() as session:
        living = processes.living(session)
        counts = queries.counts_by_state(session)
        waiting = queries.pending_deliveries(session)
        held = uploads.holdings_by_node(session)
        refused = queries.recent_refusals(session, since=now - timedelta(days=1), limit=REFUSALS)
        kept = None if storage is None else storage_account(session, storage, now)
    data = {
        "processes": [asdict(p) | {"silent": _silent(p.heartbeat_at, now)} for p in living],
        "studies": {state.value: count for state, count in counts.items()},
        "waiting_deliveries": waiting,
        "waiting_uploads": [asdict(h) for h in held],
        "refusals": [asdict(r) for r in refused],
        "storage": None if kept is None else asdict(kept),
    }

    def paint(console: Console) -> None:
        rows = [(p.name, p.kind, p.doing, _seen(p.heartbeat_at, now)) for p in living]
        if rows:
            console.print(_table("Processes", ("name", "part", "does", "heard of"), rows))
        else:
            console.print("The node does not run here: no process has reported.")
        console.print(_table("Studies", ("state", "count"), [(s.value, c) for s, c in counts.items()]))
        if waiting:
            console.print(_table("Waiting to be delivered", ("destination", "objects"), waiting.items()))
        if held:
            uploads_waiting = [(h.node, h.studies, h.images, _local(h.since)) for h in held]
            console.print(
                _table("Waiting for the object store", ("at", "studies", "images", "since"), uploads_waiting)
            )
        if refused:
            lines = [(_local(r.at), r.who, r.what) for r in refused]
            console.print(_table("Refused in the last day", ("when", "sender", "what"), lines))
        if kept is not None:
            console.print(kept.words)

    return Answer(data, paint)


def study_list(
    database: Database,
    states: Sequence[StudyState],
    limit: int,
    since: datetime | None = None,
    verdict: VerdictChoice | None = None,
) -> Answer:
    """Studies, newest change first; since: only those that changed at or after it."""
    with database.read() as session:
        lines = queries.list_studies(session, states=states, since=since, verdict=verdict, limit=limit)

    def paint(console: Console) -> None:
        rows = [
            (
                s.study_instance_uid,
                s.state.value,
                s.verdict or "",
                s.instance_count,
                _local(s.changed_at),
                s.reason,
            )
            for s in lines
        ]
        if rows:
            console.print(_table(None, ("study", "state", "verdict", "instances", "changed", "reason"), rows))
        else:
            console.print("no study")

    return Answer([asdict(line) for line in lines], paint)


def study_details(database: Database, uid: str) -> Answer:
    """State, verdicts, series and deliveries of one study."""
    with database.read() as session:
        account = _account(session, uid)

    def paint(console: Console) -> None:
        study = account.study
        console.print(f"{study.study_instance_uid}: {study.state.value}, {study.instance_count} instances")
        if study.reason:
            console.print(study.reason)
        for screening in account.screenings[-1:]:
            for line in [*verdict_lines(screening.summary), screening.summary.get("series_choice", "")]:
                console.print(line)
        series = [
            (s.series_instance_uid, s.modality, s.instance_count, "; ".join(s.kept_out))
            for s in account.series
        ]
        console.print(_table("Series", ("series", "modality", "instances", "kept out"), series))
        sent = [(d.kind, d.destination, d.state.value, d.attempts, d.last_error) for d in account.deliveries]
        if sent:
            console.print(_table("Objects", ("object", "destination", "state", "attempts", "remark"), sent))

    return Answer(asdict(account), paint)


def study_history(database: Database, uid: str) -> Answer:
    """Everything that happened to one study, oldest first."""
    with database.read() as session:
        account = _account(session, uid)

    def paint(console: Console) -> None:
        told = [(e.at, e.who, e.what) for e in account.history]
        told += [
            (
                d.delivered_at or d.next_attempt_at,
                d.destination,
                f"{d.kind}: {d.state.value}, attempts: {d.attempts} {d.last_error}".strip(),
            )
            for d in account.deliveries
        ]
        rows = [(_local(at), who, what) for at, who, what in sorted(told, key=lambda one: one[0])]
        console.print(_table(None, ("when", "who", "what"), rows))

    return Answer(asdict(account), paint)


def _account(session: Session, uid: str) -> queries.StudyAccount:
    """The account of one study, by its UID or a beginning that no other has: lists break long UIDs into lines.

    Raises store.ledger.UnknownStudy, CommandError.
    """
    try:
        return queries.why(session, uid)
    except UnknownStudy:
        begun = [s.study_instance_uid for s in queries.list_studies(session, uid_prefix=uid, limit=2)]
    if not begun:
        raise UnknownStudy(uid)
    if len(begun) > 1:
        raise CommandError(
            f"several studies begin with {uid}, such as {' and '.join(begun)}; give more of it"
        )
    return queries.why(session, begun[0])


def _table(title: str | None, columns: Sequence[str], rows: Any) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    return table


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _silent(heartbeat: datetime, now: datetime) -> bool:
    return (now - heartbeat).total_seconds() > STALE_SECONDS


def _seen(heartbeat: datetime, now: datetime) -> str:
    seconds = (now - heartbeat).total_seconds()
    return f"silent for {seconds:.0f} s" if _silent(heartbeat, now) else f"{max(seconds, 0):.0f} s ago"


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
