"""STOW-RS as a destination: every answer judged, tokens, a server that keeps something else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from reporting.delivery.scu import Outcome, PeerUnreachableError, Verdict, parcel
from reporting.delivery.stow import ClientCredentials, StowSender, StowService

UID = "2.25.11"


class Script:
    """What the server does: `answer` for POST /studies, `stored` for WADO-RS, tokens it gives."""

    def __init__(self) -> None:
        self.answer: Callable[[], tuple[int, Any]] = lambda: (200, stored())
        self.kept: bytes | None = None
        self.posts: list[dict[str, str]] = []
        self.tokens = 0


def item(uid: str = UID, **more: int) -> Dataset:
    dataset = Dataset()
    dataset.ReferencedSOPClassUID, dataset.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", uid
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def stored(uid: str = UID, **more: int) -> Dataset:
    answer = Dataset()
    answer.ReferencedSOPSequence = [item(uid, **more)]
    return answer


def failed(reason: int) -> Dataset:
    answer = Dataset()
    answer.FailedSOPSequence = [item(FailureReason=reason)]
    return answer


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _say(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self._body()
            if self.path == "/token":
                script.tokens += 1
                token = {"access_token": f"t{script.tokens}", "token_type": "Bearer", "expires_in": 3600}
                self._say(200, "application/json", json.dumps(token).encode())
                return
            script.posts.append(dict(self.headers))
            code, answer = script.answer()
            body = answer.to_json().encode() if isinstance(answer, Dataset) else answer
            self._say(code, "application/dicom+json", body)

        def do_GET(self) -> None:
            if script.kept is None:
                self._say(404, "text/plain", b"")
                return
            body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + script.kept + b"\r\n--b--"
            self._say(200, 'multipart/related; type="application/dicom"; boundary=b', body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def send(url: str, path: Path, **service: Any) -> Outcome:
    (outcome,) = StowSender(StowService(url, **({"compare": False} | service)))([parcel(path)])
    return outcome


def test_stored(url: str, outbox: Any) -> None:
    assert send(url, outbox.paths[0]).verdict is Verdict.STORED


@pytest.mark.parametrize("code", [200, 202, 409])
@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(0x0122, Verdict.NOT_ACCEPTED), (0xA700, Verdict.FAILED), (0x0110, Verdict.FAILED)],
)
def test_an_object_that_failed_has_not_arrived(
    url: str, script: Script, outbox: Any, code: int, reason: int, verdict: Verdict
) -> None:
    script.answer = lambda: (code, failed(reason))
    outcome = send(url, outbox.paths[0])
    assert (outcome.verdict, outcome.status) == (verdict, reason)


def test_a_warning_counts_as_stored_and_is_kept(url: str, script: Script, outbox: Any) -> None:
    script.answer = lambda: (200, stored(WarningReason=0xB000))
    outcome = send(url, outbox.paths[0])
    assert (outcome.verdict, outcome.reason) == (Verdict.STORED, "warning reason 0xB000")


@pytest.mark.parametrize("answer", [stored("1.2.3"), Dataset(), b"<html>", b"[", b""])
def test_an_answer_that_does_not_name_the_object_is_no_success(
    url: str, script: Script, outbox: Any, answer: Any
) -> None:
    script.answer = lambda: (200, answer)
    assert send(url, outbox.paths[0]).verdict is Verdict.FAILED


@pytest.mark.parametrize("code", [401, 403, 429, 500, 503])
def test_a_server_that_cannot_now_is_away(url: str, script: Script, outbox: Any, code: int) -> None:
    script.answer = lambda: (code, b"")
    with pytest.raises(PeerUnreachableError, match=str(code)):
        send(url, outbox.paths[0])


def test_nobody_there(outbox: Any) -> None:
    with pytest.raises(PeerUnreachableError):
        send("http://127.0.0.1:1", outbox.paths[0])


def test_a_token_is_fetched_once_and_sent_with_every_object(url: str, script: Script, outbox: Any) -> None:
    credentials = ClientCredentials(f"{url}/token", "node", "secret")
    sender = StowSender(StowService(url, credentials, compare=False))
    list(sender([parcel(outbox.paths[0])]))
    list(sender([parcel(outbox.paths[0])]))
    assert script.tokens == 1
    assert [p["Authorization"] for p in script.posts] == ["Bearer t1", "Bearer t1"]


def test_a_token_service_that_is_away_is_no_crash(outbox: Any, url: str) -> None:
    credentials = ClientCredentials("http://127.0.0.1:1/token", "node", "secret")
    with pytest.raises(PeerUnreachableError):
        list(StowSender(StowService(url, credentials))([parcel(outbox.paths[0])]))


def test_other_content_under_the_same_uid_is_noticed(url: str, script: Script, outbox: Any) -> None:
    script.kept = outbox.paths[0].read_bytes()
    assert send(url, outbox.paths[0], compare=True).verdict is Verdict.STORED
    script.kept = script.kept.replace(b"content of seg", b"content of old")
    outcome = send(url, outbox.paths[0], compare=True)
    assert outcome.verdict is Verdict.NOT_ACCEPTED
    assert "another object" in outcome.reason and "SeriesDescription" in outcome.reason


def test_a_server_that_lets_nothing_be_retrieved_is_content_with_its_word(url: str, outbox: Any) -> None:
    outcome = send(url, outbox.paths[0], compare=True)
    assert outcome.verdict is Verdict.STORED and "could not be retrieved" in outcome.reason
