"""Looking after a node from the command line: what is said, as text and as JSON, and what is done."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from made_up_studies import receiving_study
from tiny_packages import SYSTEMS, write_package
from typer.testing import CliRunner

from node.backup import backup_store
from node.cli import app
from node.command_options import CommandError, since
from node.configuration import ConfigurationError
from node.stand_in_pacs import free_port
from node.web.access import token_digest
from store import ledger
from store.database import open_database
from store.migrations import upgrade
from store.states import StudyState

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
FAILED, RECEIVING = "1.2.3.1", "1.2.3.25"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a failed study and one that is being received."""
    url = f"sqlite:///{tmp_path / 'lungnode.db'}"
    settings = {
        "storage": {"path": "var"},
        "database": {"url": url},
        "models": [str(write_package(tmp_path / system, system)) for system in SYSTEMS],
        "destinations": [{"name": "away", "ae_title": "A", "host": "127.0.0.1", "port": free_port()}],
        "audit": {"file": "audit.log"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    upgrade(url)
    database = open_database(url)
    with database.write() as session:
        for uid in (FAILED, RECEIVING):
            study = receiving_study(uid, NOW, revision=1)
            session.add(study)
            session.flush()
            ledger.begin(session, study, who="test", why="first instance", now=NOW)
        for state in (StudyState.COMPLETE, StudyState.FAILED):
            failed = ledger.locked_study_by_uid(session, FAILED)
            ledger.change_state(session, failed, state, who="test", why="cannot be decoded", now=NOW)
    database.close()
    return tmp_path / "config.yaml"


@pytest.fixture
def run(config: Path) -> Iterator[object]:
    """Runs a command with the configuration; gives exit code and output."""

    def command(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*words, "--config", str(config)])
        return result.exit_code, result.output

    yield command


def test_retry_moves_the_study_and_is_audited(run, config: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("studies", "retry", FAILED, "--json") == (
        0,
        json.dumps({"study": FAILED, "state": "complete", "request": "retry"}, indent=1) + "\n",
    )
    assert "110111" in (config.parent / "audit.log").read_text()
    code, output = run("studies", "why", FAILED)
    assert code == 0 and "admin " in output


def test_skip_keeps_the_reason(run) -> None:  # type: ignore[no-untyped-def]
    code, output = run("studies", "skip", RECEIVING, "--why", "sent by mistake")
    assert (code, output) == (0, f"study {RECEIVING} is now skipped\n")
    listed = json.loads(run("studies", "list", "--state", "skipped", "--json")[1])
    assert [(s["study_instance_uid"], s["reason"]) for s in listed] == [(RECEIVING, "sent by mistake")]


def test_a_study_is_shown_by_a_beginning_that_no_other_has(run) -> None:  # type: ignore[no-untyped-def]
    assert run("studies", "show", "1.2.3.2")[1].startswith(f"{RECEIVING}: receiving")
    assert run("studies", "why", "1.2.3.2")[0] == 0


@pytest.mark.parametrize(("beginning", "said"), [("1.2.3", "give more of it"), ("1.2.4", "no study 1.2.4")])
def test_a_beginning_of_several_or_no_studies_is_said_so(config: Path, beginning: str, said: str) -> None:
    asked = ["studies", "why", beginning, "--config", str(config)]
    with pytest.raises((CommandError, ledger.UnknownStudy), match=said):
        CliRunner().invoke(app, asked, catch_exceptions=False)


def test_what_makes_no_sense_is_refused_and_changes_nothing(run) -> None:  # type: ignore[no-untyped-def]
    for words in (("rescreen", RECEIVING), ("resend", RECEIVING), ("retry", RECEIVING), ("skip", "9.9")):
        assert run("studies", *words)[0] == 1
    listed = json.loads(run("studies", "list", "--json")[1])
    assert {s["study_instance_uid"]: s["state"] for s in listed} == {FAILED: "failed", RECEIVING: "receiving"}


def test_a_destination_that_does_not_answer_is_said_so(run) -> None:  # type: ignore[no-untyped-def]
    code, output = run("destinations", "echo", "--json")
    answers = json.loads(output)
    assert code == 1 and answers[0]["name"] == "away" and not answers[0]["answers"]
    assert run("destinations", "echo", "nobody")[0] == 1
    assert json.loads(run("destinations", "list", "--json")[1])[0]["pending"] == 0


def test_packages_are_listed_and_a_broken_one_is_told(run, config: Path) -> None:  # type: ignore[no-untyped-def]
    code, output = run("packages", "list", "--json")
    assert code == 0 and [p["system"] for p in json.loads(output)] == list(SYSTEMS)
    weights = next((config.parent / next(iter(SYSTEMS))).glob("*.onnx"))
    weights.write_bytes(weights.read_bytes() + b"!")
    code, output = run("packages", "list")
    assert code == 1 and "was altered" in output


def test_the_configuration_in_force_is_whole(run) -> None:  # type: ignore[no-untyped-def]
    shown = json.loads(run("config", "show", "--json")[1])
    assert shown["listener"]["port"] == 11112 and shown["destinations"][0]["name"] == "away"


def test_a_right_configuration_is_said_so(run) -> None:  # type: ignore[no-untyped-def]
    code, output = run("config", "check")
    assert code == 0 and output.endswith("the configuration is right\n")
    assert json.loads(run("config", "check", "--json")[1])["right"] is True


def test_what_the_configuration_names_is_looked_at(run, config: Path) -> None:  # type: ignore[no-untyped-def]
    settings = yaml.safe_load(config.read_text())
    (config.parent / "letter.txt").write_text("dear colleague,\n{% if %}")
    settings["listener"] = {"tls": {"certificate": "none.pem", "key": "none.key"}}
    settings["notifications"] = {"template": "letter.txt"}
    config.write_text(yaml.safe_dump(settings))
    refused = CliRunner().invoke(app, ["config", "check", "--config", str(config)]).exception
    assert isinstance(refused, ConfigurationError)
    tls, template = str(refused).splitlines()
    assert tls.startswith("listener.tls: TLS certificate") and str(config.parent / "none.pem") in tls
    assert template.startswith("notifications.template: ") and "letter.txt, line 2" in template


def test_destinations_by_dicomweb_are_listed_and_not_echoed(run, config: Path) -> None:  # type: ignore[no-untyped-def]
    settings = yaml.safe_load(config.read_text())
    settings["stow_destinations"] = [{"name": "cloud", "url": "https://cloud.example.org/dicom-web"}]
    config.write_text(yaml.safe_dump(settings))
    assert "cloud" in [d["name"] for d in json.loads(run("destinations", "list", "--json")[1])]
    refused = CliRunner().invoke(app, ["destinations", "echo", "cloud", "--config", str(config)]).exception
    assert isinstance(refused, CommandError) and "which has no C-ECHO" in str(refused)


def test_secrets_are_not_shown(run, config: Path) -> None:  # type: ignore[no-untyped-def]
    settings = yaml.safe_load(config.read_text())
    settings["database"]["url"] = "postgresql+psycopg://node:hush-db@db/lungnode"
    settings["notifications"] = {
        "webhook": "https://chat.example.org/hush-hook",
        "mail": {"host": "m", "sender": "a@b", "recipients": ["c@d"], "user": "u", "password": "hush-mail"},
    }
    config.write_text(yaml.safe_dump(settings))
    code, output = run("config", "show")
    assert code == 0 and "hush" not in output and "chat" not in output and "***" in output


def test_the_backup_is_a_store_of_its_own(run, config: Path) -> None:  # type: ignore[no-untyped-def]
    target = config.parent / "copy.db"
    assert run("db", "backup", str(target))[0] == 0
    connection = sqlite3.connect(target)
    assert connection.execute("SELECT count(*) FROM studies").fetchone() == (2,)
    connection.close()
    assert run("db", "backup", str(target))[0] == 1
    with pytest.raises(CommandError, match="pg_dump"):
        backup_store("postgresql+psycopg://a@b/c", config.parent / "other.db")
    assert json.loads(run("db", "upgrade", "--json")[1])["before"] is not None


def test_a_token_and_its_digest_belong_together() -> None:
    result = CliRunner().invoke(app, ["web", "token", "ann", "--role", "admin", "--json"])
    made = json.loads(result.output)
    assert token_digest(made["token"]) == made["token_sha256"] and made["role"] == "admin"
    assert CliRunner().invoke(app, ["web", "token", "ann", "--role", "king"]).exit_code == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("1d", NOW - timedelta(days=1)),
        ("2w", NOW - timedelta(weeks=2)),
        ("2026-01-04T00:00:00+00:00", datetime(2026, 1, 4, tzinfo=UTC)),
    ],
)
def test_spans_and_dates(text: str, expected: datetime) -> None:
    assert since(text, NOW) == expected


def test_no_time_is_said_so() -> None:
    with pytest.raises(CommandError, match="write 90m"):
        since("yesterday", NOW)
