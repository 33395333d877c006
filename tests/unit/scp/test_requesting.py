"""Associations that we request: how they end."""

from __future__ import annotations

from typing import Any

from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import build_context

from scp.peer import Peer, Timeouts
from scp.requesting import associate, released

VERIFICATION = "1.2.840.10008.1.1"


def _aborts(event: evt.Event) -> int:
    event.assoc.abort()
    return 0x0000


def test_an_association_that_the_peer_aborted_is_not_released() -> None:
    sent: list[Any] = []
    entity = AE(ae_title="PACS")
    entity.add_supported_context(VERIFICATION)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, _aborts)])
    try:
        peer = Peer("PACS", "127.0.0.1", server.socket.getsockname()[1])
        handlers = [(evt.EVT_ACSE_SENT, lambda event: sent.append(event.primitive))]
        timeouts = Timeouts(connect=5, association=5, answer=5)
        contexts = [build_context(VERIFICATION)]
        with released(associate(peer, "LUNGNODE", contexts, timeouts, handlers=handlers)) as association:
            assert "Status" not in association.send_c_echo()
        assert association.is_aborted and sent
        assert not any(isinstance(primitive, A_RELEASE) for primitive in sent)
    finally:
        server.shutdown()
