"""One study's page: what happened to it, what was found, where the results are; and what an admin may do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from node.audit import Action, Event
from node.slice_pictures import NAME, NoPictures, PictureIndex, media_type, read_index, read_picture
from node.web.identity import identity_of
from node.web.site import Visit
from node.web.verdict import study_verdict
from store import admin, overview, queries
from store.admin import NothingToDo
from store.ledger import UnknownStudy
from store.shared_storage import Storage
from store.states import StudyState

PICTURE_AGE = "private, max-age=86400"


@dataclass(frozen=True)
class StudyAction:
    """Something that an admin may do. makes_sense: in which states the page offers it."""

    name: str
    label: str
    consequence: str
    makes_sense: frozenset[StudyState]
    asks_why: bool
    run: Callable[[Session, str, str, str, datetime], StudyState]


ACTIONS = {
    action.name: action
    for action in (
        StudyAction(
            "retry",
            "Retry",
            "The study goes on from where it failed: refused results are sent again, else it is screened again.",
            frozenset({StudyState.FAILED, StudyState.SKIPPED}),
            False,
            lambda session, uid, who, _why, now: admin.retry(session, uid, who=who, now=now),
        ),
        StudyAction(
            "rescreen",
            "Re-screen",
            "The study is screened again with the model packages of today. The same images, packages and settings "
            "give the same results, and these are sent only to destinations that have not had them.",
            frozenset({StudyState.DELIVERED, StudyState.DELIVERING, StudyState.FAILED, StudyState.SKIPPED}),
            False,
            lambda session, uid, who, _why, now: admin.rescreen(session, uid, who=who, now=now),
        ),
        StudyAction(
            "resend",
            "Resend",
            "All results of the study are sent to all their destinations again.",
            frozenset({StudyState.DELIVERED, StudyState.DELIVERING, StudyState.FAILED}),
            False,
            lambda session, uid, who, _why, now: admin.resend(session, uid, who=who, now=now),
        ),
        StudyAction(
            "skip",
            "Skip",
            "The study is taken out: it is not screened, and what is not yet delivered will not be.",
            frozenset(
                {
                    StudyState.RECEIVING,
                    StudyState.COMPLETE,
                    StudyState.SCREENING,
                    StudyState.DELIVERING,
                    StudyState.FAILED,
                }
            ),
            True,
            lambda session, uid, who, why, now: admin.skip(session, uid, who=who, why=why, now=now),
        ),
    )
}


def show(visit: Visit) -> Response:
    """The page of one study."""
    uid = visit.parameter("uid")
    try:
        with visit.site.database.read() as session:
            account = queries.why(session, uid)
            row = overview.study_row(session, uid)
            folder = overview.newest_result_folder(session, row.study_id)
    except UnknownStudy:
        return visit.page("message.html", 404, title="No such study", message=f"The node has no study {uid}.")
    visit.audit(Event.INSTANCES_ACCESSED, Action.READ, study=uid)
    identity = identity_of(visit.site.files / row.path) if visit.sees_names and row.path else None
    return visit.page(
        "study.html",
        row=row,
        account=account,
        identity=identity,
        verdict=None if row.summary is None else study_verdict(row.summary),
        pictures=_index(visit.site.files, folder),
        actions=[a for a in ACTIONS.values() if row.state in a.makes_sense],
        done=visit.query("done") if visit.query("done") in ACTIONS else "",
    )


def show_picture(visit: Visit) -> Response:
    """One slice: the CT, or what is laid over it. 404 where the layer has nothing there."""
    layer, z = visit.parameter("layer"), visit.request.path_params["z"]
    kind = media_type(layer)
    try:
        with visit.site.database.read() as session:
            row = overview.study_row(session, visit.parameter("uid"))
            folder = overview.newest_result_folder(session, row.study_id)
        if folder is None or kind is None:
            return Response(status_code=404)
        content = read_picture(visit.site.files / f"{folder}/{NAME}", layer, z)
    except (UnknownStudy, NoPictures):
        return Response(status_code=404)
    return Response(content, media_type=kind, headers={"Cache-Control": PICTURE_AGE})


def ask(visit: Visit) -> Response:
    """Ask whether the admin means it; in a dialog, or on a page of its own."""
    action = ACTIONS.get(visit.parameter("action"))
    if action is None:
        return visit.page("message.html", 404, title="No such action", message="There is no such action.")
    part = visit.request.headers.get("HX-Request") is not None
    return visit.page(
        "confirm.html" if part else "confirm_page.html", action=action, uid=visit.parameter("uid")
    )


def act(visit: Visit) -> Response:
    """Do what the admin has confirmed, and write it down."""
    uid, action = visit.parameter("uid"), ACTIONS.get(visit.parameter("action"))
    if action is None:
        return visit.page("message.html", 404, title="No such action", message="There is no such action.")
    reason = visit.form.get("why", "").strip()[:500]
    try:
        with visit.site.database.write() as session:
            action.run(session, uid, visit.who, reason, visit.site.now())
    except (UnknownStudy, NothingToDo) as error:
        visit.audit(
            Event.PROCEDURE_RECORD, Action.UPDATE, study=uid, detail=f"{action.name}: {error}", success=False
        )
        return visit.page("message.html", 409, title="Nothing to do", message=f"{error}.")
    visit.audit(Event.PROCEDURE_RECORD, Action.UPDATE, study=uid, detail=action.name)
    return RedirectResponse(f"/studies/{uid}?done={action.name}", 303)


def _index(storage: Storage, folder: str | None) -> PictureIndex | None:
    if folder is None:
        return None
    try:
        return read_index(storage / f"{folder}/{NAME}")
    except NoPictures:
        return None
