"""The command line: `lungnode`. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from node.batch.command import add_batch_command
from node.capacity.command import add_capacity_command
from node.command_options import CommandError
from node.configuration_commands import add_configuration_commands
from node.engine_commands import add_engine_commands
from node.inspection_commands import add_inspection_commands
from node.offline_commands import add_offline_commands
from node.operation_commands import add_operation_commands
from node.routing.command import rules
from node.service_commands import add_service_commands
from node.study_commands import add_study_commands

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
add_service_commands(app)
add_offline_commands(app)
add_batch_command(app)
add_capacity_command(app)
add_inspection_commands(app, studies)
add_study_commands(studies)
app.add_typer(studies, name="studies")
add_configuration_commands(app)
app.add_typer(rules, name="rules")
add_operation_commands(app)
add_engine_commands(app)

EX_CONFIG = 78
"""sysexits.h. What an admin has to mend ends a service of systemd with it, and systemd does not start it again."""
EX_TEMPFAIL = 75
"""sysexits.h. What may be better in a moment; systemd starts the service again, a few times."""


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
    sys.exit(_service_code(error) if os.environ.get("NOTIFY_SOCKET") else 1)


def _service_code(error: Exception) -> int:
    """With what a service of systemd ends."""
    if type(error).__name__ in _PASSING:
        return EX_TEMPFAIL
    return EX_CONFIG if _is_foreseen(error) else 1


def _said(error: Exception) -> str:
    """What a person reads of an error."""
    if isinstance(error, typer.Abort):
        return "stopped"
    if isinstance(error, TyperException) and hasattr(
        error, "format_message"
    ):  # wrong use of the command line
        return _with_help(str(error.format_message()), getattr(error, "ctx", None))
    if _is_foreseen(error):
        return str(error)
    if isinstance(error, OSError):
        return str(error)
    said_by_database = getattr(error, "orig", None)  # sqlalchemy.exc.DBAPIError
    if said_by_database is not None:
        first = str(said_by_database).strip().partition("\n")[0]
        return f"the store cannot be used: {first}; check database.url"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _with_help(message: str, context: Any) -> str:
    """What is wrong with a command line, and which help says how it is written."""
    if context is None:
        return message
    return f"{message.rstrip('.')}; see {context.command_path} --help"


def _is_foreseen(error: Exception) -> bool:
    return any(kind.__name__ in _FORESEEN for kind in type(error).__mro__)


_FORESEEN = frozenset(
    {
        "BatchRefused",
        "CommandError",
        "ConfigurationError",
        "DatasetError",
        "DemoError",
        "EngineError",
        "ListenerCannotStart",
        "NoFilesError",
        "NothingMeasured",
        "NothingToDo",
        "PeerUnreachableError",
        "QueryFailed",
        "RecipeError",
        "SchemaMismatch",
        "StartError",
        "StoreUnreachable",
        "StowCannotStart",
        "TLSUnusable",
        "TemplateUnusable",
        "TrainingStopped",
        "UnknownStudy",
        "WebCannotStart",
    }
)
"""Errors whose message was written for people, by name: importing them all would take a second."""
_PASSING = frozenset({"ClusterAway", "DeviceLost", "StoreUnreachable"})
"""Those of them with which a service is to be started again."""


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"lungnode {version('lungnode')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Which version this is.")
    ] = False,
) -> None:
    """Options of every command; `main` has taken --debug out before."""


def _mount_training(name: str, help_: str) -> None:
    """Hand a command to `training.cli` with all its arguments; only then is torch imported."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name, help=help_, context_settings=settings, add_help_option=False)
    def run(context: typer.Context) -> None:
        try:
            from training.cli import app as training

            code = training(args=[name, *context.args], prog_name="lungnode", standalone_mode=False)
        except ModuleNotFoundError as error:
            raise CommandError(f"{name} needs {error.name}: pip install 'lungnode[train]'") from None
        if isinstance(code, int) and code:
            raise typer.Exit(code)


_mount_training("train", "Train a network of JCS or M3Lung-Sys.")
_mount_training("evaluate", "Evaluate model packages on a data set.")
_mount_training("package", "Turn a training output, or a network of your own, into a model package.")
_mount_training("datasets", "List and check data sets for training.")
