"""A PACS for demonstrations and tests: Orthanc where it is installed, else a Storage SCP in this process.

Both listen on loopback, on free ports, and keep what they get in a folder of the caller.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pydicom
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from scp.contexts import ACCEPTED_CLASSES, TRANSFER_SYNTAXES

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
_VERIFICATION = "1.2.840.10008.1.1"
_PROGRAMS = ("Orthanc", "/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc")


class PACSCannotStart(Exception):
    """The PACS did not come up; one line with the reason."""


@dataclass(frozen=True)
class StoredObject:
    """One instance that the PACS holds."""

    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    series_description: str


class PACS(Protocol):
    """What the demonstration needs of a PACS. Use as a context manager."""

    name: str
    ae_title: str
    port: int

    def instances(self, study_instance_uid: str) -> list[StoredObject]:
        """What it holds of a study."""
        ...

    def read(self, sop_instance_uid: str) -> pydicom.Dataset:
        """One instance, whole. Raises KeyError."""
        ...

    def __enter__(self) -> PACS: ...

    def __exit__(self, *_: object) -> None: ...


def open_pacs(folder: Path, *, orthanc: bool | None = None) -> PACS:
    """A PACS that keeps its data in `folder`. orthanc: None takes it where it is installed.

    Raises PACSCannotStart where Orthanc is asked for and not installed.
    """
    program = find_orthanc()
    if orthanc is None:
        orthanc = program is not None
    if not orthanc:
        return StorageSCP(folder)
    if program is None:
        raise PACSCannotStart("Orthanc is not installed; on Debian: apt install orthanc")
    return Orthanc(program, folder)


def find_orthanc() -> str | None:
    """Path of the Orthanc server, None where it is not installed."""
    return next((found for name in _PROGRAMS if (found := shutil.which(name))), None)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class StorageSCP:
    """A Storage SCP in threads of this process; a file an instance in `folder`."""

    def __init__(self, folder: Path, ae_title: str = "STANDIN", port: int = 0, host: str = LOOPBACK) -> None:
        self.name = "stand-in PACS (pynetdicom)"
        self.ae_title = ae_title
        self.port = port
        self._host = host
        self._folder = folder
        self._server: Any = None

    def __enter__(self) -> StorageSCP:
        self._folder.mkdir(parents=True, exist_ok=True)
        entity = AE(ae_title=self.ae_title)
        entity.maximum_pdu_size = 0
        entity.supported_contexts = [
            *(build_context(uid, list(TRANSFER_SYNTAXES)) for uid in sorted(ACCEPTED_CLASSES)),
            build_context(_VERIFICATION),
        ]
        self._server = entity.start_server(
            (self._host, self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = self._server.server_address[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def instances(self, study_instance_uid: str) -> list[StoredObject]:
        """What it holds of a study."""
        tags = ["StudyInstanceUID", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription"]
        headers = (pydicom.dcmread(path, specific_tags=tags) for path in sorted(self._folder.glob("*.dcm")))
        return [
            StoredObject(h.Modality, h.SOPClassUID, h.SOPInstanceUID, h.get("SeriesDescription", ""))
            for h in headers
            if h.StudyInstanceUID == study_instance_uid
        ]

    def read(self, sop_instance_uid: str) -> pydicom.Dataset:
        """One instance, whole. Raises KeyError."""
        path = self._folder / f"{sop_instance_uid}.dcm"
        if not path.is_file():
            raise KeyError(sop_instance_uid)
        return pydicom.dcmread(path)

    def _store(self, event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        part = self._folder / f"{dataset.SOPInstanceUID}.part"
        dataset.save_as(part, enforce_file_format=True)
        part.replace(part.with_suffix(".dcm"))
        return 0x0000


class Orthanc:
    """Orthanc on loopback with a configuration of its own."""

    def __init__(self, program: str, folder: Path, ae_title: str = "ORTHANC", port: int = 0) -> None:
        self.name = "Orthanc"
        self.ae_title = ae_title
        self.port = port
        self._program = program
        self._folder = folder
        self._http_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Orthanc:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        self._http_port = free_port()
        settings = self._folder / "orthanc.json"
        settings.write_text(json.dumps(self._settings()), encoding="utf-8")
        with (self._folder / "orthanc.log").open("wb") as log:
            # Debian's Orthanc leaves Nagle's algorithm on, which costs 40 ms an instance
            environment = {**os.environ, "TCP_NODELAY": "1"}
            self._process = subprocess.Popen(
                [self._program, str(settings)], stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        try:
            self._await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.kill()  # asked politely it takes three seconds; its database stands being killed
        self._process.wait()

    def instances(self, study_instance_uid: str) -> list[StoredObject]:
        """What it holds of a study."""
        query = {
            "Level": "Series",
            "Expand": True,
            "Query": {"StudyInstanceUID": study_instance_uid},
        }
        found = []
        for series in self._ask("/tools/find", query):
            tags = series["MainDicomTags"]
            for instance in self._ask(f"/series/{series['ID']}/instances"):
                uid = instance["MainDicomTags"]["SOPInstanceUID"]
                found.append(
                    StoredObject(
                        tags.get("Modality", ""),
                        self._metadata(instance["ID"], "SopClassUid"),
                        uid,
                        tags.get("SeriesDescription", ""),
                    )
                )
        return found

    def read(self, sop_instance_uid: str) -> pydicom.Dataset:
        """One instance, whole. Raises KeyError."""
        found = self._ask("/tools/lookup", sop_instance_uid)
        ids = [entry["ID"] for entry in found if entry["Type"] == "Instance"]
        if not ids:
            raise KeyError(sop_instance_uid)
        url = f"http://{LOOPBACK}:{self._http_port}/instances/{ids[0]}/file"
        with urllib.request.urlopen(url, timeout=30) as response:
            return pydicom.dcmread(io.BytesIO(response.read()))

    def _metadata(self, instance: str, name: str) -> str:
        url = f"http://{LOOPBACK}:{self._http_port}/instances/{instance}/metadata/{name}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return str(response.read().decode())

    def _ask(self, path: str, question: Any = None) -> Any:
        body = (
            None if question is None else question.encode() if isinstance(question, str) else _json(question)
        )
        request = urllib.request.Request(f"http://{LOOPBACK}:{self._http_port}{path}", data=body)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise PACSCannotStart(f"Orthanc ended at its start; see {self._folder / 'orthanc.log'}")
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                self._ask("/system")
                return
            time.sleep(0.05)
        raise PACSCannotStart(f"Orthanc did not answer within {START_SECONDS:g} s")

    def _settings(self) -> dict[str, Any]:
        return {
            "Name": "lungnode stand-in",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "index"),
            "Plugins": [],
            "HttpServerEnabled": True,
            "HttpPort": self._http_port,
            "HttpBindAddresses": [LOOPBACK],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "StorageCompression": False,
            "ConcurrentJobs": 1,
        }


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
