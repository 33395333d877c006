"""TLS contexts by the BCP 195 profiles (PS3.15 B.9, RFC 9325): TLS 1.2 with forward secrecy and AEAD, and TLS 1.3."""

from __future__ import annotations

import ssl
from pathlib import Path

from scp.peer import ClientTLS
from scp.policy import TLSSettings

_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


class TLSUnusable(Exception):
    """Certificate, key or CA cannot be used; the message names the file and says why."""


def server_context(settings: TLSSettings) -> ssl.SSLContext:
    """A context for the listener; asks for a client certificate where a CA is given. Raises TLSUnusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    _load_identity(context, settings.certificate, settings.key)
    if settings.ca is not None:
        _load_ca(context, settings.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(settings: ClientTLS) -> ssl.SSLContext:
    """A context to connect with; the other side must show a certificate of its host name. Raises TLSUnusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    if settings.certificate is not None:
        _load_identity(context, settings.certificate, settings.key)
    if settings.ca is not None:
        _load_ca(context, settings.ca)
    else:
        context.load_default_certs()
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load_identity(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        with_key = f" with key {key}" if key is not None else ""
        raise TLSUnusable(f"TLS certificate {certificate}{with_key} cannot be used: {error}") from error


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise TLSUnusable(f"TLS CA file {ca} cannot be used: {error}") from error
