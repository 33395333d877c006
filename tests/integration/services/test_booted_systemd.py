"""The services under a systemd that runs: started, killed, hung, reloaded, stopped, in a container of their own.

systemd-nspawn boots the Debian of this machine, read through an overlay, so that nothing of it is changed, with a
network of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from tiny_packages import SYSTEMS, write_package

from node.service_layout import install, system_layout

SOURCE = Path(__file__).parents[3]
PROGRAM = Path("/opt/lungnode/bin/lungnode")
SERVICES = tuple(f"lungnode-{name}.service" for name in ("listener", "worker@1", "delivery", "web"))
LONG_SECONDS = 240.0
"""For what takes seconds on a machine that does nothing else."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Machine:
    """The container. init: process number of its systemd. root: its files."""

    init: int
    root: Path

    def run(self, *command: str) -> str:
        """Run a command in the container; what it printed."""
        entered = ["nsenter", "--target", str(self.init), "--all", "--", *command]
        return subprocess.run(entered, capture_output=True, text=True, timeout=LONG_SECONDS).stdout.strip()

    def shown(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--property", name, "--value", unit)

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--unit", unit)

    @property
    def configuration(self) -> Path:
        return self.root / "etc/lungnode/config.yaml"


def _wait(for_what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LONG_SECONDS
    while time.monotonic() < deadline:
        if for_what():
            return True
        time.sleep(0.5)
    return False


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The services, started by a systemd of their own."""
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        pytest.skip("needs root and systemd-nspawn; on Debian: apt install systemd-container")
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not Path(f"/usr/bin/python{own}").is_file():
        pytest.skip(f"needs /usr/bin/python{own}: the services must not see a Python in a home folder")
    with ExitStack() as stack:
        root = _overlay(tmp_path_factory.mktemp("machine"), stack)
        _lay_out(root, own)
        command = [
            "systemd-nspawn",
            "--directory",
            str(root),
            "--register=no",
            "--keep-unit",
            "--private-network",
        ]
        boot = [*command, "--console=pipe", "--boot", "systemd.unit=lungnode.target"]
        nspawn = subprocess.Popen(
            boot, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        stack.callback(_end, nspawn)
        assert _wait(lambda: bool(psutil.Process(nspawn.pid).children()))
        machine = Machine(psutil.Process(nspawn.pid).children()[0].pid, root)
        assert _wait(lambda: machine.shown("lungnode.target", "ActiveState") == "active"), machine.run(
            "systemctl", "list-jobs"
        )
        yield machine


def _overlay(folder: Path, stack: ExitStack) -> Path:
    """The files of this machine; what is written goes to memory."""
    memory, root = folder / "memory", folder / "root"
    for path in (memory, root):
        path.mkdir()
    _mount(stack, memory, "-t", "tmpfs", "tmpfs")
    for name in ("upper", "work"):
        (memory / name).mkdir()
    layers = f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work"
    _mount(stack, root, "-t", "overlay", "overlay", "-o", layers)
    return root


def _mount(stack: ExitStack, target: Path, *what: str) -> None:
    done = subprocess.run(["mount", *what, str(target)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine allows no such mount: {done.stderr.strip()}")
    stack.callback(subprocess.run, ["umount", str(target)], check=False)


def _lay_out(root: Path, python: str) -> None:
    """The program, tiny packages, configuration, units and user, as `lungnode install-service` lays them out."""
    for name in ("opt/lungnode", "etc/lungnode", "var/lib/lungnode"):  # of a node installed on this machine
        shutil.rmtree(root / name, ignore_errors=True)
    program = root / PROGRAM.relative_to("/")
    program.parent.mkdir(parents=True)
    places = f"{SOURCE}:{sysconfig.get_path('purelib')}"
    call = "from node.cli import main; main()"
    program.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={places}\nexec /usr/bin/python{python} -c "{call}" "$@"\n'
    )
    program.chmod(0o755)
    models = [write_package(root / "opt/lungnode/models" / system, system) for system in SYSTEMS]
    settings = {
        "storage": {"path": "/var/lib/lungnode"},
        "database": {"url": "sqlite:////var/lib/lungnode/lungnode.db"},
        "audit": {"file": "/var/lib/lungnode/audit.log"},
        "models": [f"/{path.relative_to(root)}" for path in models],
    }
    (root / "etc/lungnode").mkdir()
    (root / "etc/lungnode/config.yaml").write_text(yaml.safe_dump(settings))
    install(system_layout(None, root), PROGRAM)
    for tool, option in (("systemd-sysusers", []), ("systemd-tmpfiles", ["--create"])):
        subprocess.run([tool, f"--root={root}", *option, "lungnode.conf"], check=True, capture_output=True)


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    nspawn.terminate()
    try:
        nspawn.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.communicate()


@pytest.fixture
def broken_configuration(machine: Machine) -> Iterator[None]:
    """A configuration with a misspelt key, for as long as a test lasts."""
    before = machine.configuration.read_text()
    machine.configuration.write_text(before + "listner: {}\n")
    yield
    machine.configuration.write_text(before)


def test_all_services_are_ready_inside_their_sandboxes(machine: Machine) -> None:
    assert {unit: machine.shown(unit, "ActiveState") for unit in SERVICES} == dict.fromkeys(
        SERVICES, "active"
    )
    assert {machine.shown(unit, "User") for unit in SERVICES} == {"lungnode"}
    asked = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/healthz').status)"
    assert _wait(lambda: machine.run("/usr/bin/python3", "-c", asked) == "200")


def test_a_killed_service_is_started_again(machine: Machine) -> None:
    unit = "lungnode-delivery.service"
    before = machine.shown(unit, "MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", unit)
    assert _wait(lambda: machine.shown(unit, "NRestarts") == "1")
    assert _wait(lambda: machine.shown(unit, "ActiveState") == "active")
    assert machine.shown(unit, "MainPID") != before


def test_a_service_that_hangs_is_ended_by_the_watchdog_and_started_again(machine: Machine) -> None:
    unit = "lungnode-web.service"
    machine.run("systemctl", "kill", "--signal=STOP", unit)
    assert _wait(lambda: machine.shown(unit, "NRestarts") == "1")
    assert "Watchdog timeout" in machine.journal(unit)
    assert _wait(lambda: machine.shown(unit, "ActiveState") == "active")


@pytest.mark.usefixtures("broken_configuration")
def test_a_reload_with_a_broken_file_changes_nothing(machine: Machine) -> None:
    unit = "lungnode-listener.service"
    before = machine.shown(unit, "MainPID")
    machine.run("systemctl", "reload", unit)
    assert _wait(lambda: "did you mean listener?" in machine.shown(unit, "StatusText"))
    assert machine.shown(unit, "MainPID") == before
    assert machine.shown(unit, "ActiveState") == "active"


@pytest.mark.usefixtures("broken_configuration")
def test_what_an_admin_has_to_mend_is_not_started_again(machine: Machine) -> None:
    unit = "lungnode-worker@1.service"
    machine.run("systemctl", "restart", unit)
    assert _wait(lambda: machine.shown(unit, "ActiveState") == "failed")
    assert machine.shown(unit, "ExecMainStatus") == "78"
    time.sleep(5)  # longer than RestartSec
    assert machine.shown(unit, "NRestarts") == "0"
    assert machine.journal(unit).count("did you mean listener?") == 1


def test_the_target_stops_all(machine: Machine) -> None:
    machine.run("systemctl", "reset-failed")
    machine.run("systemctl", "stop", "lungnode.target")
    running = [unit for unit in SERVICES if unit != "lungnode-worker@1.service"]
    assert _wait(lambda: all(machine.shown(unit, "ActiveState") == "inactive" for unit in running))
    assert {machine.shown(unit, "Result") for unit in running} == {"success"}
