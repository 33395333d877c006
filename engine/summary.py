"""The Findings as a plain dictionary: what findings.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.findings import ClassFinding, Findings, OwnModelFindings, PackageReference, PneumoniaClass
from engine.own_model.wording import class_words, own_model_verdict


def findings_summary(findings: Findings, more_timings: Mapping[str, float] | None = None) -> dict[str, Any]:
    """JSON-ready summary of `findings`; volumes in ml, timings in seconds, centroids in mm (LPS).

    more_timings: stages outside of screening (loading, result objects), which come before those of screening.
    """
    return {
        "jcs": _jcs(findings),
        "m3lung": _m3lung(findings),
        "discordant": findings.discordant,
        "lesion_count": len(findings.lesions),
        "lesion_volume_ml": findings.lesion_volume_ml,
        "lung_volume_ml": findings.lung_volume_ml,
        "lung_involvement_percent": findings.lung_involvement_percent,
        "lesions": [
            {
                "label": lesion.label,
                "volume_ml": lesion.volume_ml,
                "centroid_mm": list(lesion.centroid),
                "slices": list(lesion.slices),
                "largest_slice": lesion.largest_slice,
                "mean_hu": lesion.mean_hu,
            }
            for lesion in findings.lesions
        ],
        "key_slices": list(findings.key_slices),
        "timings_s": {**(more_timings or {}), **findings.timings_s},
        "packages": [_package(reference) for reference in findings.packages],
        "own_models": [_own_model(own) for own in findings.own_models],
        "own_model_failures": [{"name": f.name, "why": f.why} for f in findings.own_model_failures],
    }


def _jcs(findings: Findings) -> dict[str, Any]:
    jcs = findings.jcs
    return {
        "positive": jcs.positive,
        "positive_slices": jcs.positive_count,
        "slices": len(jcs.slice_probabilities),
        "ratio": jcs.positive_count / len(jcs.slice_probabilities),
        "threshold": jcs.threshold,
        "rule": jcs.rule,
        "outside_paper_protocol": jcs.outside_paper_protocol,
        "slice_probabilities": [float(p) for p in jcs.slice_probabilities],
    }


def _m3lung(findings: Findings) -> dict[str, Any]:
    m3lung = findings.m3lung
    return {
        "label": m3lung.label.key,
        "probabilities": {c.key: float(p) for c, p in zip(PneumoniaClass, m3lung.probabilities, strict=True)},
        "slice_labels": [PneumoniaClass(int(k)).key for k in np.argmax(m3lung.slice_probabilities, axis=1)],
        "lesion_probabilities": [float(p) for p in m3lung.lesion_probabilities],
    }


def _own_model(own: OwnModelFindings) -> dict[str, Any]:
    scores = own.slice_scores
    return {
        "name": own.package.name,
        "version": own.package.version,
        "title": own.title,
        "rule": own.rule,
        "said": own_model_verdict(own),
        "classes": [_class(finding) for finding in own.classes],
        "slice_scores": None if scores is None else [[float(s) for s in of_slice] for of_slice in scores],
        "key_slices": list(own.key_slices),
    }


def _class(finding: ClassFinding) -> dict[str, Any]:
    which = finding.which
    return {
        "key": which.key,
        "code": [which.code.value, which.code.scheme, which.code.meaning],
        "found": finding.found,
        "said": class_words(finding),
        "score": finding.score,
        "positive_slices": finding.positive_slices,
        "slice_limit": finding.slice_limit,
        "volume_ml": finding.volume_ml,
        "lung_percent": finding.lung_percent,
        "mean_hu": finding.mean_hu,
    }


def _package(reference: PackageReference) -> dict[str, str]:
    return {
        "name": reference.name,
        "version": reference.version,
        "system": reference.system,
        "sha256": reference.sha256,
    }
