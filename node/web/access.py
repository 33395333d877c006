"""Who looks at the page, and what he may: tokens, a proxy that has logged him in, roles, forms that are ours."""

from __future__ import annotations

import enum
import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from node.configuration import ProxyLoginConfiguration, WebConfiguration, WebUserConfiguration

FIRST_TOKEN = "web-token"
FIRST_USER = "admin"
SESSION_KEY = "web-session-key"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"


class Role(enum.StrEnum):
    """A viewer looks, an admin also acts."""

    VIEWER = "viewer"
    ADMIN = "admin"


@dataclass(frozen=True)
class User:
    """Somebody who is logged in. csrf: what his forms must bring back."""

    name: str
    role: Role
    csrf: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether he may act."""
        return self.role is Role.ADMIN


@dataclass(frozen=True)
class Access:
    """Who is let in. users: by token. proxy: one that is trusted to say who somebody is; None for none."""

    users: tuple[WebUserConfiguration, ...]
    proxy: ProxyLoginConfiguration | None

    def by_token(self, token: str) -> User | None:
        """The user whose token this is; every comparison takes the same time."""
        digest = token_digest(token.strip())
        matching = [user for user in self.users if hmac.compare_digest(user.token_sha256, digest)]
        return User(matching[0].name, Role(matching[0].role)) if matching else None

    def of_request(self, request: Request) -> User | None:
        """The user of a request: by the trusted proxy's header, by his session, or by a bearer token."""
        return self._of_proxy(request) or self._of_session(request) or self._of_bearer(request)

    def _of_proxy(self, request: Request) -> User | None:
        if self.proxy is None or request.client is None:
            return None
        name = request.headers.get(self.proxy.header, "").strip()
        if not name or not _inside(request.client.host, self.proxy.trusted):
            return None
        role = Role.ADMIN if name in self.proxy.admins else Role.VIEWER
        return User(name[:64], role, _csrf_of(request))

    def _of_session(self, request: Request) -> User | None:
        name = request.session.get("user")
        known = [user for user in self.users if user.name == name]
        if not known:
            return None
        if not hmac.compare_digest(known[0].token_sha256[:16], str(request.session.get("login", ""))):
            return None  # his token was changed since
        return User(known[0].name, Role(known[0].role), _csrf_of(request))

    def _of_bearer(self, request: Request) -> User | None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        return self.by_token(token) if kind.lower() == "bearer" and token else None

    def log_in(self, request: Request, token: str) -> User | None:
        """Begin the session of the user whose token this is."""
        user = self.by_token(token)
        if user is not None:
            request.session.clear()
            digest = token_digest(token.strip())
            request.session.update(user=user.name, login=digest[:16], csrf=secrets.token_urlsafe(24))
        return user


def token_digest(token: str) -> str:
    """SHA-256 of a token, hex: what the configuration holds. Tokens have 256 random bits, so no salt is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


def open_access(configuration: WebConfiguration, storage: Path) -> Access:
    """Who is let in; without any user or proxy one admin, whose token lies in `storage`/web-token. Raises OSError."""
    if configuration.users or configuration.proxy:
        return Access(configuration.users, configuration.proxy)
    token = kept_secret(storage / FIRST_TOKEN)
    first = WebUserConfiguration(name=FIRST_USER, role="admin", token_sha256=token_digest(token))
    return Access((first,), None)


def kept_secret(path: Path) -> str:
    """The secret in the file at `path`, made at the first time; the file is for its owner alone. Raises OSError."""
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        secret = path.read_text(encoding="ascii").strip()
        if secret:
            return secret
    secret = new_token()
    path.write_text(secret + "\n", encoding="ascii")
    return secret


def form_is_ours(request: Request, field: str, user: User) -> bool:
    """Whether a request that changes something comes from our own page (CSRF): its token fits, and so does its origin.

    A request with a bearer token needs neither: no browser sends that by itself.
    """
    if not user.csrf:
        return request.headers.get("Authorization", "").lower().startswith("bearer ")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    given = request.headers.get(CSRF_HEADER) or field
    return hmac.compare_digest(user.csrf.encode(), given.encode())


def _csrf_of(request: Request) -> str:
    token = request.session.get("csrf")
    if not isinstance(token, str) or not token:
        token = secrets.token_urlsafe(24)
        request.session["csrf"] = token
    return token


def _inside(host: str, networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network, strict=False) for network in networks)
