"""A screened study of hundreds of slices as the page needs it: rows of the store, and pictures of real size."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from node.configuration import Configuration
from node.slice_pictures import NAME
from node.web.server import serve_web
from store.database import Database
from store.models import Result, Revision, Screening, Study
from store.states import StudyState

UID = "1.2.826.0.1.99.0"
LAYERS = ("lesion", "jcs", "m3lung")


def write_long_study(database: Database, storage: Path, now: datetime, slices: int = 300) -> None:
    """Record the study and lay its pictures where the page looks for them."""
    folder = storage / "outbox" / "1-long"
    folder.mkdir(parents=True)
    _draw(folder / NAME, slices)
    times = dict.fromkeys(
        ("created_at", "receiving_since", "last_received_at", "changed_at", "not_before"), now
    )
    with database.write() as session:
        study = Study(
            study_instance_uid=UID,
            patient_digest="0" * 64,
            state=StudyState.DELIVERED,
            verdict="positive covid19",
            instance_count=slices,
            byte_count=slices * 525_000,
            revision=1,
            **times,
        )
        session.add(study)
        session.flush()
        revision = Revision(
            study_id=study.id, number=1, digest="0" * 64, instance_count=slices, created_at=now
        )
        session.add(revision)
        session.flush()
        screening = Screening(
            revision_id=revision.id,
            settings_digest="a",
            worker="w",
            finished_at=now,
            summary=_summary(slices),
        )
        session.add(screening)
        session.flush()
        session.add(
            Result(
                screening_id=screening.id,
                kind="sr",
                sop_class_uid="1",
                sop_instance_uid="1.9",
                series_instance_uid="1",
                path=f"outbox/{folder.name}/sr.dcm",
                created_at=now,
            )
        )


@contextmanager
def served(configuration: Configuration, database: Database, clock: Callable[[], datetime]) -> Iterator[str]:
    """The page of a node in a thread of this process; its address."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=serve_web, args=(configuration, database, clock, stop, ready.set), daemon=True
    )
    thread.start()
    try:
        assert ready.wait(60)
        yield f"http://127.0.0.1:{configuration.web.port}"
    finally:
        stop.set()
        thread.join(20)


def _summary(slices: int) -> dict[str, Any]:
    lesions = [
        {"label": k, "volume_ml": 10.0, "mean_hu": -600.0, "slices": [k, k + 9], "largest_slice": k + 4}
        for k in range(1, min(41, slices - 9))
    ]
    return {
        "jcs": {
            "positive": True,
            "positive_slices": slices // 2,
            "slices": slices,
            "threshold": 25,
            "rule": "absolute",
            "outside_paper_protocol": False,
            "slice_probabilities": [0.25, 0.75] * (slices // 2),
        },
        "m3lung": {
            "label": "covid19",
            "probabilities": {"healthy": 0.1, "covid19": 0.6, "h1n1": 0.1, "cap": 0.2},
        },
        "discordant": False,
        "lung_involvement_percent": 12.5,
        "lesion_volume_ml": 500.0,
        "lung_volume_ml": 4000.0,
        "lesions": lesions,
        "key_slices": [slices // 5, slices // 2, slices * 4 // 5],
        "timings_s": {"load": timedelta(seconds=1).total_seconds(), "jcs_classify": 2.0},
        "packages": [{"name": "jcs-compact", "version": "1.0.0", "sha256": "0" * 64}],
    }


def _draw(path: Path, slices: int) -> None:
    """JPEGs of noise of 512 x 512 pixels, about as large as those of a chest, and layers like the node's."""
    noise = np.random.default_rng(1)
    pictures = [_encoded(noise.integers(90, 130, (512, 512), dtype=np.uint8), "JPEG") for _ in range(4)]
    lesion = np.zeros((512, 512, 4), np.uint8)
    lesion[200:260, 200:260] = (255, 80, 0, 56)
    heat = noise.integers(0, 230, (28, 28, 4), dtype=np.uint8)
    layers = {
        "lesion": _encoded(lesion, "PNG"),
        "jcs": _encoded(heat, "PNG"),
        "m3lung": _encoded(heat, "PNG"),
    }
    index = {
        "slices": slices,
        "width": 512,
        "height": 512,
        "orientation": "RLAP",
        "positions": list(range(slices)),
        "shown": {name: list(range(slices)) for name in ("ct", *LAYERS)},
    }
    with zipfile.ZipFile(path, "w") as archive:
        for z in range(slices):
            archive.writestr(f"ct/{z:05d}", pictures[z % len(pictures)])
            for name in LAYERS:
                archive.writestr(f"{name}/{z:05d}", layers[name])
        archive.writestr("index.json", json.dumps(index))


def _encoded(pixels: np.ndarray[Any, np.dtype[np.uint8]], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
