"""`lungnode engines`: built engines, their verification, and what a build says."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from node.command_options import ConfigOption, JsonOption, read_configuration, say

if TYPE_CHECKING:
    from engine.engine_cache import EngineRecord
    from node.casework import Casework
    from node.configuration import Configuration

engines = typer.Typer(
    no_args_is_help=True, help="Engines built from the model packages, and their verification."
)


def add_engine_commands(app: typer.Typer) -> None:
    """Mount `lungnode engines`."""
    app.add_typer(engines, name="engines")


@engines.command("list")
def engines_list(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Every engine in the cache: ready, building, or failed and why.

    [bold]Example:[/bold] lungnode engines list
    """
    from engine.builder import list_engines
    from node.casework import engine_options

    folder = engine_options(read_configuration(configuration)).cache
    records = list_engines(folder)
    lines = [_line(record) for record in records] or [
        f"no engines in {folder}; `lungnode engines build` makes them"
    ]
    say("\n".join(lines), [_plain(record) for record in records], as_json)


@engines.command("build")
def engines_build(
    configuration: ConfigOption = None,
    again: bool = typer.Option(False, "--again", help="Try engines anew that were refused or failed before."),
    as_json: JsonOption = False,
) -> None:
    """Build and verify what the configured packages need on this machine; those that are ready stay.

    [bold]Example:[/bold] lungnode engines build
    """
    from engine.builder import list_engines, open_builder
    from engine.packages import read_package
    from node.casework import engine_options
    from node.data_owner import as_owner_of

    settings = read_configuration(configuration)
    options = engine_options(settings)
    builder = open_builder(options, lambda record: typer.echo(_line(record), err=as_json))
    with as_owner_of(options.cache):
        for path in settings.models:
            package = read_package(path)
            for graph in package.metadata.graphs:
                builder.ensure(package, graph, options.precision, again=again)
    if as_json:
        say("", [_plain(record) for record in list_engines(options.cache)], as_json)


@engines.command("verify")
def engines_verify(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Run every engine against the FP32 reference once more; exit code 1 where one differs.

    [bold]Example:[/bold] lungnode engines verify
    """
    from engine.builder import verify_engines
    from node.casework import engine_options
    from node.data_owner import as_owner_of

    settings = read_configuration(configuration)
    options = engine_options(settings)
    with as_owner_of(options.cache):
        results = verify_engines(settings.models, options)
    lines, rows = [], []
    for result in results:
        key = result.record.key
        lines.append(
            f"{key.package} {key.graph} {key.precision}: {'good' if result.passed else 'REFUSED'} {result.why}"
        )
        lines += [f"  {check}" for check in result.checks]
        rows.append(
            {
                **_plain(result.record),
                "passed": result.passed,
                "checks": [asdict(check) for check in result.checks],
            }
        )
    say("\n".join(line.rstrip() for line in lines), rows, as_json)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def open_casework_of_command(settings: Configuration) -> Casework:
    """What a command screens with; it tells of engines that it has to build, and leaves them to the services.

    Raises engine.errors.PackageInvalid, engine.errors.RunnerFailed.
    """
    from node.casework import open_casework
    from node.data_owner import as_owner_of

    is_here = settings.screening.executor == "local"
    with as_owner_of(settings.screening.engine_cache) if is_here else nullcontext():
        return open_casework(settings, ("seg", "gsps", "pm", "sr"), _told)


def _told(record: EngineRecord) -> None:
    """Say on standard error that an engine is built or was refused, so that whoever waits for it knows what for."""
    if record.state != "ready":
        typer.echo(_line(record), err=True)


def _line(record: EngineRecord) -> str:
    key = record.key
    size = f", {record.size / 1e6:.1f} MB, built in {record.seconds:.1f} s" if record.state == "ready" else ""
    why = f": {record.why}" if record.why else ""
    return f"{key.package} {key.graph} {key.precision} ({key.backend}) {record.state}{size}{why}"


def _plain(record: EngineRecord) -> dict[str, Any]:
    return {**asdict(record), "checks": list(record.checks)}
