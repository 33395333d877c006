"""/healthz and /readyz: checks that name what they looked at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from node.web.site import Site
from store import processes

HEARD_WITHIN = timedelta(seconds=60)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    good: bool
    words: str


def health(site: Site) -> list[Check]:
    """What must hold for the node to do its work: store, storage, disk and all parts."""
    return [
        *_database_and_parts(site, ("listener", "worker", "delivery")),
        _storage(site),
    ]


def readiness(site: Site) -> list[Check]:
    """What must hold for the node to take studies: store, disk and listener."""
    return [*_database_and_parts(site, ("listener",)), _storage(site)]


def respond(checks: list[Check]) -> Response:
    """200 where all checks are good, else 503; each check with its words."""
    good = all(check.good for check in checks)
    content = {
        "status": "ok" if good else "failing",
        "checks": {check.name: {"ok": check.good, "detail": check.words} for check in checks},
    }
    return JSONResponse(content, 200 if good else 503, headers={"Cache-Control": "no-store"})


def endpoint(site: Site, look: Callable[[Site], list[Check]]) -> Callable[[object], Response]:
    """An endpoint that runs `look`."""
    return lambda _request: respond(look(site))


def _database_and_parts(site: Site, kinds: tuple[str, ...]) -> list[Check]:
    try:
        with site.database.read() as session:
            living = processes.living(session)
    except SQLAlchemyError as error:
        return [Check("database", False, type(error).__name__)]
    now = site.now()
    checks = [Check("database", True, "answers")]
    for kind in kinds:
        seen = max((p.heartbeat_at for p in living if p.kind == kind), default=None)
        if seen is None:
            checks.append(Check(kind, False, "does not run"))
        else:
            late = now - seen
            checks.append(Check(kind, late <= HEARD_WITHIN, f"heard of {late.total_seconds():.0f} s ago"))
    return checks


def _storage(site: Site) -> Check:
    reserve = site.configuration.storage.reserve_mb * 2**20
    try:
        free = shutil.disk_usage(site.storage).free
    except OSError as error:
        return Check("storage", False, f"{site.storage}: {error.strerror}")
    return Check(
        "storage", free >= reserve, f"{free // 2**20} MiB free, {reserve // 2**20} MiB are kept free"
    )
