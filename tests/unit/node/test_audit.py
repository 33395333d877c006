"""Audit messages in the form of PS3.15 A.5, to a file and to a syslog server."""

from __future__ import annotations

import socket
import stat
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

from node.audit import Action, AuditRecord, AuditTrail, Event, EventType, audit_message, open_trail
from node.configuration import AuditConfiguration

NOW = datetime(2026, 1, 5, 8, 0, 0, 123000, tzinfo=UTC)
RECORD = AuditRecord(
    Event.INSTANCES_ACCESSED, Action.READ, NOW, "ann <a&b>", "192.0.2.7", study="1.2.3", detail="seen"
)


def test_the_message_says_who_did_what_when_and_to_which_study() -> None:
    root = ET.fromstring(audit_message(RECORD, "LUNGNODE"))
    event = root.find("EventIdentification")
    assert root.tag == "AuditMessage" and event is not None
    assert event.attrib == {
        "EventActionCode": "R",
        "EventDateTime": "2026-01-05T08:00:00.123+00:00",
        "EventOutcomeIndicator": "0",
    }
    code = event.find("EventID")
    assert code is not None and (code.get("csd-code"), code.get("codeSystemName")) == ("110103", "DCM")
    people = root.findall("ActiveParticipant")
    assert [p.get("UserIsRequestor") for p in people] == ["true", "false"]
    assert people[0].get("UserID") == "ann <a&b>" and people[0].get("NetworkAccessPointID") == "192.0.2.7"
    study = root.find("ParticipantObjectIdentification")
    assert study is not None and study.get("ParticipantObjectID") == "1.2.3"
    source = root.find("AuditSourceIdentification")
    assert source is not None and source.get("AuditSourceID") == "LUNGNODE"


def test_what_somebody_writes_cannot_pass_for_another_message() -> None:
    forged = AuditRecord(
        Event.PROCEDURE_RECORD, Action.UPDATE, NOW, "ann\nbob", study="1.2\x00", detail="a\r\nb\u2028c\ud800"
    )
    message = audit_message(forged, "LUNGNODE")
    assert len(message.decode().splitlines()) == 1
    root = ET.fromstring(message)
    assert [p.get("UserID") for p in root.findall("ActiveParticipant")] == ["ann bob", "LUNGNODE"]


def test_a_refused_login_is_an_outcome_of_its_own() -> None:
    record = AuditRecord(
        Event.USER_AUTHENTICATION, Action.EXECUTE, NOW, "unknown", success=False, type=EventType.LOGIN
    )
    root = ET.fromstring(audit_message(record, "LUNGNODE"))
    event = root.find("EventIdentification")
    assert event is not None and event.get("EventOutcomeIndicator") == "4"
    kind = event.find("EventTypeCode")
    assert kind is not None and kind.get("csd-code") == "110122"


def test_the_file_gets_a_message_a_line_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "log" / "audit.log"
    trail = open_trail(AuditConfiguration(file=file), "LUNGNODE")
    trail.write(RECORD)
    trail.write(RECORD)
    lines = file.read_text().splitlines()
    assert len(lines) == 2 and all(ET.fromstring(line).tag == "AuditMessage" for line in lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_syslog_gets_the_header_of_rfc_5424() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        open_trail(AuditConfiguration(file=None, syslog=address), "LUNGNODE").write(RECORD)
        header, _, message = server.recv(8192).decode().partition("\ufeff")
    assert header.startswith("<85>1 2026-01-05T08:00:00.123+00:00 ") and "DICOM+RFC3881" in header
    assert ET.fromstring(message).tag == "AuditMessage"


def test_a_sink_that_fails_stops_nothing() -> None:
    kept: list[bytes] = []

    def broken(_message: bytes, _at: datetime) -> None:
        raise OSError("disk full")

    AuditTrail("LUNGNODE", (broken, lambda message, _at: kept.append(message))).write(RECORD)
    assert len(kept) == 1
