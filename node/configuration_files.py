"""The files that a configuration names: whether they can be used, and whether they have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from node.configuration import Configuration, ConfigurationError

METADATA = "metadata.json"
"""What tells a model package from another; `engine.packages`, which reads it, is too large for a listener."""

FileStates = dict[Path, tuple[int, int]]
"""Time of the last change (ns) and size of each file."""


def file_states(configuration: Configuration) -> FileStates:
    """How the files that are read at the start are now: certificates, templates, model packages by their metadata."""
    read = configuration.model_copy(update={"audit": None})  # that one is written
    found = {}
    for path in _paths(read):
        file = path / METADATA if path.is_dir() else path
        if file.is_file():
            state = file.stat()
            found[file] = (state.st_mtime_ns, state.st_size)
    return found


def check_files(configuration: Configuration) -> None:
    """Raises ConfigurationError where certificates, keys or the template of notifications cannot be used."""
    from scp.tls import TLSUnusable

    problems = []
    for key, check in _checks(configuration):
        try:
            check()
        except (TLSUnusable, ConfigurationError) as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigurationError("\n".join(problems))


def _checks(configuration: Configuration) -> Iterator[tuple[str, Callable[[], object]]]:
    """What to try, by the key that names it."""
    from scp.policy import TLSSettings
    from scp.tls import client_context, server_context

    own, web = configuration.listener.tls, configuration.stow_listener
    if own is not None:
        yield "listener.tls", lambda: server_context(TLSSettings(own.certificate, own.key, own.ca))
    if web is not None and web.certificate is not None:
        settings = TLSSettings(web.certificate, web.key or web.certificate, web.client_ca)
        yield "stow_listener", lambda: server_context(settings)
    for name, section in _with_client_tls(configuration):
        if section.tls is not None:
            yield f"{name}.tls", partial(client_context, section.tls.settings)
    template = configuration.notifications.template
    if template is not None:
        yield "notifications.template", partial(_check_template, template)


def _check_template(path: Path) -> None:
    from node.notifications import TemplateUnusable, read_template

    try:
        read_template(path)
    except TemplateUnusable as error:
        raise ConfigurationError(str(error)) from None


def _with_client_tls(configuration: Configuration) -> Iterator[tuple[str, Any]]:
    for key in ("destinations", "stow_destinations", "peers"):
        for number, section in enumerate(getattr(configuration, key)):
            yield f"{key}[{number}]", section
    for key in ("query_source", "dicomweb_source", "worklist"):
        if (section := getattr(configuration, key)) is not None:
            yield key, section


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from _paths(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _paths(inner)
