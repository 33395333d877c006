"""The site put together: addresses, sessions, security headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.audit import AuditTrail, open_trail
from node.configuration import Configuration
from node.metrics import StoreMetrics
from node.shared_spool import reachable_storage
from node.web import destinations, health, login, overview, packages, settings, studies, study
from node.web.access import SESSION_KEY, Access, Role, kept_secret, open_access
from node.web.sessions import Sessions
from node.web.site import Clock, Site, guarded, open_templates
from store.database import Database
from store.gauges import newest_marks

STATIC = Path(__file__).parent / "static"
MAX_FORM_BYTES = 64 * 1024

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


log: structlog.stdlib.BoundLogger = structlog.get_logger("web")


class SecurityHeaders:
    """Puts the security headers on every answer, and refuses a body that no form of ours has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(k.lower().encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        if _body_too_long(scope):
            await Response(status_code=413)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _body_too_long(scope: Scope) -> bool:
    """Whether a body is announced as longer than any form, or comes in pieces without a length."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_FORM_BYTES


def store_away(site: Site) -> Callable[[Request, Exception], Response]:
    """What is shown while the store does not answer: also as the part of a page, so that nothing old stays."""

    def show(request: Request, error: Exception) -> Response:
        log.error("store does not answer", why=type(error).__name__, page=request.url.path)
        part = request.headers.get("HX-Request") is not None
        template = "store_away_part.html" if part else "store_away.html"
        text = site.templates.get_template(template).render(ae_title=site.configuration.listener.ae_title)
        return HTMLResponse(text, 200 if part else 503, headers={"Cache-Control": "no-store"})

    return show


def build_site(configuration: Configuration, database: Database, now: Clock) -> Site:
    """The site of a node. Raises OSError where the storage folder cannot be used."""
    storage = configuration.storage.path
    storage.mkdir(parents=True, exist_ok=True)
    access: Access = open_access(configuration.web, storage)
    trail: AuditTrail = open_trail(configuration.audit, configuration.listener.ae_title)
    files = reachable_storage(configuration)
    return Site(configuration, database, now, access, trail, open_templates(), files)


def build_app(site: Site) -> Starlette:
    """The application that answers HTTP. Raises OSError."""
    web = site.configuration.web
    with site.database.read() as reading:
        since = newest_marks(reading)
    metrics = StoreMetrics(site.database, site.storage, site.now, since)

    def show_metrics(request: Request) -> Response:
        if not web.open_metrics and site.access.of_request(request) is None:
            return Response("log in first\n", 401, headers={"WWW-Authenticate": "Bearer"})
        content, media_type = metrics.render()
        return Response(content, headers={"Content-Type": media_type})

    def see(path: str, handler: object) -> Route:
        return Route(path, guarded(site, handler), methods=["GET"])  # type: ignore[arg-type]

    routes = [
        see("/", overview.show),
        see("/live", overview.show_live),
        see("/studies", studies.show),
        see("/studies/{uid}", study.show),
        see("/studies/{uid}/slices/{layer}/{z:int}", study.show_picture),
        Route("/studies/{uid}/{action}", guarded(site, study.ask, Role.ADMIN), methods=["GET"]),
        Route("/studies/{uid}/{action}", guarded(site, study.act, Role.ADMIN), methods=["POST"]),
        see("/destinations", destinations.show),
        Route(
            "/destinations/{name}/echo", guarded(site, destinations.ask_echo, Role.ADMIN), methods=["POST"]
        ),
        see("/packages", packages.show),
        Route("/configuration", guarded(site, settings.show, Role.ADMIN), methods=["GET"]),
        Route("/login", login.login_page(site), methods=["GET"]),
        Route("/login", login.log_in(site), methods=["POST"]),
        Route("/logout", login.log_out(site), methods=["POST"]),
        Route("/metrics", show_metrics, methods=["GET"]),
        Route("/healthz", health.endpoint(site, health.health), methods=["GET"]),
        Route("/readyz", health.endpoint(site, health.readiness), methods=["GET"]),
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]
    session = Middleware(
        Sessions,
        key=kept_secret(site.storage / SESSION_KEY),
        cookie="lungnode",
        seconds=int(web.session_hours * 3600),
    )
    return Starlette(
        routes=routes,
        middleware=[Middleware(SecurityHeaders), session],
        exception_handlers={SQLAlchemyError: store_away(site)},
    )
