"""The audit trail: who saw or did what, as DICOM audit messages (PS3.15 A.5), to a file or a syslog server."""

from __future__ import annotations

import enum
import os
import re
import socket
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from node.configuration import AuditConfiguration

DICOM_AUDIT_PRIORITY = 10 * 8 + 5
"""RFC 5424 6.2.1: facility 10 (security), severity 5 (notice), as PS3.15 A.6.2 asks."""

_NOT_FOR_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""What XML cannot hold, and what would begin a new line."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("audit")


class Event(enum.Enum):
    """The events of PS3.15 A.5.3 that a page gives rise to: code (DCM) and meaning."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    PROCEDURE_RECORD = ("110111", "Procedure Record")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")


class EventType(enum.Enum):
    """EventTypeCode (PS3.16 CID 401): code (DCM) and meaning."""

    START = ("110120", "Application Start")
    STOP = ("110121", "Application Stop")
    LOGIN = ("110122", "Login")
    LOGOUT = ("110123", "Logout")
    CONFIGURATION = ("110131", "Software Configuration")


class Action(enum.StrEnum):
    """EventActionCode: create, read, update, delete, execute."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


@dataclass(frozen=True)
class AuditRecord:
    """One thing that somebody saw or did.

    who: his name at login. address: where he came from. study: the Study Instance UID, empty where none is
    concerned. detail: in words; no patient data.
    """

    event: Event
    action: Action
    at: datetime
    who: str
    address: str = ""
    success: bool = True
    study: str = ""
    detail: str = ""
    type: EventType | None = None


def audit_message(record: AuditRecord, source: str) -> bytes:
    """The message of PS3.15 A.5.1 as XML in UTF-8, on one line. source: our AE title, the audit source."""
    root = ET.Element("AuditMessage")
    event = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=record.action.value,
        EventDateTime=record.at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator="0" if record.success else "4",
    )
    _code(event, "EventID", *record.event.value)
    if record.type is not None:
        _code(event, "EventTypeCode", *record.type.value)
    if record.detail:
        ET.SubElement(event, "EventOutcomeDescription").text = _on_one_line(record.detail)
    who = _on_one_line(record.who)
    person = ET.SubElement(root, "ActiveParticipant", UserID=who, UserIsRequestor="true")
    if record.address:
        person.set("NetworkAccessPointID", record.address)
        person.set("NetworkAccessPointTypeCode", "2")  # an IP address
    ET.SubElement(
        root,
        "ActiveParticipant",
        UserID=source,
        AlternativeUserID=f"AETITLES={source}",
        UserIsRequestor="false",
    )
    ET.SubElement(root, "AuditSourceIdentification", AuditSourceID=source, code="4")  # an application server
    if record.study:
        _study(root, record.study)
    message: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=False)
    return message


def _study(root: ET.Element, study: str) -> None:
    item = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_on_one_line(study),
        ParticipantObjectTypeCode="2",  # a system object
        ParticipantObjectTypeCodeRole="3",  # a report
    )
    _code(item, "ParticipantObjectIDTypeCode", "110180", "Study Instance UID")
    description = ET.SubElement(item, "ParticipantObjectDescription")
    description.text = "study"


def _on_one_line(text: str) -> str:
    """What somebody wrote, so that it cannot be taken for another message."""
    return _NOT_FOR_A_LINE.sub(" ", text)


def _code(parent: ET.Element, name: str, code: str, meaning: str) -> None:
    ET.SubElement(parent, name, {"csd-code": code, "codeSystemName": "DCM", "originalText": meaning})


Sink = Callable[[bytes, datetime], None]


@dataclass(frozen=True)
class AuditTrail:
    """Where audit messages go. A sink that fails is reported in the log; what was audited happens all the same."""

    source: str
    sinks: tuple[Sink, ...] = field(default=(), repr=False)

    def write(self, record: AuditRecord) -> None:
        """Send one record to every sink."""
        message = audit_message(record, self.source)
        for sink in self.sinks:
            try:
                sink(message, record.at)
            except OSError as error:
                log.error(
                    "audit message lost", why=str(error), event_name=record.event.value[1], who=record.who
                )


def open_trail(configuration: AuditConfiguration, source: str) -> AuditTrail:
    """The trail that the configuration asks for."""
    sinks: list[Sink] = []
    if configuration.file is not None:
        sinks.append(file_sink(configuration.file))
    if configuration.syslog is not None:
        host, _, port = configuration.syslog.rpartition(":")
        sinks.append(syslog_sink(host, int(port)))
    return AuditTrail(source, tuple(sinks))


def file_sink(path: Path) -> Sink:
    """Appends one message a line, each on disk before this returns; the file is for its owner alone."""
    lock = threading.Lock()

    def write(message: bytes, _at: datetime) -> None:
        with lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, message + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    return write


def syslog_sink(host: str, port: int) -> Sink:
    """Sends RFC 5424 messages by UDP (RFC 5426), with the message id that PS3.15 A.6.2 names."""
    own = socket.gethostname() or "-"

    def write(message: bytes, at: datetime) -> None:
        stamp = at.isoformat(timespec="milliseconds")
        header = f"<{DICOM_AUDIT_PRIORITY}>1 {stamp} {own} lungnode {os.getpid()} DICOM+RFC3881 - \ufeff"
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as channel:
            channel.sendto(header.encode() + message, address)

    return write
