"""`lungnode status`, `studies list|show|why`: what the store knows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from node.command_options import (
    CommandError,
    ConfigOption,
    JsonOption,
    read_configuration,
    since,
)

Choice = TypeVar("Choice", bound=StrEnum)
UIDOrBeginning = Annotated[
    str, typer.Argument(metavar="uid", help="Its Study Instance UID, or a beginning that no other study has.")
]


def add_inspection_commands(app: typer.Typer, studies: typer.Typer) -> None:
    """Put `status` beside the groups, and the questions into `studies`."""
    app.command()(status)
    studies.command("list")(studies_list)
    studies.command("show")(studies_show)
    studies.command("why")(studies_why)


def status(
    configuration: ConfigOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Renew it until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Whether the node runs, and how many studies and deliveries stand where.

    [bold]Example:[/bold] lungnode status --watch
    """
    from node.inspection import node_status, watched
    from node.presence import utc_now
    from store.clock import store_clock

    settings = read_configuration(configuration)

    def question(store: Any) -> Any:
        return node_status(store, store_clock(store, utc_now)(), settings.storage)

    if watch and not as_json:
        watched(settings, question)
    _show(configuration, question, as_json)


def studies_list(
    configuration: ConfigOption = None,
    state: Annotated[list[str] | None, typer.Option(help="Only studies in this state; repeatable.")] = None,
    verdict: Annotated[
        str,
        typer.Option(
            help="Only studies in which this was found: positive, negative, disagree, covid19, h1n1, cap."
        ),
    ] = "",
    changed_since: Annotated[
        str, typer.Option("--since", help="Only studies that changed since then: 90m, 12h, 1d, 2026-01-31.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="No more than so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List studies, newest change first.

    [bold]Example:[/bold] lungnode studies list --state failed --since 1d
    """
    from node.inspection import study_list
    from store.states import StudyState
    from store.verdicts import VerdictChoice

    states = [_one_of(StudyState, name, "state") for name in state or []]
    found = _one_of(VerdictChoice, verdict, "verdict") if verdict else None
    start = since(changed_since, datetime.now(UTC)) if changed_since else None
    _show(configuration, lambda store: study_list(store, states, limit, start, found), as_json)


def studies_show(
    uid: UIDOrBeginning, configuration: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """One study: state, verdicts, series and where each object went.

    [bold]Example:[/bold] lungnode studies show 1.2.840.113619.2.5
    """
    from node.inspection import study_details

    _show(configuration, lambda store: study_details(store, uid), as_json)


def studies_why(uid: UIDOrBeginning, configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The whole history of one study, in words.

    [bold]Example:[/bold] lungnode studies why 1.2.840.113619.2.5
    """
    from node.inspection import study_history

    _show(configuration, lambda store: study_history(store, uid), as_json)


def _show(configuration: Path | None, question: Callable[[Any], Any], as_json: bool) -> None:
    """Ask the store and print the answer as tables or JSON."""
    from node.inspection import opened, print_answer

    with opened(read_configuration(configuration)) as database:
        answer = question(database)
    print_answer(answer, as_json)


def _one_of(kind: type[Choice], name: str, what: str) -> Choice:
    """The member of an enumeration that is called so. Raises CommandError."""
    try:
        return kind(name)
    except ValueError:
        raise CommandError(f"{name!r} is no {what}; allowed are {', '.join(kind)}") from None
