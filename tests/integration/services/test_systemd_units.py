"""The units: what systemd says of them, and what `install-service` makes of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from node.service_layout import install, system_layout, user_layout
from node.service_units import Place, fitted_for_user, shipped_units, units_to_write

LIMIT = 2.5


@pytest.fixture
def analyze() -> str:
    """The program systemd-analyze."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed; on Debian: apt install systemd")
    return program


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    """Everything laid out below a folder, with a program that is there."""
    program = tmp_path / "bin" / "lungnode"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    install(system_layout(None, tmp_path), program)
    return tmp_path


def _units(root: Path) -> list[Path]:
    return sorted((root / "etc/systemd/system").glob("*.service"))


def test_systemd_finds_no_fault_in_the_units(analyze: str, laid_out: Path) -> None:
    units = [*_units(laid_out), laid_out / "etc/systemd/system/lungnode.target"]
    assert len(units) == 5
    for unit in units:
        done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), unit.name


def test_the_units_expose_little(analyze: str, laid_out: Path) -> None:
    for unit in _units(laid_out):
        done = subprocess.run(
            [analyze, "security", "--offline=yes", "--no-pager", unit],
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
        assert found, done.stdout + done.stderr
        assert float(found.group(1)) <= LIMIT, unit.name


def test_everything_is_laid_out(laid_out: Path) -> None:
    for path in (
        "usr/lib/sysusers.d/lungnode.conf",
        "usr/lib/tmpfiles.d/lungnode.conf",
        "etc/lungnode/config.yaml",
        "etc/systemd/system/lungnode.target",
        "etc/systemd/system/lungnode-worker@.service",
        "etc/systemd/system/lungnode-worker@gpu.service.d/devices.conf",
    ):
        assert (laid_out / path).is_file(), path
    unit = (laid_out / "etc/systemd/system/lungnode-listener.service").read_text()
    assert (
        f"ExecStart={laid_out}/bin/lungnode serve --only listener --config /etc/lungnode/config.yaml" in unit
    )
    configuration = (laid_out / "etc/lungnode/config.yaml").read_text()
    assert (
        "path: /var/lib/lungnode " in configuration
        and "sqlite:////var/lib/lungnode/lungnode.db" in configuration
    )


def test_a_configuration_that_is_there_is_kept(laid_out: Path) -> None:
    file = laid_out / "etc/lungnode/config.yaml"
    file.write_text("listener: {port: 104}\nstorage: {path: /srv/dicom}\n")
    install(system_layout(None, laid_out), Path("/bin/true"))
    assert file.read_text().startswith("listener: {port: 104}")
    unit = (laid_out / "etc/systemd/system/lungnode-listener.service").read_text()
    assert "ReadWritePaths=" in unit and "/srv/dicom" in unit


def test_folders_that_units_may_write_are_made(laid_out: Path) -> None:
    """systemd starts no unit whose ReadWritePaths are not there."""
    file = laid_out / "etc/lungnode/config.yaml"
    file.write_text("storage: {path: /srv/dicom}\naudit: {file: /var/log/lungnode/audit.log}\n")
    said = install(system_layout(None, laid_out), Path("/bin/true"))
    assert (laid_out / "srv/dicom").is_dir() and (laid_out / "var/log/lungnode").is_dir()
    assert "folder /srv/dicom: made" in said
    assert not any("made" in line for line in install(system_layout(None, laid_out), Path("/bin/true")))


def test_units_of_a_user_ask_for_nothing_that_he_has_not(
    analyze: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    layout = user_layout(None)
    install(layout, Path("/bin/true"))
    units = sorted(layout.units.glob("*.service"))
    assert len(units) == 4
    for unit in units:
        text = unit.read_text()
        assert "User=" not in text and "Capability" not in text and "Type=notify" in text
        done = subprocess.run([analyze, "verify", "--user", unit], capture_output=True, text=True, timeout=60)
        assert done.stderr == "", unit.name
    assert "default.target" in (layout.units / "lungnode.target").read_text()


def test_services_restart_within_limits_and_not_after_a_broken_configuration() -> None:
    place = Place(Path("/bin/true"), Path("/etc/lungnode/config.yaml"))
    for name, text in units_to_write(shipped_units(), place, for_user=False).items():
        if name.endswith(".service"):
            for line in (
                "Restart=on-failure",
                "RestartPreventExitStatus=78",
                "StartLimitBurst=",
                "WatchdogSec=",
            ):
                assert line in text, (name, line)
            assert "Restart=on-failure" in fitted_for_user(text, place)
