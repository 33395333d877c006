"""Hostile input for minutes: `python tests/fuzz/run.py [--minutes 15] [--target NAME] [--folder var/fuzz]`.

Every target gets the same share of the time in a process of its own, guided by coverage (atheris). What was learnt
stays in FOLDER/corpus and is where the next run begins; inputs that break something are written to FOLDER/found.
Exits with 1 where there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hostile_input import TARGETS, target
from one_target import last_input

HERE = Path(__file__).parent
MEMORY_MIB = 2048
MEMORY = Path("/dev/shm")
"""Flushing to a disk would take most of the time, and tells nothing here."""
LONGEST_INPUT = 16 * 1024
EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
COVERED = re.compile(r"\bcov: (\d+)")
START_S = 600
"""A target starts slowly where its code is watched and the machine is busy."""


@dataclass(frozen=True)
class Run:
    """What came of one target. covered: edges of the instrumented code that inputs reached. log: the fuzzer's words."""

    target: str
    executions: int
    covered: int
    found: tuple[Path, ...]
    log: str


def main() -> None:
    """Run the targets one after the other and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--folder", type=Path, default=Path("var/fuzz"))
    arguments = parser.parse_args()
    chosen = arguments.target or list(TARGETS)
    seconds = max(1, round(arguments.minutes * 60 / len(chosen)))
    runs = []
    for name in chosen:
        runs.append(fuzz(name, arguments.folder, seconds))
        report(runs[-1])
    total = sum(run.executions for run in runs)
    found = sum(len(run.found) for run in runs)
    print(f"{'in all':20}{total:12,} executions, {found} findings")
    sys.exit(1 if found else 0)


def fuzz(name: str, folder: Path, seconds: int) -> Run:
    """Run one target for so long, not counting its start."""
    corpus, found = folder.resolve() / "corpus" / name, folder.resolve() / "found" / name
    fuzzed = target(name)
    for place in (corpus, found):
        place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(fuzzed.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    before = set(found.iterdir())
    kept = HERE / "found" / name
    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/",
        f"-max_len={LONGEST_INPUT}",
        "-timeout=86400",
        f"-rss_limit_mb={MEMORY_MIB}",
        "-print_final_stats=1",
        str(corpus),
        *([str(kept)] if kept.is_dir() else []),
    ]
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as own:
        done = subprocess.run(
            [sys.executable, HERE / "one_target.py", name, own, *options],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + START_S,
            check=False,
        )
        new = set(found.iterdir()) - before
        if done.returncode and not new:
            new = {_kept(last_input(Path(own)), found, done.returncode)}
    log = done.stdout + done.stderr
    return Run(name, _last(EXECUTED, log), _last(COVERED, log), tuple(sorted(new)), log)


def _kept(data: bytes, found: Path, status: int) -> Path:
    """Write down an input that ended its process with `status`, hanging or dying."""
    path = found / f"ended-{status}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def report(run: Run) -> None:
    """Print what came of a target, and the inputs that broke it."""
    print(f"{run.target:20}{run.executions:12,} executions, {run.covered:,} edges, {len(run.found)} findings")
    for path in run.found:
        print(f"  {path}")
        trace = run.log.rpartition("=== Uncaught")[2] or run.log
        print("  " + "\n  ".join(trace.splitlines()[-40:]))
    sys.stdout.flush()


def _last(pattern: re.Pattern[str], log: str) -> int:
    numbers = pattern.findall(log)
    return int(numbers[-1]) if numbers else 0


if __name__ == "__main__":
    main()
