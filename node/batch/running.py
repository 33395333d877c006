"""Running a batch: every study of the archive that is not finished is screened; what became of it is recorded."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from engine.errors import EngineError, NotScreenable, RunnerFailed
from node.batch.journal import Journal, Outcome, State
from node.batch.sources import Archive, ArchivedStudy
from node.batch.table import finding_of
from node.casework import Casework
from node.offline import screen_files
from reporting.verification import VerificationError
from scp.pacs_query.source import QueryFailed, SourceUnreachable

RESULTS = "studies"
SETTINGS = "settings_digest"
MOST_IN_A_ROW = 5
"""So many studies in a row that failed for a reason outside of them (disk, cluster, PACS) end the batch."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("batch")


class BatchRefused(Exception):
    """The batch must not go on as it was asked to; one line that says what to do."""


@dataclass(frozen=True)
class Shard:
    """One of several parts that an archive is divided into by Study Instance UID: `number` of `of`, from 1."""

    number: int = 1
    of: int = 1

    def holds(self, study_instance_uid: str) -> bool:
        """Whether a study belongs to this part; every study belongs to exactly one."""
        digest = hashlib.sha256(study_instance_uid.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1


@dataclass
class Tally:
    """How far a batch is. before: finished by earlier runs. The others: of this run."""

    total: int = 0
    before: int = 0
    counts: dict[State, int] = field(default_factory=lambda: {"done": 0, "skipped": 0, "failed": 0})

    @property
    def now(self) -> int:
        """Studies that this run has ended."""
        return sum(self.counts.values())


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch. parallel: studies at once; while one is screened others are loaded and written.

    progress: told after every study. clock: seconds, for durations only.
    """

    archive: Archive
    journal: Journal
    casework: Casework
    out: Path
    parallel: int = 1
    shard: Shard = Shard()
    progress: Callable[[Tally], None] = lambda tally: None
    clock: Callable[[], float] = time.perf_counter

    def run(self, stop: threading.Event, *, mix: bool = False) -> Tally:
        """Screen what is not finished until told to stop; studies under way are ended.

        mix: go on with other packages or settings than the batch was begun with. Raises BatchRefused, OSError, and
        scp.pacs_query.source.QueryFailed where the archive cannot be listed.
        """
        self._check_settings(mix)
        studies = [s for s in self.archive.studies() if self.shard.holds(s.study_instance_uid)]
        waiting = deque(s for s in studies if not self.journal.is_finished(s.study_instance_uid, s.content))
        run = _Run(Tally(len(studies), len(studies) - len(waiting)), waiting)
        self.progress(run.tally)
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="batch") as pool:
            for ended in [pool.submit(self._work, run, stop) for _ in range(self.parallel)]:
                ended.result()
        if run.outside >= MOST_IN_A_ROW:
            raise BatchRefused(
                f"stopped: {run.outside} studies in a row failed, the last one because {run.last_why}; "
                "mend that and run the same command again: what is finished is kept"
            )
        return run.tally

    def _check_settings(self, mix: bool) -> None:
        before, digest = self.journal.fact(SETTINGS), self.casework.settings_digest
        if before not in (None, digest) and not mix:
            raise BatchRefused(
                f"{self.out} was begun with other packages, settings or version, and its table must not mix them; "
                "use another --out, or --mix"
            )
        self.journal.note(SETTINGS, digest)

    def _work(self, run: _Run, stop: threading.Event) -> None:
        while not stop.is_set() and (study := run.next_study()) is not None:
            begin = self.clock()
            state, why, finding, outside = self._screened(study)
            self.journal.record(
                Outcome(
                    study.study_instance_uid,
                    study.content,
                    state,
                    why,
                    finding,
                    round(self.clock() - begin, 3),
                )
            )
            run.count(state, why, outside)
            self.progress(run.tally)

    def _screened(self, study: ArchivedStudy) -> tuple[State, str, dict[str, object], bool]:
        """State, reason, row of the table, and whether a failure has its cause outside of the study."""
        try:
            return "done", "", self._finding(study), False
        except NotScreenable as error:
            return "skipped", str(error), {}, False
        except (RunnerFailed, MemoryError, OSError, SourceUnreachable) as error:
            return "failed", f"{type(error).__name__}: {error}", {}, True
        except (EngineError, VerificationError, QueryFailed) as error:
            return "failed", str(error), {}, False
        except Exception as error:  # no input may stop the batch; the reason is in the table
            log.debug("unexpected error", study=study.study_instance_uid, exc_info=True)
            return "failed", f"unexpected {type(error).__name__}: {error}", {}, False

    def _finding(self, study: ArchivedStudy) -> dict[str, object]:
        folder = f"{RESULTS}/{folder_name(study.study_instance_uid)}"
        with self.archive.files(study) as paths:
            if not paths:
                raise NotScreenable("the study has no CT images")
            case = screen_files(paths, self.out / folder, self.casework).case
        return finding_of(case.summary, case.volume.series_instance_uid, folder)


@dataclass
class _Run:
    """What the threads of a run share. outside: failures in a row with a cause outside of the studies."""

    tally: Tally
    waiting: deque[ArchivedStudy]
    outside: int = 0
    last_why: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_study(self) -> ArchivedStudy | None:
        with self.lock:
            if self.outside >= MOST_IN_A_ROW or not self.waiting:
                return None
            return self.waiting.popleft()

    def count(self, state: State, why: str, outside: bool) -> None:
        with self.lock:
            self.tally.counts[state] += 1
            self.outside = self.outside + 1 if outside else 0
            self.last_why = why


def folder_name(study_instance_uid: str) -> str:
    """The folder of a study's results: its UID, or a digest where that is none (PS3.5 9.1)."""
    if re.fullmatch(r"[0-9.]{1,64}", study_instance_uid) and set(study_instance_uid) != {"."}:
        return study_instance_uid
    return hashlib.sha256(study_instance_uid.encode()).hexdigest()[:32]


def fails(policy: str, states: Sequence[State]) -> bool:
    """Whether a batch with these outcomes counts as failed: `none` never, `any` with one failed study, `5%` with more.

    Raises ValueError for any other policy.
    """
    failed = sum(state == "failed" for state in states)
    if policy == "none":
        return False
    if policy == "any":
        return failed > 0
    share = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)%", policy)
    if share is None:
        raise ValueError(f"{policy!r} is no policy; allowed are none, any and a share such as 5%")
    return failed > float(share.group(1)) / 100 * len(states)
