"""The destinations: what waits for each, and whether it answers."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from node.audit import Action, Event
from node.configuration import Configuration, DestinationConfiguration
from node.web.site import Visit
from reporting.delivery.scu import PeerUnreachableError, echo
from store import overview


@dataclass(frozen=True)
class ShownDestination:
    """A configured destination in words. has_echo: whether it can be asked by C-ECHO."""

    name: str
    place: str
    objects: tuple[str, ...]
    has_echo: bool


def show(visit: Visit) -> Response:
    """All destinations."""
    configuration = visit.site.configuration
    with visit.site.database.read() as session:
        standings = overview.destination_standings(session, list(configuration.destination_objects))
    known = _described(configuration)
    return visit.page("destinations.html", rows=[(s, known.get(s.name)) for s in standings])


def ask_echo(visit: Visit) -> Response:
    """Ask a destination by C-ECHO whether it answers."""
    name = visit.parameter("name")
    known = {d.name: d for d in visit.site.configuration.destinations}
    if name not in known:
        return visit.page("message.html", 404, title="No such destination", message="It is not configured.")
    answer, answers = _echo(visit, known[name])
    visit.audit(
        Event.APPLICATION_ACTIVITY, Action.EXECUTE, detail=f"C-ECHO to {name}: {answer}", success=answers
    )
    return visit.page("echo.html", answer=answer, answers=answers)


def _echo(visit: Visit, destination: DestinationConfiguration) -> tuple[str, bool]:
    try:
        echo(destination.peer, visit.site.configuration.listener.ae_title)
    except PeerUnreachableError as error:
        return str(error), False
    return "answers", True


def _described(configuration: Configuration) -> dict[str, ShownDestination]:
    objects = configuration.destination_objects
    places = {d.name: f"{d.ae_title} at {d.host}:{d.port}" for d in configuration.destinations}
    web = {d.name: f"STOW-RS at {d.url}" for d in configuration.stow_destinations}
    return {
        name: ShownDestination(name, place, tuple(objects[name]), name in places)
        for name, place in (places | web).items()
    }
