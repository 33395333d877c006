"""Fixtures that every suite shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from postgresql_server import NoServer, PostgreSQLServer, started_server
from s3_server import NoServer as NoS3Server
from s3_server import S3Server, started_s3


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """A test that sets the log up, by running a command say, does so for itself alone."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT data: LUNGNODE_DATA, else ../shared/data beside the checkout; skipped where absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("LUNGNODE_DATA", beside))
    if not path.is_dir():
        pytest.skip(f"real CT data not found at {path}; set LUNGNODE_DATA")
    return path


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL server that this session starts on a socket of its own; skipped where it cannot."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with ExitStack() as running:
        try:
            server = running.enter_context(started_server())
        except NoServer as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server that this session starts; skipped where it cannot."""
    with ExitStack() as running:
        try:
            server = running.enter_context(started_s3())
        except NoS3Server as error:
            pytest.skip(str(error))
        yield server
