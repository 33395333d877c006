"""`lungnode demo`, `send`, `screen`, `echo`: what needs no running node."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.command_options import CommandError, ConfigOption, JsonOption, read_configuration, say

if TYPE_CHECKING:
    from scp.peer import Peer


def add_offline_commands(app: typer.Typer) -> None:
    """Put the commands at the top."""
    for command in (demo, send, screen, echo):
        app.command()(command)


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Folder of DICOM files to send; a simulated phantom where left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the picture and the result objects go.")] = Path(
        "demo-output"
    ),
    slices: Annotated[int, typer.Option(min=60, max=1000, help="Slices of the phantom.")] = 300,
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Model package, one of each system; the compact ones if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the whole path on this machine: node and PACS on loopback, one study through both.

    [bold]Example:[/bold] lungnode demo --data ct/
    """
    from rich.console import Console

    from node.demo import run_demo

    accounts = run_demo(data, out, slices, model or (), console=Console(highlight=False, stderr=as_json))
    if as_json:
        say("", [account.as_data() for account in accounts], as_json)


def send(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM files, searched through.")],
    to: Annotated[str, typer.Option(help="Whom to: AE@HOST:PORT.")],
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "LUNGNODE-SEND",
    as_json: JsonOption = False,
) -> None:
    """Send a folder of DICOM files by C-STORE.

    [bold]Example:[/bold] lungnode send ct/ --to LUNGNODE@127.0.0.1:11112
    """
    from node.sending import send_folder

    report = send_folder(folder, peer_of(to), calling, (lambda _sent, _total: None) if as_json else None)
    for line in report.problems:
        print(f"lungnode: {line}", file=sys.stderr)
    say(f"{report.stored} of {report.tried} files stored at {to}", {"peer": to, **asdict(report)}, as_json)
    if report.stored < report.tried or not report.tried:
        raise typer.Exit(1)


def screen(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM files of one study, searched through.")],
    out: Annotated[Path, typer.Option(help="Where findings.json and the result objects go.")],
    configuration: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Screen a DICOM folder offline: findings.json, seg.dcm, gsps.dcm, pm.dcm and sr.dcm.

    [bold]Example:[/bold] lungnode screen ct/ --out results/
    """
    from node.engine_commands import open_casework_of_command
    from node.offline import dicom_candidates, screen_folder
    from node.verdicts import verdict_lines

    settings = read_configuration(configuration)
    dicom_candidates(folder)  # a wrong folder is told before the networks are compiled
    casework = open_casework_of_command(settings)
    with casework.executor:
        result = screen_folder(folder, out, casework)
    files = [str(path) for path in result.files]
    words = [*verdict_lines(result.case.summary), "written: " + ", ".join(files)]
    say("\n".join(words), {"files": files, "findings": result.case.summary}, as_json)


def echo(
    peer: Annotated[str, typer.Argument(help="AE@HOST:PORT, or the name of a destination.")],
    configuration: ConfigOption = None,
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Ask a peer by C-ECHO whether it answers.

    [bold]Example:[/bold] lungnode echo ORTHANC@127.0.0.1:4242
    """
    from reporting.delivery.scu import echo as send_echo

    settings = read_configuration(configuration)
    known = {d.name: d.peer for d in settings.destinations}
    if "@" not in peer and peer not in known:
        names = ", ".join(known) or "none is configured"
        raise CommandError(f"{peer!r} is no destination ({names}) and no AE@HOST:PORT")
    target = known[peer] if peer in known else peer_of(peer)
    send_echo(target, calling or settings.listener.ae_title)
    say(f"{target} answers", {"peer": str(target), "answers": True}, as_json)


def peer_of(text: str) -> Peer:
    """The peer that AE@HOST:PORT names. Raises CommandError."""
    from scp.peer import Peer

    title, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and title.strip() and host and port.isdecimal() and 0 < int(port) < 65536):
        raise CommandError(f"{text!r} is no peer; write AE@HOST:PORT, for instance ORTHANC@127.0.0.1:4242")
    if len(title) > 16:
        raise CommandError(f"{title!r} is no AE title; it has more than 16 characters")
    return Peer(title, host.strip("[]"), int(port))
