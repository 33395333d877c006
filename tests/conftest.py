"""Fixtures that every suite shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT data: LUNGNODE_DATA, else ../shared/data beside the checkout; skipped where absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("LUNGNODE_DATA", beside))
    if not path.is_dir():
        pytest.skip(f"real CT data not found at {path}; set LUNGNODE_DATA")
    return path
