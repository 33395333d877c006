"""The table of all findings: a row a study, as CSV and as Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.findings import PneumoniaClass
from node.batch.journal import Outcome
from node.outbox import write_durably

CSV, PARQUET, FAILURES = "findings.csv", "findings.parquet", "failures.csv"

COLUMNS: dict[str, type] = {
    "study_instance_uid": str,
    "state": str,
    "reason": str,
    "series_instance_uid": str,
    "slices": int,
    "jcs_positive": bool,
    "jcs_positive_slices": int,
    "jcs_threshold": float,
    "jcs_rule": str,
    "m3lung_label": str,
    **{f"m3lung_{c.key}": float for c in PneumoniaClass},
    "discordant": bool,
    "lesion_count": int,
    "lesion_volume_ml": float,
    "lung_volume_ml": float,
    "lung_involvement_percent": float,
    "jcs_package": str,
    "m3lung_package": str,
    "own_models": str,
    "folder": str,
    "seconds": float,
}
"""Columns and what they hold; the columns of findings are empty where there are none."""


def finding_of(summary: Mapping[str, Any], series_instance_uid: str, folder: str) -> dict[str, Any]:
    """The columns that findings.json fills (`engine.summary.findings_summary`)."""
    jcs, m3lung = summary["jcs"], summary["m3lung"]
    packages = {p["system"]: f"{p['name']} {p['version']} {p['sha256'][:12]}" for p in summary["packages"]}
    return {
        "series_instance_uid": series_instance_uid,
        "slices": jcs["slices"],
        "jcs_positive": jcs["positive"],
        "jcs_positive_slices": jcs["positive_slices"],
        "jcs_threshold": jcs["threshold"],
        "jcs_rule": jcs["rule"],
        "m3lung_label": m3lung["label"],
        **{f"m3lung_{name}": p for name, p in m3lung["probabilities"].items()},
        "discordant": summary["discordant"],
        "lesion_count": summary["lesion_count"],
        "lesion_volume_ml": summary["lesion_volume_ml"],
        "lung_volume_ml": summary["lung_volume_ml"],
        "lung_involvement_percent": summary["lung_involvement_percent"],
        "jcs_package": packages["jcs"],
        "m3lung_package": packages["m3lung"],
        "own_models": _own_models(summary),
        "folder": folder,
    }


def _own_models(summary: Mapping[str, Any]) -> str | None:
    """What the own models said, each by its name and version; None where there is none."""
    said = [f"{own['name']} {own['version']}: {own['said']}" for own in summary.get("own_models", ())]
    said += [f"{own['name']}: no result, {own['why']}" for own in summary.get("own_model_failures", ())]
    return "; ".join(said) or None


def write_tables(outcomes: Iterable[Outcome], out: Path) -> list[Path]:
    """Write findings.csv, findings.parquet where pyarrow is installed, and failures.csv; returns what was written.

    Each file is there whole or not at all. Raises OSError.
    """
    rows = [_row(outcome) for outcome in outcomes]
    write_durably(out / CSV, _csv(rows, COLUMNS))
    failed = [row for row in rows if row["state"] != "done"]
    write_durably(out / FAILURES, _csv(failed, ("study_instance_uid", "state", "reason")))
    written = [out / CSV, out / FAILURES]
    content = _parquet(rows)
    if content is not None:
        write_durably(out / PARQUET, content)
        written.insert(1, out / PARQUET)
    return written


def _row(outcome: Outcome) -> dict[str, Any]:
    about = {"study_instance_uid": outcome.study, "state": outcome.state, "reason": outcome.why}
    return dict.fromkeys(COLUMNS) | about | outcome.finding | {"seconds": outcome.seconds}


def _csv(rows: list[dict[str, Any]], columns: Iterable[str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _parquet(rows: list[dict[str, Any]]) -> bytes | None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        return None
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    sink = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()
