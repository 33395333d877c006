"""What every page of the site is made of: the store, the configuration, the templates, and the visit of a user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from node.audit import Action, AuditRecord, AuditTrail, Event, EventType
from node.configuration import Configuration
from node.web import words
from node.web.access import CSRF_FIELD, Access, Role, User, form_is_ours
from store.database import Database
from store.shared_storage import Storage

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Site:
    """The page of one node."""

    configuration: Configuration
    database: Database
    now: Clock
    access: Access
    trail: AuditTrail
    templates: Environment = field(repr=False)
    files: Storage
    """What paths in the store are relative to."""

    @property
    def storage(self) -> Path:
        """The storage folder of this machine."""
        return self.configuration.storage.path

    def audit(
        self,
        request: Request,
        who: str,
        event: Event,
        action: Action,
        *,
        study: str = "",
        detail: str = "",
        success: bool = True,
        kind: EventType | None = None,
    ) -> None:
        """Write down who saw or did what."""
        address = request.client.host if request.client else ""
        self.trail.write(AuditRecord(event, action, self.now(), who, address, success, study, detail, kind))


@dataclass(frozen=True)
class Visit:
    """One request of a user who may make it. form: what he filled in."""

    site: Site
    request: Request
    user: User
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def sees_names(self) -> bool:
        """Whether he may see names and patient ids."""
        return self.user.is_admin or self.site.configuration.web.viewers_see_names

    @property
    def who(self) -> str:
        """How the store names him."""
        return f"{self.user.role} {self.user.name}"

    def parameter(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str:
        """A query parameter, empty where it is absent."""
        return self.request.query_params.get(name, "").strip()

    def audit(
        self, event: Event, action: Action, *, study: str = "", detail: str = "", success: bool = True
    ) -> None:
        """Write down that this user saw or did something."""
        self.site.audit(
            self.request, self.user.name, event, action, study=study, detail=detail, success=success
        )

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page or a part of one."""
        text = self.site.templates.get_template(template).render(
            user=self.user,
            ae_title=self.site.configuration.listener.ae_title,
            path=self.request.url.path,
            now=self.site.now(),
            **context,
        )
        return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


Handler = Callable[[Visit], Response]
Endpoint = Callable[[Request], Any]


def open_templates() -> Environment:
    """The templates, which escape everything and refuse a name that is not given."""
    templates = Environment(
        loader=PackageLoader("node.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(words.FILTERS)
    return templates


def guarded(site: Site, handler: Handler, role: Role = Role.VIEWER) -> Endpoint:
    """An endpoint for users of at least `role`; a form must be ours. The handler runs in a thread."""

    async def endpoint(request: Request) -> Response:
        user = site.access.of_request(request)
        if user is None:
            return _log_in_first(request)
        if role is Role.ADMIN and not user.is_admin:
            return await run_in_threadpool(_refused, site, request, user, "this is for admins")
        form: dict[str, str] = {}
        if request.method != "GET":
            form = {key: str(value) for key, value in (await request.form()).items()}
            if not form_is_ours(request, form.get(CSRF_FIELD, ""), user):
                return await run_in_threadpool(
                    _refused, site, request, user, "the form is not of this page, or too old: load it again"
                )
        return await run_in_threadpool(handler, Visit(site, request, user, form))

    return endpoint


def _log_in_first(request: Request) -> Response:
    target = "/login"
    if request.headers.get("HX-Request"):
        return Response(status_code=401, headers={"HX-Redirect": target})
    if "text/html" in request.headers.get("Accept", ""):
        return RedirectResponse(target, 303)
    return PlainTextResponse("log in first\n", 401, headers={"WWW-Authenticate": "Bearer"})


def _refused(site: Site, request: Request, user: User, why: str) -> Response:
    site.audit(
        request,
        user.name,
        Event.SECURITY_ALERT,
        Action.EXECUTE,
        detail=f"{request.url.path}: {why}",
        success=False,
    )
    return Visit(site, request, user).page("message.html", 403, title="Not allowed", message=why)
