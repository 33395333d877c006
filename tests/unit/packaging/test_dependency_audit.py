"""The audit of the locked dependencies: flaws end it with 1, a service that does not answer is said and is no flaw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[3] / ".ci" / "audit"
SOUND = {"name": "a", "version": "1.0", "vulns": []}
FLAWED = {"name": "b", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found on PyPI"}


def audited(folder: Path, body: str) -> tuple[int, str]:
    """Exit code and output of an audit whose pip-audit runs this shell script."""
    program = folder / "pip-audit"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, AUDIT, program, "1"], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout


def reporting(*packages: dict[str, Any]) -> str:
    return f"cat <<'END'\n{json.dumps({'dependencies': packages})}\nEND"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (reporting(SOUND, UNKNOWN), 0, "audit: 1 of 2 packages, 0 known vulnerabilities"),
        (reporting(SOUND, FLAWED), 1, "b 2.0: PYSEC-1, mended in 2.1"),
        (reporting(UNKNOWN), 0, "audit skipped: the index knows none"),
        ("echo no network >&2; exit 1", 0, "audit skipped: "),
        ("exec sleep 30", 0, "audit skipped: no answer within 1 s"),
    ],
    ids=["sound", "flawed", "unknown", "no report", "no answer"],
)
def test_what_an_audit_says(tmp_path: Path, body: str, code: int, said: str) -> None:
    ended, output = audited(tmp_path, body)
    assert ended == code
    assert said in output
