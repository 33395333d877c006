"""`lungnode serve` and `install-service`: the node as a process, and as services of systemd."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from node.command_options import CommandError, ConfigOption, JsonOption, read_configuration, say


def add_service_commands(app: typer.Typer) -> None:
    """Put `serve` and `install-service` beside the other commands."""
    app.command()(serve)
    app.command("install-service")(install_service)


def serve(
    configuration: ConfigOption = None,
    only: Annotated[
        str, typer.Option(help="Run one part in the foreground: listener, worker, delivery or web.")
    ] = "",
) -> None:
    """Run the node in the foreground: listener, worker, delivery, and the page where web.enabled is set.

    SIGTERM stops it cleanly, SIGHUP rereads the configuration and the certificates that it names.

    [bold]Example:[/bold] lungnode serve --config config.yaml
    """
    from functools import partial

    from node.parts import PARTS
    from node.serve import run_part, serve_all

    reread = partial(read_configuration, configuration)
    settings = reread()
    if not only:
        raise typer.Exit(serve_all(settings, reread))
    if only not in PARTS:
        raise CommandError(f"{only!r} is no part of the node; allowed are {', '.join(PARTS)}")
    run_part(only, settings, reread)


def install_service(
    user: Annotated[
        bool, typer.Option("--user", help="For your own manager (systemctl --user), without root.")
    ] = False,
    configuration: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration of the services.")
    ] = None,
    root: Annotated[
        Path, typer.Option(help="Lay everything out below this folder and start nothing.")
    ] = Path("/"),
    start: Annotated[bool, typer.Option(help="Enable and start the services.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Lay out the systemd services: units, user, folders, and a configuration where there is none.

    [bold]Example:[/bold] sudo lungnode install-service --start
    """
    from node.service_layout import install, run_program, system_layout, user_layout
    from node.service_units import unseen

    program = Path(sys.argv[0]).resolve()
    layout = user_layout(configuration) if user else system_layout(configuration, root)
    needed = (program, Path(sys.executable).resolve(), layout.configuration)
    if not user and root == Path("/") and (hidden := unseen(needed)):
        raise CommandError(
            f"{hidden}: the services' sandbox hides this from them; install below /opt, with a Python of the system, "
            "or use --user for services of your own"
        )
    done = install(layout, program)
    manager = ["systemctl", "--user"] if user else ["systemctl"]
    command = " ".join(manager)
    started = start and root == Path("/")
    if started:
        run_program(*manager, "daemon-reload")
        run_program(*manager, "enable", "--now", "lungnode.target")
        ending = [f"the services run: {command} status 'lungnode*'"]
    elif root == Path("/"):
        ending = [f"start them: {command} daemon-reload && {command} enable --now lungnode.target"]
    else:
        ending = []
    say("\n".join([*done, *ending]), {"done": done, "started": started}, as_json)
