"""Serving the site until told to stop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import structlog
import uvicorn

from node.configuration import Configuration
from node.parts import Ready
from node.service_manager import stop_of_loop
from node.web.access import FIRST_TOKEN
from node.web.app import build_app, build_site
from node.web.site import Clock
from reporting.delivery.loop import Stop
from store.database import Database

POLL_SECONDS = 1.0
TICK_SECONDS = 1.0
"""The date that answers carry is set this often."""
START_POLL_SECONDS = 0.02
STOP_SECONDS = 5
PAGES_LOOK_SECONDS = 1
PAGES_SECONDS = 60.0
"""The loop that answers requests hangs when it has not come round for this long."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("web")


class WebCannotStart(Exception):
    """The page cannot be shown; the message is one line that says what to do."""


def serve_web(configuration: Configuration, database: Database, now: Clock, stop: Stop, ready: Ready) -> None:
    """Serve until told to stop. Raises WebCannotStart."""
    web = configuration.web
    try:
        app = build_app(build_site(configuration, database, now))
    except OSError as error:
        raise WebCannotStart(
            f"{error.filename or configuration.storage.path}: {error.strerror}; check storage.path and its rights"
        ) from error
    pages = stop_of_loop(stop, "pages", PAGES_SECONDS)

    async def come_round() -> None:
        pages.is_set()

    with _bound(web.host, web.port) as listening:
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            proxy_headers=False,
            callback_notify=come_round,
            timeout_notify=PAGES_LOOK_SECONDS,
        )
        server = _UnhurriedServer(settings)
        thread = threading.Thread(target=server.run, args=([listening],), name="web", daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            stop.wait(START_POLL_SECONDS)
        _say_where(configuration)
        ready()
        while not stop.wait(POLL_SECONDS) and thread.is_alive():
            pass
        server.should_exit = True
        thread.join()
    if not stop.is_set():
        raise WebCannotStart("the web server ended by itself")


class _UnhurriedServer(uvicorn.Server):
    """uvicorn, looking once a second whether it is to stop: ten times cost more than all else while nobody asks."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(TICK_SECONDS)


def _say_where(configuration: Configuration) -> None:
    web = configuration.web
    first = None if web.users or web.proxy else str(configuration.storage.path / FIRST_TOKEN)
    log.info("page shown", url=f"http://{web.host}:{web.port}/", token_in=first)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise WebCannotStart(
            f"cannot listen on {host}:{port} for the page: {reason}; choose another web.port or end what uses it"
        ) from error
    return listening
