"""Own models through the whole node: screened offline and by the worker, sent, shown, counted."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from shown_node import ShownNode, shown_node
from starlette.testclient import TestClient
from tiny_own_models import DENSE, data_format, dense_lung, identity, mean_score, write_own_package
from tiny_packages import SYSTEMS, write_package

from engine.errors import PackageInvalid
from node.casework import Casework, open_casework, open_special_casework
from node.configuration import Configuration
from node.offline import screen_folder
from node.phantom import phantom_study, phantom_volume
from node.routing.rules import Rule, Then
from node.verdicts import verdict_lines
from node.web.access import token_digest
from node.web.app import build_app, build_site
from store import queries
from store.verdicts import by_system

TOKEN = "an-admins-token"
FULL = {
    "name": "full-slices",
    "title": "Full slices",
    "network_data_format": data_format([32, 32], "classification"),
    "postprocessing": {"patient": {"rule": "count", "count": 5}},
    "classes": [{"channel": 0, "key": "dense", "code": DENSE, "threshold": 0.99}],
}


@pytest.fixture(scope="module", autouse=True)
def _unwarmed() -> Iterator[None]:
    """Warming up makes a node's first study as fast as the others, which no test here needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.casework.warm_up", lambda: None)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Both systems, a segmenter of dense lung and a classifier that counts slices."""
    folder = tmp_path_factory.mktemp("models")
    own = dense_lung() | {"postprocessing": {"within": "lungs"}}
    return (
        *(write_package(folder / system, system) for system in SYSTEMS),
        write_own_package(folder / "dense-lung", identity("N", 1, "H", "W"), **own),
        write_own_package(folder / "full-slices", mean_score("N", 1, 32, 32), **dense_lung(**FULL)),
    )


def casework(models: tuple[Path, ...], **screening: object) -> Casework:
    defaults = Configuration(models=models)
    section = defaults.screening.model_copy(update={"threads": 1, "max_thickness_mm": 20.0, **screening})
    return open_casework(defaults.model_copy(update={"screening": section}), ("seg", "sr"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    volume = phantom_volume(24, 64, seed=1, ill=True)
    for number, instance in enumerate(phantom_study(volume, datetime.datetime(2026, 1, 5, 7, 30))):
        instance.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


@pytest.mark.dicom3tools
def test_a_folder_screened_offline(models: tuple[Path, ...], study: Path, tmp_path: Path) -> None:
    (tmp_path / "seg-03.dcm").write_text("of an earlier run")
    with (opened := casework(models)).executor:
        result = screen_folder(study, tmp_path, opened)
    assert not (tmp_path / "seg-03.dcm").exists()
    assert [path.name for path in result.files] == ["seg.dcm", "seg-02.dcm", "sr.dcm", "findings.json"]
    summary = json.loads((tmp_path / "findings.json").read_text())
    dense, full = summary["own_models"]
    assert dense["classes"][0]["found"]
    assert dense["classes"][0]["code"] == ["95436008", "SCT", "Pulmonary consolidation"]
    assert full["classes"][0]["positive_slices"] == 0
    assert [package["system"] for package in summary["packages"]] == ["jcs", "m3lung", "onnx", "onnx"]
    counted = by_system(summary)
    assert (counted["dense-lung"], counted["full-slices"]) == ("dense", "nothing")
    lines = verdict_lines(summary)
    assert any(line.startswith("Dense lung: Pulmonary consolidation found (") for line in lines)
    assert "Full slices: Pulmonary consolidation not found (0 slices, not above the limit of 5)" in lines
    own = pydicom.dcmread(tmp_path / "seg-02.dcm")
    assert own.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "95436008"
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed")
    for name in ("seg.dcm", "seg-02.dcm", "sr.dcm"):
        said = subprocess.run(["dciodvfy", tmp_path / name], capture_output=True, text=True, errors="replace")
        assert "Error" not in said.stdout + said.stderr, name


def test_a_model_that_fails_ends_the_study_or_is_left_out_as_configured(
    models: tuple[Path, ...], study: Path, tmp_path: Path
) -> None:
    from engine.errors import RunnerFailed

    misfit = write_own_package(tmp_path / "misfit", mean_score("N", 1, "H", "W"), **dense_lung(name="misfit"))
    (altered := tmp_path / "altered").mkdir()
    (altered / "metadata.json").write_text("{}")
    with pytest.raises(PackageInvalid, match=r"altered.metadata\.json"):
        casework((*models[:2], altered))
    with (opened := casework((*models[:2], misfit))).executor, pytest.raises(RunnerFailed, match="misfit"):
        screen_folder(study, tmp_path / "out", opened)
    with (opened := casework((*models[:3], altered, misfit), own_models="optional")).executor:
        summary = screen_folder(study, tmp_path / "out", opened).case.summary
    assert [own["name"] for own in summary["own_models"]] == ["dense-lung"]
    failed = {item["name"]: item["why"] for item in summary["own_model_failures"]}
    assert set(failed) == {"altered", "misfit"}
    assert all("\n" not in why for why in failed.values())
    assert sum(": no result: " in line for line in verdict_lines(summary)) == 2


def test_both_systems_are_needed_whatever_is_optional(models: tuple[Path, ...], tmp_path: Path) -> None:
    (altered := tmp_path / "jcs").mkdir()
    (altered / "metadata.json").write_text("{}")
    with pytest.raises(PackageInvalid, match=r"jcs.metadata\.json"):
        casework((altered, models[1]), own_models="optional")
    with pytest.raises(PackageInvalid, match="second package for own_dense-lung"):
        casework((*models, models[2]))


def test_rules_keep_a_model_to_their_studies(models: tuple[Path, ...]) -> None:
    ward = Rule(name="ward", then=Then(packages=("jcs", "m3lung", "dense-lung")))
    configuration = Configuration(models=models, routing=(ward,))
    usual, special = open_casework(configuration), open_special_casework(configuration)
    names = [package.name for package in usual.executor.packages]
    assert names == ["jcs-tiny", "m3lung-tiny", "full-slices"], "dense-lung is for the ward only"
    (of_ward,) = special.values()
    assert [p.name for p in of_ward.executor.packages] == ["jcs-tiny", "m3lung-tiny", "dense-lung"]
    assert usual.settings_digest != of_ward.settings_digest
    for one in (usual, of_ward):
        one.executor.__exit__(None, None, None)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, ...]) -> Iterator[ShownNode]:
    with shown_node(tmp_path_factory.mktemp("shown"), models=models, only_ill=True) as running:
        yield running


@pytest.fixture
def page(node: ShownNode) -> Iterator[TestClient]:
    from node.configuration import WebUserConfiguration

    user = WebUserConfiguration(name="ann", role="admin", token_sha256=token_digest(TOKEN))
    web = node.configuration.web.model_copy(update={"users": (user,)})
    site = build_site(node.configuration.model_copy(update={"web": web}), node.database, node.clock)
    with TestClient(build_app(site), client=("127.0.0.1", 50000)) as client:
        client.post("/login", data={"token": TOKEN})
        yield client


def test_the_worker_screens_with_them_and_their_masks_are_delivered(node: ShownNode) -> None:
    with node.database.read() as session:
        account = queries.why(session, node.studies["ill"])
    sent = [d for d in account.deliveries if d.destination == "archive" and d.kind == "seg"]
    assert len(sent) == 2
    assert len({d.sop_instance_uid for d in sent}) == 2
    assert {d.state.value for d in sent} == {"delivered"}


def test_the_page_shows_what_they_say_and_what_they_are(node: ShownNode, page: TestClient) -> None:
    shown = page.get(f"/studies/{node.studies['ill']}").text
    assert 'Dense lung <small class="dim">own model</small>' in shown
    assert "Pulmonary consolidation found (" in shown
    assert "more than 5 positive slices" in shown
    packages = page.get("/packages").text
    assert "Own model" in packages
    assert "dense (Pulmonary consolidation, SCT 95436008)" in packages
