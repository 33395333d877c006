"""What people see and are told: the page, the audit trail, notifications, the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from node.configuration.values import HTTPURL, Network, Port, Section, not_empty


class WebUserConfiguration(Section):
    """Somebody who logs in to the page with a token; `lungnode web token` makes both."""

    name: str = Field(min_length=1, max_length=64)
    role: Literal["viewer", "admin"] = "viewer"
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ProxyLoginConfiguration(Section):
    """A proxy that has logged people in and says who they are, in a header."""

    header: str = Field(default="X-Remote-User", pattern=r"^[A-Za-z0-9-]+$")
    trusted: Annotated[tuple[Network, ...], AfterValidator(not_empty)] = (
        "127.0.0.0/8",
        "::1/128",
    )
    admins: tuple[str, ...] = ()


class WebConfiguration(Section):
    """The page for people, the metrics and the health checks."""

    enabled: bool = False
    host: str = Field(default="127.0.0.1", min_length=1)
    port: Port = 8080
    users: tuple[WebUserConfiguration, ...] = ()
    proxy: ProxyLoginConfiguration | None = None
    session_hours: Annotated[float, Field(gt=0, le=24 * 30)] = 12.0
    viewers_see_names: bool = False
    open_metrics: bool = True

    @model_validator(mode="after")
    def _users_differ(self) -> WebConfiguration:
        names = [u.name for u in self.users]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"user {twice[0]!r} is given twice; each name is allowed once")
        return self


class AuditConfiguration(Section):
    """Where the audit trail goes (PS3.15 A.5): a file, a syslog server by UDP (RFC 5426), both or neither."""

    file: Path | None = Path("var/audit.log")
    syslog: Annotated[str, Field(pattern=r"^[^:\s]+:\d+$")] | None = None


class MailConfiguration(Section):
    """A mail server, and who gets the mail."""

    host: str = Field(min_length=1)
    port: Port = 25
    sender: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    recipients: Annotated[tuple[str, ...], AfterValidator(not_empty)]
    starttls: bool = False
    user: str | None = None
    password: str | None = None


class NotificationConfiguration(Section):
    """What people are told of, and how."""

    webhook: HTTPURL | None = None
    mail: MailConfiguration | None = None
    on: tuple[Literal["positive", "failed", "destination_away"], ...] = (
        "positive",
        "failed",
        "destination_away",
    )
    away_minutes: Annotated[float, Field(gt=0)] = 15.0
    max_per_hour: Annotated[int, Field(ge=1, le=3600)] = 20
    with_patient: bool = False
    template: Path | None = None


class LogConfiguration(Section):
    """What the node writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"
