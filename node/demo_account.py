"""What a demonstration came to: the verdicts, what the PACS holds, how long each stage took."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from node.outbox import PICTURE
from node.stand_in_pacs import PACS, StoredObject
from node.verdicts import verdict_lines
from store import overview, queries
from store.database import Database
from store.models import Study, Transition
from store.queries import StudyAccount
from store.states import StudyState

PICTURE_SECONDS = 20.0


class DemoError(Exception):
    """The demonstration did not reach its end; one line with the reason."""


@dataclass(frozen=True)
class Stage:
    """One stage of the way of a study, seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class KeptObject:
    """A result that the PACS holds. copy: the file that it was fetched into."""

    kind: str
    modality: str
    series_description: str
    bytes: int
    copy: Path


@dataclass(frozen=True)
class DemoAccount:
    """One study of a demonstration. seconds: last C-STORE to last result in the PACS, quiet time apart."""

    study_instance_uid: str
    pacs: str
    summary: Mapping[str, Any]
    objects: tuple[KeptObject, ...]
    stages: tuple[Stage, ...]
    seconds: float
    picture: Path

    def as_data(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def delivered_account(database: Database, uid: str) -> StudyAccount:
    """What the store knows of the study. Raises DemoError unless it is delivered."""
    with database.read() as session:
        account = queries.why(session, uid)
    if account.study.state is not StudyState.DELIVERED:
        raise DemoError(f"the study is {account.study.state.value}: {account.study.reason}")
    return account


def kept_objects(account: StudyAccount, pacs: PACS, out: Path) -> tuple[KeptObject, ...]:
    """Fetch the results from the PACS into `out`, so that they can be opened in a viewer. Raises DemoError."""
    held = _held(account, pacs)
    kept = []
    for line in account.deliveries:
        copy = out / f"{line.kind}.dcm"
        pacs.read(line.sop_instance_uid).save_as(copy, enforce_file_format=True)
        item = held[line.sop_instance_uid]
        kept.append(KeptObject(line.kind, item.modality, item.series_description, copy.stat().st_size, copy))
    return tuple(kept)


def _held(account: StudyAccount, pacs: PACS) -> dict[str, StoredObject]:
    """What the PACS itself says that it holds of our results. Raises DemoError where one is missing."""
    held = {item.sop_instance_uid: item for item in pacs.instances(account.study.study_instance_uid)}
    missing = [d.kind for d in account.deliveries if d.sop_instance_uid not in held]
    if missing:
        raise DemoError(f"{pacs.name} answered success but does not hold {', '.join(missing)}")
    return held


def kept_picture(database: Database, uid: str, storage: Path, out: Path) -> Path:
    """Copy the picture that the worker draws after the results. Raises DemoError."""
    with database.read() as session:
        folder = overview.newest_result_folder(session, overview.study_row(session, uid).study_id)
    drawn = storage / (folder or "") / PICTURE
    deadline = time.monotonic() + PICTURE_SECONDS
    while not drawn.is_file():
        if time.monotonic() > deadline:
            raise DemoError("the worker drew no picture")
        time.sleep(0.05)
    return Path(shutil.copy(drawn, out / PICTURE))


def transition_times(database: Database, uid: str) -> dict[StudyState, datetime]:
    """When the study came into each state, last."""
    with database.read() as session:
        rows = session.execute(
            select(Transition.after, Transition.at)
            .join(Study, Study.id == Transition.study_id)
            .where(Study.study_instance_uid == uid)
            .order_by(Transition.id)
        )
        return {row.after: row.at for row in rows}


def stages_after_sending(
    at: Mapping[StudyState, datetime], timings: Mapping[str, float], sent_at: datetime
) -> tuple[Stage, ...]:
    """The stages from the last C-STORE to the last result in the PACS.

    at: when the study came into each state. timings: seconds of the stages of its screening.
    """
    inside = [Stage(name, seconds) for name, seconds in timings.items()]
    screening = (at[StudyState.DELIVERING] - at[StudyState.SCREENING]).total_seconds()
    return (
        Stage("waiting for quiet", (at[StudyState.COMPLETE] - sent_at).total_seconds()),
        Stage("waiting for the worker", (at[StudyState.SCREENING] - at[StudyState.COMPLETE]).total_seconds()),
        *inside,
        Stage("writing the results", screening - sum(stage.seconds for stage in inside)),
        Stage("delivery", (at[StudyState.DELIVERED] - at[StudyState.DELIVERING]).total_seconds()),
    )


def print_account(account: DemoAccount, console: Console) -> None:
    """Print the account for people."""
    console.print()
    for line in [*verdict_lines(account.summary), f"Series      {account.summary['series_choice']}"]:
        console.print(line)
    console.print()
    console.print(_objects_table(account.objects, account.pacs))
    console.print()
    console.print(_stages_table(account.stages, account.seconds))
    console.print(f"\npicture   {account.picture}")


def _objects_table(objects: Sequence[KeptObject], pacs: str) -> Table:
    table = Table(title=f"Stored in {pacs}", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("object", "modality", "series", "kB", "copy"):
        table.add_column(column)
    for item in objects:
        size = f"{item.bytes / 1000:.0f}"
        table.add_row(item.kind, item.modality, item.series_description, size, str(item.copy))
    return table


def _stages_table(stages: Sequence[Stage], total: float) -> Table:
    table = Table(title="Time", title_justify="left", show_edge=False, pad_edge=False, show_footer=True)
    table.add_column("stage", footer="last C-STORE to last result in the PACS, quiet time apart")
    table.add_column("s", justify="right", footer=f"{total:.2f}")
    for stage in stages:
        table.add_row(stage.name.replace("_", " "), f"{stage.seconds:.2f}")
    return table
