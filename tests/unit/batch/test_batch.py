"""A batch: every study once, whatever happens in between, and a table that says what became of each."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from swift_casework import SwiftCasework, an_instance

from engine.errors import RunnerFailed, Undecodable
from node.batch.journal import Journal
from node.batch.running import MOST_IN_A_ROW, Batch, BatchRefused, Shard, Tally, fails, folder_name
from node.batch.showing import progress_words
from node.batch.sources import DateRange, DirectoryTree
from node.batch.table import write_tables

ALL = {f"1.2.{study}" for study in range(8)}


def run(tree: Path, out: Path, casework: Any, *, mix: bool = False, **changes: Any) -> Tally:
    """One run over `tree`, as the command does it."""
    journal = Journal(out / "batch.sqlite")
    try:
        batch = Batch(DirectoryTree(tree, journal), journal, casework, out, **changes)
        tally = batch.run(threading.Event(), mix=mix)
        write_tables(journal.outcomes(), out)
        return tally
    finally:
        journal.close()


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "findings.csv").open(newline="") as file:
        return {row["study_instance_uid"]: row for row in csv.DictReader(file)}


def test_every_study_is_in_the_table_with_its_files_grouped(tree: Path, tmp_path: Path) -> None:
    casework = SwiftCasework()
    tally = run(tree, tmp_path / "out", casework)
    rows = table(tmp_path / "out")
    assert set(rows) == ALL == set(casework.worked)
    assert (tally.total, tally.before, tally.counts["done"]) == (8, 0, 8)
    assert {row["slices"] for row in rows.values()} == {"3"}
    assert rows["1.2.3"]["m3lung_cap"] == "0.4"
    assert rows["1.2.3"]["folder"] == "studies/1.2.3"


def test_the_parquet_table_holds_the_same(tree: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    run(tree, tmp_path / "out", SwiftCasework())
    rows = parquet.read_table(tmp_path / "out" / "findings.parquet").to_pylist()
    assert {row["study_instance_uid"] for row in rows} == ALL
    assert rows[0]["lung_involvement_percent"] == 0.3125
    assert rows[0]["jcs_positive"] is True


def test_a_second_run_repeats_nothing_but_what_failed_or_changed(tree: Path, tmp_path: Path) -> None:
    def fail_two(uid: str) -> None:
        if uid in ("1.2.3", "1.2.5"):
            raise Undecodable("truncated")

    first = run(tree, tmp_path / "out", SwiftCasework(fail_two))
    assert first.counts == {"done": 6, "skipped": 0, "failed": 2}
    assert table(tmp_path / "out")["1.2.3"]["reason"] == "truncated"
    an_instance(tree / "p7" / "late.dcm", "1.2.7", 9)
    second = SwiftCasework()
    tally = run(tree, tmp_path / "out", second)
    assert sorted(second.worked) == ["1.2.3", "1.2.5", "1.2.7"]
    assert tally.before == 5
    assert table(tmp_path / "out")["1.2.3"]["state"] == "done"


def test_an_unchanged_folder_is_not_read_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "p9").mkdir()
    run(tree, tmp_path / "out", SwiftCasework())
    read: list[Path] = []
    monkeypatch.setattr("node.batch.sources.study_of", lambda path: read.append(path) or "1.2.9")
    an_instance(tree / "p9" / "0.dcm", "1.2.9", 0)
    run(tree, tmp_path / "out", SwiftCasework())
    assert [path.parent.name for path in read] == ["p9"]


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_killed_batch_goes_on_where_it_was(tree: Path, tmp_path: Path, killed_at: int) -> None:
    out = tmp_path / "out"

    def until_killed() -> None:
        begun: list[str] = []

        def kill(uid: str) -> None:
            begun.append(uid)
            if len(begun) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

        run(tree, out, SwiftCasework(kill))

    process = multiprocessing.get_context("fork").Process(target=until_killed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    after = SwiftCasework()
    tally = run(tree, out, after)
    assert tally.before == killed_at - 1
    assert len(after.worked) == 8 - (killed_at - 1)
    assert set(table(out)) == ALL


def test_what_is_no_ct_is_skipped_with_its_reason(tree: Path, tmp_path: Path) -> None:
    an_instance(tree / "x" / "0.dcm", "1.2.77", 0, modality="MR")
    assert run(tree, tmp_path / "out", SwiftCasework()).counts["skipped"] == 1
    assert table(tmp_path / "out")["1.2.77"]["reason"] == "no CT"


def test_other_packages_are_refused_unless_mixing_is_allowed(tree: Path, tmp_path: Path) -> None:
    run(tree, tmp_path / "out", SwiftCasework())
    other = SwiftCasework(settings_digest="6" * 64)
    with pytest.raises(BatchRefused, match="--mix"):
        run(tree, tmp_path / "out", other)
    assert run(tree, tmp_path / "out", other, mix=True).before == 8


def test_a_cause_outside_of_the_studies_ends_the_batch(tree: Path, tmp_path: Path) -> None:
    def away(uid: str) -> None:
        raise RunnerFailed("the cluster is away")

    with pytest.raises(BatchRefused, match="the cluster is away"):
        run(tree, tmp_path / "out", SwiftCasework(away))
    journal = Journal(tmp_path / "out" / "batch.sqlite")
    assert len(list(journal.outcomes())) == MOST_IN_A_ROW
    journal.close()
    assert run(tree, tmp_path / "out", SwiftCasework()).counts["done"] == 8


def test_several_at_once_give_the_same(tree: Path, tmp_path: Path) -> None:
    casework = SwiftCasework()
    assert run(tree, tmp_path / "out", casework, parallel=4).counts["done"] == 8
    assert sorted(casework.worked) == sorted(ALL)


def test_shards_share_the_archive_without_overlap(tree: Path, tmp_path: Path) -> None:
    worked = []
    for number in (1, 2, 3):
        casework = SwiftCasework()
        run(tree, tmp_path / f"out{number}", casework, shard=Shard(number, 3))
        worked += casework.worked
    assert sorted(worked) == sorted(ALL)


def test_no_received_value_leaves_the_results_folder() -> None:
    assert folder_name("1.2.3") == "1.2.3"
    for name in ("../../etc", "..", "", "1" * 65, "a/b"):
        assert set(folder_name(name)) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("policy", "failed", "verdict"),
    [("any", 0, False), ("any", 1, True), ("none", 9, False), ("10%", 1, False), ("10%", 2, True)],
)
def test_the_exit_code_follows_the_policy(policy: str, failed: int, verdict: bool) -> None:
    states: list[Any] = ["failed"] * failed + ["done"] * (10 - failed)
    assert fails(policy, states) is verdict


def test_an_unknown_policy_is_told() -> None:
    with pytest.raises(ValueError, match="5%"):
        fails("most", ())


def test_progress_says_rate_and_remaining_time() -> None:
    tally = Tally(total=100, before=10, counts={"done": 28, "skipped": 1, "failed": 1})
    assert progress_words(tally, 60.0) == "30.0 studies/min, 2 min 00 s left, 1 failed"
    assert progress_words(Tally(total=5), 0.0) == ""


def test_date_ranges_are_written_as_dicom_does() -> None:
    from datetime import date

    first, last = date(2026, 1, 2), date(2026, 3, 4)
    ranges = [DateRange(), DateRange(first), DateRange(None, last), DateRange(first, last)]
    assert [str(r) for r in ranges] == ["", "20260102-", "-20260304", "20260102-20260304"]
