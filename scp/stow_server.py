"""The HTTP side of STOW-RS (PS3.18 10.5): POST /studies, POST /studies/{study}, bearer token, TLS."""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from scp import tls
from scp.associations import AssociationEnds
from scp.multipart import Malformed, boundary_of
from scp.policy import TLSSettings
from scp.receipt import Receiver
from scp.stow import StowRequest, response
from store import receipts
from store.database import Database
from store.receipts import Peer

LOGGER = structlog.get_logger(__name__)
STOP_SECONDS = 10
HOUSEKEEPING_S = 1


@dataclass(frozen=True)
class StowPolicy:
    """Where to listen and who may send. port 0 takes a free one.

    token_sha256: hex, of the bearer token; None asks for none. client_ca: whom clients must be certified by.
    """

    host: str
    port: int
    token_sha256: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


class StowCannotStart(Exception):
    """Nobody can be listened to; the message says where and why."""


class StowServer:
    """Takes instances by HTTP in a thread of this process."""

    def __init__(
        self, policy: StowPolicy, receiver: Receiver, database: Database, now: Callable[[], datetime]
    ) -> None:
        self._policy = policy
        self._receiver = receiver
        self._database = database
        self._now = now
        self._name = f"stow@{policy.host}:{policy.port}"
        self._ends = AssociationEnds(database, now)
        settings = uvicorn.Config(
            self.app(),
            host=policy.host,
            port=policy.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            callback_notify=self._keep_house,
            timeout_notify=HOUSEKEEPING_S,
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._run, name="stow", daemon=True)

    def app(self) -> Starlette:
        """The ASGI application."""
        paths = ("/studies", "/studies/{study}")
        return Starlette(routes=[Route(path, self._store, methods=["POST"]) for path in paths])

    def start(self) -> None:
        """Begin to listen. Raises StowCannotStart."""
        self._use_tls()
        host, port = self._policy.host, self._policy.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise StowCannotStart(f"STOW-RS cannot listen on {host}:{port}: {error.strerror}") from None
        with self._database.write() as session:
            receipts.close_left_over(session, listener=self._name, now=self._now())
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        return int(self._socket.getsockname()[1])

    def stop(self) -> None:
        """End, letting running requests finish for a while."""
        self._server.should_exit = True
        self._thread.join()

    def _use_tls(self) -> None:
        """The same profile as for DICOM associations, in place of the one that uvicorn makes."""
        policy, settings = self._policy, self._server.config
        if policy.certificate is None:
            return
        settings.load()
        try:
            settings.ssl = tls.server_context(TLSSettings(policy.certificate, policy.key, policy.client_ca))
        except tls.TLSUnusable as error:
            raise StowCannotStart(f"STOW-RS: {error}") from None

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    async def _keep_house(self) -> None:
        """Record the ends of requests that the store did not take when they came."""
        await run_in_threadpool(self._ends.settle)

    async def _store(self, request: Request) -> Response:
        if not self._admits(request.headers.get("authorization", "")):
            return PlainTextResponse("a valid bearer token is needed", 401, {"WWW-Authenticate": "Bearer"})
        try:
            boundary = boundary_of(request.headers.get("content-type", ""))
        except Malformed as error:
            return PlainTextResponse(str(error), 415)
        host = request.client.host if request.client else ""
        storing = StowRequest(
            self._receiver,
            self._database,
            Peer("STOW-RS", host),
            self._name,
            self._now,
            self._ends,
            only_study=request.path_params.get("study"),
        )
        how = "failed"
        try:
            reader = storing.reader(boundary)
            async for chunk in request.stream():
                await run_in_threadpool(reader.feed, chunk)
            reader.finish()
            how = "received"
        except Malformed as error:
            how = "malformed"
            return PlainTextResponse(str(error), 400)
        except ClientDisconnect:
            how = "connection lost"
            return PlainTextResponse("the connection was lost", 400)
        except SQLAlchemyError as error:
            LOGGER.error("store does not answer", why=type(error).__name__)
            return PlainTextResponse("the store does not answer; send again", 503)
        finally:
            await run_in_threadpool(storing.end, how)
        status, answer = response(storing.parts)
        return JSONResponse(answer.to_json_dict(), status, media_type="application/dicom+json")

    def _admits(self, authorization: str) -> bool:
        wanted = self._policy.token_sha256
        if wanted is None:
            return True
        scheme, _, token = authorization.partition(" ")
        given = hashlib.sha256(token.strip().encode()).hexdigest()
        return scheme.lower() == "bearer" and hmac.compare_digest(given, wanted)
