"""The command line: `lungnode`. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from node.command_options import CommandError, ConfigOption, JsonOption, read_configuration, say, since
from node.engine_commands import add_engine_commands
from node.operation_commands import add_operation_commands
from node.routing.command import rules
from node.service_commands import add_service_commands
from node.study_commands import add_study_commands

if TYPE_CHECKING:
    from reporting.delivery.scu import Peer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=True,
    help="Screens chest CT for pneumonia: a DICOM node that answers in the PACS. Research and screening software, "
    "not a medical device.",
)
studies = typer.Typer(no_args_is_help=True, help="What became of the studies that the node received.")
config = typer.Typer(no_args_is_help=True, help="The configuration.")
app.add_typer(studies, name="studies")
app.add_typer(config, name="config")
app.add_typer(rules, name="rules")
add_study_commands(studies)
add_operation_commands(app)
add_service_commands(app)
add_engine_commands(app)

EX_CONFIG = 78
"""sysexits.h. What an admin has to mend ends a service of systemd with it, and systemd does not start it again."""


def main() -> None:
    """Entry point: run the command. An error is one line and exit code 1; `--debug` shows its traceback."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        code = app(args=arguments, prog_name="lungnode", standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:  # the edge of the process: every error becomes a line and an exit code
        if debug:
            raise
        _fail(error)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception) -> NoReturn:
    for line in _said(error).splitlines():
        print(f"lungnode: {line}" if line else "", file=sys.stderr)
    sys.exit(EX_CONFIG if os.environ.get("NOTIFY_SOCKET") and _is_foreseen(error) else 1)


def _said(error: Exception) -> str:
    """What a person reads of an error."""
    if isinstance(error, typer.Abort):
        return "stopped"
    if isinstance(error, TyperException) and hasattr(
        error, "format_message"
    ):  # wrong use of the command line
        return str(error.format_message())
    if _is_foreseen(error):
        return str(error)
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _is_foreseen(error: Exception) -> bool:
    return any(kind.__name__ in _FORESEEN for kind in type(error).__mro__)


_FORESEEN = frozenset(
    {
        "CommandError",
        "ConfigurationError",
        "DatasetError",
        "DemoError",
        "EngineError",
        "ListenerCannotStart",
        "NoFilesError",
        "NothingToDo",
        "PeerUnreachableError",
        "RecipeError",
        "SchemaMismatch",
        "StartError",
        "TLSUnusable",
        "TrainingStopped",
        "UnknownStudy",
        "WebCannotStart",
    }
)
"""Errors whose message was written for people, by name: importing them all would take a second."""


def _peer(text: str) -> Peer:
    from reporting.delivery.scu import Peer

    title, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and title.strip() and host and port.isdecimal() and 0 < int(port) < 65536):
        raise CommandError(f"{text!r} is no peer; write AE@HOST:PORT, for instance ORTHANC@127.0.0.1:4242")
    if len(title) > 16:
        raise CommandError(f"{title!r} is no AE title; it has more than 16 characters")
    return Peer(title, host.strip("[]"), int(port))


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `main` has taken --debug out before."""


@app.command()
def serve(
    configuration: ConfigOption = None,
    only: Annotated[
        str, typer.Option(help="Run one part in the foreground: listener, worker, delivery or web.")
    ] = "",
) -> None:
    """Run the node in the foreground: listener, worker, delivery. SIGTERM stops it cleanly, SIGHUP rereads the file.

    [bold]Example:[/bold] lungnode serve --config config.yaml
    """
    from functools import partial

    from node.parts import PARTS
    from node.serve import run_part, serve_all

    reread = partial(read_configuration, configuration)
    settings = reread()
    if not only:
        raise typer.Exit(serve_all(settings, reread))
    if only not in PARTS:
        raise CommandError(f"{only!r} is no part of the node; allowed are {', '.join(PARTS)}")
    run_part(only, settings, reread)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Folder of DICOM files to send; a simulated phantom where left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("demo-output"),
    slices: Annotated[int, typer.Option(min=60, max=1000, help="Slices of the phantom.")] = 300,
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Model package, one of each system; the compact ones if left out."),
    ] = None,
) -> None:
    """Show the whole path on this machine: node and PACS on loopback, one study through both.

    [bold]Example:[/bold] lungnode demo --data ../shared/data/ct/covid-1
    """
    from node.demo import run_demo

    run_demo(data, out, slices, model or ())


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM files, searched through.")],
    to: Annotated[str, typer.Option(help="AE@HOST:PORT")],
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "LUNGNODE-SEND",
) -> None:
    """Send a folder of DICOM files by C-STORE.

    [bold]Example:[/bold] lungnode send ct/ --to LUNGNODE@127.0.0.1:11112
    """
    from node.sending import send_folder

    report = send_folder(folder, _peer(to), calling)
    for line in report.problems:
        print(f"lungnode: {line}", file=sys.stderr)
    print(f"{report.stored} of {report.tried} files stored at {to}")
    if report.stored < report.tried or not report.tried:
        raise typer.Exit(1)


@app.command()
def screen(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM files of one study, searched through.")],
    out: Annotated[Path, typer.Option(help="Where findings.json and the result objects go.")],
    configuration: ConfigOption = None,
) -> None:
    """Screen a DICOM folder offline: findings.json, seg.dcm, gsps.dcm, pm.dcm and sr.dcm.

    [bold]Example:[/bold] lungnode screen ct/ --out results/
    """
    from node.casework import open_casework
    from node.offline import screen_folder
    from node.verdicts import print_verdicts

    settings = read_configuration(configuration)
    casework = open_casework(settings, ("seg", "gsps", "pm", "sr"))
    with casework.systems:
        result = screen_folder(folder, out, casework)
    print_verdicts(result.case.summary)
    print("written: " + ", ".join(str(path) for path in result.files))


@app.command()
def echo(
    peer: Annotated[str, typer.Argument(help="AE@HOST:PORT, or the name of a destination.")],
    configuration: ConfigOption = None,
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Ask a peer by C-ECHO whether it answers.

    [bold]Example:[/bold] lungnode echo ORTHANC@127.0.0.1:4242
    """
    from reporting.delivery.scu import Peer
    from reporting.delivery.scu import echo as send_echo

    settings = read_configuration(configuration)
    known = {d.name: Peer(d.ae_title, d.host, d.port) for d in settings.destinations}
    if "@" not in peer and peer not in known:
        names = ", ".join(known) or "none is configured"
        raise CommandError(f"{peer!r} is no destination ({names}) and no AE@HOST:PORT")
    target = known[peer] if peer in known else _peer(peer)
    send_echo(target, calling or settings.listener.ae_title)
    say(f"{target} answers", {"peer": str(target), "answers": True}, as_json)


@app.command()
def status(
    configuration: ConfigOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Renew it until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Whether the node runs, and how many studies and deliveries stand where.

    [bold]Example:[/bold] lungnode status --watch
    """
    from node.inspection import node_status, watched

    def question(store: Any) -> Any:
        return node_status(store, datetime.now(UTC))

    if watch and not as_json:
        watched(read_configuration(configuration), question)
    _show(configuration, question, as_json)


@studies.command("list")
def studies_list(
    configuration: ConfigOption = None,
    state: Annotated[list[str] | None, typer.Option(help="Only studies in this state; repeatable.")] = None,
    changed_since: Annotated[
        str, typer.Option("--since", help="Only studies that changed since then: 90m, 12h, 1d, 2026-01-31.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List studies, newest change first.

    [bold]Example:[/bold] lungnode studies list --state failed --since 1d
    """
    from node.inspection import study_list
    from store.states import StudyState

    allowed = [s.value for s in StudyState]
    for name in state or []:
        if name not in allowed:
            raise CommandError(f"{name!r} is no state; allowed are {', '.join(allowed)}")
    start = since(changed_since, datetime.now(UTC)) if changed_since else None
    _show(configuration, lambda store: study_list(store, state or [], limit, start), as_json)


@studies.command("show")
def studies_show(uid: str, configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """One study: state, verdicts, series and where each object went.

    [bold]Example:[/bold] lungnode studies show 1.2.840.113619.2.5
    """
    from node.inspection import study_details

    _show(configuration, lambda store: study_details(store, uid), as_json)


@studies.command("why")
def studies_why(uid: str, configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The whole history of one study, in words.

    [bold]Example:[/bold] lungnode studies why 1.2.840.113619.2.5
    """
    from node.inspection import study_history

    _show(configuration, lambda store: study_history(store, uid), as_json)


@config.command("check")
def config_check(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say whether the configuration can be used, model packages included.

    [bold]Example:[/bold] lungnode config check --config config.yaml
    """
    from engine.packages import read_package

    settings = read_configuration(configuration)
    packages = [read_package(path) for path in settings.models]
    listener = settings.listener
    lines = [
        f"listener {listener.ae_title} on {listener.host}:{listener.port}",
        f"storage {settings.storage.path}",
        *(
            f"destination {d.name}: {d.ae_title} at {d.host}:{d.port}: {', '.join(d.objects)}"
            for d in settings.destinations
        ),
        *(f"model {p.metadata.name} {p.metadata.version} ({p.metadata.system}), {p.path}" for p in packages),
        "the configuration is right",
    ]
    answer = {"right": True, "packages": [f"{p.metadata.name} {p.metadata.version}" for p in packages]}
    say("\n".join(lines), answer, as_json)


@config.command("show")
def config_show(configuration: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The configuration as it is in force, every key, without secrets.

    [bold]Example:[/bold] lungnode config show
    """
    import yaml

    from node.configured import shown_configuration

    shown = shown_configuration(read_configuration(configuration))
    say(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip(), shown, as_json)


def _mount_training(name: str, help_: str) -> None:
    """Hand a command to `training.cli` with all its arguments; only then is torch imported."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name, help=help_, context_settings=settings, add_help_option=False)
    def run(context: typer.Context) -> None:
        try:
            from training.cli import app as training

            training(args=[name, *context.args], prog_name="lungnode")
        except ModuleNotFoundError as error:
            raise CommandError(f"{name} needs {error.name}: pip install 'lungnode[train]'") from None


_mount_training("train", "Train a network of JCS or M3Lung-Sys.")
_mount_training("evaluate", "Evaluate model packages on a data set.")
_mount_training("package", "Turn a training output into a model package.")
_mount_training("datasets", "List and check data sets for training.")


def _show(configuration: Path | None, question: Callable[[Any], Any], as_json: bool) -> None:
    """Ask the store and print the answer as tables or JSON."""
    from node.inspection import opened, print_answer

    with opened(read_configuration(configuration)) as database:
        answer = question(database)
    print_answer(answer, as_json)
