"""The package is light until something is built, and remembers what highdicom looks up."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import reporting
from reporting.iod_lookup import remember_lookups


def test_names_of_objects_load_no_builder() -> None:
    code = "import sys, reporting.context, reporting.profiles; sys.exit('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_name_can_be_had() -> None:
    for name in reporting.__all__:
        assert getattr(reporting, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = reporting.nothing


def test_lookups_are_done_once_and_answer_the_same() -> None:
    asked = []

    def search(attribute: str, sop_class_uid: str, excluded: tuple[str, ...] | None = None) -> bool:
        asked.append((attribute, sop_class_uid, excluded))
        return attribute == "Rows"

    tables = ModuleType("tables")
    tables.is_attribute_in_iod = search  # type: ignore[attr-defined]
    remember_lookups(tables)
    remember_lookups(tables)
    for _ in range(3):
        assert tables.is_attribute_in_iod("Rows", "1.2", exclude_path_elements=["A"])
        assert not tables.is_attribute_in_iod("Columns", "1.2")
    assert asked == [("Rows", "1.2", ("A",)), ("Columns", "1.2", None)]


def test_warming_up_changes_no_answer() -> None:
    import highdicom

    reporting.warm_up()
    tables = highdicom._standard_utils
    assert tables.is_attribute_in_iod("NumberOfFrames", "1.2.840.10008.5.1.4.1.1.66.4")
    assert not tables.is_attribute_in_iod("NumberOfFrames", "1.2.840.10008.5.1.4.1.1.2")
    assert tables.does_iod_have_pixel_data("1.2.840.10008.5.1.4.1.1.2")
    with pytest.raises(KeyError):
        tables.is_attribute_in_iod("Rows", "1.2.3")
