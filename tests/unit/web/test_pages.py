"""What the pages show and do."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy.exc import OperationalError

from node.configuration import installed_models
from node.slice_pictures import INDEX, NAME
from node.web import packages
from node.web.identity import identity_of
from store import engines, overview, receipts
from store.database import Database
from store.engines import EngineNews
from store.states import StudyState


def test_the_overview_names_what_is_wrong(admin: object) -> None:
    page = admin.get("/")
    assert "ward does not take results" in page
    assert "Everything works" not in page
    assert "images/min" in page and "no association" in page
    assert "STRANGER@192.0.2.9" in page
    assert "association refused: calling AE title and address are not in the allow-list" in page


def test_a_silent_worker_is_the_headline(open_page: Callable[..., object], node: object) -> None:
    page = open_page()
    page.log_in("a-viewers-token")
    before = node.clock.now
    node.clock.forward(120)
    try:
        assert "Not running: listener, worker, delivery" in page.get("/live")
        assert page.client.get("/readyz").status_code == 503
    finally:
        node.clock.now = before


def test_health_names_what_it_looked_at(open_page: Callable[..., object]) -> None:
    page = open_page()
    answer = page.client.get("/healthz")
    assert answer.status_code == 200
    assert set(answer.json()["checks"]) == {"database", "listener", "worker", "delivery", "storage"}
    assert set(page.client.get("/readyz").json()["checks"]) == {"database", "listener", "storage"}


@pytest.mark.parametrize("word", ["PHANTOM^ILL", "uid"])
def test_a_study_is_found_by_patient_id_and_by_uid(admin: object, node: object, word: str) -> None:
    uid = node.studies["ill"]
    page = admin.get("/studies?q=" + (uid if word == "uid" else word))
    assert page.count("<tr>") == 2 and uid in page


def test_the_list_can_be_filtered_by_state(admin: object, node: object) -> None:
    page = admin.get("/studies?state=failed&state=skipped")
    assert node.studies["damaged"] in page and node.studies["short"] in page
    assert node.studies["ill"] not in page
    assert "No study fits" in admin.get("/studies?state=screening")


def test_the_list_can_be_filtered_by_what_was_found(admin: object, node: object) -> None:
    page = admin.get("/studies?verdict=positive")
    assert node.studies["ill"] in page and node.studies["short"] not in page
    assert '<option value="positive" selected>' in page
    assert node.studies["ill"] not in admin.get("/studies?verdict=negative")


@pytest.mark.parametrize(
    "query",
    [
        "verdict=nonsense",
        "page=-1",
        "page=x",
        "since=never",
        "state=nonsense",
        "q=%25%27%3B--",
        "page=99999999",
    ],
)
def test_a_senseless_search_is_no_error(admin: object, query: str) -> None:
    admin.get("/studies?" + query)


def test_a_study_shows_verdicts_objects_history_and_the_notice(admin: object, node: object) -> None:
    page = admin.get(f"/studies/{node.studies['ill']}")
    for words in (
        "CT pattern compatible with COVID\u201119 pneumonia",
        "M3Lung-Sys",
        "Lung involvement",
        "Structured report",
        "archive",
        "0x0000",
        "not a medical device",
        "the only axial CT series",
        "no instance for 30 s",
    ):
        assert words in page, words
    assert page.count("not a medical device") == 1


def test_slices_come_as_pictures_with_layers(admin: object, node: object) -> None:
    base = f"/studies/{node.studies['ill']}/slices"
    ct = admin.client.get(f"{base}/ct/12")
    assert ct.headers["content-type"] == "image/jpeg" and ct.content[:3] == b"\xff\xd8\xff"
    assert "private" in ct.headers["cache-control"]
    lesion = admin.client.get(f"{base}/lesion/12")
    assert lesion.content[:4] == b"\x89PNG"
    for missing in ("ct/9999", "nonsense/1", "ct/-1"):
        assert admin.client.get(f"{base}/{missing}").status_code == 404


def test_an_unknown_study_is_said_so(admin: object) -> None:
    answer = admin.client.get("/studies/1.2.3.4")
    assert answer.status_code == 404 and "has no study 1.2.3.4" in answer.text


def test_a_viewer_sees_pseudonyms_unless_configured(viewer: object, node: object, open_page) -> None:  # type: ignore[no-untyped-def]
    address = f"/studies/{node.studies['ill']}"
    for page in ("/studies", address):
        assert "phantom ill" not in viewer.get(page).lower()
    trusted = open_page(viewers_see_names=True)
    trusted.log_in("a-viewers-token")
    assert "Phantom Ill" in trusted.get(address)


def test_a_viewer_cannot_act(viewer: object, node: object) -> None:
    address = f"/studies/{node.studies['ill']}/resend"
    assert viewer.client.get(address).status_code == 403
    assert viewer.client.post(address, data={"csrf_token": viewer.csrf}).status_code == 403
    assert "Resend" not in viewer.get(f"/studies/{node.studies['ill']}")


def test_resend_asks_acts_and_is_written_down(
    admin: object, node: object, audit_lines: Callable[[], list[str]]
) -> None:
    uid = node.studies["second"]
    address = f"/studies/{uid}/resend"
    assert "sent to all their destinations again" in admin.get(address)
    answer = admin.client.post(address, data={"csrf_token": admin.csrf}, follow_redirects=False)
    assert answer.status_code == 303
    assert (
        'csd-code="110111"' in audit_lines()[-1] and uid in audit_lines()[-1] and "ann" in audit_lines()[-1]
    )
    page = admin.get(answer.headers["location"])
    assert "send again" in page and "admin ann" in page
    from store import queries

    with node.database.read() as session:
        assert queries.why(session, uid).study.state is StudyState.DELIVERING


def test_what_makes_no_sense_is_refused_in_words(admin: object, node: object) -> None:
    answer = admin.client.post(f"/studies/{node.studies['receiving']}/retry", data={"csrf_token": admin.csrf})
    assert answer.status_code == 409 and "only a failed or skipped one is retried" in answer.text


def test_looking_at_a_study_is_audited(
    admin: object, node: object, audit_lines: Callable[[], list[str]]
) -> None:
    admin.get(f"/studies/{node.studies['short']}")
    assert 'csd-code="110103"' in audit_lines()[-1] and node.studies["short"] in audit_lines()[-1]


def test_the_configuration_is_shown_without_secrets(admin: object) -> None:
    page = admin.get("/configuration")
    assert "reserve_mb: 1" in page and "***" in page
    from node.web.access import token_digest

    assert token_digest("an-admins-token") not in page


def test_metrics_tell_the_numbers(metrics_text: str) -> None:
    for line in (
        'lungnode_verdicts_total{system="jcs",verdict="positive"} 3.0',
        'lungnode_errors_total{kind="undecodable"} 1.0',
        'lungnode_refusals_total{reason="not_allowed",what="association"} 1.0',
        'lungnode_delivery_objects{destination="ward",state="pending"} 1.0',
        'lungnode_stage_seconds_count{stage="jcs_classify"} 3.0',
        'lungnode_engines{state="failed"} 0.0',
    ):
        assert line in metrics_text, line


def test_counters_begin_with_the_page_and_count_each_thing_once(
    open_page: Callable[..., object], node: object
) -> None:
    page, refusals = open_page(), 'lungnode_refusals_total{reason="too_many",what="association"}'
    assert "lungnode_verdicts_total{" not in page.get("/metrics"), "what came before is not read again"
    with node.database.write() as session:
        peer = receipts.Peer("BUSY", "192.0.2.8")
        receipts.record_refusal(session, peer=peer, why="too many associations", now=node.clock())
    for _ in range(2):
        assert f"{refusals} 1.0" in page.get("/metrics")
    text = page.get("/metrics")
    assert sum(line.startswith("lungnode_instances_received_total ") for line in text.splitlines()) == 1


def test_engines_are_shown_with_their_state_and_counted(admin: object, node: object) -> None:
    assert "None is built" in admin.get("/packages") and "none built" in admin.get("/")
    building = EngineNews("jcs-classify-1", "jcs-tiny", "classify", "f16", "tensorrt", "building")
    refused = replace(building, state="failed", why="class_probability differs by 0.2", seconds=90.0)
    with node.database.write() as session:
        for news in (building, refused):
            engines.note(session, news, node.clock())
    page = admin.get("/packages")
    assert "jcs-tiny" in page and "differs by 0.2" in page and "1, 1 failed" in page
    assert "1 failed" in admin.get("/")
    text = admin.get("/metrics")
    labels = '{backend="tensorrt",graph="classify",package="jcs-tiny",precision="f16"}'
    assert f"lungnode_engine_build_failures_total{labels} 1.0" in text
    assert 'lungnode_engines{state="failed"} 1.0' in text


def test_metrics_can_be_closed(open_page: Callable[..., object]) -> None:
    page = open_page(open_metrics=False)
    assert page.client.get("/metrics").status_code == 401
    page.log_in("a-viewers-token")
    assert page.client.get("/metrics").status_code == 200


def test_a_store_that_is_away_is_said_and_nothing_old_stays(
    admin: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_database: Database) -> NoReturn:
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr(Database, "read", away)
    answer = admin.client.get("/studies")
    assert answer.status_code == 503 and "The store does not answer" in answer.text
    assert answer.headers["X-Frame-Options"] == "DENY"
    part = admin.client.get("/live", headers={"HX-Request": "true"})
    assert part.status_code == 200 and "The store does not answer" in part.text
    assert "<html" not in part.text


def test_a_page_says_done_only_of_what_can_be_done(admin: object, node: object) -> None:
    address = f"/studies/{node.studies['ill']}?done="
    assert "Done: resend" in admin.get(address + "resend")
    assert "Done:" not in admin.get(address + "your+password+is+needed")


def test_an_image_that_could_not_be_read_is_looked_at_again(tmp_path: Path) -> None:
    file = tmp_path / "1.dcm"
    assert identity_of(file) is None
    image = Dataset()
    image.PatientName, image.PatientID = "Doe^Jane", "7"
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(file, enforce_file_format=True)
    found = identity_of(file)
    assert found is not None and found.name == "Doe Jane"


def test_an_own_models_mask_is_a_layer_with_its_colour_and_meaning(admin: object, node: object) -> None:
    uid = node.studies["ill"]
    with node.database.read() as session:
        folder = overview.newest_result_folder(session, overview.study_row(session, uid).study_id)
    file = node.configuration.storage.path / folder / NAME
    before = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(entries[INDEX])
    index["shown"]["own0-1"] = [3]
    index["own"] = [
        {"layer": "own0-1", "model": "Ward model", "meaning": "Pleural effusion", "color": "#5a8ce6"}
    ]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (entries | {INDEX: json.dumps(index), "own0-1/00003": b"a PNG"}).items():
            archive.writestr(name, content)
    try:
        page = admin.get(f"/studies/{uid}")
        answer = admin.client.get(f"/studies/{uid}/slices/own0-1/3")
    finally:
        file.write_bytes(before)
    assert '<img class="layer" data-layer="own0-1" data-shown="3"' in page
    assert 'stroke="#5a8ce6"' in page and "Pleural effusion" in page and "Ward model" in page
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert admin.client.get(f"/studies/{uid}/slices/index.json/3").status_code == 404


def test_a_package_says_what_it_is_meant_for() -> None:
    (compact, *_) = installed_models()
    shown = packages._shown(compact, 0.0)
    assert "not a medical device" in shown.meant_for and "Apache-2.0" in shown.license


def test_sections_that_nothing_is_said_in_are_named_together(admin: object) -> None:
    page = admin.get("/configuration")
    unused = page.partition("<h2>Not used</h2>")[2].partition("</section>")[0]
    assert "<code>worklist</code>" in unused and "<h2>worklist</h2>" not in page
    assert page.index("name: archive") < page.index("ae_title: ARCHIVE")
