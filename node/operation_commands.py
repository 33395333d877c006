"""`lungnode destinations`, `packages`, `db`, `web`: looking after a node from the command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.command_options import CommandError, ConfigOption, JsonOption, read_configuration, say

destinations = typer.Typer(no_args_is_help=True, help="Who gets the results, and whether they answer.")
packages = typer.Typer(
    no_args_is_help=True, help="The model packages: which there are, and whether they are whole."
)
db = typer.Typer(no_args_is_help=True, help="The study-state store: upgrade and backup.")
web = typer.Typer(no_args_is_help=True, help="The page for people: tokens to log in with.")


def add_operation_commands(app: typer.Typer) -> None:
    """Put the groups beside the other commands."""
    for group, name in ((destinations, "destinations"), (packages, "packages"), (db, "db"), (web, "web")):
        app.add_typer(group, name=name)


@destinations.command("list")
def destinations_list(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """What each destination has, and what waits for it.

    [bold]Example:[/bold] lungnode destinations list
    """
    from node.inspection import opened
    from store.overview import destination_standings

    settings = read_configuration(configuration)
    with opened(settings) as database, database.read() as session:
        rows = destination_standings(session, list(settings.destination_objects))
    words = [
        f"{r.name}: {r.pending} waiting ({r.retrying} failed before), {r.delivered} delivered, {r.refused} refused"
        + (f"; {r.last_error}" if r.last_error else "")
        for r in rows
    ]
    say("\n".join(words) or "no destination is configured", [asdict(r) for r in rows], as_json)


@destinations.command("echo")
def destinations_echo(
    name: Annotated[str, typer.Argument(help="Its name; all where left out.")] = "",
    configuration: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask destinations by C-ECHO whether they answer; exit code 1 where one does not.

    [bold]Example:[/bold] lungnode destinations echo pacs
    """
    from reporting.delivery.scu import PeerUnreachableError, echo

    settings = read_configuration(configuration)
    chosen = [d for d in settings.destinations if name in ("", d.name)]
    if name in {d.name for d in settings.stow_destinations}:
        raise CommandError(
            f"{name} is a DICOMweb server, which has no C-ECHO; see lungnode destinations list"
        )
    if not chosen:
        known = ", ".join(d.name for d in settings.destinations) or "none is configured"
        raise CommandError(f"{name or 'nothing'} is no destination that C-ECHO asks; known: {known}")
    answers = []
    for one in chosen:
        try:
            echo(one.peer, settings.listener.ae_title)
            answers.append({"name": one.name, "answers": True, "why": ""})
        except PeerUnreachableError as error:
            answers.append({"name": one.name, "answers": False, "why": str(error)})
    words = [f"{a['name']}: {'answers' if a['answers'] else a['why']}" for a in answers]
    say("\n".join(words), answers, as_json)
    if not all(a["answers"] for a in answers):
        raise typer.Exit(1)


@packages.command("list")
def packages_list(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The model packages of the configuration, with their hashes; exit code 1 where one is broken.

    [bold]Example:[/bold] lungnode packages list
    """
    from engine.errors import PackageInvalid
    from engine.packages import read_package

    rows, broken = [], False
    for path in read_configuration(configuration).models:
        try:
            package = read_package(path)
            rows.append({"path": str(path), **asdict(package.reference), "broken": ""})
        except PackageInvalid as error:
            rows.append({"path": str(path), "broken": str(error)})
            broken = True
    words = [
        f"{r['path']}: {r['broken']}"
        if r["broken"]
        else f"{r['name']} {r['version']} ({r['system']}) {r['sha256'][:16]} {r['path']}"
        for r in rows
    ]
    say("\n".join(words), rows, as_json)
    if broken:
        raise typer.Exit(1)


@db.command("upgrade")
def db_upgrade(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Bring the schema of the store to what this program needs; the node does so at every start.

    [bold]Example:[/bold] lungnode db upgrade
    """
    from node.data_owner import as_owner_of
    from store.migrations import upgrade

    settings = read_configuration(configuration)
    with as_owner_of(settings.storage.path):
        before, after = upgrade(settings.database.url)
    words = f"schema {after}" if before == after else f"schema {before or 'none'} -> {after}"
    say(words, {"before": before, "after": after}, as_json)


@db.command("backup")
def db_backup(
    target: Annotated[Path, typer.Argument(help="The file to write; it must not be there.")],
    configuration: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the store while the node runs: one consistent state (SQLite; for PostgreSQL use pg_dump).

    [bold]Example:[/bold] lungnode db backup /var/backups/lungnode.db
    """
    from node.backup import backup_store

    size = backup_store(read_configuration(configuration).database.url, target)
    say(f"{target}: {size} bytes", {"file": str(target), "bytes": size}, as_json)


@web.command("token")
def web_token(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    role: Annotated[str, typer.Option(help="viewer: looks; admin: also acts and sees names.")] = "viewer",
    as_json: JsonOption = False,
) -> None:
    """Make a token to log in to the page, and the line for the configuration. The token is shown only now.

    [bold]Example:[/bold] lungnode web token ann --role admin
    """
    from node.web.access import Role, new_token, token_digest

    if role not in [r.value for r in Role]:
        raise CommandError(f"{role!r} is no role; allowed are viewer and admin")
    token = new_token()
    entry = {"name": name, "role": role, "token_sha256": token_digest(token)}
    line = "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"
    say(
        f"token for {name}: {token}\nin the configuration, under web.users:\n  - {line}",
        entry | {"token": token},
        as_json,
    )
