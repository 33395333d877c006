"""The documentation builds as a site, every link in it leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed: pip install 'lungnode[docs]'")
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'lungnode[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| `port` |" not in (tmp_path / "configuration" / "index.html").read_text()
    assert "<code>quiet_seconds</code>" in (tmp_path / "configuration" / "index.html").read_text()
