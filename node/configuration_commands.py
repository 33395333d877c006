"""`lungnode config`: whether the configuration can be used, and what is in force."""

from __future__ import annotations

import typer

from node.command_options import ConfigOption, JsonOption, read_configuration, say

config = typer.Typer(no_args_is_help=True, help="The configuration.")


def add_configuration_commands(app: typer.Typer) -> None:
    """Mount `lungnode config`."""
    app.add_typer(config, name="config")


@config.command("check")
def config_check(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say whether the configuration can be used, model packages included.

    [bold]Example:[/bold] lungnode config check --config config.yaml
    """
    from engine.packages import read_package

    settings = read_configuration(configuration)
    packages = [read_package(path) for path in settings.models]
    listener = settings.listener
    lines = [
        f"listener {listener.ae_title} on {listener.host}:{listener.port}",
        f"storage {settings.storage.path}",
        *(
            f"destination {d.name}: {d.ae_title} at {d.host}:{d.port}: {', '.join(d.objects)}"
            for d in settings.destinations
        ),
        *(f"model {p.metadata.name} {p.metadata.version} ({p.metadata.system}), {p.path}" for p in packages),
        "the configuration is right",
    ]
    answer = {"right": True, "packages": [f"{p.metadata.name} {p.metadata.version}" for p in packages]}
    say("\n".join(lines), answer, as_json)


@config.command("show")
def config_show(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The configuration as it is in force, every key, without secrets.

    [bold]Example:[/bold] lungnode config show
    """
    import yaml

    from node.configured import shown_configuration

    shown = shown_configuration(read_configuration(configuration))
    say(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip(), shown, as_json)
