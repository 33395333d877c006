"""What values of a configuration may be: AE titles, ports, networks, URLs, times."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

T = TypeVar("T")


class Section(BaseModel):
    """A section: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _ae_title(value: str) -> str:
    """An AE title (PS3.5 6.2, VR AE): 1-16 printable ASCII characters, outer spaces dropped."""
    title = value.strip(" ")
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title):
        raise ValueError("allowed are 1 to 16 printable ASCII characters without backslash")
    return title


def _database_url(value: str) -> str:
    try:
        url = make_url(value)
    except ArgumentError:
        raise ValueError("allowed is an SQLAlchemy URL such as sqlite:///var/lungnode.db") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError("allowed are sqlite:///PATH and postgresql+psycopg://USER:PASSWORD@HOST/NAME")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("allowed is an address or a network such as 10.1.0.0/16") from None
    return value


def not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    """The same values. Raises ValueError where there is none."""
    if not value:
        raise ValueError("allowed is a list of at least 1")
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
DatabaseURL = Annotated[str, AfterValidator(_database_url)]
Network = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 30)]
HTTPURL = Annotated[str, Field(pattern=r"^https?://")]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
