"""`lungnode capacity`: how many workers, how much disk, how long studies wait."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.command_options import CommandError, ConfigOption, JsonOption, read_configuration, say

if TYPE_CHECKING:
    from node.capacity.costs import StudyCost
    from node.capacity.queueing import Waiting
    from node.configuration import Configuration

NEWEST = 500
"""So many of the store's newest screenings are gone by."""
SLICE_BYTES = 526_000
"""A CT slice of 512 x 512 pixels, uncompressed."""


def add_capacity_command(app: typer.Typer) -> None:
    """Put `lungnode capacity` at the top."""
    app.command()(capacity)


def capacity(
    studies_per_day: Annotated[float, typer.Option(min=1, max=1e5, help="Chest CTs a day.")],
    configuration: ConfigOption = None,
    slices: Annotated[int, typer.Option(min=20, max=5000, help="Slices of a study.")] = 300,
    workers: Annotated[
        int, typer.Option(min=0, max=10_000, help="How many there are; 0: how many it takes.")
    ] = 0,
    wait_minutes: Annotated[
        float, typer.Option(min=0.01, help="95 % of studies are to wait no longer for a worker.")
    ] = 10.0,
    seconds_per_study: Annotated[
        float, typer.Option(min=0, help="What a study costs a worker; 0: as measured.")
    ] = 0.0,
    hours: Annotated[
        str, typer.Option(help="Relative arrivals in each part of the day from midnight, with commas.")
    ] = "",
    keep_days: Annotated[float, typer.Option(min=0, help="How long images are kept, for the disk.")] = 7.0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure a phantom now instead of asking the store.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """How many workers a day's studies need, and how long studies wait for one.

    The costs are those of the newest screenings in the store; without any a phantom is screened on this machine now.
    Arrivals are simulated: a Poisson process with the peaks of a hospital's day.

    [bold]Example:[/bold] lungnode capacity --studies-per-day 2000 --slices 300
    """
    from node.capacity.arrivals import DAY_SHAPE
    from node.capacity.costs import service_times, stage_medians
    from node.capacity.queueing import Load, simulated, workers_for

    shape = _shape(hours) if hours else DAY_SHAPE
    if seconds_per_study:
        origin, service, stages = "as given", [seconds_per_study], {}
    else:
        origin, costs = _measured(read_configuration(configuration), slices, measure)
        service, stages = service_times(costs, slices), stage_medians(costs, slices)
    load = Load(studies_per_day, service, shape)
    try:
        enough = workers or workers_for(load, 60 * wait_minutes)
    except ValueError as error:
        raise CommandError(
            f"{error} would be needed; look at --seconds-per-study and --wait-minutes"
        ) from None
    answers = [simulated(load, n) for n in sorted({max(1, enough - 1), enough, enough + 1})]
    mean = sum(service) / len(service)
    disk = studies_per_day * slices * SLICE_BYTES * keep_days
    words = [
        f"a study of {slices} slices takes {mean:.1f} s of a worker ({origin})",
        *(f"  {stage} {seconds:.2f} s" for stage, seconds in stages.items()),
        f"{studies_per_day:g} studies a day are {studies_per_day * mean / 3600:.1f} hours of work: "
        f"at least {load.least_workers} worker(s), "
        + (f"{enough} asked for" if workers else f"{enough} for 95 % within {wait_minutes:g} min"),
        *(_line(answer) for answer in answers),
        f"disk for {keep_days:g} days of uncompressed images: {disk / 1e12:.2f} TB",
    ]
    data: dict[str, Any] = {
        "workers": enough,
        "seconds_per_study": mean,
        "stages_s": stages,
        "costs": origin,
        "simulated": [_plain(answer) for answer in answers],
        "disk_bytes": disk,
    }
    say("\n".join(words), data, as_json)


def _line(waiting: Waiting) -> str:
    found = ", ".join(f"{p:g} % {_minutes(s)}" for p, s in waiting.percentiles.items())
    note = "" if waiting.busy < 1 else "; the queue grows from day to day"
    return (
        f"  {waiting.workers} worker(s), {100 * waiting.busy:.0f} % busy: wait {found}, "
        f"longest {_minutes(waiting.longest)}{note}"
    )


def _plain(waiting: Waiting) -> dict[str, Any]:
    return asdict(waiting) | {"percentiles": {f"{p:g}": s for p, s in waiting.percentiles.items()}}


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _shape(text: str) -> Sequence[float]:
    try:
        shape = [float(part) for part in text.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 0 or sum(shape) <= 0:
        raise CommandError(f"--hours {text} is no list; write numbers with commas, for instance 1,1,4,8,4,2")
    return shape


def _measured(settings: Configuration, slices: int, measure: bool) -> tuple[str, list[StudyCost]]:
    """Where the costs come from, and the costs."""
    from node.capacity.costs import costs_in_summaries

    if not measure:
        costs = costs_in_summaries(_newest_summaries(settings))
        if costs:
            return f"the newest {len(costs)} screening(s) in the store", costs
    return "measured on this machine now, on a phantom", _on_a_phantom(settings, slices)


def _newest_summaries(settings: Configuration) -> list[Mapping[str, Any]]:
    from sqlalchemy import select

    from node.inspection import opened
    from store.migrations import SchemaMismatch
    from store.models import Screening

    try:
        with opened(settings) as database, database.read() as session:
            rows = session.scalars(select(Screening.summary).order_by(Screening.id.desc()).limit(NEWEST))
            return list(rows)
    except (SchemaMismatch, CommandError):
        return []


def _on_a_phantom(settings: Configuration, slices: int) -> list[StudyCost]:
    from node.capacity.costs import measured_on_a_phantom
    from node.engine_commands import open_casework_of_command
    from node.offline import screen_files

    casework = open_casework_of_command(settings)
    with tempfile.TemporaryDirectory(prefix="lungnode-capacity-") as name, casework.executor:
        images, out = Path(name) / "images", Path(name) / "out"
        images.mkdir()
        return measured_on_a_phantom(
            lambda files: screen_files(files, out, casework).case.summary, images, slices
        )
