"""The configuration of the node: `config.yaml`, overridden by environment variables `LUNGNODE_...`.

An unknown key or a wrong value is an error that names the key, the value and what is allowed: a node that
starts with a misspelt key would run with a default nobody asked for.
"""

from __future__ import annotations

from node.configuration.loading import load_configuration, resolve
from node.configuration.peers import (
    ClientTLSConfiguration,
    CommitmentConfiguration,
    DeliveryConfiguration,
    DestinationConfiguration,
    DicomwebSourceConfiguration,
    OAuth2Configuration,
    PeerConfiguration,
    PriorsConfiguration,
    QuerySourceConfiguration,
    StowDestinationConfiguration,
    WorkitemCodeConfiguration,
    WorklistConfiguration,
)
from node.configuration.people import (
    AuditConfiguration,
    LogConfiguration,
    MailConfiguration,
    NotificationConfiguration,
    ProxyLoginConfiguration,
    WebConfiguration,
    WebUserConfiguration,
)
from node.configuration.receiving import (
    AllowedPeerConfiguration,
    CompletenessConfiguration,
    DatabaseConfiguration,
    ListenerConfiguration,
    SpoolConfiguration,
    StorageConfiguration,
    StowListenerConfiguration,
    TLSConfiguration,
)
from node.configuration.screening import (
    RayConfiguration,
    ResultsConfiguration,
    ScreeningConfiguration,
    WorkerConfiguration,
)
from node.configuration.whole import (
    ENVIRONMENT_PREFIX,
    NESTED_DELIMITER,
    Configuration,
    installed_models,
)
from node.configuration_file import ConfigurationError

__all__ = [
    "ENVIRONMENT_PREFIX",
    "NESTED_DELIMITER",
    "AllowedPeerConfiguration",
    "AuditConfiguration",
    "ClientTLSConfiguration",
    "CommitmentConfiguration",
    "CompletenessConfiguration",
    "Configuration",
    "ConfigurationError",
    "DatabaseConfiguration",
    "DeliveryConfiguration",
    "DestinationConfiguration",
    "DicomwebSourceConfiguration",
    "ListenerConfiguration",
    "LogConfiguration",
    "MailConfiguration",
    "NotificationConfiguration",
    "OAuth2Configuration",
    "PeerConfiguration",
    "PriorsConfiguration",
    "ProxyLoginConfiguration",
    "QuerySourceConfiguration",
    "RayConfiguration",
    "ResultsConfiguration",
    "ScreeningConfiguration",
    "SpoolConfiguration",
    "StorageConfiguration",
    "StowDestinationConfiguration",
    "StowListenerConfiguration",
    "TLSConfiguration",
    "WebConfiguration",
    "WebUserConfiguration",
    "WorkerConfiguration",
    "WorkitemCodeConfiguration",
    "WorklistConfiguration",
    "installed_models",
    "load_configuration",
    "resolve",
]
