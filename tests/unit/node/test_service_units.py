"""What services of the system can see, by their units."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.service_units import shipped_units, unseen


@pytest.mark.parametrize(
    "place", ["/home/ann/lungnode/.venv/bin/lungnode", "/root/.pyenv/bin/python", "/tmp/x"]
)
def test_what_the_sandbox_hides_is_named(place: str) -> None:
    assert unseen([Path("/opt/lungnode/bin/lungnode"), Path(place)]) == Path(place)


def test_programs_of_the_system_are_seen() -> None:
    assert (
        unseen([Path("/opt/lungnode/bin/lungnode"), Path("/usr/bin/python3.11"), Path("/etc/x.yaml")]) is None
    )


def test_the_sandbox_of_every_unit_hides_it() -> None:
    for unit in shipped_units().glob("*.service"):
        assert {"ProtectHome=yes", "PrivateTmp=yes"} <= set(unit.read_text().splitlines()), unit.name
