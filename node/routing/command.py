"""`lungnode rules`: what the routing rules would do, and why."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.command_options import ConfigOption, JsonOption, read_configuration, say

if TYPE_CHECKING:
    from node.routing.matching import SeriesRoute, StudyRoute

rules = typer.Typer(
    no_args_is_help=True, help="The routing rules: who is screened by what, and how urgently."
)


class NoFilesError(Exception):
    """There is nothing to try the rules on."""


@rules.callback()
def _group() -> None:
    """Keeps `test` a command of its own name, though it is the only one."""


@rules.command("test")
def test(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of DICOM files, searched through.")],
    configuration: ConfigOption = None,
    calling_ae: Annotated[str, typer.Option(help="AE title that the files would come from.")] = "",
    at: Annotated[
        datetime | None, typer.Option(help="When they would arrive, in local time; now where left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain what would happen to a folder of DICOM files and why; nothing is stored or sent.

    [bold]Example:[/bold] lungnode rules test ct/ --calling-ae ED_CT1 --at 2026-01-05T23:30:00
    """
    from node.routing.facts import read_series
    from node.routing.matching import route_series, route_study

    settings = read_configuration(configuration)
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else [folder]
    series = read_series(files, calling_ae=calling_ae or None, arrived_at=at or datetime.now())
    if not series:
        raise NoFilesError(f"{folder}: no DICOM file with a SeriesInstanceUID is in it")
    lines, rows = [], []
    for study_uid in sorted({str(s.sample.get("StudyInstanceUID", "")) for s in series}):
        of_study = [s for s in series if str(s.sample.get("StudyInstanceUID", "")) == study_uid]
        routes = [route_series(settings.routing, facts) for facts in of_study]
        decision = route_study(settings.routing, of_study)
        lines += explanation(study_uid, routes, decision)
        rows.append(as_data(study_uid, routes, decision))
    say("\n".join(lines), rows, as_json)


def explanation(study_uid: str, routes: list[SeriesRoute], decision: StudyRoute) -> list[str]:
    """The account of one study: its decision, then each rule tried on each series, with what was seen."""
    lines = [f"study {study_uid or '(no StudyInstanceUID)'}", *_decision(decision)]
    for route in routes:
        sample = route.facts.sample
        about = " ".join(str(sample.get(k, "")) for k in ("Modality", "SeriesDescription")).strip()
        name = f"  series {route.facts.series_instance_uid} ({about or 'not described'}, {route.facts.instances})"
        lines.append(f"{name}: rule {route.rule}")
        for trial in route.trials:
            lines.append(f"    rule {trial.rule}: {'matches' if trial.matched else 'does not match'}")
            lines.extend(
                f"      {'yes' if check.held else 'no '}  {check.asked}   (here: {check.seen})"
                for check in trial.checks
            )
    return lines


def as_data(study_uid: str, routes: list[SeriesRoute], decision: StudyRoute) -> dict[str, Any]:
    """The same account for programs."""
    return {
        "study": study_uid,
        "screened": decision.screened,
        "packages": decision.packages,
        "destinations": decision.destinations,
        "priority": decision.priority.name.lower(),
        "why": decision.why,
        "series": [
            {
                "series": route.facts.series_instance_uid,
                "instances": route.facts.instances,
                "rule": route.rule,
                "trials": [asdict(trial) | {"matched": trial.matched} for trial in route.trials],
            }
            for route in routes
        ],
    }


def _decision(decision: StudyRoute) -> list[str]:
    if not decision.screened:
        return [f"  is not screened: {decision.why}"]
    packages = "all packages" if decision.packages is None else ", ".join(decision.packages)
    receivers = decision.destinations
    destinations = "all destinations" if receivers is None else ", ".join(receivers) or "nobody"
    return [
        f"  is screened by {packages}, results to {destinations}, priority {decision.priority.name.lower()}",
        f"  because: {decision.why}",
    ]
