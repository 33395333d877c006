"""The command line: one line an error, help with examples, nothing heavy imported for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tiny_packages import ENGINE_CACHE, SYSTEMS, write_package

from node import cli
from node.phantom import phantom_study, phantom_volume
from store.migrations import upgrade

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `lungnode ...` in a folder of its own; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lungnode", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Tiny packages, one of each system."""
    folder = tmp_path_factory.mktemp("models")
    return [str(write_package(folder / system, system)) for system in SYSTEMS]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without any study."""
    path = tmp_path_factory.mktemp("store") / "lungnode.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def configured(tmp_path: Path, models: list[str], empty_store: Path) -> Path:
    """A configuration with tiny packages and an empty store, in the folder in which `run` runs."""
    path = tmp_path / "config.yaml"
    settings = {
        "models": models,
        "listener": {"port": 11999},
        "screening": {"engine_cache": str(ENGINE_CACHE)},
    }
    path.write_text(yaml.safe_dump(settings))
    (tmp_path / "var").mkdir()
    shutil.copy(empty_store, tmp_path / "var" / "lungnode.db")
    return path


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study on disk."""
    folder = tmp_path_factory.mktemp("phantom")
    for number, instance in enumerate(phantom_study(phantom_volume(64, 96), datetime(2026, 1, 2))):
        instance.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def study(phantom: Path, tmp_path: Path) -> Path:
    """The small study as `ct` in the folder in which `run` runs."""
    (tmp_path / "ct").symlink_to(phantom)
    return tmp_path / "ct"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
        (["screen"], "Missing argument"),
        (["screen", "/nowhere", "--out", "x"], "/nowhere"),
        (["send", ".", "--to", "PACS"], "AE@HOST:PORT"),
        (["send", ".", "--to", "A" * 17 + "@h:104"], "16 characters"),
        (["send", "/nowhere", "--to", "A@127.0.0.1:1"], "/nowhere is no folder"),
        (["echo", "A@127.0.0.1:1"], "A@127.0.0.1:1: no association"),
        (["echo", "unknown"], "no destination"),
        (["studies", "list", "--state", "dead"], "allowed are receiving"),
        (["config", "check", "-c", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["serve", "--only", "kitchen"], "allowed are listener"),
        (["demo", "--data", "/nowhere"], "/nowhere is no folder"),
        (["demo", "--slices", "3"], "greater than or equal to 60"),
        (["status", "--json", "nonsense"], "unexpected extra argument"),
        (["config", "check", "mine.yaml"], "see lungnode config check --help"),
        (["package", "onnx"], "Missing argument"),
        (["studies", "list", "--since", "yesterday"], "write 90m"),
        (["studies", "list", "--since", "999999w"], "write 90m"),
        (
            ["capacity", "--studies-per-day", "90000", "--seconds-per-study", "90000"],
            "more than 10000 workers would be needed",
        ),
        (["studies", "list", "--verdict", "ill"], "allowed are positive, negative, disagree"),
        (["studies", "show", "9.9"], "9.9"),
        (["studies", "why", "9.9"], "9.9"),
        (["studies", "retry", "9.9"], "9.9"),
        (["studies", "skip", "9.9"], "9.9"),
        (["config", "show", "-c", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["rules", "test", "/nowhere"], "/nowhere: no DICOM file"),
        (["destinations", "list", "-c", "/nowhere.yaml"], "cannot be read"),
        (["destinations", "echo", "nobody"], "nobody is no destination"),
        (["packages", "list", "-c", "/nowhere.yaml"], "cannot be read"),
        (["db", "upgrade", "-c", "/nowhere.yaml"], "cannot be read"),
        (["db", "backup", "config.yaml"], "config.yaml"),
        (["web", "token", "ann", "--role", "king"], "allowed are viewer and admin"),
        (["engines", "verify", "-c", "/nowhere.yaml"], "cannot be read"),
        (["install-service", "--root", "/proc/nothing"], "/proc/nothing"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    run: Run, configured: Path, arguments: list[str], part: str
) -> None:
    code, out, err = run(*arguments)
    assert code == 1 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith("lungnode: ") and part in err


def test_a_node_that_never_ran_leaves_nothing_behind_when_it_is_asked(run: Run, tmp_path: Path) -> None:
    code, out, err = run("status")
    assert (code, out) == (1, "") and "no store yet" in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(configured: Path) -> None:
    program = [sys.executable, "-c", "from node.cli import main; main()"]
    done = subprocess.run(
        [*program, "config", "check", "-c", "/nowhere.yaml", "--debug"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    "command",
    [["serve"], ["demo"], ["send"], ["screen"], ["echo"], ["status"], ["config", "check"]]
    + [["studies", name] for name in ("list", "show", "why", "retry")],
)
def test_every_command_has_help_with_an_example(run: Run, command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0 and "Example:" in out and f"lungnode {' '.join(command)}" in " ".join(out.split())


EMPTY_ANSWERS = {
    ("status",): "studies",
    ("studies", "list"): None,
    ("config", "check"): "right",
    ("config", "show"): "listener",
    ("destinations", "list"): None,
    ("packages", "list"): None,
    ("db", "upgrade"): "after",
    ("db", "backup", "copy.db"): "bytes",
    ("engines", "list"): None,
    ("web", "token", "ann"): "token_sha256",
    ("rules", "test", "ct"): None,
    ("screen", "ct", "--out", "results"): "findings",
    ("install-service", "--root", "laid-out"): "done",
}


@pytest.mark.parametrize("command", EMPTY_ANSWERS, ids=" ".join)
def test_every_answer_can_be_had_as_json(
    run: Run, configured: Path, study: Path, command: tuple[str, ...]
) -> None:
    code, out, err = run(*command, "--json")
    answer, key = json.loads(out), EMPTY_ANSWERS[command]
    assert code == 0, err
    assert isinstance(answer, list) if key is None else key in answer


def test_every_command_that_answers_has_json() -> None:
    without = [" ".join(words) for words, command in _commands() if "--json" not in _options(command)]
    assert without == ["serve", "train", "evaluate", "package", "datasets"]


def _commands() -> list[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    """Every command with its words."""

    def below(group: Any, words: tuple[str, ...]) -> Iterator[Any]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from below(command, (*words, name))
            else:
                yield (*words, name), command

    return list(below(typer.main.get_command(cli.app), ()))


def _options(command: typer.core.TyperCommand) -> list[str]:
    return [option for parameter in command.params for option in parameter.opts]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom node import cli\n"
        "heavy = {'torch', 'openvino', 'highdicom', 'pydicom', 'pynetdicom', 'sqlalchemy', 'numpy'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_screening_imports_no_torch(configured: Path) -> None:
    code = "import sys, node.casework, node.parts, node.serve, node.worker, node.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"lungnode {version('lungnode')}\n", "")


def test_config_check_says_what_is_in_force(run: Run, configured: Path) -> None:
    code, out, _ = run("config", "check")
    assert code == 0 and "127.0.0.1:11999" in out and "jcs-tiny 1.0.0" in out


def test_screen_writes_findings_and_objects(run: Run, configured: Path, study: Path, tmp_path: Path) -> None:
    code, out, err = run("screen", "ct", "--out", "results")
    assert code == 0, err
    assert "JCS" in out and "M3Lung-Sys" in out and "not a medical device" in out
    written = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert written == ["findings.json", "gsps.dcm", "pm.dcm", "seg.dcm", "sr.dcm"]
    findings = json.loads((tmp_path / "results" / "findings.json").read_text())
    assert findings["jcs"]["positive"] is True
    assert findings["m3lung"]["label"] in ("healthy", "covid19", "h1n1", "cap")
    assert len(findings["jcs"]["slice_probabilities"]) == 64
    for key in ("lesion_volume_ml", "lung_involvement_percent", "lesion_count", "timings_s", "discordant"):
        assert key in findings
    assert {len(package["sha256"]) for package in findings["packages"]} == {64}


def test_an_unscreenable_folder_says_why(run: Run, configured: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    code, _, err = run("screen", "text", "--out", "results")
    assert code == 1 and len(err.splitlines()) == 1
    assert not (tmp_path / "results").exists()
