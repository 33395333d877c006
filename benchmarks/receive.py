"""How fast instances are received, beside DCMTK and Orthanc: `python benchmarks/receive.py [--rounds 5]`.

300 CT instances of 512 x 512 (158 MB) over loopback, sent by DCMTK's dcmsend with TCP_NODELAY=1 (without it DCMTK's own
peers stall for 40 ms an instance), by one association and by four. The peers take turns round by round; medians and
ratios. The node's receipt is durable: file and folder flushed, row committed, then the answer. `storescp + fsync` is
DCMTK's with one fsync a file, by a shim that is compiled here. A busy machine makes the figures worthless: the
share of processor time that others took is printed with each round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.synchronize
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from scp.listener import Listener
from scp.policy import ListenerPolicy
from store.database import open_database
from store.migrations import upgrade

FSYNC_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int fclose(FILE *file) {
    int (*real)(FILE *) = (int (*)(FILE *)) dlsym(RTLD_NEXT, "fclose");
    fflush(file);
    fsync(fileno(file));
    return real(file);
}
"""
SENDER_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
Peer = Callable[[Path, int], Iterator[None]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument(
        "--folder", type=Path, default=Path.cwd(), help="where to write: the disk that counts"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="receive-", dir=arguments.folder) as name:
        folder = Path(name)
        studies = [
            make_instances(folder / f"send-{part}", arguments.instances // 4, part) for part in range(4)
        ]
        peers = available_peers(folder)
        for associations in (1, 4):
            measure(peers, studies, associations, arguments.rounds, folder)


def measure(
    peers: dict[str, Peer], studies: list[Path], associations: int, rounds: int, folder: Path
) -> None:
    """All peers in turn, `rounds` times."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(rounds):
        for name, peer in peers.items():
            place = folder / "receive"
            place.mkdir()
            with contextmanager(peer)(place, port := free_port()):
                seconds[name].append(send(studies, associations, port))
            shutil.rmtree(place)
            os.sync()  # what one leaves to be written is not the next one's to wait for
        print(
            f"round {number + 1} of {rounds}: others took {others_share():.0%} of the processor",
            file=sys.stderr,
        )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{associations} association{'s' if associations > 1 else ''}")
    for name, median in medians.items():
        ratios = [
            f"{medians[other] / median:5.2f} x {other}"
            for other in ("Orthanc", "storescp + fsync")
            if other in medians
        ]
        print(f"  {name:24}{median * 1000:7.0f} ms   {'   '.join(ratios)}")


def available_peers(folder: Path) -> dict[str, Peer]:
    """The node, and those of its peers that are installed."""
    peers: dict[str, Peer] = {
        "lungnode": node(streaming=True),
        "lungnode, not streaming": node(streaming=False),
    }
    if shutil.which("storescp"):
        peers["storescp"] = storescp(None)
        shim = compile_shim(folder)
        if shim is not None:
            peers["storescp + fsync"] = storescp(shim)
    orthanc = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    if orthanc:
        peers["Orthanc"] = orthanc_peer(orthanc)
    return peers


def node(streaming: bool) -> Peer:
    """The listener in a process of its own."""

    def run(folder: Path, port: int) -> Iterator[None]:
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        process = context.Process(target=run_listener, args=(folder, port, streaming, stop))
        process.start()
        await_port(port)
        yield
        stop.set()
        process.join()

    return run


def run_listener(folder: Path, port: int, streaming: bool, stop: multiprocessing.synchronize.Event) -> None:
    """The main function of the node's process."""
    url = f"sqlite:///{folder / 'lungnode.db'}"
    upgrade(url)
    database = open_database(url)
    policy = ListenerPolicy("ANY", port=port, require_called_ae=False, streaming=streaming)
    listener = Listener(policy, database, folder, lambda: datetime.now(UTC))
    listener.start()
    stop.wait()
    listener.stop()


def storescp(shim: Path | None) -> Peer:
    """DCMTK's, a process an association, data sets as received."""

    def run(folder: Path, port: int) -> Iterator[None]:
        environment = SENDER_ENVIRONMENT | ({"LD_PRELOAD": str(shim)} if shim else {})
        command = ["storescp", "--fork", "+B", "-od", str(folder), str(port)]
        with running(command, environment):
            await_port(port)
            yield

    return run


def orthanc_peer(program: str) -> Peer:
    """Orthanc with its default settings, on ports and in a folder of its own."""

    def run(folder: Path, port: int) -> Iterator[None]:
        settings = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "DicomPort": port,
            "HttpPort": free_port(),
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with running([program, str(folder / "orthanc.json")], SENDER_ENVIRONMENT):
            await_port(port)
            yield

    return run


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """A process while the block runs."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def send(studies: list[Path], associations: int, port: int) -> float:
    """Send all instances; seconds until the last sender has ended. Exits where an instance was refused."""
    batches = [studies] if associations == 1 else [[study] for study in studies]
    start = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["dcmsend", "-q", "-aec", "ANY", "127.0.0.1", str(port), "+sd", "+r", *map(str, batch)],
            env=SENDER_ENVIRONMENT,
        )
        for batch in batches
    ]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        sys.exit(f"dcmsend failed with {codes}")
    return time.perf_counter() - start


def make_instances(folder: Path, count: int, part: int) -> Path:
    """CT instances with noise for pixels, explicit little endian."""
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    for number in range(count):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "CT", "BENCHMARK", number + 1
        dataset.Rows = dataset.Columns = 512
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        pixels = np.random.default_rng([part, number]).integers(0, 2000, (512, 512), dtype=np.int16)
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
    return folder


def compile_shim(folder: Path) -> Path | None:
    """A library whose fclose flushes to disk before; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "fsync.c", folder / "fsync.so"
    source.write_text(FSYNC_SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def others_share() -> float:
    """Share of the processor that is in use while nothing of this runs, 0 to 1."""
    return psutil.cpu_percent(interval=0.5) / 100


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    """Wait until something listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


if __name__ == "__main__":
    main()
