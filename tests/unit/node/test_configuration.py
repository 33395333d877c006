"""The configuration: what is taken, and how wrong input is named."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from node.configuration import (
    Configuration,
    ConfigurationError,
    DestinationConfiguration,
    ListenerConfiguration,
    load_configuration,
)

ROOT = Path(__file__).parents[3]
MAIL = {"host": "m", "sender": "node@example.org", "recipients": ["a@example.org"]}
ANN = {"name": "ann", "token_sha256": "0" * 64}


def write(folder: Path, content: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refusal(folder: Path, content: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        load_configuration(write(folder, content))
    return str(error.value)


def test_the_file_at_the_root_says_the_defaults() -> None:
    shown = load_configuration(ROOT / "config.yaml")
    defaults = load_configuration(None)
    # An example destination; paths that depend on the folder
    left_out: Any = {"destinations": True, "storage": True, "database": True, "screening": {"engine_cache"}}
    assert shown.model_dump(exclude=left_out) == defaults.model_dump(exclude=left_out)
    assert shown.storage.path == ROOT / "var"
    assert shown.database.url == f"sqlite:///{ROOT}/var/lungnode.db"
    assert shown.listener.host == "127.0.0.1"


def test_every_key_of_the_file_at_the_root_has_a_comment() -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"\s+(- )?[a-z_]+: ", line):
            assert "#" in line or before.strip().startswith("#"), line


def test_relative_paths_are_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    content = {
        "storage": {"path": "spool"},
        "database": {"url": "sqlite:///spool/state.db"},
        "models": ["jcs", "/opt/m3"],
    }
    loaded = load_configuration(write(tmp_path, content))
    assert loaded.storage.path == tmp_path / "spool"
    assert loaded.database.url == f"sqlite:///{tmp_path}/spool/state.db"
    assert loaded.models == (tmp_path / "jcs", Path("/opt/m3"))


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGNODE_LISTENER__PORT", "1104")
    monkeypatch.setenv("LUNGNODE_COMPLETENESS__QUIET_SECONDS", "2")
    loaded = load_configuration(write(tmp_path, {"listener": {"port": 4000, "ae_title": "SCREEN"}}))
    assert (loaded.listener.port, loaded.listener.ae_title) == (1104, "SCREEN")
    assert loaded.completeness.quiet_seconds == 2


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"listner": {"port": 1}}, ["listner", "did you mean listener?", "completeness"]),
        ({"listener": {"prot": 1}}, ["listener.prot", "did you mean port?", "ae_title"]),
        ({"listener": {"port": 70000}}, ["listener.port = 70000", "65535"]),
        ({"listener": {"port": "many"}}, ["listener.port = 'many'", "integer"]),
        ({"listener": 5}, ["listener = 5", "ae_title, host, port"]),
        ({"listener": {"ae_title": "A" * 17}}, ["listener.ae_title", "16"]),
        ({"listener": {"ae_title": "A\\B"}}, ["listener.ae_title", "backslash"]),
        (
            {"screening": {"precision": "int8", "built_engines": False}},
            ["screening", "int8 needs built_engines: true"],
        ),
        ({"screening": {"precision": "int8", "device": "torch"}}, ["screening", "a device other than torch"]),
        ({"completeness": {"quiet_seconds": -1}}, ["completeness.quiet_seconds = -1", "greater than 0"]),
        (
            {"completeness": {"quiet_seconds": 60, "max_wait_seconds": 5}},
            ["completeness", "max_wait_seconds"],
        ),
        ({"database": {"url": "mysql://u:secret@h/d"}}, ["database.url", "sqlite:///PATH", "postgresql"]),
        (
            {"destinations": [{"name": "p", "ae_title": "P", "host": "h"}]},
            ["destinations[0].port is missing"],
        ),
        (
            {"destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 4, "objects": ["xyz"]}]},
            ["destinations[0].objects[0] = 'xyz'", "'seg', 'gsps', 'pm'"],
        ),
        (
            {"destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 4, "objcts": []}]},
            ["destinations[0].objcts", "did you mean objects?"],
        ),
        (
            {"destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 4, "commitment": []}]},
            ["destinations[0].commitment = []", "ask, compare"],
        ),
        (
            {"notifications": {"mail": MAIL | {"password": ["secret"]}}},
            ["notifications.mail.password = ***", "string"],
        ),
        ({"stow_destinations": [{"name": "c", "url": "ftp://u:secret@h"}]}, ["ftp://u:***@h"]),
        ({"web": {"users": [ANN, ANN]}}, ["web: user 'ann' is given twice"]),
        ({"models": []}, ["models = []", "at least 1"]),
        ("listener: {port: 1\n", ["not valid YAML at line"]),
        ("listener: {port: 1, port: 2}\n", ["'port' is given twice"]),
        ("[1, 2]\n", ["list", "listener"]),
    ],
)
def test_wrong_input_is_named_in_one_line(tmp_path: Path, content: Any, parts: list[str]) -> None:
    message = refusal(tmp_path, content)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(tmp_path / "config.yaml"))
    for part in parts:
        assert part in message
    assert "secret" not in message


def test_each_problem_has_its_own_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"listener": {"port": 0}, "log": {"level": "loud"}})
    assert len(message.splitlines()) == 2


def test_two_destinations_may_not_share_a_name(tmp_path: Path) -> None:
    one = {"name": "p", "ae_title": "P", "host": "h", "port": 4}
    assert "'p' is used twice" in refusal(tmp_path, {"destinations": [one, one]})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.yaml: cannot be read"):
        load_configuration(tmp_path / "nothing.yaml")


def test_a_misspelt_section_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGNODE_LISTNER__PORT", "1")
    with pytest.raises(ConfigurationError, match="LUNGNODE_LISTNER__PORT"):
        load_configuration(None)


def test_a_key_parted_by_one_underscore_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGNODE_QUERY_SOURCE_PORT", "104")
    with pytest.raises(ConfigurationError, match="two underscores: LUNGNODE_QUERY_SOURCE__PORT"):
        load_configuration(None)


def test_a_wrong_value_from_the_environment_does_not_blame_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGNODE_LISTENER__PORT", "many")
    lines = refusal(tmp_path, {"log": {"level": "loud"}}).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "environment LUNGNODE_LISTENER__PORT",
        str(tmp_path / "config.yaml"),
    ]


def test_every_path_of_every_section_is_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    tls = {"certificate": "own.pem", "key": "own.key"}
    one = {"name": "p", "ae_title": "P", "host": "h", "port": 4, "tls": tls}
    loaded = load_configuration(write(tmp_path, {"listener": {"tls": tls}, "destinations": [one]}))
    assert loaded.listener.tls is not None
    assert loaded.listener.tls.certificate == tmp_path / "own.pem"
    assert loaded.destinations[0].tls is not None
    assert loaded.destinations[0].tls.key == tmp_path / "own.key"
    assert loaded.audit.file == tmp_path / "var/audit.log"


@pytest.mark.parametrize(
    ("said", "kept"), [({}, "/srv/data/engines"), ({"engine_cache": "/srv/e"}, "/srv/e")]
)
def test_engines_are_kept_with_the_data_unless_it_is_said_where(
    tmp_path: Path, said: dict[str, str], kept: str
) -> None:
    content = {"storage": {"path": "/srv/data"}, "screening": {"threads": 1} | said}
    assert load_configuration(write(tmp_path, content)).screening.engine_cache == Path(kept)


def test_an_environment_value_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGNODE_MODELS", "models/jcs")
    with pytest.raises(ConfigurationError, match=r"environment: .*models"):
        load_configuration(None)


@settings(deadline=None)  # a busy machine is no fault of the input
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    )
)
def test_any_yaml_is_taken_or_refused_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = write(tmp_path_factory.mktemp("config"), content)
    try:
        load_configuration(path)
    except ConfigurationError as error:
        assert str(path) in str(error)


def test_sections_are_values() -> None:
    assert ListenerConfiguration() == ListenerConfiguration()
    assert hash(DestinationConfiguration(name="p", ae_title="P", host="h", port=4))
    assert Configuration.model_config["frozen"]
