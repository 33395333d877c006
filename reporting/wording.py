"""What the results say in words, the same in every object.

The node screens: it says which pattern a CT is most compatible with, never that somebody has a disease.
"""

from __future__ import annotations

import textwrap

from engine.findings import Findings, JCSFindings, M3LungFindings, PneumoniaClass
from engine.own_model.wording import own_model_verdict
from reporting.priors import PriorComparison

NOT_VERIFIED = "NOT VERIFIED by a physician. Research and screening software, not a medical device."
"""Stands beside every verdict, once."""

COUNT_RULE = "the class is decided by counting slices, not by these mean probabilities"
"""Said where M3Lung-Sys names a class that is not the most probable one (its non-parametric rule)."""

CLASS_NAMES = {
    PneumoniaClass.HEALTHY: "no pneumonia",
    PneumoniaClass.COVID19: "COVID-19 pneumonia",
    PneumoniaClass.H1N1: "H1N1 influenza pneumonia",
    PneumoniaClass.CAP: "community-acquired pneumonia",
}


def jcs_verdict(jcs: JCSFindings) -> str:
    """What JCS says, one clause."""
    if jcs.positive:
        return "JCS: CT pattern compatible with COVID-19 pneumonia"
    return "JCS: no CT pattern of COVID-19 pneumonia"


def jcs_reason(jcs: JCSFindings) -> str:
    """Why JCS says so: its count against its limit."""
    relation = "above" if jcs.positive else "not above"
    text = (
        f"{jcs.positive_count} of {len(jcs.slice_probabilities)} slices positive, "
        f"{relation} the limit of {jcs.threshold:.4g} ({jcs.rule} rule)"
    )
    if jcs.outside_paper_protocol:
        text += "; fewer slices than the method was published for"
    return text


def m3lung_verdict(m3lung: M3LungFindings) -> str:
    """What M3Lung-Sys says, one clause."""
    return f"M3Lung-Sys: CT pattern most compatible with {CLASS_NAMES[m3lung.label]}"


def m3lung_reason(m3lung: M3LungFindings) -> str:
    """The four probabilities of M3Lung-Sys, in percent; and why where the class is not the most probable one."""
    text = ", ".join(f"{CLASS_NAMES[c]} {m3lung.probabilities[c] * 100:.1f} %" for c in PneumoniaClass)
    return f"{text}; {COUNT_RULE}" if decided_by_count(m3lung) else text


def decided_by_count(m3lung: M3LungFindings) -> bool:
    """Whether the class named is not the most probable one, which people have to be told why."""
    return bool(m3lung.probabilities[m3lung.label] < max(m3lung.probabilities))


def agreement(findings: Findings) -> str:
    """Whether the two systems agree about COVID-19, one sentence."""
    if findings.discordant:
        said = "JCS finds a COVID-19 pattern" if findings.jcs.positive else "JCS finds no COVID-19 pattern"
        label = findings.m3lung.label
        healthy = label is PneumoniaClass.HEALTHY
        other = "no pneumonia pattern" if healthy else f"a pattern of {CLASS_NAMES[label]}"
        return f"The two systems disagree: {said}, M3Lung-Sys finds {other}. Please read with care."
    return "The two systems agree about COVID-19."


def own_model_lines(findings: Findings) -> list[str]:
    """What the department's own models say, a line each, and which gave no result.

    Why one gave none is in the node's store and not in the archive.
    """
    said = [own_model_verdict(own) for own in findings.own_models]
    return said + [f"{failure.name} gave no result for this study" for failure in findings.own_model_failures]


def few_own_model_lines(findings: Findings) -> list[str]:
    """The same where there is little room: at most three short lines, the last one saying how many are left out."""
    lines = [textwrap.shorten(line, 200, placeholder=" ...") for line in own_model_lines(findings)]
    if len(lines) > 3:
        lines[2:] = [f"and {len(lines) - 2} more of your own models: see the report"]
    return lines


def lesion_summary(findings: Findings) -> str:
    """Lesion count, volumes and involvement, one sentence."""
    count = len(findings.lesions)
    lung = f"Lung volume {findings.lung_volume_ml:.0f} ml"
    if count == 0:
        why = "" if findings.jcs.positive else " (JCS segments positive studies only)"
        return f"No lesion segmented{why}. {lung}."
    noun = "lesion" if count == 1 else "lesions"
    return (
        f"{count} {noun}, {findings.lesion_volume_ml:.1f} ml, "
        f"{findings.lung_involvement_percent:.1f} % of the lungs. {lung}."
    )


def prior_lines(prior: PriorComparison, findings: Findings) -> list[str]:
    """The comparison with an earlier screening: what was measured then and now, what was said, and what limits it."""
    lines = [
        f"Compared with the study of {prior.study_date:%Y-%m-%d} ({_days(prior.days_between)} before): "
        f"lesions {prior.lesion_volume_ml:.1f} ml then, {findings.lesion_volume_ml:.1f} ml now "
        f"({prior.lesion_volume_change_ml(findings):+.1f} ml); lung involvement "
        f"{prior.lung_involvement_percent:.1f} % then, {findings.lung_involvement_percent:.1f} % now "
        f"({prior.involvement_change_points(findings):+.1f} points).",
        f"JCS: {_jcs_word(prior.jcs_positive)} then, {_jcs_word(findings.jcs.positive)} now. "
        f"M3Lung-Sys: {CLASS_NAMES[prior.m3lung_label]} then, {CLASS_NAMES[findings.m3lung.label]} now.",
    ]
    if not prior.same_packages(findings):
        lines.append("Other model packages were used then; a part of the change may be theirs.")
    return lines


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _jcs_word(positive: bool) -> str:
    return "COVID-19 pattern" if positive else "no COVID-19 pattern"
