"""A casework that screens in no time: every other step of a study is the real one.

Objects have the classes and derived UIDs that the real ones have; their content is a digest of the instances.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from node.caseworks import Caseworks
from node.configuration import Configuration
from node.presence import present_in_store
from node.shared_spool import shared_storage
from node.worker import Worker
from reporting.context import ResultObject

KINDS = {
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",
    "gsps": "1.2.840.10008.5.1.4.1.1.11.1",
    "pm": "1.2.840.10008.5.1.4.1.1.30",
    "sr": "1.2.840.10008.5.1.4.1.1.88.34",
}


@dataclass(frozen=True)
class LightCase:
    """What the worker looks at of a case."""

    objects: tuple[ResultObject, ...]
    summary: dict[str, Any]
    findings: None = None
    volume: None = None


class LightCasework:
    """Stands for `node.casework.Casework`."""

    settings_digest = "5" * 64

    def work(
        self,
        paths: Iterable[Path],
        occasion: Callable[..., Any],
        *,
        priors: Callable[..., Any],
        stopping: Callable[[], bool],
    ) -> LightCase:
        """Read every instance, infer, build four objects."""
        sources = [pydicom.dcmread(path) for path in paths]
        digest = infer(sources)
        study = sources[0].StudyInstanceUID
        objects = tuple(ResultObject(kind, an_object(kind, study, digest)) for kind in KINDS)  # type: ignore[arg-type]
        return LightCase(objects, {"timings_s": {"screen": 0.0}, "digest": digest})


def infer(sources: list[Dataset]) -> str:
    """The stand-in for both systems."""
    pixels = hashlib.sha256()
    for source in sorted(sources, key=lambda s: s.SOPInstanceUID):
        pixels.update(source.PixelData)
    return pixels.hexdigest()


def an_object(kind: str, study: str, digest: str) -> Dataset:
    """A data set whose UIDs derive from kind, study and instances."""

    def uid(what: str) -> str:
        number = int.from_bytes(
            hashlib.sha256(f"{what} {kind} {study} {digest}".encode()).digest()[:16], "big"
        )
        return f"2.25.{number}"

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = KINDS[kind]
    dataset.SOPInstanceUID = uid("instance")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = uid("series")
    dataset.Modality = {"seg": "SEG", "gsps": "PR", "pm": "OT", "sr": "SR"}[kind]
    dataset.Manufacturer = "lungnode"
    dataset.SeriesDescription = digest
    return dataset


class LightWorker(Worker):
    """The worker without pictures for people: there is nothing to see."""

    def _draw(self, what: str, draw: Callable[[], None]) -> None:
        """No pictures for people."""


def run_light_worker(configuration: Configuration, stop: Any, ready: Callable[[], None]) -> None:
    """`node.parts.run_worker` with the light casework."""
    with present_in_store("worker", configuration, stop) as (database, name, clock):
        worker = LightWorker(
            database=database,
            storage=configuration.storage.path,
            caseworks=lambda: Caseworks(LightCasework()),  # type: ignore[arg-type]
            destinations={d.name: d.objects for d in configuration.destinations},
            name=name,
            lease=timedelta(seconds=configuration.worker.lease_seconds),
            max_attempts=configuration.worker.max_attempts,
            clock=clock,
            shared=shared_storage(configuration),
        )
        ready()
        worker.run(stop, configuration.worker.poll_seconds)
