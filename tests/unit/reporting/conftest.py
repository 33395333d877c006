"""Phantom cases, the frozen context, and the outside validators."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from engine.findings import Findings
from engine.volume import Volume
from reporting import ReportContext, ResultObject
from reporting.phantom_case import PhantomCase, make_case

OBLIQUE = (0.9397, 0.3420, 0.0, -0.3368, 0.9254, 0.1736)
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PRONE = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
TILTED = (1.0, 0.0, 0.0, 0.0, 0.9659, -0.2588)

CASES = {
    "small": PhantomCase(),
    "oblique": PhantomCase(orientation=OBLIQUE),
    "feet first": PhantomCase(orientation=FEET_FIRST),
    "prone": PhantomCase(orientation=PRONE),
    "tilted": PhantomCase(orientation=TILTED, step_direction=(0.0, 0.0, 1.0)),
    "uneven": PhantomCase(slices=8, gap_after=3),
    "multi-frame": PhantomCase(multi_frame=True),
    "multi-frame oblique": PhantomCase(multi_frame=True, orientation=OBLIQUE),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> tuple[Findings, Volume]:
    """One study of each geometry."""
    return make_case(request.param)


@pytest.fixture
def context() -> ReportContext:
    return ReportContext(
        datetime(2026, 1, 2, 11, 30, 15, 250000), settings_hash="5" * 64, software_version="0.1.0"
    )


@pytest.fixture
def reread() -> Callable[[ResultObject], Dataset]:
    """What somebody else reads from the file of a result."""
    return lambda result: pydicom.dcmread(io.BytesIO(result.encoded))


@pytest.fixture
def through_file() -> Callable[[Dataset], Dataset]:
    """A header as it comes from a file: values undecoded, character set as declared."""

    def read_back(dataset: Dataset) -> Dataset:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
        return pydicom.dcmread(io.BytesIO(buffer.getvalue()), force=True)

    return read_back


@pytest.fixture
def run_tool() -> Callable[..., str]:
    """Run a command-line tool and return all that it says; the test is skipped where the tool is not installed."""

    def run(name: str, *arguments: str | Path, check: bool = False) -> str:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        done = subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, errors="replace")
        assert not check or done.returncode == 0, f"{name} failed: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return run
