"""Files of the spool: what they hold, what they are named, whatever pieces a data set comes in."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from scp.spool import BUFFER, HEAD, WRITE_PIECE, IncomingFile, Spool, TooLarge, file_meta

META = file_meta(CTImageStorage, "1.2.3", ExplicitVRLittleEndian)
STUDY = "1.2"


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    made = Spool(tmp_path_factory.mktemp("storage"))
    made.prepare()
    return made


def begin(spool: Spool, max_bytes: int = 8 * BUFFER) -> IncomingFile:
    return spool.begin(CTImageStorage, "1.2.3", ExplicitVRLittleEndian, max_bytes)


def content(size: int) -> bytes:
    return hashlib.shake_128(size.to_bytes(8, "big")).digest(size)


sizes = st.lists(
    st.one_of(st.integers(0, 300), st.sampled_from([WRITE_PIECE - len(META), WRITE_PIECE, BUFFER, 131_060])),
    max_size=6,
)


@settings(deadline=None, max_examples=40)
@given(sizes)
def test_a_file_holds_what_came_and_is_named_by_it(spool: Spool, pieces: list[int]) -> None:
    incoming = begin(spool)
    for size in pieces:
        incoming.write(content(size))
    incoming.finish()
    kept = spool.keep(incoming, STUDY)
    data_set = b"".join(map(content, pieces))
    file = spool.storage / kept.path
    assert file.read_bytes() == META + data_set
    assert kept.sha256 == file.stem == hashlib.sha256(META + data_set).hexdigest()
    assert kept.size == len(data_set)
    assert bytes(incoming.head) == data_set[: min(HEAD, BUFFER - len(META))]
    assert kept.path in set(spool.kept_paths())


def test_a_repeated_instance_replaces_what_was_acknowledged_only_once_it_is_on_the_disk(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent() -> IncomingFile:
        incoming = begin(spool)
        incoming.write(b"acknowledged" * 100)
        incoming.finish()
        return incoming

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk fails")

    acknowledged = spool.storage / spool.keep(sent(), STUDY).path
    inode = acknowledged.stat().st_ino
    repeated = sent()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk fails"):
        patched.setattr(os, "fsync", failing)
        spool.keep(repeated, STUDY)
    repeated.abandon()
    assert acknowledged.stat().st_ino == inode
    assert list(spool.unfinished()) == []


def test_files_that_are_written_at_once_do_not_mix(spool: Spool) -> None:
    first = begin(spool)
    first.write(b"1" * 1000)
    first.finish()
    spool.keep(first, STUDY)
    both = [begin(spool), begin(spool)]  # one of them takes over what the first had
    for turn in range(3):
        for number, incoming in enumerate(both):
            incoming.write(bytes([turn, number]) * 70_000)
    kept = []
    for incoming in both:
        incoming.finish()
        kept.append(spool.keep(incoming, STUDY))
    for number, one in enumerate(kept):
        written = (spool.storage / one.path).read_bytes()[len(META) :]
        assert written == b"".join(bytes([turn, number]) * 70_000 for turn in range(3))


def test_one_that_is_too_large_leaves_nothing(spool: Spool) -> None:
    incoming = begin(spool, max_bytes=1000)
    incoming.write(bytes(1000))
    with pytest.raises(TooLarge):
        incoming.write(b"\0")
    incoming.abandon()
    assert not list(spool.unfinished())
    with pytest.raises(OSError, match="closed"):
        incoming.finish()


def test_a_second_end_changes_nothing(spool: Spool) -> None:
    incoming = begin(spool)
    incoming.finish()
    kept: Path = spool.storage / spool.keep(incoming, STUDY).path
    incoming.abandon()
    incoming.abandon()
    assert kept.read_bytes() == META
