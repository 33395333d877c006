"""Sending a folder of DICOM files to a peer, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from node.offline import dicom_candidates
from reporting.delivery.scu import NotSendableError, Parcel, Verdict, parcel, store
from scp.peer import Peer

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class SendReport:
    """How many files were tried and stored; `problems` has a line for each that was not, up to a limit."""

    tried: int
    stored: int
    problems: tuple[str, ...]


def send_folder(
    folder: Path, peer: Peer, calling_ae_title: str, advance: Callable[[int, int], None] | None = None
) -> SendReport:
    """Send every file below `folder`; what is no DICOM or is refused does not hold up the rest.

    advance: called with (sent, total) after each file; a progress bar on the terminal where None.
    Raises node.offline.NoFilesError, reporting.delivery.scu.PeerUnreachableError.
    """
    candidates = dicom_candidates(folder)
    parcels, problems = _parcels(candidates)
    if advance is None:
        stored, refused = _send_with_bar(peer, parcels, calling_ae_title)
    else:
        stored, refused = _send(peer, parcels, calling_ae_title, advance)
    problems += refused
    if len(problems) > SHOWN_PROBLEMS:
        problems[SHOWN_PROBLEMS:] = [f"and {len(problems) - SHOWN_PROBLEMS} more files"]
    return SendReport(len(candidates), stored, tuple(problems))


def _parcels(paths: Iterable[Path]) -> tuple[list[Parcel], list[str]]:
    parcels, problems = [], []
    for path in paths:
        try:
            parcels.append(parcel(path))
        except NotSendableError as error:
            problems.append(f"{path}: not sent: {error}")
    return parcels, problems


def _send(
    peer: Peer, parcels: list[Parcel], calling_ae_title: str, advance: Callable[[int, int], None]
) -> tuple[int, list[str]]:
    stored, problems = 0, []
    for number, outcome in enumerate(store(peer, parcels, calling_ae_title), start=1):
        advance(number, len(parcels))
        if outcome.verdict is Verdict.STORED:
            stored += 1
        else:
            problems.append(f"{outcome.path}: {outcome.verdict.value}: {outcome.reason}")
    return stored, problems


def _send_with_bar(peer: Peer, parcels: list[Parcel], calling_ae_title: str) -> tuple[int, list[str]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("sending", total=len(parcels))
        return _send(
            peer, parcels, calling_ae_title, lambda sent, total: progress.update(task, completed=sent)
        )
