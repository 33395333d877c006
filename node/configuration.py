"""The configuration of the node: `config.yaml`, overridden by environment variables `LUNGNODE_...`.

An unknown key or a wrong value is an error that names the key, the value and what is allowed: a node that
starts with a misspelt key would run with a default nobody asked for.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from node.configuration_file import ConfigurationError as ConfigurationError
from node.configuration_file import read_mapping
from node.configuration_problems import allowed_keys, described
from node.installation import shipped
from node.routing.rules import Rules, check_names
from reporting.context import ObjectKind
from reporting.profiles import WantedObject, expanded
from scp.peer import ClientTLS, Peer

ENVIRONMENT_PREFIX = "LUNGNODE_"
NESTED_DELIMITER = "__"

T = TypeVar("T")


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


def _not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("allowed is a list of at least 1")
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 30)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AllowedPeerConfiguration(_Section):
    """Who may send: an address or network, and the calling AE title where only one is meant."""

    network: Annotated[str, AfterValidator(_network)]
    ae_title: AETitle | None = None


class TLSConfiguration(_Section):
    """Files for TLS (PS3.15 B.9), PEM."""

    certificate: Path
    key: Path
    ca: Path | None = None


class ListenerConfiguration(_Section):
    """Who the node is on the network, and how many may talk to it at once."""

    ae_title: AETitle = "LUNGNODE"
    host: str = Field(default="127.0.0.1", min_length=1)
    port: Port = 11112
    share_port: bool = False
    require_called_ae: bool = True
    allowed: Annotated[tuple[AllowedPeerConfiguration, ...], AfterValidator(_not_empty)] = (
        AllowedPeerConfiguration(network="127.0.0.0/8"),
        AllowedPeerConfiguration(network="::1/128"),
    )
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 16
    max_associations_per_host: Annotated[int, Field(ge=1, le=1000)] = 8
    idle_seconds: Seconds = 60.0
    grace_seconds: Seconds = 10.0
    tls: TLSConfiguration | None = None


class StorageConfiguration(_Section):
    """Where received instances and results lie, and how much of the disk is left free."""

    path: Path = Path("var")
    reserve_mb: int = Field(default=512, ge=0)
    keep_days: float | None = Field(default=None, gt=0)


class DatabaseConfiguration(_Section):
    """The study-state store."""

    url: Annotated[str, AfterValidator(_database_url)] = "sqlite:///var/lungnode.db"


class SpoolConfiguration(_Section):
    """Where received images and results go, for nodes without a file system in common."""

    url: Annotated[str, Field(pattern=r"^[a-z0-9]+://.+")] | None = None
    options: dict[str, Any] = {}


class CompletenessConfiguration(_Section):
    """When a study counts as complete."""

    quiet_seconds: Seconds = 30.0
    short_quiet_seconds: Seconds = 5.0
    max_wait_seconds: Seconds = 1800.0

    @model_validator(mode="after")
    def _wait_covers_quiet(self) -> CompletenessConfiguration:
        if self.max_wait_seconds < self.quiet_seconds:
            raise ValueError(f"max_wait_seconds is less than quiet_seconds ({self.quiet_seconds:g})")
        return self


class CommitmentConfiguration(_Section):
    """What a destination must confirm before a study counts as delivered."""

    ask: Literal["auto", "required", "off"] = "auto"
    compare: bool = True
    answer_seconds: Seconds = 60.0


class ClientTLSConfiguration(_Section):
    """A client certificate, and whom the server must be certified by."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def settings(self) -> ClientTLS:
        """The same for those who connect."""
        return ClientTLS(self.certificate, self.key, self.ca)


class PeerConfiguration(_Section):
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

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    objects: Annotated[tuple[WantedObject, ...], AfterValidator(_not_empty)] = ("seg", "gsps", "pm", "sr")
    commitment: CommitmentConfiguration = CommitmentConfiguration()


class OAuth2Configuration(_Section):
    """OAuth2 client credentials."""

    token_url: str = Field(pattern=r"^https?://")
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    scope: str = ""


class StowDestinationConfiguration(_Section):
    """A DICOMweb server that gets results by STOW-RS."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    url: str = Field(pattern=r"^https?://")
    objects: Annotated[tuple[WantedObject, ...], AfterValidator(_not_empty)] = ("seg", "gsps", "pm", "sr")
    oauth2: OAuth2Configuration | None = None
    tls: ClientTLSConfiguration = ClientTLSConfiguration()
    compare: bool = True
    timeout_seconds: Seconds = 60.0


class DicomwebSourceConfiguration(_Section):
    """A DICOMweb server that is asked by QIDO-RS whether a study is here in full."""

    url: str = Field(pattern=r"^https?://")
    retrieve: bool = True
    scope: Literal["study", "series"] = "study"
    oauth2: OAuth2Configuration | None = None
    tls: ClientTLSConfiguration = ClientTLSConfiguration()
    timeout_seconds: Seconds = 30.0


class PriorsConfiguration(_Section):
    """Earlier chest CTs of a patient, fetched from the query source to be compared with."""

    fetch: bool = False
    within_days: Annotated[int, Field(ge=1, le=36_500)] = 1095
    revise: bool = True
    deliver: bool = False


class WorkitemCodeConfiguration(_Section):
    """A coded concept."""

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class WorklistConfiguration(_Section):
    """A UPS-RS server whose workitems the node performs (IHE AIW-I)."""

    url: str = Field(pattern=r"^https?://")
    code: WorkitemCodeConfiguration
    poll_seconds: Seconds = 10.0
    patience_seconds: Seconds = 3600.0
    oauth2: OAuth2Configuration | None = None
    tls: ClientTLSConfiguration = ClientTLSConfiguration()
    timeout_seconds: Seconds = 30.0


class StowListenerConfiguration(_Section):
    """STOW-RS as a way in, beside the DICOM listener."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: Port = 8042
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


class WorkerConfiguration(_Section):
    """The process that screens studies."""

    lease_seconds: Seconds = 60.0
    max_attempts: int = Field(default=3, ge=1, le=100)
    poll_seconds: Seconds = 0.5
    mixed_packages: bool = False


class ScreeningConfiguration(_Section):
    """Which series are screened, and how the networks are run."""

    precision: Literal["auto", "f32", "bf16"] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    device: Literal["auto", "openvino", "tensorrt", "torch"] = "auto"
    executor: Literal["local", "ray"] = "local"
    own_models: Literal["required", "optional"] = "required"
    built_engines: bool = False
    engine_cache: Path = Path("trt_engines/cache")
    preferred_kernel: Literal["soft", "lung"] = "soft"
    min_slices: Annotated[int, Field(ge=2)] = 20
    min_cover_mm: Annotated[float, Field(gt=0)] = 120.0
    max_thickness_mm: Annotated[float, Field(gt=0)] = 5.0


class RayConfiguration(_Section):
    """The Ray cluster whose actors screen, where `screening.executor` is ray."""

    address: str = Field(default="auto", min_length=1)
    actors: Annotated[int, Field(ge=1, le=10_000)] = 1
    cpus: Annotated[float, Field(ge=0, le=1024)] = 1.0
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    start_seconds: Seconds = 120.0
    idle_seconds: Seconds = 300.0


class ResultsConfiguration(_Section):
    """How result objects are encoded."""

    charset: Literal["utf8", "keep"] = "utf8"
    segmentation: Literal["binary", "labelmap"] = "binary"
    omit_empty_frames: bool = True
    deflated: bool = False
    parametric_map: Literal["compact", "full"] = "compact"


class DeliveryConfiguration(_Section):
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


class WebUserConfiguration(_Section):
    """Somebody who logs in to the page with a token; `lungnode web token` makes both."""

    name: str = Field(min_length=1, max_length=64)
    role: Literal["viewer", "admin"] = "viewer"
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ProxyLoginConfiguration(_Section):
    """A proxy that has logged people in and says who they are, in a header."""

    header: str = Field(default="X-Remote-User", pattern=r"^[A-Za-z0-9-]+$")
    trusted: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], AfterValidator(_not_empty)] = (
        "127.0.0.0/8",
        "::1/128",
    )
    admins: tuple[str, ...] = ()


class WebConfiguration(_Section):
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


class AuditConfiguration(_Section):
    """Where the audit trail goes (PS3.15 A.5): a file, a syslog server by UDP (RFC 5426), both or neither."""

    file: Path | None = Path("var/audit.log")
    syslog: Annotated[str, Field(pattern=r"^[^:\s]+:\d+$")] | None = None


class MailConfiguration(_Section):
    """A mail server, and who gets the mail."""

    host: str = Field(min_length=1)
    port: Port = 25
    sender: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    recipients: Annotated[tuple[str, ...], AfterValidator(_not_empty)]
    starttls: bool = False
    user: str | None = None
    password: str | None = None


class NotificationConfiguration(_Section):
    """What people are told of, and how."""

    webhook: Annotated[str, Field(pattern=r"^https?://")] | None = None
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


class LogConfiguration(_Section):
    """What the node writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


def installed_models() -> tuple[Path, ...]:
    """The compact packages that come with the program."""
    return shipped("models/jcs-compact"), shipped("models/m3lung-compact")


class Configuration(BaseSettings):
    """The whole configuration; build it with `load_configuration`."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=NESTED_DELIMITER,
        extra="forbid",
        frozen=True,
    )

    listener: ListenerConfiguration = ListenerConfiguration()
    storage: StorageConfiguration = StorageConfiguration()
    spool: SpoolConfiguration = SpoolConfiguration()
    database: DatabaseConfiguration = DatabaseConfiguration()
    completeness: CompletenessConfiguration = CompletenessConfiguration()
    destinations: tuple[DestinationConfiguration, ...] = ()
    stow_destinations: tuple[StowDestinationConfiguration, ...] = ()
    stow_listener: StowListenerConfiguration | None = None
    query_source: QuerySourceConfiguration | None = None
    dicomweb_source: DicomwebSourceConfiguration | None = None
    priors: PriorsConfiguration = PriorsConfiguration()
    worklist: WorklistConfiguration | None = None
    peers: tuple[PeerConfiguration, ...] = ()
    models: Annotated[tuple[Path, ...], AfterValidator(_not_empty)] = Field(default_factory=installed_models)
    routing: Rules = ()
    worker: WorkerConfiguration = WorkerConfiguration()
    screening: ScreeningConfiguration = ScreeningConfiguration()
    ray: RayConfiguration = RayConfiguration()
    results: ResultsConfiguration = ResultsConfiguration()
    delivery: DeliveryConfiguration = DeliveryConfiguration()
    web: WebConfiguration = WebConfiguration()
    audit: AuditConfiguration = AuditConfiguration()
    notifications: NotificationConfiguration = NotificationConfiguration()
    log: LogConfiguration = LogConfiguration()

    @property
    def destination_objects(self) -> dict[str, tuple[ObjectKind, ...]]:
        """Which kinds of object each destination gets, by its name."""
        by_dimse = {d.name: expanded(d.objects) for d in self.destinations}
        return by_dimse | {d.name: expanded(d.objects) for d in self.stow_destinations}

    @model_validator(mode="after")
    def _destinations_differ(self) -> Configuration:
        names = [d.name for d in self.destinations] + [d.name for d in self.stow_destinations]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"destination name {twice[0]!r} is used twice; each name is allowed once")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Configuration:
        if self.query_source is not None and self.dicomweb_source is not None:
            raise ValueError("query_source and dicomweb_source are both given; one of them is allowed")
        return self

    @model_validator(mode="after")
    def _priors_have_a_source(self) -> Configuration:
        dimse, web = self.query_source, self.dicomweb_source
        retrieves = (dimse is not None and dimse.retrieve != "off") or (web is not None and web.retrieve)
        if self.priors.fetch and not retrieves:
            raise ValueError("priors.fetch needs a query_source or dicomweb_source that retrieves")
        return self

    @model_validator(mode="after")
    def _rules_name_what_is_there(self) -> Configuration:
        check_names(
            self.routing,
            destinations=list(self.destination_objects),
            packages=[p.name for p in self.models],
        )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file; no other source is read."""
        return env_settings, init_settings


def load_configuration(path: Path | None = None) -> Configuration:
    """Read `path` (None: defaults only), apply the environment, resolve relative paths.

    Relative paths are resolved against the folder of the file, or the current folder where there is none.
    Raises ConfigurationError.
    """
    content = {} if path is None else read_mapping(path, allowed_keys(Configuration))
    origin = "environment" if path is None else str(path)
    _check_environment(os.environ)
    try:
        configuration = Configuration(**content)
    except ValidationError as error:
        lines = [f"{origin}: {described(e, Configuration)}" for e in error.errors()]
        raise ConfigurationError("\n".join(dict.fromkeys(lines))) from None
    except (TypeError, ValueError) as error:  # pydantic-settings: an environment value that is no JSON
        raise ConfigurationError(f"environment: {error}") from None
    return resolve(configuration, Path.cwd() if path is None else path.resolve().parent)


def resolve(configuration: Configuration, base: Path) -> Configuration:
    """The same configuration with every relative path made absolute against `base`."""
    url = make_url(configuration.database.url)
    return configuration.model_copy(
        update={
            "storage": configuration.storage.model_copy(update={"path": base / configuration.storage.path}),
            "database": configuration.database.model_copy(update={"url": _absolute(url, base)}),
            "models": tuple(base / m for m in configuration.models),
            "screening": configuration.screening.model_copy(
                update={"engine_cache": base / configuration.screening.engine_cache}
            ),
            "stow_listener": _with_absolute_files(configuration.stow_listener, base),
            "destinations": _with_absolute_tls(configuration.destinations, base),
            "stow_destinations": _with_absolute_tls(configuration.stow_destinations, base),
            "peers": _with_absolute_tls(configuration.peers, base),
            "query_source": _one_with_absolute_tls(configuration.query_source, base),
            "dicomweb_source": _one_with_absolute_tls(configuration.dicomweb_source, base),
            "worklist": _one_with_absolute_tls(configuration.worklist, base),
            "notifications": configuration.notifications.model_copy(
                update={
                    "template": None
                    if configuration.notifications.template is None
                    else base / configuration.notifications.template
                }
            ),
            "audit": configuration.audit.model_copy(
                update={"file": None if configuration.audit.file is None else base / configuration.audit.file}
            ),
        }
    )


def _with_absolute_files(section: T, base: Path) -> T:
    """The same section with every relative path in it made absolute."""
    if not isinstance(section, BaseModel):
        return section
    return section.model_copy(update={name: base / v for name, v in section if isinstance(v, Path)})


def _one_with_absolute_tls(section: T, base: Path) -> T:
    """The same section with the files of its TLS made absolute."""
    if not isinstance(section, BaseModel):
        return section
    return section.model_copy(update={"tls": _with_absolute_files(getattr(section, "tls", None), base)})


def _with_absolute_tls(sections: tuple[T, ...], base: Path) -> tuple[T, ...]:
    return tuple(_one_with_absolute_tls(section, base) for section in sections)


def _absolute(url: URL, base: Path) -> str:
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        url = url.set(database=str(base / url.database))
    return url.render_as_string(hide_password=False)


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse a misspelt section: pydantic-settings looks only for the names it knows."""
    for name in environment:
        if not name.upper().startswith(ENVIRONMENT_PREFIX) or NESTED_DELIMITER not in name:
            continue
        section = name[len(ENVIRONMENT_PREFIX) :].split(NESTED_DELIMITER)[0].lower()
        if section not in Configuration.model_fields:
            raise ConfigurationError(
                f"environment: {name} names no section; allowed are {allowed_keys(Configuration)}"
            )
