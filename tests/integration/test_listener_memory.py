"""What a listener process needs: little, however large an instance is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import psutil
import pydicom
import pytest
import yaml
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from node.stand_in_pacs import free_port

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
MEBIBYTE = 2**20
LUNGNODE = [sys.executable, "-c", "from node.cli import main; main()"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[], tuple[psutil.Process, int]]]:
    """The node's listener as it runs under systemd; gives it and its port."""
    port = free_port()
    settings = {
        "listener": {"port": port},
        "storage": {"path": str(tmp_path), "reserve_mb": 0},
        "database": {"url": f"sqlite:///{tmp_path / 'lungnode.db'}"},
        "completeness": {"quiet_seconds": 600, "max_wait_seconds": 600},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with (tmp_path / "log").open("wb") as log:
        command = [*LUNGNODE, "serve", "--only", "listener", "--config", str(tmp_path / "config.yaml")]
        child = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 200
    while not any(c.laddr.port == port for c in psutil.Process(child.pid).net_connections("tcp")):
        assert time.monotonic() < deadline and child.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    yield lambda: (psutil.Process(child.pid), port)
    child.terminate()
    child.wait(timeout=60)


@pytest.mark.slow
def test_a_large_multi_frame_instance_passes_through_little_memory(
    process: Callable[[], tuple[psutil.Process, int]], tmp_path: Path
) -> None:
    listener, port = process()
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = ENHANCED_CT, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "1.2.3.1", "CT"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 400, 512, 512
    dataset.BitsAllocated, dataset.SamplesPerPixel = 16, 1
    dataset.PixelData = bytes(200 * MEBIBYTE)
    dataset["PixelData"].VR = "OW"
    ae = AE("SENDER")
    ae.add_requested_context(ENHANCED_CT, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="LUNGNODE")
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    peak = int(next(v for k, v in _status(listener.pid) if k == "VmHWM").split()[0]) * 1024
    assert peak < 150 * MEBIBYTE, f"{peak / MEBIBYTE:.0f} MiB"
    (file,) = (tmp_path / "spool").rglob("*.dcm")
    assert file.stat().st_size > 200 * MEBIBYTE
    assert pydicom.dcmread(BytesIO(file.read_bytes()[:4096]), stop_before_pixels=True, force=True).Rows == 512


def test_associations_leave_no_thread_and_no_descriptor_behind(
    process: Callable[[], tuple[psutil.Process, int]],
) -> None:
    listener, port = process()

    def echo() -> None:
        ae = AE("SENDER")
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", port, ae_title="LUNGNODE")
        assert association.send_c_echo().Status == 0
        association.release()

    def settled() -> tuple[int, int]:
        time.sleep(1.0)
        return listener.num_threads(), listener.num_fds()

    for _ in range(10):
        echo()
    threads, _ = settled()
    for _ in range(100):
        echo()
    threads_later, descriptors_later = settled()
    assert threads_later <= threads
    # eventfds wait for the garbage collector, which comes by at least every 60 associations
    assert descriptors_later < 150


def _status(pid: int) -> list[tuple[str, str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
