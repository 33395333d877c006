"""`lungnode batch`: screen an archive."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.command_options import CommandError, ConfigOption, JsonOption, read_configuration, say
from node.offline_commands import peer_of

if TYPE_CHECKING:
    from node.batch.journal import Journal, Outcome
    from node.batch.running import Shard, Tally
    from node.batch.sources import Archive, DateRange
    from node.configuration import Configuration

JOURNAL, SCRATCH = "batch.sqlite", "fetched"
MOST_LISTED = 20


def add_batch_command(app: typer.Typer) -> None:
    """Put `lungnode batch` at the top."""
    app.command()(batch)


def batch(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, searched through; AE@HOST:PORT, asked by C-FIND and C-GET; or the URL of a DICOMweb server."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the table and the result objects go.")],
    configuration: ConfigOption = None,
    executor: Annotated[
        str, typer.Option(help="local or ray; what the configuration says where left out.")
    ] = "",
    parallel: Annotated[
        int, typer.Option(min=0, help="Studies at once; 0: one, two for each Ray actor.")
    ] = 0,
    dates: Annotated[
        str, typer.Option(help="Study dates to ask a PACS for: 20260101-20260131, 20260101-, -20260131.")
    ] = "",
    fail_on: Annotated[
        str, typer.Option(help="When the exit code is 1: none, any (a study failed), or a share such as 5%.")
    ] = "any",
    shard: Annotated[str, typer.Option(help="Only part K of N, as K/N: for several machines.")] = "1/1",
    mix: Annotated[
        bool, typer.Option("--mix", help="Go on with other packages or settings than --out was begun with.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Screen an archive: a table of all findings as CSV and Parquet, the result objects beside it.

    A batch that was stopped or killed goes on where it was: run the same command again.

    [bold]Example:[/bold] lungnode batch /archive/ct --out screened/ --fail-on 5%
    """
    from rich.console import Console

    from node.batch.journal import Journal
    from node.batch.running import Batch, fails
    from node.batch.showing import BatchProgress
    from node.batch.table import write_tables
    from node.engine_commands import open_casework_of_command

    settings = _with_executor(read_configuration(configuration), executor)
    part, wanted = _shard(shard), _dates(dates)
    try:
        fails(fail_on, ())
    except ValueError as error:
        raise CommandError(f"--fail-on {error}") from None
    with closing(Journal(out / JOURNAL)) as journal:
        progress = BatchProgress(Console(stderr=True, highlight=False))
        archive = _archive(source, wanted, journal, out, settings, progress.looked)
        casework = open_casework_of_command(settings)
        at_once = parallel or _studies_at_once(settings)
        try:
            with casework.executor, progress, _stoppable() as stop:
                work = Batch(archive, journal, casework, out, at_once, part, progress.tell)
                tally = work.run(stop, mix=mix)
        finally:
            written = write_tables(journal.outcomes(), out)
        outcomes = list(journal.outcomes())
    _report(tally, outcomes, written, as_json)
    if stop.is_set():
        raise typer.Exit(130)
    if fails(fail_on, [outcome.state for outcome in outcomes]):
        raise typer.Exit(1)


def _report(tally: Tally, outcomes: list[Outcome], written: list[Path], as_json: bool) -> None:
    """What became of all studies, the failed ones by name."""
    from node.batch.table import FAILURES, PARQUET
    from node.verdicts import NOTICE

    counts = {state: sum(o.state == state for o in outcomes) for state in ("done", "skipped", "failed")}
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    lines = [
        f"{counts['done']} of {tally.total} studies screened, {counts['skipped']} skipped, "
        f"{counts['failed']} failed; {tally.before} were finished before",
        *(f"failed: {outcome.study}: {outcome.why}" for outcome in failed[:MOST_LISTED]),
    ]
    if len(failed) > MOST_LISTED:
        lines.append(f"and {len(failed) - MOST_LISTED} more: see {FAILURES}")
    lines += ["written: " + ", ".join(map(str, written)), NOTICE]
    if PARQUET not in {path.name for path in written}:
        lines.append("no Parquet table without pyarrow: pip install 'lungnode[batch]'")
    answer = {
        "total": tally.total,
        **counts,
        "finished_before": tally.before,
        "failures": {outcome.study: outcome.why for outcome in failed},
        "files": list(map(str, written)),
    }
    say("\n".join(lines), answer, as_json)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM, after which the studies under way are ended; the second one breaks off."""
    stop = threading.Event()

    def asked(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _archive(
    source: str,
    dates: DateRange,
    journal: Journal,
    out: Path,
    settings: Configuration,
    looked: Callable[[int], None],
) -> Archive:
    """What SOURCE names. Raises CommandError."""
    from node.batch.sources import DirectoryTree, QueriedArchive, study_keys

    if source.startswith(("http://", "https://")):
        from node.pacs_services import dicomweb_source_at

        web = dicomweb_source_at(source, settings)
        return QueriedArchive(lambda: web.studies(str(dates)), web, out / SCRATCH)
    if "@" in source and not Path(source).exists():
        from scp.pacs_query.dimse import DimseSource

        pacs = DimseSource(peer_of(source), settings.listener.ae_title)

        def found() -> list[str]:
            return [str(answer.StudyInstanceUID) for answer in pacs.find(study_keys(dates))]

        return QueriedArchive(found, pacs, out / SCRATCH)
    if str(dates):
        raise CommandError("--dates is for a PACS; a folder is screened whole")
    folder = Path(source)
    if not folder.is_dir():
        raise CommandError(f"{source} is no folder, no AE@HOST:PORT and no URL")
    return DirectoryTree(folder.resolve(), journal, looked)


def _with_executor(settings: Configuration, executor: str) -> Configuration:
    if not executor:
        return settings
    if executor not in ("local", "ray"):
        raise CommandError(f"--executor {executor} is not known; allowed are local and ray")
    screening = settings.screening.model_copy(update={"executor": executor})
    return settings.model_copy(update={"screening": screening})


def _studies_at_once(settings: Configuration) -> int:
    """With Ray two for each actor: while one study is screened, another is loaded and a third written."""
    return 2 * settings.ray.actors if settings.screening.executor == "ray" else 1


def _shard(text: str) -> Shard:
    from node.batch.running import Shard

    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise CommandError(f"--shard {text} is no part; write K/N with K from 1 to N, for instance 1/4")
    return Shard(int(number), int(of))


def _dates(text: str) -> DateRange:
    from node.batch.sources import DateRange

    if not text:
        return DateRange()
    first, dash, last = text.partition("-")
    try:
        found = DateRange(_day(first), _day(last) if dash else _day(first))
    except ValueError:
        found = None
    if found is None or (found.first and found.last and found.last < found.first):
        raise CommandError(f"--dates {text} is no range; write 20260101-20260131, 20260101- or -20260131")
    return found


def _day(text: str) -> date | None:
    return datetime.strptime(text, "%Y%m%d").date() if text else None
