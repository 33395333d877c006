"""Rules in the configuration file, and `lungnode rules test`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from typer.testing import CliRunner

from node.cli import app
from node.configuration import ConfigurationError, load_configuration

PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
NIGHT = {
    "name": "emergency",
    "when": {"calling_ae": ["ED_CT"], "time": {"from": "20:00", "until": "07:00"}},
    "then": {"priority": "urgent", "destinations": ["pacs"]},
}


def write(folder: Path, *rules: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"destinations": [PACS], "routing": list(rules)}))
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    for number in (1, 2):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"1.2.3.{number}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.3"
        dataset.Modality, dataset.SeriesDescription = "CT", "Thorax 1.0"
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("no DICOM")
    return folder


def test_it_says_what_would_happen_and_why(tmp_path: Path, study: Path) -> None:
    config = write(tmp_path, NIGHT)
    arguments = ["rules", "test", str(study), "-c", str(config), "--calling-ae", "ED_CT"]
    answer = CliRunner().invoke(app, [*arguments, "--at", "2026-01-05T23:00:00"])
    assert answer.exit_code == 0, answer.output
    assert "results to pacs, priority urgent" in answer.output
    assert "series 1.2.3 (CT Thorax 1.0, 2): rule emergency" in answer.output
    by_day = CliRunner().invoke(app, [*arguments, "--at", "2026-01-05T12:00:00"]).output
    assert "results to all destinations, priority normal" in by_day
    assert "no   time 20:00-07:00   (here: Mon 12:00)" in by_day


def test_a_folder_without_dicom_is_an_error(tmp_path: Path) -> None:
    config = write(tmp_path, NIGHT)
    (tmp_path / "empty").mkdir()
    answer = CliRunner().invoke(app, ["rules", "test", str(tmp_path / "empty"), "-c", str(config)])
    assert answer.exit_code == 1
    assert "no DICOM file" in str(answer.exception)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"name": "a", "then": {"destinations": ["archive"]}}, "destination 'archive'; allowed: pacs"),
        (
            {"name": "a", "then": {"packages": ["none"]}},
            "package 'none'; allowed: jcs-compact, m3lung-compact",
        ),
        ({"name": "a", "wen": {}}, r"routing\[0\]\.wen is no known key \(did you mean when\?\)"),
        (
            {"name": "a", "when": {"tags": {"Modality": {"is": "CT"}}}},
            r"tags\.Modality\.is is no known key.*in",
        ),
        ({"name": "a", "when": {"tags": {"Modality": {"not": {"is": "CT"}}}}}, r"not\.is is no known key"),
    ],
)
def test_wrong_rules_are_refused_by_name(tmp_path: Path, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_configuration(write(tmp_path, rule))
