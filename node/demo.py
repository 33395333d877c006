"""`lungnode demo`: node and PACS on loopback, one study through both, and an account of what happened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import yaml
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from node.configuration import installed_models
from node.offline import dicom_candidates
from node.outbox import PICTURE
from node.phantom import phantom_study, phantom_volume
from node.sending import SendReport, send_folder
from node.stand_in_pacs import LOOPBACK, PACS, StoredObject, free_port, open_pacs
from node.verdicts import verdict_lines
from reporting.delivery.scu import Peer, PeerUnreachableError, Timeouts, echo
from store import queries
from store.database import Database, open_database
from store.models import Result, Revision, Screening, Study, Transition
from store.queries import StudyAccount
from store.states import StudyState

QUIET_SECONDS = 2.0
START_SECONDS = 60.0
RESULT_SECONDS = 900.0
PICTURE_SECONDS = 20.0
NODE_AE_TITLE = "LUNGNODE"
SENDER_AE_TITLE = "SCANNER"
ENDED = (StudyState.DELIVERED, StudyState.SKIPPED, StudyState.FAILED)


class DemoError(Exception):
    """The demonstration did not reach its end; one line with the reason."""


@dataclass(frozen=True)
class Stage:
    """One stage of the way of a study, seconds."""

    name: str
    seconds: float


def run_demo(
    data: Path | None, out: Path, slices: int, models: Sequence[Path] = (), *, orthanc: bool | None = None
) -> None:
    """Run the demonstration; pictures and result objects go to `out`.

    data: folder to send, None for the phantom. models: packages, empty for the compact ones of the installation.
    Raises DemoError and node.offline.NoFilesError.
    """
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="lungnode-demo-") as name:
        folder = Path(name)
        with open_pacs(folder / "pacs", orthanc=orthanc) as pacs, _running_node(folder, pacs, models) as node:
            console.print(f"PACS      {pacs.name}, {pacs.ae_title} on {LOOPBACK}:{pacs.port}")
            study = data if data is not None else _write_phantom(folder / "phantom", slices, console)
            uids = _study_uids(study)
            node.await_answer()
            console.print(f"node      {NODE_AE_TITLE} on {LOOPBACK}:{node.port}")
            report, sending = _send(study, node.peer)
            sent_at = datetime.now(UTC)
            for problem in report.problems:
                console.print(f"          {problem}")
            with _opened(node.database_url) as database:
                for number, uid in enumerate(uids, start=1):
                    target = out if len(uids) == 1 else out / str(number)
                    _await_end(database, uid, node, console)
                    _account(database, uid, pacs, target, [sending], sent_at, node, console)


@dataclass(frozen=True)
class _Node:
    """The node under demonstration, a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    database_url: str
    storage: Path
    log: Path

    @property
    def peer(self) -> Peer:
        return Peer(NODE_AE_TITLE, LOOPBACK, self.port)

    def check(self) -> None:
        """Raise DemoError when the node has ended."""
        if self.process.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise DemoError(f"the node ended: {lines[-1]}")

    def await_answer(self) -> None:
        """Wait until the node answers a C-ECHO."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            try:
                echo(self.peer, SENDER_AE_TITLE, Timeouts(connect=1, association=5, answer=5))
            except PeerUnreachableError:
                time.sleep(0.1)
            else:
                return
        raise DemoError(f"the node did not answer within {START_SECONDS:g} s")


@contextmanager
def _running_node(folder: Path, pacs: PACS, models: Sequence[Path]) -> Iterator[_Node]:
    """Start `lungnode serve` with a configuration for this demonstration; stop it with SIGTERM."""
    port = free_port()
    settings = folder / "config.yaml"
    settings.write_text(yaml.safe_dump(_settings(folder, port, pacs, models)), encoding="utf-8")
    log = folder / "node.log"
    program = [sys.executable, "-c", "from node.cli import main; main()", "serve", "--config", str(settings)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LUNGNODE_")}
    with log.open("wb") as stream:
        process = subprocess.Popen(program, stdout=stream, stderr=stream, env=environment, cwd=folder)
    try:
        yield _Node(process, port, f"sqlite:///{folder}/lungnode.db", folder / "spool", log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _settings(folder: Path, port: int, pacs: PACS, models: Sequence[Path]) -> dict[str, Any]:
    destination = {"name": "pacs", "ae_title": pacs.ae_title, "host": LOOPBACK, "port": pacs.port}
    return {
        "listener": {"ae_title": NODE_AE_TITLE, "host": LOOPBACK, "port": port},
        "storage": {"path": str(folder / "spool")},
        "database": {"url": f"sqlite:///{folder}/lungnode.db"},
        "completeness": {"quiet_seconds": QUIET_SECONDS, "max_wait_seconds": 600},
        "destinations": [destination | {"objects": ["seg", "gsps", "pm", "sr"]}],
        "models": [str(path.resolve()) for path in models or installed_models()],
        "worker": {"poll_seconds": 0.1},
        "delivery": {"poll_seconds": 0.1, "first_retry_seconds": 1},
    }


def _write_phantom(folder: Path, slices: int, console: Console) -> Path:
    """A simulated study on disk, labelled as such."""
    folder.mkdir()
    start = time.monotonic()
    volume = phantom_volume(slices)
    for number, instance in enumerate(phantom_study(volume, datetime.now())):
        instance.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
    seconds = time.monotonic() - start
    console.print(f"study     simulated phantom, {slices} slices, made in {seconds:.1f} s; no data was given")
    return folder


def _study_uids(folder: Path) -> list[str]:
    """The studies in a folder. Raises DemoError where no file is a DICOM instance of a study."""
    uids: dict[str, None] = {}
    for path in dicom_candidates(folder):
        try:
            header = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
            uids[str(header.StudyInstanceUID)] = None
        except Exception:  # noqa: BLE001 - sending names the files that are no DICOM, with the reason
            continue
    if not uids:
        raise DemoError(f"{folder} holds no DICOM study")
    return list(uids)


def _send(study: Path, peer: Peer) -> tuple[SendReport, Stage]:
    start = time.monotonic()
    report = send_folder(study, peer, SENDER_AE_TITLE)
    if not report.stored:
        raise DemoError(f"the node stored none of the {report.tried} files")
    return report, Stage(f"sending {report.stored} instances", time.monotonic() - start)


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = open_database(url)
    try:
        yield database
    finally:
        database.close()


def _await_end(database: Database, uid: str, node: _Node, console: Console) -> None:
    """Wait until the study has ended; show its state meanwhile."""
    deadline = time.monotonic() + RESULT_SECONDS
    with console.status("waiting") as status:
        while time.monotonic() < deadline:
            node.check()
            with database.read() as session:
                state = session.scalar(select(Study.state).where(Study.study_instance_uid == uid))
            if state in ENDED:
                return
            status.update(f"study {state or 'not seen yet'}")
            time.sleep(0.05)
    raise DemoError(f"no result within {RESULT_SECONDS:g} s; the study is {state}")


def _account(
    database: Database,
    uid: str,
    pacs: PACS,
    out: Path,
    stages: list[Stage],
    sent_at: datetime,
    node: _Node,
    console: Console,
) -> None:
    """Print what became of the study, and put its picture and result objects into `out`."""
    with database.read() as session:
        account = queries.why(session, uid)
    if account.study.state is not StudyState.DELIVERED:
        raise DemoError(f"the study is {account.study.state.value}: {account.study.reason}")
    summary = account.screenings[-1].summary
    console.print()
    for line in [*verdict_lines(summary), f"Series      {summary['series_choice']}"]:
        console.print(line)
    stored = _stored_results(account, pacs)
    out.mkdir(parents=True, exist_ok=True)
    files = _keep_objects(account, pacs, out)
    picture = _keep_picture(database, uid, node, out)
    console.print()
    console.print(_objects_table(account, stored, files, pacs))
    console.print()
    console.print(_stages_table([*stages, *_stages(database, uid, summary, sent_at)], sent_at, database, uid))
    console.print(f"\npicture   {picture}")


def _stored_results(account: StudyAccount, pacs: PACS) -> dict[str, StoredObject]:
    """What the PACS itself says that it holds of our results. Raises DemoError where one is missing."""
    held = {item.sop_instance_uid: item for item in pacs.instances(account.study.study_instance_uid)}
    missing = [d.kind for d in account.deliveries if d.sop_instance_uid not in held]
    if missing:
        raise DemoError(f"{pacs.name} answered success but does not hold {', '.join(missing)}")
    return held


def _keep_objects(account: StudyAccount, pacs: PACS, out: Path) -> dict[str, Path]:
    """Fetch the results from the PACS into `out`, so that they can be opened in a viewer."""
    files = {}
    for line in account.deliveries:
        files[line.kind] = out / f"{line.kind}.dcm"
        pacs.read(line.sop_instance_uid).save_as(files[line.kind], enforce_file_format=True)
    return files


def _keep_picture(database: Database, uid: str, node: _Node, out: Path) -> Path:
    with database.read() as session:
        result = session.scalars(
            select(Result.path)
            .join(Screening, Screening.id == Result.screening_id)
            .join(Revision, Revision.id == Screening.revision_id)
            .join(Study, Study.id == Revision.study_id)
            .where(Study.study_instance_uid == uid)
            .limit(1)
        ).one()
    drawn = (node.storage / result).parent / PICTURE
    deadline = time.monotonic() + PICTURE_SECONDS
    while not drawn.is_file():
        if time.monotonic() > deadline:
            raise DemoError("the worker drew no picture")
        time.sleep(0.05)
    return Path(shutil.copy(drawn, out / PICTURE))


def _objects_table(
    account: StudyAccount, stored: dict[str, StoredObject], files: dict[str, Path], pacs: PACS
) -> Table:
    table = Table(title=f"Stored in {pacs.name}", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("object", "modality", "series", "kB", "copy"):
        table.add_column(column)
    for line in account.deliveries:
        item, path = stored[line.sop_instance_uid], files[line.kind]
        size = f"{path.stat().st_size / 1000:.0f}"
        table.add_row(line.kind, item.modality, item.series_description, size, str(path))
    return table


def _stages(database: Database, uid: str, summary: dict[str, Any], sent_at: datetime) -> list[Stage]:
    """The stages from the last C-STORE to the last result in the PACS, from the store's transitions."""
    at = _transition_times(database, uid)
    inside = [Stage(name, seconds) for name, seconds in summary["timings_s"].items()]
    screening = (at[StudyState.DELIVERING] - at[StudyState.SCREENING]).total_seconds()
    return [
        Stage("waiting for quiet", (at[StudyState.COMPLETE] - sent_at).total_seconds()),
        Stage("waiting for the worker", (at[StudyState.SCREENING] - at[StudyState.COMPLETE]).total_seconds()),
        *inside,
        Stage("writing the results", screening - sum(stage.seconds for stage in inside)),
        Stage("delivery", (at[StudyState.DELIVERED] - at[StudyState.DELIVERING]).total_seconds()),
    ]


def _transition_times(database: Database, uid: str) -> dict[StudyState, datetime]:
    """When the study came into each state, last."""
    with database.read() as session:
        rows = session.execute(
            select(Transition.after, Transition.at)
            .join(Study, Study.id == Transition.study_id)
            .where(Study.study_instance_uid == uid)
            .order_by(Transition.id)
        )
        return dict(rows.tuples().all())


def _stages_table(stages: Iterable[Stage], sent_at: datetime, database: Database, uid: str) -> Table:
    table = Table(title="Time", title_justify="left", show_edge=False, pad_edge=False, show_footer=True)
    delivered = _transition_times(database, uid)[StudyState.DELIVERED]
    total = (delivered - sent_at).total_seconds() - QUIET_SECONDS
    table.add_column("stage", footer="last C-STORE to last result in the PACS, quiet time apart")
    table.add_column("s", justify="right", footer=f"{total:.2f}")
    for stage in stages:
        table.add_row(stage.name.replace("_", " "), f"{stage.seconds:.2f}")
    return table
