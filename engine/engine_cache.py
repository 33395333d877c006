"""The cache of built engines: one file per engine beside one state file, both written atomically."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from engine.recipes import Backend, BuildPrecision

State = Literal["building", "ready", "failed"]


@dataclass(frozen=True)
class EngineKey:
    """All that decides what an engine computes and where it runs."""

    package: str
    package_sha256: str
    graph: str
    recipe_version: int
    precision: BuildPrecision
    backend: Backend
    identity: str
    profile: str

    @property
    def stem(self) -> str:
        """File name without ending: readable, and unique by the hash of the key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.package}-{self.graph}-{self.precision}-{digest[:16]}"


@dataclass(frozen=True)
class EngineRecord:
    """What the cache knows of an engine. `why`: the reason of a failure. `checks`: the verification, line by line."""

    key: EngineKey
    state: State
    why: str = ""
    sha256: str = ""
    size: int = 0
    seconds: float = 0.0
    checks: tuple[str, ...] = ()


class EngineCache:
    """A directory of engines. Several processes may share it; `locked` lets one build at a time per engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def engine_path(self, key: EngineKey) -> Path:
        return self.folder / f"{key.stem}.engine"

    def timings_path(self, key: EngineKey) -> Path:
        """Where builds for the same library and device keep what they measured, whatever package they build."""
        digest = hashlib.sha256(f"{key.backend}\n{key.identity}".encode()).hexdigest()
        return self.folder / f"{key.backend}-{digest[:16]}.timings"

    def find(self, key: EngineKey) -> EngineRecord | None:
        """The record of an engine; None where there is none, or it is not legible, or its file is not as built."""
        record = _read_record(self._state_path(key))
        if record is None or record.key != key:
            return None
        if record.state == "ready" and _sha256(self.engine_path(key)) != record.sha256:
            return None
        return record

    def put(
        self, key: EngineKey, content: bytes | memoryview, seconds: float, checks: tuple[str, ...]
    ) -> EngineRecord:
        """Store a built and verified engine."""
        write_atomically(self.engine_path(key), content)
        digest = hashlib.sha256(content).hexdigest()
        return self.note(EngineRecord(key, "ready", "", digest, len(content), seconds, checks))

    def note(self, record: EngineRecord) -> EngineRecord:
        """Store the state of an engine."""
        content = json.dumps(asdict(record), indent=1).encode()
        write_atomically(self._state_path(record.key), content)
        return record

    def used(self, key: EngineKey) -> None:
        """Keep in mind that an engine is in use."""
        self._state_path(key).touch()

    def forget_unused(self, since: float) -> tuple[EngineKey, ...]:
        """Delete engines that nobody has used since then (seconds of the epoch): of packages and versions before.

        Returns the keys of those deleted.
        """
        forgotten = []
        for path in self.folder.glob("*.json"):
            record = _read_record(path)
            if record is None or path.stat().st_mtime >= since:
                continue
            for kept in self.folder.glob(f"{record.key.stem}.*"):
                kept.unlink(missing_ok=True)
            forgotten.append(record.key)
        return tuple(forgotten)

    def records(self) -> tuple[EngineRecord, ...]:
        """Everything in the cache, by file name; what is not legible is left out."""
        found = (_read_record(path) for path in sorted(self.folder.glob("*.json")))
        return tuple(record for record in found if record is not None)

    @contextmanager
    def locked(self, key: EngineKey) -> Iterator[None]:
        """Hold the lock of an engine; waits for another process that builds it. The system frees it on a crash."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{key.stem}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _state_path(self, key: EngineKey) -> Path:
        return self.folder / f"{key.stem}.json"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all, also after a power loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_record(path: Path) -> EngineRecord | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        key = EngineKey(**content.pop("key"))
        checks = tuple(str(line) for line in content.pop("checks"))
        if set(content) != {f.name for f in fields(EngineRecord)} - {"key", "checks"}:
            return None
        return EngineRecord(key=key, checks=checks, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
