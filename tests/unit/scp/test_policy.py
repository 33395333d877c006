"""Who may talk to the listener."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scp.policy import AllowedPeer, ListenerPolicy, admit

DEFAULT = ListenerPolicy("LUNGNODE", max_associations=3, max_associations_per_host=2)
OPEN = replace(DEFAULT, allowed=(AllowedPeer("0.0.0.0/0"), AllowedPeer("::/0")))


def diagnostic(
    policy: ListenerPolicy, host: str = "127.0.0.1", called: str = "LUNGNODE", **more: object
) -> object:
    calling = str(more.get("calling", "PACS"))
    open_hosts = more.get("open_hosts", [])
    assert isinstance(open_hosts, list)
    rejection = admit(policy, calling_ae=calling, called_ae=called, host=host, open_hosts=open_hosts)
    return None if rejection is None else (rejection.result, rejection.source, rejection.diagnostic)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_let_in(host: str) -> None:
    assert diagnostic(DEFAULT, host) is None


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "2001:db8::1", "::ffff:10.0.0.1", "", "nonsense"]
)
def test_nobody_else_is_by_default(host: str) -> None:
    assert diagnostic(DEFAULT, host) == (1, 1, 3)


def test_opening_it_is_one_setting() -> None:
    assert diagnostic(OPEN, "10.0.0.1") is None
    assert diagnostic(OPEN, "2001:db8::1%eth0") is None


def test_ae_title_and_address_must_fit_together() -> None:
    policy = replace(DEFAULT, allowed=(AllowedPeer("10.0.0.7", "PACS"), AllowedPeer("10.1.0.0/16")))
    assert diagnostic(policy, "10.0.0.7") is None
    assert diagnostic(policy, "10.0.0.7", calling="OTHER") == (1, 1, 3)
    assert diagnostic(policy, "10.0.0.8") == (1, 1, 3)
    assert diagnostic(policy, "10.1.2.3", calling="OTHER") is None


def test_the_called_ae_title_must_be_ours_unless_told_otherwise() -> None:
    assert diagnostic(DEFAULT, called="OTHER") == (1, 1, 7)
    assert diagnostic(replace(DEFAULT, require_called_ae=False), called="OTHER") is None


def test_limits_are_transient_rejections() -> None:
    assert diagnostic(DEFAULT, open_hosts=["127.0.0.1"]) is None
    assert diagnostic(DEFAULT, open_hosts=["127.0.0.1"] * 2) == (2, 3, 2)
    assert diagnostic(DEFAULT, open_hosts=["10.0.0.1"] * 2) is None
    assert diagnostic(DEFAULT, open_hosts=["10.0.0.1"] * 3) == (2, 3, 2)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_from_the_network_is_an_error(host: str, calling: str) -> None:
    assert diagnostic(DEFAULT, host, calling=calling) in (None, (1, 1, 3))
