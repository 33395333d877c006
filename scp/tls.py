"""TLS contexts by the BCP 195 profiles (PS3.15 B.9, RFC 9325): TLS 1.2 with forward secrecy and AEAD, and TLS 1.3."""

from __future__ import annotations

import ssl

from scp.policy import TLSSettings

_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


class TLSUnusable(Exception):
    """Certificate, key or CA cannot be used; the message names the file and says why."""


def server_context(settings: TLSSettings) -> ssl.SSLContext:
    """A context for the listener; asks for a client certificate where a CA is given. Raises TLSUnusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _load_identity(context, settings)
    if settings.ca is not None:
        _load_ca(context, settings)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_identity(context: ssl.SSLContext, settings: TLSSettings) -> None:
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise TLSUnusable(
            f"TLS certificate {settings.certificate} with key {settings.key} cannot be used: {error}"
        ) from error


def _load_ca(context: ssl.SSLContext, settings: TLSSettings) -> None:
    try:
        context.load_verify_locations(settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise TLSUnusable(f"TLS CA file {settings.ca} cannot be used: {error}") from error
