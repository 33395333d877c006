"""Telling people by webhook and e-mail: a positive verdict, a failure, a destination that has been away for long.

A notification names no patient unless that is configured, and no more are sent in an hour than is configured.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from jinja2 import Template, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment

from node.configuration import NotificationConfiguration
from node.web.identity import Identity, identity_of
from reporting.delivery.loop import Stop
from store import notices, overview
from store.database import Database
from store.ledger import UnknownStudy
from store.overview import DestinationStanding
from store.shared_storage import Storage

WAITING_LIMIT = 200
"""So many notifications wait for a webhook or mail server that is away; the oldest go first."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("notifications")


class Occasion(enum.StrEnum):
    """What people are told of."""

    POSITIVE = "positive"
    FAILED = "failed"
    DESTINATION_AWAY = "destination_away"
    DESTINATION_BACK = "destination_back"


@dataclass(frozen=True)
class Notification:
    """One thing to tell. fields: what templates and the webhook get."""

    occasion: Occasion
    at: datetime
    subject: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Letter:
    """A notification ready to be sent."""

    subject: str
    body: str
    data: Mapping[str, Any]


class TemplateUnusable(Exception):
    """The template of the configuration cannot be read; one line that names file and line."""


Sender = Callable[[Letter], None]
"""Sends a letter; raises OSError where it cannot."""

TEMPLATE = """{{ subject }}

{% for name, value in fields.items() %}{{ name | replace("_", " ") }}: {{ value }}
{% endfor %}at: {{ at }}
node: {{ node }}

Research and screening software, not a medical device. Nothing here was verified by a physician.
"""


def read_template(path: Path | None) -> Template:
    """The template in a file, or the one that comes with the program. Raises TemplateUnusable."""
    if path is None:
        return _template(TEMPLATE)
    try:
        return _template(path.read_text("utf-8"))
    except TemplateSyntaxError as error:
        raise TemplateUnusable(
            f"notifications.template {path}, line {error.lineno}: {error.message}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise TemplateUnusable(f"template {path}: {why}") from error


def _template(text: str) -> Template:
    return SandboxedEnvironment(autoescape=False).from_string(text)


class RateLimit:
    """At most `per_hour` in any hour; counts what it held back."""

    def __init__(self, per_hour: int) -> None:
        self.held_back = 0
        self._per_hour = per_hour
        self._sent: deque[datetime] = deque()

    def allows(self, now: datetime) -> bool:
        """Whether one more may be sent now; if so it counts as sent."""
        while self._sent and now - self._sent[0] >= timedelta(hours=1):
            self._sent.popleft()
        if len(self._sent) >= self._per_hour:
            self.held_back += 1
            return False
        self._sent.append(now)
        return True


def of_screening(notice: notices.ScreenedNotice) -> Notification | None:
    """What is told of a screening: None where neither system finds pneumonia."""
    jcs, m3lung = notice.summary["jcs"], notice.summary["m3lung"]
    if not jcs["positive"] and m3lung["label"] == "healthy":
        return None
    fields = {
        "study": notice.study_instance_uid,
        "JCS": "COVID-19 pattern" if jcs["positive"] else "no COVID-19 pattern",
        "M3Lung-Sys": m3lung["label"],
        "lungs_involved": f"{notice.summary['lung_involvement_percent']:.1f} %",
        "systems": "disagree" if notice.summary["discordant"] else "agree",
    }
    return Notification(Occasion.POSITIVE, notice.at, "pattern of pneumonia found", fields)


def of_failure(notice: notices.FailedNotice) -> Notification:
    """What is told of a study that came to failed."""
    fields = {"study": notice.study_instance_uid, "why": notice.why}
    return Notification(Occasion.FAILED, notice.at, "a study has failed", fields)


def of_destinations(
    troubled: Sequence[DestinationStanding], told: frozenset[str], limit: timedelta, now: datetime
) -> tuple[frozenset[str], list[Notification]]:
    """Which destinations people now know to be away, and what they are told: each going and coming once."""
    away = {s.name: s for s in troubled if s.waiting_since and now - s.waiting_since >= limit}
    settled = told - {s.name for s in troubled}
    notes = [
        Notification(
            Occasion.DESTINATION_AWAY,
            now,
            f"{name} does not take results",
            {"destination": name, "since": s.waiting_since, "waiting": s.pending, "why": s.last_error},
        )
        for name, s in away.items()
        if name not in told
    ]
    notes += [
        Notification(Occasion.DESTINATION_BACK, now, f"{name} takes results again", {"destination": name})
        for name in sorted(settled)
    ]
    return (told | away.keys()) - settled, notes


class Notifier:
    """Looks into the store and tells people. What happened before it started is not told."""

    def __init__(
        self,
        configuration: NotificationConfiguration,
        database: Database,
        storage: Storage,
        node: str,
        senders: Sequence[Sender],
        clock: Callable[[], datetime],
    ) -> None:
        self._configuration, self._database, self._storage = configuration, database, storage
        self._node, self._senders, self._clock = node, senders, clock
        self._limit = RateLimit(configuration.max_per_hour)
        self._away: frozenset[str] = frozenset()
        self._waiting: list[deque[Letter]] = [deque(maxlen=WAITING_LIMIT) for _ in senders]
        self._template = read_template(configuration.template)
        with database.read() as session:
            self._known = notices.newest(session)

    def run(self, stop: Stop, poll_seconds: float) -> None:
        """Tell people until told to stop."""
        while not stop.wait(max(poll_seconds, 1.0)):
            self.look()

    def look(self) -> None:
        """Take what is new in the store and send what waits."""
        now = self._clock()
        for note in self._news(now):
            if note.occasion.value.replace("_back", "_away") not in self._configuration.on:
                continue
            if not self._limit.allows(now):
                log.warning(
                    "notification held back",
                    occasion=note.occasion.value,
                    limit=self._configuration.max_per_hour,
                )
                continue
            letter = self._letter(note)
            for waiting in self._waiting:
                waiting.append(letter)
        for sender, waiting in zip(self._senders, self._waiting, strict=True):
            _send(sender, waiting)

    def _news(self, now: datetime) -> list[Notification]:
        with self._database.read() as session:
            self._known, screened, failed = notices.since(session, self._known)
            troubled = overview.troubled_destinations(session)
        limit = timedelta(minutes=self._configuration.away_minutes)
        self._away, of_places = of_destinations(troubled, self._away, limit, now)
        positive = [note for note in map(of_screening, screened) if note is not None]
        return [*positive, *map(of_failure, failed), *of_places]

    def _letter(self, note: Notification) -> Letter:
        fields = dict(note.fields)
        if self._limit.held_back:
            fields["held_back_before"] = self._limit.held_back
            self._limit.held_back = 0
        identity = self._identity(fields.get("study")) if self._configuration.with_patient else None
        if identity is not None:
            fields |= {"patient": identity.name, "patient_id": identity.patient_id}
        subject = f"lungnode {self._node}: {note.subject}"
        at = note.at.isoformat(timespec="seconds")
        words = {
            "subject": subject,
            "fields": fields,
            "at": at,
            "node": self._node,
            "occasion": note.occasion.value,
        }
        data = {"occasion": note.occasion.value, "at": at, "node": self._node, "subject": note.subject}
        return Letter(
            subject, self._body(words), data | {"fields": {key: str(value) for key, value in fields.items()}}
        )

    def _body(self, words: Mapping[str, Any]) -> str:
        """The text by the template; by the one that comes with the program where that cannot be filled in."""
        try:
            return self._template.render(words)
        except Exception as error:  # noqa: BLE001 - a template runs what its author wrote; people are told all the same
            log.error("template not used", why=f"{type(error).__name__}: {error}")
            return _template(TEMPLATE).render(words)

    def _identity(self, study: str | None) -> Identity | None:
        if study is None:
            return None
        try:
            with self._database.read() as session:
                path = overview.study_row(session, study).path
        except UnknownStudy:
            return None
        return None if path is None else identity_of(self._storage / path)


def _send(sender: Sender, waiting: deque[Letter]) -> None:
    """Send in order until one cannot be sent; it is tried again at the next look."""
    while waiting:
        try:
            sender(waiting[0])
        except OSError as error:
            log.warning("notification not sent", why=f"{type(error).__name__}: {error}", waiting=len(waiting))
            return
        waiting.popleft()
