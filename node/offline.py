"""`lungnode screen`: a folder of DICOM files in, result files out; no network, no store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from node.casework import Case, Casework, Occasion
from node.outbox import write_durably
from reporting.study_time import last_acquisition

FINDINGS = "findings.json"


class NoFilesError(Exception):
    """There is nothing to screen; the message names the folder."""


@dataclass(frozen=True, eq=False)
class OfflineResult:
    """A screened folder: the case and the files written."""

    case: Case
    files: tuple[Path, ...]


def screen_folder(folder: Path, out: Path, casework: Casework) -> OfflineResult:
    """Screen the study in `folder` (searched through) and write findings.json and the result objects to `out`.

    Objects of an earlier run that this one does not make (seg.dcm where there is no lesion) are removed, so that
    `out` holds one result. Raises NoFilesError and what `Casework.work` raises; OSError when writing fails.
    """
    return screen_files(dicom_candidates(folder), out, casework)


def screen_files(paths: Iterable[Path], out: Path, casework: Casework) -> OfflineResult:
    """As `screen_folder`, for the files of one study wherever they lie."""
    case = casework.work(paths, lambda volume: Occasion(last_acquisition(volume)))
    out.mkdir(parents=True, exist_ok=True)
    files = []
    made = {f"{item.name}.dcm" for item in case.objects}
    for kind in casework.kinds:
        for left in (out / f"{kind}.dcm", *out.glob(f"{kind}-[0-9][0-9].dcm")):
            if left.name not in made:
                left.unlink(missing_ok=True)
    for item in case.objects:
        files.append(out / f"{item.name}.dcm")
        write_durably(files[-1], item.encoded)
    files.append(out / FINDINGS)
    text = json.dumps(case.summary, indent=1, sort_keys=True) + "\n"
    write_durably(files[-1], text.encode("utf-8"))
    return OfflineResult(case, tuple(files))


def dicom_candidates(folder: Path) -> list[Path]:
    """Every plain file below `folder`, sorted. Raises NoFilesError."""
    if not folder.is_dir():
        raise NoFilesError(f"{folder} is no folder; give the folder that holds the DICOM files")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise NoFilesError(f"{folder} holds no files")
    return files
