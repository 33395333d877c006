"""Two nodes without a disk in common: folders of their own, and where it can be made, networks of their own.

PostgreSQL, an S3 server and the PACS stand beside them, as on further machines.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from killed_parts import Machine, Tally, World, settings_of
from postgresql_server import started_server
from s3_server import S3Server, started_s3

from node.stand_in_pacs import StorageSCP, free_port
from store.database import open_database
from store.migrations import upgrade
from store.object_folder import ObjectStoreAway, open_object_folder

NAMES = ("a", "b")
NETWORK = "10.213"
LEASE_SECONDS = 15


class NoNamespaces(Exception):
    """Network namespaces cannot be made here; one line with the reason."""


@dataclass(frozen=True)
class Address:
    """One machine: its host, under which host it sees the services, and the command that goes there."""

    host: str
    services: str
    entry: tuple[str, ...] = ()


class TwoMachines(World):
    """A world whose parts run on two machines; their images are with them or in the object store."""

    object_store: tuple[str, dict[str, Any]]

    def content(self, path: str) -> bytes | None:
        """What there is of a received instance, on either machine or in the object store."""
        held = [machine.content(path) for machine in self.machines.values()]
        return next((content for content in held if content is not None), None) or self._object(path)

    def _object(self, path: str) -> bytes | None:
        url, options = self.object_store
        copy = self.folder / "looked-at"
        try:
            open_object_folder(url, options).fetch([(path, copy)])
        except (FileNotFoundError, ObjectStoreAway):
            return None
        content = copy.read_bytes()
        copy.unlink()
        return content


@contextmanager
def on_loopback(folder: Path, tallies: dict[tuple[str, str], Tally]) -> Iterator[TwoMachines]:
    """Two nodes on one machine. Raises postgresql_server.NoServer, s3_server.NoServer."""
    addresses = {
        name: Address(f"127.0.{number}.1", "127.0.0.1") for number, name in enumerate(NAMES, start=1)
    }
    with _world(folder, tallies, addresses, "127.0.0.1", "two nodes, PostgreSQL, S3") as made:
        yield made


@contextmanager
def in_namespaces(folder: Path, tallies: dict[tuple[str, str], Tally]) -> Iterator[TwoMachines]:
    """Each node in a network namespace, which reaches the services and not the other node.

    Raises NoNamespaces, postgresql_server.NoServer, s3_server.NoServer.
    """
    with ExitStack() as made:
        addresses = {
            name: made.enter_context(_namespace(number, name)) for number, name in enumerate(NAMES, start=1)
        }
        words = "two nodes with networks of their own, PostgreSQL, S3"
        yield made.enter_context(_world(folder, tallies, addresses, "0.0.0.0", words))


@contextmanager
def _namespace(number: int, name: str) -> Iterator[Address]:
    """A namespace with one cable to this one. Raises NoNamespaces."""
    if shutil.which("ip") is None:
        raise NoNamespaces("iproute2 is not installed")
    space, cable = f"lungnode-{os.getpid()}-{name}", f"ln{os.getpid() % 100_000}{name}"
    host, services = f"{NETWORK}.{number}.2", f"{NETWORK}.{number}.1"
    try:
        _ip("netns", "add", space)
        _ip("link", "add", f"{cable}0", "type", "veth", "peer", "name", f"{cable}1", "netns", space)
        _ip("addr", "add", f"{services}/30", "dev", f"{cable}0")
        _ip("link", "set", f"{cable}0", "up")
        _ip("-n", space, "addr", "add", f"{host}/30", "dev", f"{cable}1")
        _ip("-n", space, "link", "set", f"{cable}1", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        yield Address(host, services, ("ip", "netns", "exec", space))
    except subprocess.CalledProcessError as error:
        raise NoNamespaces(f"network namespaces cannot be made: {error.stderr.strip()}") from None
    finally:
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@contextmanager
def _world(
    folder: Path,
    tallies: dict[tuple[str, str], Tally],
    addresses: dict[str, Address],
    services: str,
    words: str,
) -> Iterator[TwoMachines]:
    hosts = tuple(address.services for address in addresses.values())
    with ExitStack() as opened:
        server = opened.enter_context(started_server(tuple(dict.fromkeys(hosts)), free_port()))
        s3 = opened.enter_context(started_s3(services))
        pacs = opened.enter_context(StorageSCP(folder / "pacs", host=services))
        url = opened.enter_context(server.database())
        upgrade(url)
        database = open_database(url)
        opened.callback(database.close)
        port, bucket = free_port(), s3.new_url()
        made = TwoMachines(folder, pacs, folder / "pacs", port, database, words, tallies, lambda: url)
        made.object_store = (bucket, s3.options)
        (folder / "log").touch()
        for name, address in addresses.items():
            place = Machine(folder / name, address.host, address.entry)
            place.folder.mkdir()
            reached = url.replace("@/", f"@{address.services}:{server.port}/").partition("?")[0]
            settings = settings_of(place.folder, reached, port, pacs)
            settings["listener"] |= _listening(address)
            settings["spool"] = _spool(address, bucket, s3)
            settings["destinations"][0]["host"] = address.services
            settings["worker"]["lease_seconds"] = LEASE_SECONDS
            (place.folder / "config.yaml").write_text(yaml.safe_dump(settings))
            made.machines[name] = place
        yield made
        for part in list(made.parts):
            made.stop(part)


def _listening(address: Address) -> dict[str, Any]:
    allowed = [{"network": network} for network in ("127.0.0.0/8", f"{NETWORK}.0.0/16")]
    return {"host": address.host, "allowed": allowed}


def _spool(address: Address, bucket: str, s3: S3Server) -> dict[str, Any]:
    return {"url": bucket, "options": s3.options | {"endpoint_url": f"http://{address.services}:{s3.port}"}}
