"""What an admin has to mend: one line that says what to do, and a code with which systemd does not start it again."""

from __future__ import annotations

import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_packages import SYSTEMS, write_package

from engine.errors import DeviceLost
from node import cli
from node import serve as node_serve
from node.configuration import Configuration
from node.stand_in_pacs import free_port
from store.migrations import upgrade

Serve = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(write_package(folder / system, system)) for system in SYSTEMS]


@pytest.fixture
def serve(
    tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Serve:
    """Run a part as a service of systemd; gives the exit code and the lines for people."""

    def run(part: str, **changes: Any) -> tuple[int, str]:
        settings = {"models": models, "listener": {"port": free_port()}, "web": {"port": free_port()}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | changes))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody-listens"))
        monkeypatch.setattr(sys, "argv", ["lungnode", "serve", "--only", part])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        lines = capsys.readouterr().err.splitlines()
        (line,) = [line for line in lines if line.startswith("lungnode: ")]
        return int(ended.value.code or 0), line

    return run


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_port_in_use(serve: Serve, taken_port: int) -> None:
    code, line = serve("listener", listener={"port": taken_port})
    assert code == cli.EX_CONFIG and "Address already in use; choose another listener.port" in line
    code, line = serve("web", web={"port": taken_port})
    assert code == cli.EX_CONFIG and "choose another web.port" in line


@pytest.mark.parametrize("part", ["listener", "worker", "delivery", "web"])
def test_a_spool_that_cannot_be_written(serve: Serve, part: str) -> None:
    code, line = serve(part, storage={"path": "/proc/sys"})
    assert code == cli.EX_CONFIG and "/proc/sys" in line and "check its rights" in line


@pytest.mark.parametrize("part", ["listener", "worker", "delivery", "web"])
def test_a_store_that_is_newer(serve: Serve, tmp_path: Path, part: str) -> None:
    path = tmp_path / "newer.db"
    upgrade(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    code, line = serve(part, database={"url": f"sqlite:///{path}"})
    assert code == cli.EX_CONFIG and "newer than this program" in line and "install the newer program" in line


def test_a_store_that_is_none(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no store")
    code, line = serve("delivery", database={"url": "sqlite:///text.db"})
    assert code == cli.EX_CONFIG and "text.db cannot be used: file is not a database" in line


def test_a_database_server_that_is_away_is_tried_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_serve, "STORE_SECONDS", 0.0)
    url = f"postgresql+psycopg://node:hush@127.0.0.1:{free_port()}/lungnode"
    code, line = serve("delivery", database={"url": url})
    assert code == cli.EX_TEMPFAIL and "that its server runs" in line and "hush" not in line


def test_a_database_server_that_starts_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([node_serve.StoreUnreachable("connection refused")] * 2 + [None])
    pauses: list[float] = []

    def prepare(_configuration: Configuration, *, screens: bool) -> None:
        if (error := next(answers)) is not None:
            raise error

    monkeypatch.setattr(node_serve, "prepare", prepare)
    node_serve.prepare_patiently(Configuration(), seconds=60, clock=lambda: 0.0, pause=pauses.append)
    assert pauses == [node_serve.STORE_LOOK_SECONDS] * 2


def test_a_gpu_that_is_absent(serve: Serve) -> None:
    code, line = serve("worker", screening={"device": "tensorrt"})
    assert code == cli.EX_CONFIG and "needs an NVIDIA GPU" in line and "screening.device" in line


def test_a_worker_that_lost_its_gpu_is_started_again() -> None:
    assert cli._service_code(DeviceLost("the GPU does not answer")) == cli.EX_TEMPFAIL


def test_a_damaged_package(serve: Serve, tmp_path: Path, models: list[str]) -> None:
    damaged = write_package(tmp_path / "damaged", next(iter(SYSTEMS)))
    next(damaged.glob("*.onnx")).write_bytes(b"!")
    code, line = serve("worker", models=[str(damaged), models[1]])
    assert code == cli.EX_CONFIG and "was altered" in line


def test_a_broken_configuration(serve: Serve) -> None:
    code, line = serve("listener", listener={"prot": 104})
    assert code == cli.EX_CONFIG and "did you mean port?" in line


def test_units_do_not_start_again_what_an_admin_has_to_mend() -> None:
    units = Path(__file__).parents[3] / "systemd"
    for unit in units.glob("*.service"):
        assert f"RestartPreventExitStatus={cli.EX_CONFIG}\n" in unit.read_text(), unit.name
