"""What the configuration says of peers, priors and worklists, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from node.configuration import ConfigurationError, load_configuration
from scp.peer import ClientTLS, Peer

PACS = {"ae_title": "PACS", "host": "pacs", "port": 104}
TLS = {"certificate": "tls/node.pem", "key": "tls/node.key", "ca": "tls/ca.pem"}
WEB = {"url": "https://pacs/dicom-web"}


def written(folder: Path, **sections: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def test_the_files_of_tls_lie_beside_the_configuration_wherever_they_are_named(tmp_path: Path) -> None:
    code = {"value": "CT", "scheme": "99X", "meaning": "x"}
    found = load_configuration(
        written(
            tmp_path,
            destinations=[{"name": "pacs", **PACS, "tls": TLS}],
            stow_destinations=[{"name": "web", **WEB, "tls": TLS}],
            query_source=PACS | {"tls": TLS},
            peers=[PACS | {"tls": TLS}],
            worklist=WEB | {"code": code, "tls": TLS},
        )
    )
    files = ClientTLS(tmp_path / "tls/node.pem", tmp_path / "tls/node.key", tmp_path / "tls/ca.pem")
    assert found.query_source is not None and found.worklist is not None
    peers = [found.destinations[0].peer, found.query_source.peer, found.peers[0].peer]
    assert peers == [Peer("PACS", "pacs", 104, files)] * 3
    assert [found.stow_destinations[0].tls.settings, found.worklist.tls.settings] == [files] * 2
    web = load_configuration(written(tmp_path, dicomweb_source=WEB | {"tls": TLS})).dicomweb_source
    assert web is not None and web.tls.settings == files


def test_an_empty_section_is_tls_without_a_certificate_of_ours_and_none_is_no_tls(tmp_path: Path) -> None:
    plain = {"name": "plain", **PACS}
    found = load_configuration(written(tmp_path, destinations=[plain, plain | {"name": "tls", "tls": {}}]))
    assert [d.peer.tls for d in found.destinations] == [None, ClientTLS()]


@pytest.mark.parametrize("given", [{"client_ca": "ca.pem"}, {"key": "node.key"}])
def test_clients_of_stow_cannot_be_asked_for_a_certificate_without_tls(
    tmp_path: Path, given: dict[str, str]
) -> None:
    """Else the port would be open to all, in plain HTTP, for somebody who has configured whom to let in."""
    with pytest.raises(ConfigurationError, match="has no effect without certificate"):
        load_configuration(written(tmp_path, stow_listener=given))


@pytest.mark.parametrize(
    "sections",
    [{}, {"query_source": PACS | {"retrieve": "off"}}, {"dicomweb_source": WEB | {"retrieve": False}}],
)
def test_priors_are_fetched_from_a_source_that_retrieves(tmp_path: Path, sections: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="needs a query_source or dicomweb_source that retrieves"):
        load_configuration(written(tmp_path, priors={"fetch": True}, **sections))


def test_rules_have_no_say_over_idle_times(tmp_path: Path) -> None:
    rule = {"name": "late", "then": {"priority": "idle"}}
    with pytest.raises(ConfigurationError, match="allowed are urgent, normal and background"):
        load_configuration(written(tmp_path, routing=[rule]))
