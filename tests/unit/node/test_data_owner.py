"""What root does in the services' folder belongs to their user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.data_owner import as_owner_of

SOMEBODY = 65534


@pytest.fixture
def folder_of_somebody() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = Path(tempfile.mkdtemp())  # not tmp_path, which lies in a folder that only root may enter
    os.chown(folder, SOMEBODY, SOMEBODY)
    yield folder
    shutil.rmtree(folder)


def test_what_is_made_belongs_to_the_owner_and_then_root_is_root_again(folder_of_somebody: Path) -> None:
    with as_owner_of(folder_of_somebody / "not there yet"):
        (folder_of_somebody / "audit.log").touch()
        assert os.getgroups() == []
    made = (folder_of_somebody / "audit.log").stat()
    assert (made.st_uid, made.st_gid) == (SOMEBODY, SOMEBODY)
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_root_is_root_again_after_an_error(folder_of_somebody: Path) -> None:
    with pytest.raises(ZeroDivisionError), as_owner_of(folder_of_somebody):
        raise ZeroDivisionError
    assert os.geteuid() == 0


def test_nothing_changes_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    before = os.geteuid(), os.getegid(), os.getgroups()
    with as_owner_of(tmp_path):
        assert (os.geteuid(), os.getegid(), os.getgroups()) == before
