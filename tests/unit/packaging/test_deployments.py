"""The deployment examples name parts, files, ports and services that there are, and keep to the schemas."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.configuration import load_configuration
from node.parts import PARTS

PACKAGING = Path(__file__).resolve().parents[3] / "packaging"
SCALED, KUBERNETES = PACKAGING / "scaled", PACKAGING / "kubernetes"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((SCALED / "compose.yaml").read_text())
    return found


def parts_in(commands: list[list[str]]) -> set[str]:
    return {command[command.index("--only") + 1] for command in commands if "--only" in command}


def test_every_part_runs_in_both_examples(compose: dict[str, Any]) -> None:
    services = compose["services"].values()
    assert parts_in([s.get("command", []) for s in services]) == set(PARTS)
    deployed = [d for d in manifests() if d["kind"] == "Deployment"]
    containers = [c for d in deployed for c in d["spec"]["template"]["spec"]["containers"]]
    assert parts_in([c["command"] for c in containers]) == set(PARTS)


def test_two_listeners_three_workers_and_their_volumes(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["worker"]["deploy"]["replicas"] == 3
    backend = re.findall(r"^  server (\S+) (\S+):(\d+) check", (SCALED / "haproxy.cfg").read_text(), re.M)
    assert {host for _, host, _ in backend} == {name for name in services if name.startswith("listener")}
    assert len(backend) == 2
    for service in services.values():
        for volume in service.get("volumes", ()):
            place = volume.split(":")[0]
            known = (SCALED / place).is_file() if place.startswith(".") else place in compose["volumes"]
            assert known, volume


@pytest.mark.parametrize("path", [SCALED / "lungnode.yaml", KUBERNETES / "base" / "config.yaml"])
def test_the_configurations_are_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGNODE_DATABASE__URL", "postgresql+psycopg://lungnode:secret@postgresql/lungnode")
    settings = load_configuration(path)
    assert settings.database.url.startswith("postgresql")
    assert settings.storage.path == Path("/var/lib/lungnode")
    assert settings.screening.engine_cache.is_relative_to(settings.storage.path)


def test_the_resources_of_the_kustomization_are_there() -> None:
    for folder in ("base", "gpu"):
        described = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
        named = [*described["resources"], *(p["path"] for p in described.get("patches", ()))]
        assert all((KUBERNETES / folder / name).exists() for name in named), folder


def test_probes_ask_ports_that_the_containers_have() -> None:
    for manifest in manifests():
        if manifest["kind"] != "Deployment":
            continue
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("readinessProbe", "livenessProbe"):
            how = container.get(probe, {})
            asked = (how.get("tcpSocket") or how.get("httpGet") or {}).get("port")
            assert asked is None or asked in ports, (manifest["metadata"]["name"], probe)


def test_the_objects_keep_to_the_schemas() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in manifests():
        if manifest["kind"] != "Kustomization":
            validate.validate(manifest, "1.30", strict=True)


@pytest.mark.parametrize("folder", ["base", "gpu"])
def test_what_kustomize_makes_keeps_to_the_schemas(folder: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, timeout=60, check=True
    )
    found = list(yaml.safe_load_all(made.stdout))
    for manifest in found:
        validate.validate(manifest, "1.30", strict=True)
    asked = {
        d["metadata"]["name"]: d["spec"]["template"]["spec"]["containers"][0]["resources"]
        for d in found
        if d["kind"] == "Deployment"
    }
    assert ("nvidia.com/gpu" in asked["lungnode-worker"]["limits"]) is (folder == "gpu")


def manifests() -> list[dict[str, Any]]:
    """Every object of the base."""
    return [
        manifest
        for file in sorted((KUBERNETES / "base").glob("*.yaml"))
        for manifest in yaml.safe_load_all(file.read_text())
        if manifest and "kind" in manifest
    ]
