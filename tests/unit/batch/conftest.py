"""An archive of small CT studies."""

from __future__ import annotations

from pathlib import Path

import pytest
from swift_casework import an_instance


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Eight studies of three files; the first over two folders; and files that are no DICOM."""
    root = tmp_path / "archive"
    for study in range(8):
        for number in range(3):
            place = root / f"p{study}" / ("a" if number and not study else "")
            an_instance(place / f"{number}.dcm", f"1.2.{study}", number)
    (root / "read.me").write_text("about this archive")
    return root
