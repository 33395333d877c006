"""Another DICOM application entity that we talk to: where it is, how it is reached, how long it may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClientTLS:
    """TLS as the side that connects, by DICOM or HTTP. Files are PEM.

    certificate, key: ours, where the other side asks for one; key None where the certificate's file holds it. ca: whom
    the other side must be certified by, None for those that the system trusts.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


SYSTEM_TRUST = ClientTLS()
"""No certificate of ours, and whom the system trusts."""


@dataclass(frozen=True)
class Peer:
    """An application entity, as configured or given on the command line. tls: None for plain TCP."""

    ae_title: str
    host: str
    port: int
    tls: ClientTLS | None = None

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait: for the TCP connection, for an association answer, for a DIMSE answer."""

    connect: float = 10.0
    association: float = 20.0
    answer: float = 60.0


DEFAULT_TIMEOUTS = Timeouts()
