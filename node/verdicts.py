"""The verdicts of both systems, in words for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reporting.wording import COUNT_RULE

NOTICE = "Research and screening software, not a medical device; unverified by a physician."

_LABELS = {
    "healthy": "healthy",
    "covid19": "COVID-19",
    "h1n1": "H1N1 influenza",
    "cap": "community-acquired pneumonia (CAP)",
}
_IN_BRIEF = {"healthy": "healthy", "covid19": "COVID-19", "h1n1": "H1N1", "cap": "CAP"}


def verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    """What findings.json says, a line a statement."""
    jcs, m3lung = summary["jcs"], summary["m3lung"]
    verdict = "COVID-19" if jcs["positive"] else "not COVID-19"
    count = f"{jcs['positive_slices']} of {jcs['slices']} slices positive, threshold {jcs['threshold']:.4g}"
    probabilities = ", ".join(f"{_IN_BRIEF[name]} {p:.2f}" for name, p in m3lung["probabilities"].items())
    lines = [
        f"JCS         {verdict} ({count})",
        f"M3Lung-Sys  {_LABELS[m3lung['label']]} ({probabilities})",
    ]
    if m3lung["probabilities"][m3lung["label"]] < max(m3lung["probabilities"].values()):
        lines.append(f"            {COUNT_RULE}")
    if summary["lesion_count"]:
        lines.append(
            f"Lesions     {summary['lesion_count']}, {summary['lesion_volume_ml']:.1f} ml, "
            f"{summary['lung_involvement_percent']:.1f} % of the lungs"
        )
    else:
        lines.append("Lesions     none outlined")
    if summary["discordant"]:
        lines.append("The two systems disagree.")
    lines += [own["said"] for own in summary.get("own_models", ())]
    lines += [f"{f['name']}: no result: {f['why']}" for f in summary.get("own_model_failures", ())]
    return [*lines, NOTICE]
