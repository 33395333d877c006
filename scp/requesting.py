"""Associations that we request (PS3.8 7.1), for sending, asking, fetching and reporting alike."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from scp import checkpoint
from scp.peer import DEFAULT_TIMEOUTS, Peer, Timeouts
from scp.tls import TLSUnusable, client_context


class NoAssociation(Exception):
    """There is no association with a peer: it is away or cannot be reached. One line that says which."""


class AssociationRejected(NoAssociation):
    """The peer answered, and does not want us."""


class NothingAccepted(NoAssociation):
    """The peer answered, but takes none of the presentation contexts; there is no association to speak of."""


def associate(
    peer: Peer,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
) -> Association:
    """An established association, guarded against the race that loses answers.

    roles: SCP/SCU role selections (PS3.7 D.3.3.4). handlers: pynetdicom's events with their handlers.
    Raises NoAssociation.
    """
    entity = AE(ae_title=calling_ae_title)
    entity.connection_timeout = timeouts.connect
    entity.acse_timeout = timeouts.association
    entity.dimse_timeout = entity.network_timeout = timeouts.answer
    failures: list[str] = []
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            list(contexts),
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            tls_args=_tls(peer, failures),
            evt_handlers=list(handlers),
        )
    except (OSError, RuntimeError, TypeError, ValueError, TLSUnusable) as error:
        raise NoAssociation(f"{peer}: {error}") from None
    if not association.is_established:
        raise _refusal(peer, association, failures)
    checkpoint.guard(association)
    return association


@contextmanager
def released(association: Association) -> Iterator[Association]:
    """The association, released at the end."""
    try:
        yield association
    finally:
        leave(association)


def leave(association: Association) -> None:
    """Release an association that may have ended already, aborted by its peer say."""
    checkpoint.settle(association)
    if association.is_established:
        association.release()


def _refusal(peer: Peer, association: Association, failures: Sequence[str]) -> NoAssociation:
    answer = association.acceptor.primitive
    if association.is_rejected:
        why = f": {answer.reason_str}" if answer else ""
        return AssociationRejected(f"{peer} rejected the association{why}")
    if answer is not None:
        return NothingAccepted(f"{peer} accepted none of the SOP classes offered")
    if failures:
        return NoAssociation(f"{peer}: TLS: {failures[-1]}")
    refused = " or refused our certificate" if peer.tls is not None else ""
    return NoAssociation(f"{peer}: no association; it is away{refused}, or nothing DICOM listens there")


def _tls(peer: Peer, failures: list[str]) -> tuple[ssl.SSLContext, str] | None:
    """What pynetdicom takes for TLS; why a handshake failed goes to `failures`, for pynetdicom only logs it."""
    if peer.tls is None:
        return None

    class NotingSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except OSError as error:
                failures.append(" ".join(str(error).split()))
                raise

    context = client_context(peer.tls)
    context.sslsocket_class = NotingSocket
    return context, peer.host
