"""A casework that screens in no time, for what is built around it; and instances without pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from engine.errors import NotScreenable


@dataclass
class SwiftCasework:
    """Stands for `node.casework.Casework`: counts what it is asked, and does what `on_study` says."""

    on_study: Callable[[str], None] = lambda uid: None
    settings_digest: str = "5" * 64
    kinds: tuple[str, ...] = ()
    worked: list[str] = field(default_factory=list)

    def work(self, paths: Iterable[Path], occasion: Any) -> Any:
        sources = [pydicom.dcmread(path) for path in paths]
        uid = str(sources[0].StudyInstanceUID)
        self.on_study(uid)
        self.worked.append(uid)
        if sources[0].Modality != "CT":
            raise NotScreenable("no CT")
        volume = SimpleNamespace(series_instance_uid=f"{uid}.1")
        return SimpleNamespace(objects=(), summary=a_summary(len(sources)), volume=volume)


def a_summary(slices: int) -> dict[str, Any]:
    """What `engine.summary.findings_summary` gives, for a case of so many slices."""
    package = {"version": "1.0.0", "sha256": "a" * 64}
    return {
        "jcs": {
            "positive": True,
            "positive_slices": slices,
            "slices": slices,
            "threshold": 2.5,
            "rule": "proportional",
        },
        "m3lung": {
            "label": "cap",
            "probabilities": {"healthy": 0.1, "covid19": 0.2, "h1n1": 0.3, "cap": 0.4},
        },
        "discordant": True,
        "lesion_count": 2,
        "lesion_volume_ml": 12.5,
        "lung_volume_ml": 4000.0,
        "lung_involvement_percent": 0.3125,
        "packages": [package | {"name": f"{s}-tiny", "system": s} for s in ("jcs", "m3lung")],
    }


def an_instance(path: Path, study: str, number: int, modality: str = "CT") -> None:
    """A DICOM file without pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{study}.1.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.1"
    dataset.Modality = modality
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
