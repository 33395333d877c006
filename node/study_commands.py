"""`lungnode studies retry|rescreen|resend|skip`: what an admin may do to a study, each in his name."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.command_options import ConfigOption, JsonOption, UIDArgument, read_configuration, say

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from store.states import StudyState

Change = Callable[["Session", str, str, datetime], "StudyState"]


def add_study_commands(studies: typer.Typer) -> None:
    """Put the commands beside list, show and why."""
    for command in (retry, rescreen, resend, skip):
        studies.command()(command)


def retry(uid: UIDArgument, configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Try a failed or skipped study again, from where it failed.

    [bold]Example:[/bold] lungnode studies retry 1.2.840.113619.2.5
    """
    from store import admin

    _change(configuration, uid, as_json, lambda s, u, who, now: admin.retry(s, u, who=who, now=now), "retry")


def rescreen(uid: UIDArgument, configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Screen a study again, with the model packages and settings of now.

    [bold]Example:[/bold] lungnode studies rescreen 1.2.840.113619.2.5
    """
    from store import admin

    _change(
        configuration, uid, as_json, lambda s, u, who, now: admin.rescreen(s, u, who=who, now=now), "rescreen"
    )


def resend(uid: UIDArgument, configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send all results of a study to their destinations again.

    [bold]Example:[/bold] lungnode studies resend 1.2.840.113619.2.5
    """
    from store import admin

    _change(
        configuration, uid, as_json, lambda s, u, who, now: admin.resend(s, u, who=who, now=now), "resend"
    )


def skip(
    uid: UIDArgument,
    why: Annotated[str, typer.Option(help="Why; it goes into the study's history.")] = "",
    configuration: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a study out: it is not screened, and what is not yet delivered will not be.

    [bold]Example:[/bold] lungnode studies skip 1.2.840.113619.2.5 --why "sent by mistake"
    """
    from store import admin

    _change(
        configuration,
        uid,
        as_json,
        lambda s, u, who, now: admin.skip(s, u, who=who, why=why, now=now),
        "skip",
    )


def _change(configuration: Path | None, uid: str, as_json: bool, change: Change, name: str) -> None:
    from node.audit import Action, AuditRecord, Event, open_trail
    from node.data_owner import as_owner_of
    from node.inspection import opened
    from node.presence import utc_now
    from store.clock import store_clock

    settings = read_configuration(configuration)
    user = getpass.getuser()
    trail = open_trail(settings.audit, settings.listener.ae_title)
    with as_owner_of(settings.storage.path):
        with opened(settings) as database:
            now = store_clock(database, utc_now)()
            with database.write() as session:
                state = change(session, uid, f"admin {user}", now)
        trail.write(AuditRecord(Event.PROCEDURE_RECORD, Action.UPDATE, now, user, study=uid, detail=name))
    say(f"study {uid} is now {state}", {"study": uid, "state": state.value, "request": name}, as_json)
