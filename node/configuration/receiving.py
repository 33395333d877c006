"""How studies come in, where they lie, and when they are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from node.configuration.values import AETitle, DatabaseURL, Network, Port, Seconds, Section, not_empty


class AllowedPeerConfiguration(Section):
    """Who may send: an address or network, and the calling AE title where only one is meant."""

    network: Network
    ae_title: AETitle | None = None


class TLSConfiguration(Section):
    """Files for TLS (PS3.15 B.9), PEM."""

    certificate: Path
    key: Path
    ca: Path | None = None


class ListenerConfiguration(Section):
    """Who the node is on the network, and how many may talk to it at once."""

    ae_title: AETitle = "LUNGNODE"
    host: str = Field(default="127.0.0.1", min_length=1)
    port: Port = 11112
    share_port: bool = False
    require_called_ae: bool = True
    allowed: Annotated[tuple[AllowedPeerConfiguration, ...], AfterValidator(not_empty)] = (
        AllowedPeerConfiguration(network="127.0.0.0/8"),
        AllowedPeerConfiguration(network="::1/128"),
    )
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 16
    max_associations_per_host: Annotated[int, Field(ge=1, le=1000)] = 8
    idle_seconds: Seconds = 60.0
    grace_seconds: Seconds = 10.0
    tls: TLSConfiguration | None = None


class StowListenerConfiguration(Section):
    """STOW-RS as a way in, beside the DICOM listener."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: Port = 8042
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    @model_validator(mode="after")
    def _clients_are_asked_by_tls(self) -> StowListenerConfiguration:
        for name in ("key", "client_ca"):
            if getattr(self, name) is not None and self.certificate is None:
                raise ValueError(f"{name} has no effect without certificate: STOW-RS would be plain HTTP")
        return self


class StorageConfiguration(Section):
    """Where received instances and results lie, and how much of the disk is left free."""

    path: Path = Path("var")
    reserve_mb: int = Field(default=512, ge=0)
    keep_days: float | None = Field(default=None, gt=0)
    keep_failed_days: float | None = Field(default=None, gt=0)
    keep_records_days: float | None = Field(default=90.0, ge=1)
    make_room: bool = True


class DatabaseConfiguration(Section):
    """The study-state store."""

    url: DatabaseURL = "sqlite:///var/lungnode.db"


class SpoolConfiguration(Section):
    """Where received images and results go, for nodes without a file system in common."""

    url: Annotated[str, Field(pattern=r"^[a-z0-9]+://.+")] | None = None
    options: dict[str, Any] = Field(default={})


class CompletenessConfiguration(Section):
    """When a study counts as complete."""

    quiet_seconds: Seconds = 30.0
    short_quiet_seconds: Seconds = 5.0
    max_wait_seconds: Seconds = 1800.0

    @model_validator(mode="after")
    def _wait_covers_quiet(self) -> CompletenessConfiguration:
        if self.max_wait_seconds < self.quiet_seconds:
            raise ValueError(f"max_wait_seconds is less than quiet_seconds ({self.quiet_seconds:g})")
        return self
