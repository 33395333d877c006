"""Who may talk to the listener, and how much: configuration as frozen values, and the decision as a pure function."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True)
class AllowedPeer:
    """One entry of the allow-list. network: an address or a network (CIDR). ae_title: None for any calling AE."""

    network: str
    ae_title: str | None = None

    def admits(self, calling_ae: str, host: str) -> bool:
        """Whether a peer with this calling AE title and address is meant."""
        address = _address(host)
        inside = address is not None and address in ipaddress.ip_network(self.network, strict=False)
        return inside and self.ae_title in (None, calling_ae)


@dataclass(frozen=True)
class TLSSettings:
    """TLS for the listener (PS3.15 B.9, BCP 195).

    key: None where the certificate's file holds it. ca: whom clients must be certified by; None: no client certificate
    is asked for.
    """

    certificate: Path
    key: Path | None
    ca: Path | None = None


@dataclass(frozen=True)
class RetentionPolicy:
    """How long things are kept; None: for good.

    keep_done, keep_failed: images of studies that are delivered or skipped, and of those that have failed.
    keep_records: refusals, announcements, requests for commitment and associations.
    room_bytes: with less free disk space than this, images of delivered and skipped studies go earlier.
    """

    keep_done: timedelta | None = None
    keep_failed: timedelta | None = None
    keep_records: timedelta | None = None
    room_bytes: int = 0


@dataclass(frozen=True)
class ListenerPolicy:
    """Everything that the listener may be told.

    allowed: the allow-list; its default lets only this machine in.
    max_connections, max_connections_per_host: connections that have not become an association count too.
    share_port: other listeners of this machine may listen at the same port; each keeps its limits for itself.
    acse_seconds: for the TLS handshake, and again for A-ASSOCIATE-RQ.
    idle_seconds: an association without traffic is aborted after this.
    grace_seconds: for running associations when the listener stops.
    max_instance_bytes, max_study_bytes: largest data set, and sum of a study's.
    max_inflated_bytes: largest size to which a deflated data set may unfold.
    reserve_bytes: free disk space below which instances are refused with A700.
    own_manufacturer: Manufacturer (0008,0070) of the node's own results, which are not screened.
    streaming: receive by `scp.streaming`; off, by pynetdicom's ordinary handler.
    """

    ae_title: str
    host: str = "127.0.0.1"
    port: int = 11112
    share_port: bool = False
    require_called_ae: bool = True
    allowed: tuple[AllowedPeer, ...] = tuple(AllowedPeer(network) for network in LOOPBACK)
    max_associations: int = 16
    max_associations_per_host: int = 8
    max_connections: int = 128
    max_connections_per_host: int = 64
    acse_seconds: float = 5.0
    idle_seconds: float = 60.0
    grace_seconds: float = 10.0
    max_pdu_bytes: int = 256 * 1024
    max_instance_bytes: int = 4 * 2**30
    max_inflated_bytes: int = 2**30
    max_study_bytes: int = 64 * 2**30
    reserve_bytes: int = 512 * 2**20
    retention: RetentionPolicy = RetentionPolicy()
    own_manufacturer: str = "lungnode"
    streaming: bool = True
    tls: TLSSettings | None = None


@dataclass(frozen=True)
class Rejection:
    """A-ASSOCIATE-RJ (PS3.8 table 9-21): result, source, diagnostic; and why, in words."""

    result: int
    source: int
    diagnostic: int
    why: str


def admit(
    policy: ListenerPolicy, *, calling_ae: str, called_ae: str, host: str, open_hosts: Sequence[str]
) -> Rejection | None:
    """Decide on an association request; None admits it. open_hosts: the address of every association that is open."""
    if policy.require_called_ae and called_ae != policy.ae_title:
        return Rejection(1, 1, 7, "called AE title is not this node's")
    if not any(peer.admits(calling_ae, host) for peer in policy.allowed):
        return Rejection(1, 1, 3, "calling AE title and address are not in the allow-list")
    if len(open_hosts) >= policy.max_associations:
        return Rejection(2, 3, 2, f"{policy.max_associations} associations are open")
    if sum(other == host for other in open_hosts) >= policy.max_associations_per_host:
        return Rejection(2, 3, 2, f"{policy.max_associations_per_host} associations of this host are open")
    return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
