"""What an admin changes as root stays with the user of the services."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def as_owner_of(folder: Path) -> Iterator[None]:
    """As root, go on as whoever owns `folder`; anybody else goes on as he is.

    A file that root made in the services' folder could not be written by the services: an audit trail that a
    command began would lose what the page has to say. Where there is no such folder yet, the owner of the folder
    that it will be in counts. The groups of the owner are his own group alone. Applies to the whole process.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    owner = there.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
