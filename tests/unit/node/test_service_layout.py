"""What a first configuration of the services names, and which folders their units may write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from node.configuration import Configuration, load_configuration
from node.service_layout import folders_outside, new_configuration

STATE = Path("/var/lib/lungnode")


def test_all_that_a_new_configuration_writes_lies_in_the_state_folder(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(new_configuration(STATE))
    loaded = load_configuration(file)
    assert loaded.audit.file is not None
    for path in (loaded.storage.path, loaded.audit.file, loaded.screening.engine_cache):
        assert path.is_relative_to(STATE)
    assert f"{STATE}/lungnode.db" in loaded.database.url
    assert folders_outside(loaded, STATE) == ()


@pytest.mark.parametrize(
    ("screening", "writable"),
    [
        ({"built_engines": False}, False),
        ({}, True),
        ({"built_engines": False, "device": "tensorrt"}, True),
        ({"device": "torch"}, False),
    ],
)
def test_engines_are_written_where_they_are_built(screening: dict[str, Any], writable: bool) -> None:
    cache = Path("/srv/engines")
    content = yaml.safe_load(new_configuration(STATE))
    content["screening"] |= {"engine_cache": cache, **screening}
    outside = folders_outside(Configuration.model_validate(content), STATE)
    assert (cache in outside) is writable
