"""The wheel carries what serving needs, so that `pip install` alone gives a node that screens."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engine.packages import read_package

SOURCE = Path(__file__).parents[3]
PACKAGES = ("networks", "store", "scp", "engine", "reporting", "training", "node")
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "config.yaml", "models", "systemd", "trt_engines")
PARTS = ("listener", "worker@", "delivery", "web")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy: what an earlier build left beside the source is not in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns("__pycache__", "cache")
    for name in (*BESIDE, *PACKAGES):
        if (SOURCE / name).is_dir():
            shutil.copytree(SOURCE / name, source / name, ignore=left_out)
        else:
            shutil.copy(SOURCE / name, source / name)
    build = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def _shared(wheel: zipfile.ZipFile) -> set[str]:
    """What is laid into the share folder of an installation."""
    before = ".data/data/share/lungnode/"
    return {name.partition(before)[2] for name in wheel.namelist() if before in name}


@pytest.mark.slow
def test_the_wheel_carries_packages_that_can_be_used(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    (models,) = tmp_path.glob("*.data/data/share/lungnode/models")
    systems = {read_package(path).metadata.system for path in models.iterdir()}
    assert systems == {"jcs", "m3lung"}


@pytest.mark.slow
def test_the_wheel_carries_units_configuration_recipes_and_the_page(wheel: zipfile.ZipFile) -> None:
    shared, names = _shared(wheel), set(wheel.namelist())
    assert {"config.yaml", "trt_engines/openvino.yaml", "systemd/lungnode.target"} <= shared
    assert {f"systemd/lungnode-{part}.service" for part in PARTS} <= shared
    assert "systemd/lungnode-worker@gpu.service.d/devices.conf" in shared
    for folder, ending in (
        ("node/web/templates", ".html"),
        ("node/web/static", ".css"),
        ("store/migrations/versions", ".py"),
    ):
        shipped = {f"{folder}/{path.name}" for path in (SOURCE / folder).glob(f"*{ending}")}
        assert shipped and shipped <= names, folder


@pytest.mark.slow
def test_the_wheel_installs_without_torch(wheel: zipfile.ZipFile) -> None:
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    needed = [
        line.removeprefix("Requires-Dist: ")
        for line in wheel.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert needed and not [line for line in needed if line.startswith(("torch", "onnx", "lightning"))]
