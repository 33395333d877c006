"""Logging in with a token, and out."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from node.audit import Action, Event, EventType
from node.web.access import FIRST_TOKEN
from node.web.site import Endpoint, Site


def login_page(site: Site) -> Endpoint:
    """The form that asks for the token."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_form, site, "", 200)

    return endpoint


def log_in(site: Site) -> Endpoint:
    """Takes the token."""

    async def endpoint(request: Request) -> Response:
        token = str((await request.form()).get("token", ""))
        user = site.access.log_in(request, token)
        await run_in_threadpool(_audit, site, request, user.name if user else "unknown", user is not None)
        if user is None:
            return await run_in_threadpool(_form, site, "This token is not known.", 403)
        return RedirectResponse("/", 303)

    return endpoint


def log_out(site: Site) -> Endpoint:
    """Ends the session."""

    async def endpoint(request: Request) -> Response:
        name = str(request.session.get("user", "unknown"))
        request.session.clear()
        await run_in_threadpool(
            site.audit,
            request,
            name,
            Event.USER_AUTHENTICATION,
            Action.EXECUTE,
            kind=EventType.LOGOUT,
        )
        return RedirectResponse("/login", 303)

    return endpoint


def _form(site: Site, problem: str, status: int) -> Response:
    web = site.configuration.web
    first = None if web.users or web.proxy else site.storage / FIRST_TOKEN
    text = site.templates.get_template("login.html").render(
        ae_title=site.configuration.listener.ae_title, problem=problem, first=first
    )
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


def _audit(site: Site, request: Request, name: str, success: bool) -> None:
    site.audit(
        request, name, Event.USER_AUTHENTICATION, Action.EXECUTE, success=success, kind=EventType.LOGIN
    )
