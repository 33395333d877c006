"""`lungnode config`: whether the configuration can be used, and what is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from node.command_options import ConfigOption, JsonOption, read_configuration, say

if TYPE_CHECKING:
    from node.configuration import Configuration

config = typer.Typer(
    no_args_is_help=True, help="The configuration: whether it is right, and what is in force."
)


def add_configuration_commands(app: typer.Typer) -> None:
    """Mount `lungnode config`."""
    app.add_typer(config, name="config")


@config.command("check")
def config_check(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say whether the configuration can be used: model packages, certificates and templates included.

    [bold]Example:[/bold] lungnode config check --config config.yaml
    """
    from engine.packages import read_package
    from node.configuration_files import check_files

    settings = read_configuration(configuration)
    check_files(settings)
    packages = [read_package(path) for path in settings.models]
    lines = [
        *_addresses(settings),
        f"storage {settings.storage.path}",
        *(
            f"destination {d.name}: {d.ae_title} at {d.host}:{d.port}: {', '.join(d.objects)}"
            for d in settings.destinations
        ),
        *(f"destination {d.name}: {d.url}: {', '.join(d.objects)}" for d in settings.stow_destinations),
        "whether they answer was not asked: lungnode destinations echo",
        *_query_sources(settings),
        *(f"model {p.metadata.name} {p.metadata.version} ({p.metadata.system}), {p.path}" for p in packages),
        "the configuration is right",
    ]
    answer = {"right": True, "packages": [f"{p.metadata.name} {p.metadata.version}" for p in packages]}
    say("\n".join(lines), answer, as_json)


def _query_sources(settings: Configuration) -> list[str]:
    """Who is asked whether a study is here in full."""
    dicom, web = settings.query_source, settings.dicomweb_source
    lines = [f"query source {dicom.ae_title} at {dicom.host}:{dicom.port}"] if dicom is not None else []
    return lines + ([f"query source {web.url}"] if web is not None else [])


def _addresses(settings: Configuration) -> list[str]:
    """Where the node listens; the first line is the DICOM listener's."""
    listener, stow, web = settings.listener, settings.stow_listener, settings.web
    lines = [f"listener {listener.ae_title} on {listener.host}:{listener.port}"]
    if listener.tls is not None:
        lines[0] += " with TLS"
    if stow is not None:
        lines.append(f"STOW-RS on {stow.host}:{stow.port}")
    if web.enabled:
        lines.append(f"page on {web.host}:{web.port}")
    return lines


@config.command("show")
def config_show(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The configuration as it is in force, every key, without secrets.

    [bold]Example:[/bold] lungnode config show
    """
    import yaml

    from node.configured import shown_configuration

    shown = shown_configuration(read_configuration(configuration))
    say(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip(), shown, as_json)
