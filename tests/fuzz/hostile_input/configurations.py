"""config.yaml, and its rules on a series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from hostile_input.samples import image
from hostile_input.target import Take, Target
from node.configuration import load_configuration
from node.configuration_file import ConfigurationError, read_mapping
from node.configured import shown_configuration
from node.routing.facts import SeriesFacts
from node.routing.matching import route_study
from node.routing.rules import Rules

EXAMPLE = Path(__file__).resolve().parents[3] / "config.yaml"
RULES_EXAMPLE = b"""
rules:
- name: urgent
  when: {tags: {Modality: CT, PatientAge: {min: 18, max: 99}, ImageType: {not: [LOCALIZER]}}, instances: {min: 2}}
  then: {priority: urgent, destinations: [pacs]}
- name: night
  when: {time: {from: "22:00", until: "06:00", days: [mon, sun]}, calling_ae: {regex: "^CT"}}
- {name: rest, then: {screen: false, reason: no}}
"""


def seeds() -> Sequence[bytes]:
    """The example of the repository, and every section with its defaults."""
    return [EXAMPLE.read_bytes(), RULES_EXAMPLE, b"listener: {port: 11112}", b"listener: [\n", b"a: &a [*a]"]


@contextmanager
def opened_configuration(folder: Path) -> Iterator[Take]:
    """Reads each input as config.yaml."""
    path = folder / "config.yaml"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        try:
            configuration = load_configuration(path)
        except ConfigurationError as error:
            assert str(error)
            return
        yaml.safe_dump(shown_configuration(configuration))

    yield take


@contextmanager
def opened_rules(folder: Path) -> Iterator[Take]:
    """Reads each input as rules, and routes an image by them where they are right."""
    path = folder / "rules.yaml"
    adapter = TypeAdapter(Rules)
    series = SeriesFacts("1.2.3.1", image(), 2, "CT1", datetime(2026, 1, 5, 23, 30))

    def take(data: bytes) -> None:
        path.write_bytes(data)
        try:
            rules = adapter.validate_python(tuple(read_mapping(path, "rules").get("rules") or ()))
        except (ConfigurationError, ValidationError, TypeError) as error:
            assert str(error)
            return
        assert route_study(rules, [series]).why

    yield take


CONFIGURATION = Target(seeds, opened_configuration)
RULES = Target(lambda: [RULES_EXAMPLE], opened_rules)
