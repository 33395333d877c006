"""Sessions of people at the page: signed cookies, for this site, this browser and, where there is TLS, TLS alone."""

from __future__ import annotations

from functools import partial

from starlette.datastructures import Headers
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class Sessions:
    """Starlette's sessions, HttpOnly and SameSite=Strict; Secure for who came by TLS (RFC 6265 4.1.2.5).

    key: signs them. cookie: its name. seconds: how long a session lasts after its last change.
    """

    def __init__(self, app: ASGIApp, key: str, cookie: str, seconds: int) -> None:
        make = partial(
            SessionMiddleware, app, secret_key=key, session_cookie=cookie, max_age=seconds, same_site="strict"
        )
        self._plain, self._by_tls = make(), make(https_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sessions = self._by_tls if scope["type"] == "http" and came_by_tls(scope) else self._plain
        await sessions(scope, receive, send)


def came_by_tls(scope: Scope) -> bool:
    """Whether the browser of a request speaks TLS, to a proxy in front of us: that says so, or else the browser does.

    Browsers name the origin of a form that they post, and login is one. Neither is checked: who lies gets a cookie that
    his own browser keeps to itself.
    """
    headers = Headers(scope=scope)
    forwarded = headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return (
        scope["scheme"] == "https" or forwarded == "https" or headers.get("Origin", "").startswith("https://")
    )
