"""The reference of the configuration names every key, with its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.configuration import Configuration
from node.configuration_reference import key_comments, reference

SHIPPED = (Path(__file__).parents[3] / "config.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> str:
    return reference(SHIPPED)


def test_every_section_and_key_is_there(page: str) -> None:
    for name, field in Configuration.model_fields.items():
        assert f"\n## {name}\n" in page
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"| `{key}` |" in page, f"{name}.{key}"


def test_limits_defaults_and_words_stand_beside_the_key(page: str) -> None:
    assert "| `port` | whole number at least 1 at most 65535 | `11112` | TCP port; 104" in page
    assert "| `level` | `debug`, `info`, `warning`, `error` | `info` |" in page


def test_a_comment_that_goes_on_belongs_to_its_key() -> None:
    text = "log:\n  level: info           # debug or\n                        # info\nweb: # the page\n"
    assert key_comments(text) == {"log": "", "log.level": "debug or info", "web": "the page"}
