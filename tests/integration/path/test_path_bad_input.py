"""Nothing that is sent stops the node: every bad study gets a status or a reason, the next study is served."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node.stand_in_pacs import StorageSCP
from store.states import StudyState

ENDED_BADLY = (StudyState.SKIPPED, StudyState.FAILED)


@pytest.fixture
def served(node_for: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    """A running node with a PACS."""
    with StorageSCP(tmp_path / "pacs") as pacs:
        node = node_for(pacs)
        node.start()
        yield node


def assert_next_study_is_served(node: Any, phantom: Callable[..., Any]) -> None:
    study = phantom()
    assert node.send(study.folder).stored == study.slices
    account = node.ended(study.uid)
    assert account.study.state is StudyState.DELIVERED, account.study.reason
    assert "part died" not in node.log


@pytest.mark.real_data
def test_every_odd_file_gets_a_reason(
    served: Any, real_data: Path, phantom: Callable[..., Any], tmp_path: Path
) -> None:
    for path in sorted((real_data / "odd").iterdir()):
        alone = tmp_path / "odd" / path.name
        alone.mkdir(parents=True)
        shutil.copy(path, alone)
        report = served.send(alone)
        assert report.tried == 1
        assert report.stored == 1 or len(report.problems) == 1, path.name
    served.until(
        lambda: all(line.state in ENDED_BADLY for line in served.states().values()), "all odd studies ended"
    )
    lines = served.states().values()
    assert lines, "some odd files are sound DICOM and must have been received"
    for line in lines:
        assert line.reason and len(line.reason.splitlines()) == 1, line
    assert_next_study_is_served(served, phantom)


def _changed(folder: Path, change: Callable[[int, Dataset], None]) -> str:
    """Rewrite every file of a study through `change`; returns its new Study Instance UID."""
    uid = generate_uid()
    for number, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = uid
        change(number, dataset)
        dataset.save_as(path, enforce_file_format=True)
    return str(uid)


def _remove_positions(number: int, dataset: Dataset) -> None:
    del dataset.ImagePositionPatient


def _same_position(number: int, dataset: Dataset) -> None:
    dataset.ImagePositionPatient = [0, 0, 0]


def _mixed_geometry(number: int, dataset: Dataset) -> None:
    if number % 8:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def _wrong_modality(number: int, dataset: Dataset) -> None:
    dataset.Modality = "MR"


def _truncated_pixels(number: int, dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:100]


def _no_lungs(number: int, dataset: Dataset) -> None:
    dataset.PixelData = b"\x00\x04" * (dataset.Rows * dataset.Columns)


CHANGES = [_remove_positions, _same_position, _mixed_geometry, _wrong_modality, _truncated_pixels, _no_lungs]


def test_studies_that_cannot_be_screened_say_why(served: Any, phantom: Callable[..., Any]) -> None:
    uids = {}
    for change in CHANGES:
        study = phantom(slices=64, size=64)
        uids[change.__name__] = _changed(study.folder, change)
        served.send(study.folder)
    for name, uid in uids.items():
        study_line = served.ended(uid).study
        assert study_line.state in ENDED_BADLY, name
        assert study_line.reason and len(study_line.reason.splitlines()) == 1, name
    assert_next_study_is_served(served, phantom)


def test_one_slice_alone_is_skipped(served: Any, phantom: Callable[..., Any]) -> None:
    study = phantom(slices=64, size=64)
    for path in sorted(study.folder.iterdir())[1:]:
        path.unlink()
    served.send(study.folder)
    account = served.ended(study.uid)
    assert account.study.state is StudyState.SKIPPED
    assert "1 slice" in account.study.reason or "slices" in account.study.reason


def test_hostile_names_reach_the_results_as_text_and_no_path(
    served: Any, phantom: Callable[..., Any], tmp_path: Path
) -> None:
    study = phantom()

    def hostile(number: int, dataset: Dataset) -> None:
        dataset.PatientName = "<script>alert(1)</script>^../../etc"
        dataset.PatientID = "../../../tmp/lungnode-was-here"
        dataset.AccessionNumber = "'; DROP --"

    uid = _changed(study.folder, hostile)
    served.send(study.folder)
    account = served.ended(uid)
    assert account.study.state is StudyState.DELIVERED, account.study.reason
    results = [pydicom.dcmread(path) for path in (tmp_path / "pacs").glob("*.dcm")]
    (report,) = [result for result in results if result.Modality == "SR"]
    assert report.PatientID == "../../../tmp/lungnode-was-here"
    assert not Path("/tmp/lungnode-was-here").exists()
    assert "script" not in served.log and "was-here" not in served.log, "patient data in the log"
