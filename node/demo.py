"""`lungnode demo`: node and PACS on loopback, one study through both, and an account of what happened."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import yaml
from rich.console import Console
from sqlalchemy import select

from node.configuration import ScreeningConfiguration, installed_models
from node.demo_account import (
    DemoAccount,
    DemoError,
    Stage,
    delivered_account,
    kept_objects,
    kept_picture,
    print_account,
    stages_after_sending,
    transition_times,
)
from node.offline import dicom_candidates
from node.phantom import phantom_study, phantom_volume
from node.sending import SendReport, send_folder
from node.stand_in_pacs import LOOPBACK, PACS, free_port, open_pacs
from reporting.delivery.scu import PeerUnreachableError, echo
from scp.peer import Peer, Timeouts
from store.database import Database, open_database
from store.models import Study
from store.states import StudyState

QUIET_SECONDS = 2.0
START_SECONDS = 60.0
RESULT_SECONDS = 900.0
NODE_AE_TITLE = "LUNGNODE"
SENDER_AE_TITLE = "SCANNER"
ENDED = (StudyState.DELIVERED, StudyState.SKIPPED, StudyState.FAILED)


def run_demo(
    data: Path | None,
    out: Path,
    slices: int,
    models: Sequence[Path] = (),
    *,
    orthanc: bool | None = None,
    console: Console | None = None,
) -> list[DemoAccount]:
    """Run the demonstration; pictures and result objects go to `out`. An account of each study.

    data: folder to send, None for the phantom. models: packages, empty for the compact ones of the installation.
    console: where it is told as it goes; standard output where None. Raises DemoError and node.offline.NoFilesError.
    """
    console = console or Console(highlight=False)
    if data is not None:
        dicom_candidates(data)  # a wrong folder is told before anything starts
    accounts = []
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
                    accounts.append(_account(database, uid, pacs, target, sending, sent_at, node))
                    print_account(accounts[-1], console)
    return accounts


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
        # The next demonstration in this folder finds the engines that this one built
        "screening": {"engine_cache": str(ScreeningConfiguration().engine_cache.resolve())},
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
    database: Database, uid: str, pacs: PACS, out: Path, sending: Stage, sent_at: datetime, node: _Node
) -> DemoAccount:
    """What became of the study, with its picture and result objects in `out`. Raises DemoError."""
    account = delivered_account(database, uid)
    summary = account.screenings[-1].summary
    out.mkdir(parents=True, exist_ok=True)
    at = transition_times(database, uid)
    return DemoAccount(
        study_instance_uid=uid,
        pacs=pacs.name,
        summary=summary,
        objects=kept_objects(account, pacs, out),
        stages=(sending, *stages_after_sending(at, summary["timings_s"], sent_at)),
        seconds=(at[StudyState.DELIVERED] - sent_at).total_seconds() - QUIET_SECONDS,
        picture=kept_picture(database, uid, node.storage, out),
    )
