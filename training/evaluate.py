"""Measuring candidates on a data set and writing the report: Markdown, JSON and plots."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from training.candidates import Candidate, open_candidate, outputs_by_name
from training.datasets.check import require
from training.datasets.items import Dataset, DatasetError, Item, Split
from training.datasets.pixels import PixelSource
from training.datasets.registry import open_dataset
from training.datasets.splits import with_splits
from training.measure import Measured, classify, measure_lesions, measure_patients, measure_slices
from training.metrics import p_values
from training.plots import draw
from training.published import TABLES

LEVELS = ("slices", "patients", "lesions")

COMPARED = {"slices": ("accuracy", "auc"), "patients": ("accuracy",), "lesions": ("dice", "iou")}
"""Scores for which p-values are given, between candidates that were measured alike on the same cases."""

Results = dict[str, dict[str, Measured]]
"""Candidate name -> level -> what was measured."""


def evaluate(
    paths: Sequence[Path], data: Path, directory: Path, split: str, resamples: int, cache: Path | None = None
) -> Path:
    """Measure packages and outputs of trainings on one split; gives the path of report.md.

    Raises DatasetError, RecipeError, PackageInvalid.
    """
    if split not in get_args(Split):
        raise DatasetError(f"split must be train, val or test, not {split!r}")
    dataset = with_splits(open_dataset(data))
    items = dataset.of(cast(Split, split))
    pixels = PixelSource(cache or directory / "cache")
    require(replace(dataset, name=f"{dataset.name}, split {split}", items=items), pixels.stored)
    candidates = outputs_by_name([open_candidate(path) for path in paths])
    results = {name: measure(candidate, items, pixels, resamples) for name, candidate in candidates.items()}
    if not any(results.values()):
        raise DatasetError(f"{dataset.name}, split {split}: no slice has the label or mask that is needed")
    directory.mkdir(parents=True, exist_ok=True)
    plots = draw(results, directory)
    systems = {name: candidate.system for name, candidate in candidates.items()}
    hashes = {name: candidate.sha256 for name, candidate in candidates.items()}
    content = {**report_content(dataset, split, results, resamples), "sha256": hashes}
    (directory / "report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    report = directory / "report.md"
    report.write_text(report_text(content, systems, plots), encoding="utf-8")
    return report


def measure(
    candidate: Candidate, items: Sequence[Item], pixels: PixelSource, resamples: int
) -> dict[str, Measured]:
    """All levels that the candidate and the items allow."""
    found: dict[str, Measured] = {}
    labels = (0, 1) if candidate.system == "jcs" else (0, 1, 2, 3)
    labelled = [item for item in items if item.label in labels]
    if labelled and candidate.graphs & {"classify", "slices"}:
        results = classify(candidate, labelled, pixels)
        found["slices"] = measure_slices(candidate, labelled, results, resamples)
        patients = measure_patients(candidate, labelled, results, resamples)
        if patients is not None:
            found["patients"] = patients
    masked = [item for item in items if item.mask is not None]
    if masked and "segment" in candidate.graphs:
        found["lesions"] = measure_lesions(candidate, masked, pixels, resamples)
    return found


def report_content(dataset: Dataset, split: str, results: Results, resamples: int) -> dict[str, Any]:
    """Everything of the report as JSON."""
    return {
        "data": dataset.name,
        "split": split,
        "resamples": resamples,
        "warnings": [str(problem) for problem in dataset.problems],
        "candidates": {
            name: {level: _as_json(measured) for level, measured in levels.items()}
            for name, levels in results.items()
        },
        "p_values": _comparisons(results),
    }


def _as_json(measured: Measured) -> dict[str, Any]:
    return {
        "count": measured.count,
        "patients": measured.patients,
        "excluded": measured.excluded,
        "scores": {
            name: {key: _number(getattr(found, key)) for key in ("value", "low", "high")}
            for name, found in measured.scores.items()
        },
    }


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _comparisons(results: Results) -> list[dict[str, Any]]:
    found = []
    for first, second in itertools.combinations(results, 2):
        for level in LEVELS:
            one, other = (results[name].get(level) for name in (first, second))
            if one is None or other is None or not one.comparable(other):
                continue
            for score in COMPARED[level]:
                if score in one.resamples:
                    both = one.resamples[score], other.resamples[score]
                    values = {key: _number(p) for key, p in p_values(*both).items()}
                    found.append({"level": level, "score": score, "first": first, "second": second, **values})
    return found


def report_text(content: Mapping[str, Any], systems: Mapping[str, str], plots: Sequence[Path]) -> str:
    """The report in Markdown."""
    lines = [
        f"# Evaluation on {content['data']}, split {content['split']}",
        "",
        "Research and screening software, not a medical device. Intervals are the 2.5 and 97.5 percentiles of "
        f"{content['resamples']} bootstrap resamples of the patients.",
        "",
        *(f"- {name}: SHA-256 `{digest}`" for name, digest in content["sha256"].items()),
        *(f"- {warning}" for warning in content["warnings"]),
        "",
    ]
    for level in LEVELS:
        present = {name: levels[level] for name, levels in content["candidates"].items() if level in levels}
        if present:
            lines += [f"## Per {level.removesuffix('s')}", "", *_score_table(present), ""]
            if level == "slices":
                lines += [
                    "A slice of which the source does not say whether it shows a lesion counts as its "
                    "patient's class.",
                    "",
                ]
            lines += _published(level, {systems[name] for name in present})
    if content["p_values"]:
        lines += ["## Differences", "", *_p_value_table(content["p_values"]), ""]
    lines += ["## Plots", "", *(f"![{plot.stem}]({plot.name})" for plot in plots), ""]
    return "\n".join(lines)


def _score_table(present: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(score for measured in present.values() for score in measured["scores"]))
    lines = ["| score | " + " | ".join(present) + " |", "|---" * (len(present) + 1) + "|"]
    counts = [f"{m['count']} of {m['patients']} patients" for m in present.values()]
    lines.append("| cases | " + " | ".join(counts) + " |")
    for name in names:
        cells = [_cell(m["scores"].get(name), m["excluded"].get(name, 0)) for m in present.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(score: Mapping[str, float | None] | None, excluded: int) -> str:
    if score is None:
        return "-"
    if score["value"] is None:
        return "undefined"
    low, high = ("?" if score[key] is None else f"{score[key]:.4f}" for key in ("low", "high"))
    left_out = f", {excluded} undefined" if excluded else ""
    return f"{score['value']:.4f} [{low}, {high}]{left_out}"


def _published(level: str, systems: set[str]) -> list[str]:
    lines: list[str] = []
    for system in sorted(systems):
        for title, head, rows in TABLES.get((system, level), ()):
            lines += [f"Published, on other data: {title}", "", "| " + " | ".join(head) + " |"]
            lines += ["|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows), ""]
    return lines


def _p_value_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| level | score | first | second | p (Welch on resamples) | p (paired) |", "|---" * 6 + "|"]
    for row in rows:
        p = ["undefined" if row[key] is None else f"{row[key]:.4g}" for key in ("welch", "paired")]
        lines.append(
            f"| {row['level']} | {row['score']} | {row['first']} | {row['second']} | {p[0]} | {p[1]} |"
        )
    return lines
