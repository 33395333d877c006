"""`lungnode serve --only web` as systemd runs it: readiness, reload, refusals, exit codes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_packages import SYSTEMS, write_package

from node.stand_in_pacs import free_port

PROGRAM = [sys.executable, "-c", "from node.cli import main; main()"]
START_SECONDS = 120.0


@dataclass
class Service:
    """A configuration, and the socket that systemd would listen on."""

    folder: Path
    port: int
    notify: socket.socket

    def configure(self, **changes: Any) -> None:
        settings: dict[str, Any] = {
            "storage": {"path": "var", "reserve_mb": 0},
            "database": {"url": "sqlite:///var/lungnode.db"},
            "models": [f"models/{system}" for system in SYSTEMS],
            "web": {"port": self.port},
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(settings | changes))

    def start(self) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LUNGNODE_")}
        environment["NOTIFY_SOCKET"] = str(self.folder / "notify")
        return subprocess.Popen(
            [*PROGRAM, "serve", "--only", "web", "--config", "config.yaml"],
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self, words: str) -> str:
        """The first message that begins with `words`."""
        while True:
            message = self.notify.recv(4096).decode()
            if message.startswith(words):
                return message

    def asked(self, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    for system in SYSTEMS:
        write_package(tmp_path / "models" / system, system)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(START_SECONDS)
        yield Service(tmp_path, free_port(), notify)


def test_it_is_ready_when_it_answers_and_a_broken_file_changes_nothing(service: Service) -> None:
    service.configure()
    process = service.start()
    try:
        service.told("READY=1")
        status, content = service.asked("/healthz")
        assert status == 503 and content["checks"]["database"]["ok"]
        assert content["checks"]["worker"] == {"ok": False, "detail": "does not run"}
        service.configure(nonsense=1)
        process.send_signal(signal.SIGHUP)
        assert "nonsense is no known key" in service.told("STATUS=")
        assert service.asked("/healthz")[0] == 503
        service.configure(log={"level": "debug"})
        process.send_signal(signal.SIGHUP)
        service.told("RELOADING=1")
        service.told("READY=1")
        assert service.asked("/readyz")[0] == 503
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    service.told("STOPPING=1")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("configuration", "web.port = 'many' is not allowed"),
        ("port", "choose another web.port"),
        ("newer store", "newer than this program"),
    ],
)
def test_what_an_admin_has_to_mend_is_one_line_and_code_78(
    service: Service, trouble: str, words: str
) -> None:
    service.configure(**({"web": {"port": "many"}} if trouble == "configuration" else {}))
    with socket.socket() as taken:
        if trouble == "port":
            taken.bind(("127.0.0.1", service.port))
            taken.listen()
        if trouble == "newer store":
            _make_newer(service.folder / "var" / "lungnode.db")
        process = service.start()
        _, said = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 78
    lines = [line for line in said.splitlines() if line.startswith("lungnode: ")]
    assert len(lines) == 1 and words in lines[0]


def _make_newer(path: Path) -> None:
    import sqlite3

    from store.migrations import upgrade

    path.parent.mkdir()
    upgrade(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
