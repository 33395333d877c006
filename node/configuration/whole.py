"""The whole configuration, and what its sections must not contradict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from node.configuration.peers import (
    DeliveryConfiguration,
    DestinationConfiguration,
    DicomwebSourceConfiguration,
    PeerConfiguration,
    PriorsConfiguration,
    QuerySourceConfiguration,
    StowDestinationConfiguration,
    WorklistConfiguration,
)
from node.configuration.people import (
    AuditConfiguration,
    LogConfiguration,
    NotificationConfiguration,
    WebConfiguration,
)
from node.configuration.receiving import (
    CompletenessConfiguration,
    DatabaseConfiguration,
    ListenerConfiguration,
    SpoolConfiguration,
    StorageConfiguration,
    StowListenerConfiguration,
)
from node.configuration.screening import (
    RayConfiguration,
    ResultsConfiguration,
    ScreeningConfiguration,
    WorkerConfiguration,
)
from node.configuration.values import not_empty
from node.installation import shipped
from node.routing.rules import Rules, check_names
from reporting.context import ObjectKind
from reporting.profiles import expanded

ENVIRONMENT_PREFIX = "LUNGNODE_"
NESTED_DELIMITER = "__"


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
    models: Annotated[tuple[Path, ...], AfterValidator(not_empty)] = Field(default_factory=installed_models)
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
