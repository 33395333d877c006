"""`lungnode install-service`: lay out the services for systemd."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def add_service_commands(app: typer.Typer) -> None:
    """Put `install-service` beside the other commands."""
    app.command("install-service")(install_service)


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
) -> None:
    """Lay out the systemd services: units, user, folders, and a configuration where there is none.

    [bold]Example:[/bold] sudo lungnode install-service --start
    """
    from node.service_layout import install, run_program, system_layout, user_layout

    layout = user_layout(configuration) if user else system_layout(configuration, root)
    for line in install(layout, Path(sys.argv[0]).resolve()):
        print(line)
    if root != Path("/"):
        return
    manager = ["systemctl", "--user"] if user else ["systemctl"]
    if start:
        run_program(*manager, "daemon-reload")
        run_program(*manager, "enable", "--now", "lungnode.target")
        print("the services run: " + " ".join([*manager, "status", "'lungnode*'"]))
    else:
        command = " ".join(manager)
        print(f"start them: {command} daemon-reload && {command} enable --now lungnode.target")
