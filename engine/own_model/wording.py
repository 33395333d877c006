"""What an own model says in words, the same in results, summaries and on the page."""

from __future__ import annotations

from engine.findings import ClassFinding, OwnModelFindings


def class_words(finding: ClassFinding) -> str:
    """One class in a clause: whether it was found, and by how much."""
    what = finding.which.code.meaning
    said = f"{what} {'found' if finding.found else 'not found'}"
    if finding.volume_ml is not None:
        if not finding.volume_ml:
            return said
        return f"{said} ({finding.volume_ml:.1f} ml, {finding.lung_percent or 0:.1f} % of the lungs)"
    if finding.positive_slices is not None:
        relation = "above" if finding.found else "not above"
        return f"{said} ({finding.positive_slices} slices, {relation} the limit of {finding.slice_limit})"
    return f"{said} (score {100 * (finding.score or 0):.1f} %)"


def own_model_verdict(own: OwnModelFindings) -> str:
    """All classes of a model, one line."""
    return f"{own.title}: {'; '.join(class_words(finding) for finding in own.classes)}"
