"""Reading the configuration: the file, the environment over it, relative paths made absolute."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy.engine import URL, make_url

from node.configuration.whole import ENVIRONMENT_PREFIX, NESTED_DELIMITER, Configuration
from node.configuration_file import ConfigurationError, read_mapping
from node.configuration_problems import allowed_keys, described

ENVIRONMENT = "environment"
ENGINES = "engines"
"""Where engines are kept, below the storage folder, unless `screening.engine_cache` says where."""


def load_configuration(path: Path | None = None) -> Configuration:
    """Read `path` (None: defaults only), apply the environment, resolve relative paths.

    Relative paths are resolved against the folder of the file, or the current folder where there is none.
    Raises ConfigurationError.
    """
    content = {} if path is None else read_mapping(path, allowed_keys(Configuration))
    file = ENVIRONMENT if path is None else str(path)
    _check_environment(os.environ)
    try:
        configuration = Configuration(**content)
    except ValidationError as error:
        lines = [
            f"{_origin(e['loc'], file, os.environ)}: {described(e, Configuration)}" for e in error.errors()
        ]
        raise ConfigurationError("\n".join(dict.fromkeys(lines))) from None
    except (TypeError, ValueError) as error:  # pydantic-settings: an environment value that is no JSON
        raise ConfigurationError(f"{ENVIRONMENT}: {error}") from None
    return resolve(configuration, Path.cwd() if path is None else path.resolve().parent)


def resolve(configuration: Configuration, base: Path) -> Configuration:
    """The same configuration with every relative path made absolute against `base`.

    Engines are kept below the storage folder where nothing else is said: a service may hardly write elsewhere.
    """
    url = _absolute_url(make_url(configuration.database.url), base)
    database = configuration.database.model_copy(update={"url": url})
    resolved: Configuration = _with_absolute_paths(configuration, base)
    screening = resolved.screening
    if "engine_cache" not in configuration.screening.model_fields_set:
        screening = screening.model_copy(update={"engine_cache": resolved.storage.path / ENGINES})
    return resolved.model_copy(update={"database": database, "screening": screening})


def _with_absolute_paths(value: Any, base: Path) -> Any:
    """The same value with every path in it made absolute, in sections and lists too."""
    if isinstance(value, Path):
        return base / value
    if isinstance(value, BaseModel):
        found = {name: _with_absolute_paths(v, base) for name, v in value}
        changed = {name: v for name, v in found.items() if v != getattr(value, name)}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, tuple):
        return tuple(_with_absolute_paths(one, base) for one in value)
    return value


def _absolute_url(url: URL, base: Path) -> str:
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        url = url.set(database=str(base / url.database))
    return url.render_as_string(hide_password=False)


def _origin(location: tuple[int | str, ...], file: str, environment: Mapping[str, str]) -> str:
    """Where a wrong value was said: a variable may give a key, or a section that holds it."""
    given = {name.upper() for name in environment}
    parts = [str(part).upper() for part in location]
    said = (ENVIRONMENT_PREFIX + NESTED_DELIMITER.join(parts[:n]) for n in range(1, len(parts) + 1))
    return next((f"{ENVIRONMENT} {name}" for name in said if name in given), file)


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse what looks as if it were meant for a section: pydantic-settings looks only for the names it knows."""
    for name in environment:
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        said = name[len(ENVIRONMENT_PREFIX) :].lower()
        section, nested, _ = said.partition(NESTED_DELIMITER)
        if section in Configuration.model_fields:
            continue
        if nested:
            raise ConfigurationError(
                f"{ENVIRONMENT}: {name} names no section; allowed are {allowed_keys(Configuration)}"
            )
        meant = [key for key in Configuration.model_fields if said.startswith(f"{key}_")]
        if meant:
            key = max(meant, key=len)
            right = f"{ENVIRONMENT_PREFIX}{key}{NESTED_DELIMITER}{said.removeprefix(f'{key}_')}".upper()
            raise ConfigurationError(
                f"{ENVIRONMENT}: {name} sets nothing; section and key are parted by two underscores: {right}"
            )
