"""The page in a real browser: a node full of simulated studies, its web part, and Debian's Chromium."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from long_study import UID, served, write_long_study
from shown_node import ShownNode, shown_node

from node.configuration import WebUserConfiguration, load_configuration
from node.stand_in_pacs import free_port
from node.web.access import token_digest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

SCREENSHOTS = "LUNGNODE_SCREENSHOTS"
TOKENS = {"admin": "an-admins-token", "viewer": "a-viewers-token"}
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
)


@dataclass
class ShownSite:
    """The page at `url`, and the node behind it."""

    url: str
    node: ShownNode


@pytest.fixture(scope="session")
def shown_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShownSite]:
    """A node with studies, of a size that shows something where screenshots are kept, and its page."""
    size: dict[str, Any] = {}
    if SCREENSHOTS in os.environ:
        size = {"slices": 80, "size": 256, "models": load_configuration().models}
    with shown_node(tmp_path_factory.mktemp("shown"), **size) as node:
        port = free_port()
        users = tuple(
            WebUserConfiguration(name=role, role=role, token_sha256=token_digest(token))  # type: ignore[arg-type]
            for role, token in TOKENS.items()
        )
        web = node.configuration.web.model_copy(update={"port": port, "users": users})
        configuration = node.configuration.model_copy(update={"web": web})
        with served(configuration, node.database, node.clock) as url:
            yield ShownSite(url, node)


@pytest.fixture
def long_study(shown_site: ShownSite) -> str:
    """UID of a study of 300 slices at the page; it is added once."""
    node = shown_site.node
    if "long" not in node.studies:
        write_long_study(node.database, node.configuration.storage.path, node.clock())
        node.studies["long"] = UID
    return UID


@pytest.fixture(scope="session")
def browser(chromium: Callable[..., Browser]) -> Iterator[Browser]:
    browser = chromium(*ARGUMENTS)
    yield browser
    browser.close()


@dataclass
class Visitor:
    """Somebody at the page. problems: what the browser complained of, violations of the CSP among it."""

    page: Any
    problems: list[str]
    url: str

    def go(self, address: str) -> None:
        """Go to an address of the site and wait until it has come to rest."""
        self.page.goto(self.url + address)
        self.page.wait_for_load_state("networkidle")


@pytest.fixture
def visit(browser: Browser, shown_site: ShownSite) -> Iterator[Callable[..., Visitor]]:
    """Opens a browser window, logged in as `role`."""
    contexts: list[BrowserContext] = []
    visitors: list[Visitor] = []

    def make(role: str = "admin", **options: Any) -> Visitor:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        visitor = Visitor(page, [], shown_site.url)
        page.on(
            "console", lambda m: visitor.problems.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: visitor.problems.append(str(error)))
        page.goto(shown_site.url + "/login")
        page.get_by_label("Token").fill(TOKENS[role])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(shown_site.url + "/")
        visitors.append(visitor)
        return visitor

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def pictures() -> Path | None:
    """Where screenshots are kept; without it they are only made."""
    folder = os.environ.get(SCREENSHOTS)
    return Path(folder) if folder else None
