"""How long each part of the node takes until it is ready, and what all of them use while nothing happens.

python benchmarks/start_and_idle.py [--seconds 60]

Each part is started as systemd starts it, with a NOTIFY_SOCKET, and is ready when it says so. Processor time is what
the kernel counts for the process, so that a busy machine disturbs it less than wall clock.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from node.configuration import ScreeningConfiguration, installed_models
from node.stand_in_pacs import free_port

PARTS = ("listener", "worker", "delivery", "web")
PROGRAM = (
    sys.executable,
    "-c",
    "from node.cli import main; main()",
    "serve",
    "--config",
    "config.yaml",
    "--only",
)
STOP_SECONDS = 300.0
LOOK_SECONDS = 0.5
SETTLE_SECONDS = 15.0


@dataclass(frozen=True)
class Started:
    """A part that is ready. wall, processor: seconds until then."""

    part: str
    process: subprocess.Popen[bytes]
    wall: float
    processor: float


def main() -> None:
    """Start all parts, wait, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the idle node is watched")
    seconds = parser.parse_args().seconds
    _build_engines()
    with tempfile.TemporaryDirectory(prefix="lungnode-idle-") as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(yaml.safe_dump(_settings()))
        started = [_start(part, folder) for part in PARTS]
        try:
            shares = _idle(started, seconds)
        finally:
            for one in started:
                one.process.terminate()
            for one in started:
                one.process.wait(STOP_SECONDS)
    print("| part | ready, s | of it processor, s | idle, % of a core |")
    print("|---|---|---|---|")
    for one in started:
        print(f"| {one.part} | {one.wall:.1f} | {one.processor:.1f} | {shares[one.part]:.2f} |")
    print(f"| all | | | {sum(shares.values()):.2f} |")


def _build_engines() -> None:
    """What a node does once: not to be measured here."""
    subprocess.run(
        [sys.executable, "-c", "from node.cli import main; main()", "engines", "build"], check=True
    )


def _settings() -> dict[str, object]:
    return {
        "listener": {"port": free_port()},
        "storage": {"path": "var"},
        "database": {"url": "sqlite:///var/lungnode.db"},
        "models": [str(path) for path in installed_models()],
        "screening": {"engine_cache": str(ScreeningConfiguration().engine_cache.resolve())},
        "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}],
        "web": {"enabled": True, "port": free_port()},
    }


def _start(part: str, folder: Path) -> Started:
    address = folder / "notify"
    address.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LUNGNODE_")}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
        (folder / f"{part}.log").open("wb") as log,
    ):
        channel.bind(str(address))
        channel.settimeout(LOOK_SECONDS)
        begin = time.monotonic()
        process = subprocess.Popen(
            [*PROGRAM, part], cwd=folder, env=environment | {"NOTIFY_SOCKET": str(address)}, stderr=log
        )
        while not _says_ready(channel):
            if process.poll() is not None:
                sys.exit(f"{part} ended: {(folder / f'{part}.log').read_text().strip().splitlines()[-1]}")
        return Started(part, process, time.monotonic() - begin, _processor(process))


def _says_ready(channel: socket.socket) -> bool:
    try:
        return b"READY=1" in channel.recv(4096)
    except TimeoutError:
        return False


def _processor(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def _idle(started: list[Started], seconds: float) -> dict[str, float]:
    """Percent of a core that each part uses."""
    time.sleep(SETTLE_SECONDS)
    before = {one.part: _processor(one.process) for one in started}
    begin = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begin
    return {one.part: 100 * (_processor(one.process) - before[one.part]) / passed for one in started}


if __name__ == "__main__":
    main()
