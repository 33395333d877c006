"""An S3 server of these tests: moto's, in a process of its own on the loopback address."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


class NoServer(Exception):
    """No server can be started here; one line with the reason."""


@dataclass
class S3Server:
    """A server that may be stopped and started again; what it held is gone then."""

    host: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """For `spool.options`."""
        return {"endpoint_url": f"http://{self.host}:{self.port}", "key": "tests", "secret": "tests"}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://{self.host}:{self.port}/moto-api/", timeout=1).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise NoServer("moto's S3 server does not start")

    def stop(self) -> None:
        """Kill it: connections break off."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def new_url(self) -> str:
        """URL of a folder in a new bucket."""
        import fsspec

        bucket = f"test-{uuid.uuid4().hex[:12]}"
        fsspec.filesystem("s3", skip_instance_cache=True, **self.options).mkdir(bucket)
        return f"s3://{bucket}/lungnode"


@contextmanager
def started_s3(host: str = "127.0.0.1", port: int = 0) -> Iterator[S3Server]:
    """A server that runs while the context lasts, at a free port where none is given. Raises NoServer."""
    for package in ("moto", "flask", "s3fs"):
        if find_spec(package) is None:
            raise NoServer(f"{package} is not installed")
    with closing(socket.create_server((host, port))) as free:
        port = free.getsockname()[1]
    server = S3Server(host, port)
    try:
        server.start()
        yield server
    finally:
        server.stop()
