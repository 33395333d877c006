"""C-STORE as a user: what is asked for, and how each answer is read."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1
from pynetdicom import AllStoragePresentationContexts

from reporting.delivery.scu import NotSendableError, PeerUnreachableError, Verdict, echo, parcel, store
from scp.peer import Peer, Timeouts

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
VERIFICATION = "1.2.840.10008.1.1"
BOTH = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

Start = Callable[..., "ScriptedPACS"]  # noqa: F821
Write = Callable[..., Path]


def test_every_object_is_stored_in_one_association(pacs_with: Start, write_object: Write) -> None:
    pacs = pacs_with({CT: BOTH, SEG: BOTH})
    paths = [write_object(CT), write_object(SEG), write_object(CT)]
    outcomes = list(store(pacs.peer, [parcel(p) for p in paths], "NODE"))
    assert [(o.path, o.verdict, o.status) for o in outcomes] == [(p, Verdict.STORED, 0) for p in paths]
    assert set(pacs.stored) == {p.stem for p in paths}
    assert pacs.associations == 1


def test_an_implicit_only_peer_gets_its_syntax(pacs_with: Start, write_object: Write) -> None:
    pacs = pacs_with({SEG: [ImplicitVRLittleEndian]})
    (outcome,) = store(pacs.peer, [parcel(write_object(SEG))], "NODE")
    assert outcome.verdict is Verdict.STORED
    assert pacs.syntaxes == [ImplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, ExplicitVRBigEndian])
def test_other_syntaxes_are_sent_as_they_are(pacs_with: Start, write_object: Write, syntax: str) -> None:
    pacs = pacs_with({CT: [syntax, *BOTH]})
    (outcome,) = store(pacs.peer, [parcel(write_object(CT, syntax))], "NODE")
    assert outcome.verdict is Verdict.STORED
    assert pacs.syntaxes == [syntax]


def test_a_class_that_the_peer_does_not_take_is_told_from_a_failure(
    pacs_with: Start, write_object: Write
) -> None:
    pacs = pacs_with({SR: BOTH})
    paths = [write_object(SEG), write_object(SR)]
    refused, stored = store(pacs.peer, [parcel(p) for p in paths], "NODE")
    assert (refused.verdict, refused.status) == (Verdict.NOT_ACCEPTED, None)
    assert stored.verdict is Verdict.STORED


def test_a_peer_that_takes_none_of_the_classes_is_not_away(pacs_with: Start, write_object: Write) -> None:
    pacs = pacs_with({SR: BOTH})
    (outcome,) = store(pacs.peer, [parcel(write_object(SEG))], "NODE")
    assert outcome.verdict is Verdict.NOT_ACCEPTED


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.STORED),
        (0xB000, Verdict.STORED),
        (0xB006, Verdict.STORED),
        (0xB007, Verdict.STORED),
        (0x0122, Verdict.NOT_ACCEPTED),
        (0x0110, Verdict.FAILED),
        (0x0124, Verdict.FAILED),
        (0xA700, Verdict.FAILED),
        (0xA900, Verdict.FAILED),
        (0xC000, Verdict.FAILED),
    ],
)
def test_every_status_is_read(pacs_with: Start, write_object: Write, status: int, verdict: Verdict) -> None:
    pacs = pacs_with({CT: BOTH})
    pacs.status = lambda uid: status
    (outcome,) = store(pacs.peer, [parcel(write_object())], "NODE")
    assert (outcome.verdict, outcome.status) == (verdict, status)
    assert bool(outcome.reason) == (status != 0)


def test_more_contexts_than_one_association_holds(pacs_with: Start, write_object: Write) -> None:
    classes = [str(c.abstract_syntax) for c in AllStoragePresentationContexts[:70]]
    pacs = pacs_with(dict.fromkeys(classes[:65], BOTH))
    outcomes = list(store(pacs.peer, [parcel(write_object(c)) for c in classes], "NODE"))
    assert [o.verdict for o in outcomes] == [Verdict.STORED] * 65 + [Verdict.NOT_ACCEPTED] * 5
    assert pacs.associations == 2


def test_an_absent_peer_is_named(write_object: Write) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        peer = Peer("PACS", "127.0.0.1", unused.getsockname()[1])
        with pytest.raises(PeerUnreachableError, match=f"PACS@127.0.0.1:{peer.port}: no association"):
            list(store(peer, [parcel(write_object())], "NODE", Timeouts(connect=1)))


def test_a_rejection_is_told_with_its_reason(pacs_with: Start, write_object: Write) -> None:
    pacs = pacs_with({CT: BOTH})
    stranger = Peer("OTHER", "127.0.0.1", pacs.peer.port)
    with pytest.raises(PeerUnreachableError, match=r"rejected .*[Cc]alled AE title"):
        list(store(stranger, [parcel(write_object())], "NODE"))


def test_a_peer_that_says_nothing_is_given_up(write_object: Write) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        peer = Peer("PACS", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(PeerUnreachableError):
            list(store(peer, [parcel(write_object())], "NODE", Timeouts(1, 0.3, 0.3)))


def test_echo(pacs_with: Start) -> None:
    pacs = pacs_with({VERIFICATION: BOTH})
    echo(pacs.peer, "NODE")
    with pytest.raises(PeerUnreachableError):
        echo(Peer("PACS", "127.0.0.1", 1), "NODE", Timeouts(connect=1))


def test_echo_to_a_peer_that_only_stores_is_no_success(pacs_with: Start) -> None:
    with pytest.raises(PeerUnreachableError):
        echo(pacs_with({CT: BOTH}).peer, "NODE")


@pytest.mark.parametrize(("content", "reason"), [(b"", "no DICOM"), (b"hello" * 100, "no DICOM")])
def test_what_is_no_dicom_is_said_before_sending(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(NotSendableError, match=reason):
        parcel(tmp_path / "x")


def test_a_file_that_vanished_fails_alone(pacs_with: Start, write_object: Write) -> None:
    pacs = pacs_with({CT: BOTH})
    gone, there = parcel(write_object()), parcel(write_object())
    gone.path.unlink()
    first, second = store(pacs.peer, [gone, there], "NODE")
    assert first.verdict is Verdict.FAILED
    assert second.verdict is Verdict.STORED
