"""A node full of simulated studies, and its site asked without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from shown_node import ShownNode, shown_node
from starlette.testclient import TestClient

from node.configuration import Configuration, WebUserConfiguration
from node.metrics import StoreMetrics
from node.web.access import token_digest
from node.web.app import build_app, build_site
from store.gauges import Marks

ADMIN_TOKEN, VIEWER_TOKEN = "an-admins-token", "a-viewers-token"
USERS = (
    WebUserConfiguration(name="ann", role="admin", token_sha256=token_digest(ADMIN_TOKEN)),
    WebUserConfiguration(name="vic", role="viewer", token_sha256=token_digest(VIEWER_TOKEN)),
)


class Page:
    """Somebody's browser, without a browser."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def log_in(self, token: str) -> None:
        answer = self.client.post("/login", data={"token": token}, follow_redirects=False)
        assert answer.status_code == 303, answer.text

    def get(self, address: str, **headers: str) -> str:
        answer = self.client.get(address, headers=headers)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.text

    @property
    def csrf(self) -> str:
        found = re.search(r'"X-CSRF-Token": "([^"]+)"', self.get("/"))
        assert found
        return found.group(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShownNode]:
    """The node; tests that change studies pick their own."""
    with shown_node(tmp_path_factory.mktemp("shown")) as running:
        yield running


def with_web(configuration: Configuration, **changes: object) -> Configuration:
    """The configuration with users who can log in, and `changes` of its section for the page."""
    web = configuration.web.model_copy(update={"users": USERS, **changes})
    return configuration.model_copy(update={"web": web})


@pytest.fixture
def open_page(node: ShownNode) -> Iterator[object]:
    """Opens the site with changes of its configuration; nobody is logged in."""
    clients = []

    def make(client: tuple[str, int] = ("127.0.0.1", 50000), **changes: object) -> Page:
        site = build_site(with_web(node.configuration, **changes), node.database, node.clock)
        clients.append(TestClient(build_app(site), client=client))
        return Page(clients[-1])

    yield make
    for one in clients:
        one.close()


@pytest.fixture
def admin(open_page) -> Page:  # type: ignore[no-untyped-def]
    """An admin at the page."""
    page = open_page()
    page.log_in(ADMIN_TOKEN)
    return page


@pytest.fixture
def viewer(open_page) -> Page:  # type: ignore[no-untyped-def]
    """A viewer at the page."""
    page = open_page()
    page.log_in(VIEWER_TOKEN)
    return page


@pytest.fixture
def audit_lines(node: ShownNode):  # type: ignore[no-untyped-def]
    """Gives the audit messages so far."""

    def read() -> list[str]:
        path: Path | None = node.configuration.audit.file
        assert path is not None
        return path.read_text().splitlines() if path.is_file() else []

    return read


@pytest.fixture
def metrics_text(node: ShownNode) -> str:
    """All metrics, counted from the first row of the store."""
    metrics = StoreMetrics(node.database, node.configuration.storage.path, node.clock, Marks())
    content, _ = metrics.render()
    return content.decode()
