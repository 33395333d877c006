"""The configuration of the node: `config.yaml`, overridden by environment variables `LUNGNODE_...`.

An unknown key or a wrong value is an error that names the key, the value and what is allowed: a node that
starts with a misspelt key would run with a default nobody asked for.
"""

from __future__ import annotations

from node.configuration.loading import load_configuration, resolve
from node.configuration.peers import (
    DestinationConfiguration,
    DicomwebSourceConfiguration,
    StowDestinationConfiguration,
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
from node.configuration.receiving import ListenerConfiguration
from node.configuration.screening import ScreeningConfiguration, WorkerConfiguration
from node.configuration.whole import Configuration, installed_models
from node.configuration_file import ConfigurationError

__all__ = [
    "AuditConfiguration",
    "Configuration",
    "ConfigurationError",
    "DestinationConfiguration",
    "DicomwebSourceConfiguration",
    "ListenerConfiguration",
    "LogConfiguration",
    "MailConfiguration",
    "NotificationConfiguration",
    "ProxyLoginConfiguration",
    "ScreeningConfiguration",
    "StowDestinationConfiguration",
    "WebConfiguration",
    "WebUserConfiguration",
    "WorkerConfiguration",
    "WorklistConfiguration",
    "installed_models",
    "load_configuration",
    "resolve",
]
