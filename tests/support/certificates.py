"""Certificates for tests of TLS, made by openssl."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificates(folder: Path) -> Path:
    """A CA with server and client certificates, some that must not be trusted, and a CA that nobody knows.

    ca, unknown-ca; server (for 127.0.0.1), elsewhere (for another host), client, stranger (of unknown-ca), expired;
    each as NAME.pem with NAME.key. Skips the test where openssl is missing.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for ca in ("ca", "unknown-ca"):
        openssl(folder, "req", "-x509", "-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
    issue(folder, "server", "ca", "IP:127.0.0.1,DNS:localhost")
    issue(folder, "elsewhere", "ca", "DNS:pacs.example.org")
    issue(folder, "client", "ca", "DNS:client")
    issue(folder, "stranger", "unknown-ca", "DNS:client")
    issue(folder, "expired", "ca", "DNS:client", expired=True)
    return folder


def openssl(folder: Path, *arguments: str) -> None:
    key = ["-newkey", "rsa:2048", "-nodes"] if arguments[0] == "req" else []
    subprocess.run(["openssl", *arguments, *key], cwd=folder, check=True, capture_output=True, timeout=60)


def issue(folder: Path, name: str, ca: str, alternative: str, expired: bool = False) -> None:
    openssl(folder, "req", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=-1 if expired else 30)
    begin = end - datetime.timedelta(days=60)
    (folder / f"{ca}.index").touch()
    (folder / f"{ca}.serial").write_text(f"{abs(hash(name)) % 10**8:010d}\n")
    (folder / f"{ca}.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={ca}.index\nserial={ca}.serial\nnew_certs_dir=.\n"
        "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
    )
    stamp = "%Y%m%d%H%M%SZ"
    openssl(
        folder,
        *("ca", "-batch", "-config", f"{ca}.cnf", "-cert", f"{ca}.pem", "-keyfile", f"{ca}.key"),
        *("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext", "-notext"),
        *("-startdate", begin.strftime(stamp), "-enddate", end.strftime(stamp)),
    )
