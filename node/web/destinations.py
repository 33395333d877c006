"""The destinations: what waits for each, and whether it answers."""

from __future__ import annotations

from starlette.responses import Response

from node.audit import Action, Event
from node.configuration import DestinationConfiguration
from node.web.site import Visit
from reporting.delivery.scu import Peer, PeerUnreachableError, echo
from store import overview


def show(visit: Visit) -> Response:
    """All destinations."""
    configured = visit.site.configuration.destinations
    with visit.site.database.read() as session:
        standings = overview.destination_standings(session, [d.name for d in configured])
    known = {d.name: d for d in configured}
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
    peer = Peer(destination.ae_title, destination.host, destination.port)
    try:
        echo(peer, visit.site.configuration.listener.ae_title)
    except PeerUnreachableError as error:
        return str(error), False
    return "answers", True
