"""The configuration in force as plain values for people: every key, and no secret."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import make_url

from node.configuration import Configuration
from node.configuration_secrets import HIDDEN, is_secret, without_password


def shown_configuration(configuration: Configuration) -> dict[str, Any]:
    """All sections with all keys; passwords, tokens and their digests are hidden."""
    content: dict[str, Any] = _hidden(configuration.model_dump(mode="json", by_alias=True))
    content["database"]["url"] = make_url(configuration.database.url).render_as_string(hide_password=True)
    return content


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        value = {"name": value["name"], **value} if "name" in value else value  # first what people call it
        return {key: HIDDEN if item and is_secret(key) else _hidden(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return without_password(value) if isinstance(value, str) else value
