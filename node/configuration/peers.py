"""Who gets the results, who is asked for studies, and what they need to be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from node.configuration.values import HTTPURL, AETitle, Name, Port, Seconds, Section, not_empty
from reporting.profiles import WantedObject
from scp.peer import ClientTLS, Peer


class CommitmentConfiguration(Section):
    """What a destination must confirm before a study counts as delivered."""

    ask: Literal["auto", "required", "off"] = "auto"
    compare: bool = True
    answer_seconds: Seconds = 60.0


class ClientTLSConfiguration(Section):
    """A client certificate, and whom the server must be certified by."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def settings(self) -> ClientTLS:
        """The same for those who connect."""
        return ClientTLS(self.certificate, self.key, self.ca)


class PeerConfiguration(Section):
    """A peer by AE title, where it listens, and TLS where it wants that."""

    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port
    tls: ClientTLSConfiguration | None = None

    @property
    def peer(self) -> Peer:
        """The same for those who connect."""
        return Peer(self.ae_title, self.host, self.port, None if self.tls is None else self.tls.settings)


class QuerySourceConfiguration(PeerConfiguration):
    """The PACS that is asked whether a study is here in full."""

    retrieve: Literal["get", "move", "off"] = "get"
    scope: Literal["study", "series"] = "study"


class DestinationConfiguration(PeerConfiguration):
    """One PACS that gets results, and which objects it gets."""

    name: Name
    objects: Annotated[tuple[WantedObject, ...], AfterValidator(not_empty)] = ("seg", "gsps", "pm", "sr")
    commitment: CommitmentConfiguration = CommitmentConfiguration()


class OAuth2Configuration(Section):
    """OAuth2 client credentials."""

    token_url: HTTPURL
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    scope: str = ""


class StowDestinationConfiguration(Section):
    """A DICOMweb server that gets results by STOW-RS."""

    name: Name
    url: HTTPURL
    objects: Annotated[tuple[WantedObject, ...], AfterValidator(not_empty)] = ("seg", "gsps", "pm", "sr")
    oauth2: OAuth2Configuration | None = None
    tls: ClientTLSConfiguration = ClientTLSConfiguration()
    compare: bool = True
    timeout_seconds: Seconds = 60.0


class DicomwebSourceConfiguration(Section):
    """A DICOMweb server that is asked by QIDO-RS whether a study is here in full."""

    url: HTTPURL
    retrieve: bool = True
    scope: Literal["study", "series"] = "study"
    oauth2: OAuth2Configuration | None = None
    tls: ClientTLSConfiguration = ClientTLSConfiguration()
    timeout_seconds: Seconds = 30.0


class PriorsConfiguration(Section):
    """Earlier chest CTs of a patient, fetched from the query source to be compared with."""

    fetch: bool = False
    within_days: Annotated[int, Field(ge=1, le=36_500)] = 1095
    revise: bool = True
    deliver: bool = False


class WorkitemCodeConfiguration(Section):
    """A coded concept."""

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class WorklistConfiguration(Section):
    """A UPS-RS server whose workitems the node performs (IHE AIW-I)."""

    url: HTTPURL
    code: WorkitemCodeConfiguration
    poll_seconds: Seconds = 10.0
    patience_seconds: Seconds = 3600.0
    oauth2: OAuth2Configuration | None = None
    tls: ClientTLSConfiguration = ClientTLSConfiguration()
    timeout_seconds: Seconds = 30.0


class DeliveryConfiguration(Section):
    """How results are sent, and how a destination that is away is tried again."""

    first_retry_seconds: Seconds = 5.0
    max_retry_seconds: Seconds = 900.0
    poll_seconds: Seconds = 0.5

    @model_validator(mode="after")
    def _cap_covers_first(self) -> DeliveryConfiguration:
        if self.max_retry_seconds < self.first_retry_seconds:
            raise ValueError(
                f"max_retry_seconds is less than first_retry_seconds ({self.first_retry_seconds:g})"
            )
        return self
