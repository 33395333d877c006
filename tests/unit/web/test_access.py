"""Who is let in, and what he may."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from node.configuration import ProxyLoginConfiguration, WebConfiguration
from node.web.access import open_access

ADMIN_TOKEN, VIEWER_TOKEN = "an-admins-token", "a-viewers-token"
PAGES = ("/", "/live", "/studies", "/destinations", "/packages", "/configuration")


@pytest.mark.parametrize("address", PAGES)
def test_a_stranger_is_sent_to_the_login(open_page: Callable[..., object], address: str) -> None:
    page = open_page()
    browser = page.client.get(address, headers={"Accept": "text/html"}, follow_redirects=False)
    assert (browser.status_code, browser.headers["location"]) == (303, "/login")
    assert page.client.get(address, headers={"Accept": "*/*"}).status_code == 401


def test_a_wrong_token_is_refused_and_written_down(
    open_page: Callable[..., object], audit_lines: Callable[[], list[str]]
) -> None:
    page = open_page()
    assert page.client.post("/login", data={"token": "guess"}).status_code == 403
    assert 'EventOutcomeIndicator="4"' in audit_lines()[-1] and "110114" in audit_lines()[-1]
    assert page.client.get("/", follow_redirects=False).status_code == 401


def test_a_bearer_token_opens_a_page_for_programs(open_page: Callable[..., object]) -> None:
    page = open_page()
    headers = {"Authorization": f"Bearer {VIEWER_TOKEN}"}
    assert page.client.get("/studies", headers=headers).status_code == 200
    assert page.client.get("/configuration", headers=headers).status_code == 403


def test_a_session_ends_when_its_token_is_changed(open_page: Callable[..., object]) -> None:
    page = open_page()
    page.log_in(ADMIN_TOKEN)
    cookie = page.client.cookies["lungnode"]
    other = open_page(users=())
    other.client.cookies.set("lungnode", cookie)
    assert other.client.get("/", follow_redirects=False).status_code == 401


def test_the_proxys_word_counts_only_from_the_proxy(open_page: Callable[..., object]) -> None:
    proxy = ProxyLoginConfiguration(trusted=("192.0.2.1",), admins=("ann",))
    headers = {"X-Remote-User": "ann"}
    trusted = open_page(client=("192.0.2.1", 1), proxy=proxy, users=())
    assert trusted.client.get("/configuration", headers=headers).status_code == 200
    assert trusted.client.get("/configuration", headers={"X-Remote-User": "bob"}).status_code == 403
    assert trusted.client.get("/studies", headers={"X-Remote-User": "bob"}).status_code == 200
    stranger = open_page(client=("192.0.2.2", 1), proxy=proxy, users=())
    assert stranger.client.get("/", headers=headers, follow_redirects=False).status_code == 401


def test_without_users_there_is_one_admin_with_a_private_token(tmp_path: Path) -> None:
    access = open_access(WebConfiguration(), tmp_path)
    file = tmp_path / "web-token"
    token = file.read_text().strip()
    user = access.by_token(token)
    assert user is not None and user.is_admin and len(token) >= 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert open_access(WebConfiguration(), tmp_path).by_token(token) is not None


def test_a_form_from_elsewhere_does_nothing(
    admin: object, node: object, audit_lines: Callable[[], list[str]]
) -> None:
    address = f"/studies/{node.studies['short']}/retry"
    assert admin.client.post(address).status_code == 403
    assert admin.client.post(address, data={"csrf_token": "forged"}).status_code == 403
    crossing = {"Sec-Fetch-Site": "cross-site"}
    assert admin.client.post(address, data={"csrf_token": admin.csrf}, headers=crossing).status_code == 403
    assert "110113" in audit_lines()[-1] and "retry" in audit_lines()[-1]
    assert "skipped" in admin.get(f"/studies/{node.studies['short']}")


def test_every_answer_carries_the_security_headers(open_page: Callable[..., object]) -> None:
    page = open_page()
    for address in ("/login", "/static/site.css", "/healthz", "/nothing", "/"):
        policy = page.client.get(address, follow_redirects=False).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy


def test_a_body_longer_than_any_form_is_refused(open_page: Callable[..., object]) -> None:
    page = open_page()
    assert page.client.post("/login", content=b"token=" + b"x" * 70_000).status_code == 413


@pytest.mark.parametrize(
    ("headers", "secure"),
    [
        ({}, False),
        ({"Origin": "http://testserver"}, False),
        ({"Origin": "https://node.example"}, True),
        ({"X-Forwarded-Proto": "https"}, True),
        ({"X-Forwarded-Proto": "HTTPS, http"}, True),
        ({"X-Forwarded-Proto": "http, https"}, False),
    ],
)
def test_the_cookie_is_kept_to_tls_where_the_browser_came_by_it(
    open_page: Callable[..., object], headers: dict[str, str], secure: bool
) -> None:
    page = open_page()
    answer = page.client.post("/login", data={"token": ADMIN_TOKEN}, headers=headers, follow_redirects=False)
    name, *attributes = (part.strip().lower() for part in answer.headers["Set-Cookie"].split(";"))
    assert name.startswith("lungnode=")
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= set(attributes)
    assert ("secure" in attributes) is secure


def test_a_session_by_tls_goes_on_and_ends(open_page: Callable[..., object]) -> None:
    page = open_page()
    page.client.base_url = "https://testserver"
    page.log_in(ADMIN_TOKEN)
    page.get("/studies")
    answer = page.client.post("/logout", follow_redirects=False)
    assert "secure" in answer.headers["Set-Cookie"].lower()
    assert page.client.get("/studies").status_code == 401
