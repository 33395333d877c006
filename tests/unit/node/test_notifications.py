"""What people are told, how often, and what they are not told."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from made_up_studies import receiving_study

from node.configuration import MailConfiguration, NotificationConfiguration
from node.notification_senders import mail, webhook
from node.notifications import (
    Letter,
    Notifier,
    Occasion,
    RateLimit,
    TemplateUnusable,
    of_destinations,
    of_screening,
    read_template,
)
from store import ledger
from store.database import Database
from store.notices import ScreenedNotice
from store.overview import DestinationStanding
from store.states import StudyState

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
LETTER = Letter("subject", "body of the letter", {"occasion": "failed"})


def _notice(positive: bool, label: str) -> ScreenedNotice:
    summary = {
        "jcs": {"positive": positive},
        "m3lung": {"label": label},
        "lung_involvement_percent": 12.34,
        "discordant": positive != (label == "covid19"),
    }
    return ScreenedNotice("1.2.3", NOW, summary)


@pytest.mark.parametrize(
    ("positive", "label", "told"),
    [(True, "covid19", True), (True, "healthy", True), (False, "cap", True), (False, "healthy", False)],
)
def test_either_system_alone_is_reason_enough(positive: bool, label: str, told: bool) -> None:
    note = of_screening(_notice(positive, label))
    assert (note is not None) is told
    if note is not None:
        assert note.occasion is Occasion.POSITIVE and note.fields["lungs_involved"] == "12.3 %"


def test_no_more_than_the_limit_in_any_hour() -> None:
    limit = RateLimit(2)
    minutes = [0, 10, 20, 59, 60, 65, 70, 71]
    allowed = [m for m in minutes if limit.allows(NOW + timedelta(minutes=m))]
    assert allowed == [0, 10, 60, 70]
    assert limit.held_back == 4


def test_a_destination_is_told_away_once_and_back_once() -> None:
    limit = timedelta(minutes=15)
    away = DestinationStanding("pacs", pending=4, retrying=4, waiting_since=NOW, last_error="no association")
    told: frozenset[str] = frozenset()
    heard = []
    for minutes, standing in (
        (5, away),
        (16, away),
        (17, away),
        (18, replace(away, retrying=0, pending=0, waiting_since=None)),
        (19, replace(away, retrying=0, pending=0, waiting_since=None)),
    ):
        troubled = [standing] if standing.retrying else []
        told, notes = of_destinations(troubled, told, limit, NOW + timedelta(minutes=minutes))
        heard += [(minutes, n.occasion) for n in notes]
    assert heard == [(16, Occasion.DESTINATION_AWAY), (18, Occasion.DESTINATION_BACK)]


def _fail(database: Database, uid: str) -> None:
    with database.write() as session:
        study = receiving_study(uid, NOW)
        session.add(study)
        session.flush()
        ledger.begin(session, study, who="test", why="first instance", now=NOW)
        ledger.change_state(session, study, StudyState.COMPLETE, who="test", why="quiet", now=NOW)
        ledger.change_state(session, study, StudyState.FAILED, who="test", why="cannot be decoded", now=NOW)


def _notifier(database: Database, tmp_path: Path, send: Callable[[Letter], None], **changes: Any) -> Notifier:
    configuration = NotificationConfiguration(**changes)
    return Notifier(configuration, database, tmp_path, "LUNGNODE", [send], lambda: NOW)


def test_only_what_is_new_is_told_once(database: Database, tmp_path: Path) -> None:
    _fail(database, "1.2.1")
    sent: list[Letter] = []
    notifier = _notifier(database, tmp_path, sent.append)
    notifier.look()
    assert sent == []
    _fail(database, "1.2.2")
    notifier.look()
    notifier.look()
    assert len(sent) == 1
    assert sent[0].data["fields"] == {"study": "1.2.2", "why": "cannot be decoded"}
    assert "not a medical device" in sent[0].body and "cannot be decoded" in sent[0].body


def test_what_cannot_be_sent_waits_and_is_sent_later(database: Database, tmp_path: Path) -> None:
    sent, away = [], [True]

    def send(letter: Letter) -> None:
        if away[0]:
            raise ConnectionRefusedError("mail server")
        sent.append(letter.data["fields"]["study"])

    notifier = _notifier(database, tmp_path, send)
    for uid in ("1.2.1", "1.2.2"):
        _fail(database, uid)
        notifier.look()
    away[0] = False
    notifier.look()
    assert sent == ["1.2.1", "1.2.2"]


def test_the_next_one_says_how_many_were_held_back(database: Database, tmp_path: Path) -> None:
    sent: list[Letter] = []
    moment = [NOW]
    configuration = NotificationConfiguration(max_per_hour=1)
    notifier = Notifier(configuration, database, tmp_path, "LUNGNODE", [sent.append], lambda: moment[0])
    for number in range(3):
        _fail(database, f"1.2.{number}")
        notifier.look()
    assert len(sent) == 1
    moment[0] = NOW + timedelta(hours=1)
    _fail(database, "1.2.9")
    notifier.look()
    assert sent[1].data["fields"]["held_back_before"] == "2"


def test_occasions_that_nobody_asked_for_are_not_told(database: Database, tmp_path: Path) -> None:
    sent: list[Letter] = []
    notifier = _notifier(database, tmp_path, sent.append, on=["positive"])
    _fail(database, "1.2.1")
    notifier.look()
    assert sent == []


def test_a_template_of_ones_own(database: Database, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("{{ occasion }}: {{ fields.study }}")
    sent: list[Letter] = []
    notifier = _notifier(database, tmp_path, sent.append, template=tmp_path / "letter.txt")
    _fail(database, "1.2.1")
    notifier.look()
    assert sent[0].body == "failed: 1.2.1"


def test_the_webhook_gets_json() -> None:
    bodies: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(bodies) > 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        send = webhook(f"http://127.0.0.1:{server.server_address[1]}/hook")
        send(LETTER)
        with pytest.raises(OSError):
            send(LETTER)
        server.shutdown()
    assert bodies[0] == {"occasion": "failed", "text": "body of the letter"}


def test_mail_arrives_at_the_server() -> None:
    lines: list[str] = []

    class Mail(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            data = False
            for raw in self.rfile:
                line = raw.decode().rstrip()
                lines.append(line)
                if data and line != ".":
                    continue
                data = line.upper() == "DATA"
                self.wfile.write(
                    b"354 go on\r\n" if data else b"221 bye\r\n" if line.upper() == "QUIT" else b"250 ok\r\n"
                )

    with socketserver.TCPServer(("127.0.0.1", 0), Mail) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        port = server.server_address[1]
        configuration = MailConfiguration(
            host="127.0.0.1", port=port, sender="node@example.org", recipients=("ann@example.org",)
        )
        mail(configuration)(LETTER)
    assert "Subject: subject" in lines and "To: ann@example.org" in lines and "body of the letter" in lines


def test_people_are_told_although_their_template_cannot_be_filled_in(
    database: Database, tmp_path: Path
) -> None:
    template = tmp_path / "letter.txt"
    template.write_text("{{ fields.patient.ward }}")
    sent: list[Letter] = []
    notifier = _notifier(database, tmp_path, sent.append, template=template)
    _fail(database, "1.2.7")
    notifier.look()
    assert "cannot be decoded" in sent[0].body


@pytest.mark.parametrize(
    ("content", "why"), [("\n{% for %}", "line 2"), (None, "No such file"), (b"\xff", "not UTF-8")]
)
def test_a_template_that_cannot_be_read_is_named(tmp_path: Path, content: Any, why: str) -> None:
    path = tmp_path / "letter.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TemplateUnusable, match=f"template {path}.*{why}"):
        read_template(path)


def test_what_is_no_web_server_counts_as_not_sent() -> None:
    class Talker(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"220 this is a mail server\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Talker) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(OSError, match="no HTTP"):
            webhook(f"http://127.0.0.1:{server.server_address[1]}/")(LETTER)
