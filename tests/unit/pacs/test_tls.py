"""TLS to destinations and query sources, and OAuth2: real servers, certificates of a CA of our own."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from certificates import make_certificates
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reporting.delivery.confirmation import Reply, request_commitment
from reporting.delivery.scu import PeerUnreachableError, Verdict, echo, parcel, store
from reporting.delivery.stow import ClientCredentials, StowSender, StowService
from scp.commitment import CommitmentService
from scp.listener import Listener
from scp.pacs_query.dimse import DimseSource
from scp.pacs_query.source import QueryFailed, SourceUnreachable
from scp.peer import ClientTLS, Peer
from scp.policy import ListenerPolicy, TLSSettings
from scp.stow_server import StowPolicy, StowServer
from scp.tls import client_context
from store.database import Database

SECRET = "the token"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def listener_with(
    certificates: Path, database: Database, tmp_path: Path, clock: Any
) -> Iterator[Callable[[str], Listener]]:
    """A listener that shows the given certificate and asks clients for one of our CA."""
    listeners = []

    def start(certificate: str) -> Listener:
        tls = TLSSettings(
            certificates / f"{certificate}.pem", certificates / f"{certificate}.key", certificates / "ca.pem"
        )
        policy = ListenerPolicy("PACS", port=0, reserve_bytes=0, grace_seconds=0.2, tls=tls)
        keeper = CommitmentService(database, tmp_path / "storage", "PACS", {}, clock)
        listener = Listener(policy, database, tmp_path / "storage", clock, services=[keeper.as_service()])
        listener.start()
        listeners.append(listener)
        return listener

    yield start
    for listener in listeners:
        listener.stop()


def client(certificates: Path, name: str = "client") -> ClientTLS:
    return ClientTLS(certificates / f"{name}.pem", certificates / f"{name}.key", certificates / "ca.pem")


def test_sending_asking_and_committing_go_by_tls(
    listener_with: Callable[[str], Listener], certificates: Path, outbox: Any
) -> None:
    peer = Peer("PACS", "127.0.0.1", listener_with("server").port, client(certificates))
    echo(peer, "NODE")
    (outcome,) = store(peer, [parcel(outbox.paths[1])], "NODE")
    assert outcome.verdict is Verdict.STORED
    references = [("1.2.840.10008.5.1.4.1.1.88.34", outbox.uids[1])]
    assert request_commitment(peer, "NODE", "2.25.77", references, [].append).reply is Reply.ACCEPTED
    with pytest.raises(QueryFailed, match="does not offer this query"):
        DimseSource(peer, "NODE").series("1.2.3")


@pytest.mark.parametrize(
    ("server", "ours", "why"),
    [
        ("elsewhere", "client", "(IP address mismatch|Hostname mismatch)"),
        ("server", "stranger", "refused our certificate"),
    ],
)
def test_certificates_that_do_not_fit_are_told(
    listener_with: Callable[[str], Listener], certificates: Path, server: str, ours: str, why: str
) -> None:
    peer = Peer("PACS", "127.0.0.1", listener_with(server).port, client(certificates, ours))
    with pytest.raises(PeerUnreachableError, match=why):
        echo(peer, "NODE")
    with pytest.raises(SourceUnreachable, match=why):
        DimseSource(peer, "NODE").series("1.2.3")


def test_a_certificate_file_that_is_missing_is_told(certificates: Path) -> None:
    peer = Peer("PACS", "127.0.0.1", 1, ClientTLS(certificates / "nowhere.pem"))
    with pytest.raises(PeerUnreachableError, match=r"nowhere\.pem.*cannot be used"):
        echo(peer, "NODE")


@pytest.fixture
def token_url(certificates: Path) -> Iterator[str]:
    """An OAuth2 token endpoint for client credentials (RFC 6749 4.4) that asks for a client certificate, too."""

    async def token(request: Request) -> Response:
        form = await request.form()
        given = request.headers.get("authorization", "")
        if form.get("grant_type") != "client_credentials" or given != "Basic bm9kZTpzZWNyZXQ=":
            return JSONResponse({"error": "invalid_client"}, 401)
        return JSONResponse({"access_token": SECRET, "token_type": "Bearer", "expires_in": 3600})

    settings = uvicorn.Config(
        Starlette(routes=[Route("/token", token, methods=["POST"])]),
        log_config=None,
        ssl_certfile=certificates / "server.pem",
        ssl_keyfile=certificates / "server.key",
        ssl_ca_certs=str(certificates / "ca.pem"),
        ssl_cert_reqs=2,
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/token"
        server.should_exit = True
        thread.join()


@pytest.fixture
def stow_url(
    certificates: Path, listener_with: Callable[[str], Listener], database: Database, clock: Any
) -> Iterator[str]:
    """STOW-RS with a certificate, for clients with one of our CA and the token."""
    policy = StowPolicy(
        "127.0.0.1",
        0,
        token_sha256=hashlib.sha256(SECRET.encode()).hexdigest(),
        certificate=certificates / "server.pem",
        key=certificates / "server.key",
        client_ca=certificates / "ca.pem",
    )
    server = StowServer(policy, listener_with("server").receiver, database, clock)
    server.start()
    yield f"https://127.0.0.1:{server.port}"
    server.stop()


def test_stow_with_mutual_tls_and_client_credentials(
    stow_url: str, token_url: str, certificates: Path, outbox: Any, database: Database
) -> None:
    credentials = ClientCredentials(token_url, "node", "secret")
    service = StowService(stow_url, credentials, client(certificates), compare=False)
    (outcome,) = StowSender(service)([parcel(outbox.paths[1])])
    assert outcome.verdict is Verdict.STORED, outcome


def test_stow_takes_the_ciphers_of_dicom_associations_only(stow_url: str, certificates: Path) -> None:
    """PS3.15 B.9: TLS 1.2 with forward secrecy and AEAD, whatever the HTTP server would take by itself."""
    context = client_context(client(certificates))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    place = ("127.0.0.1", int(stow_url.rpartition(":")[2]))
    with (
        socket.create_connection(place) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as good,
    ):
        assert good.version() == "TLSv1.2"
    context.set_ciphers("ECDHE-RSA-AES256-SHA384:ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256")
    with socket.create_connection(place) as plain, pytest.raises(ssl.SSLError, match=r"(?i)handshake|EOF"):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    ("credentials", "ours", "why"),
    [
        (("node", "wrong"), "client", "invalid_client"),
        (None, "client", "answered 401: check its credentials"),
        (("node", "secret"), "stranger", "(?i)tls|ssl|connection|unknown ca"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    stow_url: str,
    token_url: str,
    certificates: Path,
    outbox: Any,
    credentials: tuple[str, str] | None,
    ours: str,
    why: str,
) -> None:
    given = None if credentials is None else ClientCredentials(token_url, *credentials)
    service = StowService(stow_url, given, client(certificates, ours), compare=False)
    with pytest.raises(PeerUnreachableError, match=why):
        list(StowSender(service)([parcel(outbox.paths[1])]))


def test_a_ca_file_that_is_missing_is_told(certificates: Path, outbox: Any) -> None:
    service = StowService("https://127.0.0.1:1", None, ClientTLS(ca=certificates / "nowhere.pem"))
    with pytest.raises(PeerUnreachableError, match=r"nowhere\.pem"):
        list(StowSender(service)([parcel(outbox.paths[1])]))
