"""The verdict of a study's newest screening as one short text, so that lists choose by it without reading summaries."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

M3LUNG_LABELS = ("healthy", "covid19", "h1n1", "cap")
JCS_VERDICTS = ("negative", "positive")


class VerdictChoice(enum.StrEnum):
    """Which studies a list shows by what was found in them.

    positive: at least one system finds pneumonia. negative: neither does. disagree: one calls it COVID-19 and the
    other does not. The others: the class that M3Lung-Sys names.
    """

    POSITIVE = "positive"
    NEGATIVE = "negative"
    DISAGREE = "disagree"
    COVID19 = "covid19"
    H1N1 = "h1n1"
    CAP = "cap"


def by_system(summary: Mapping[str, Any]) -> dict[str, str]:
    """What each system said, from the summary of a screening; own models by their names.

    An own model says the class that it found, `several` or `nothing`.
    """
    return {
        "jcs": "positive" if summary["jcs"]["positive"] else "negative",
        "m3lung": str(summary["m3lung"]["label"]),
        **{own["name"]: _found(own["classes"]) for own in summary.get("own_models", ())},
    }


def _found(classes: Sequence[Mapping[str, Any]]) -> str:
    found = [str(c["key"]) for c in classes if c["found"]]
    return "several" if len(found) > 1 else next(iter(found), "nothing")


def verdict_text(summary: Mapping[str, Any]) -> str | None:
    """The text that the store keeps of a study, for instance `positive covid19`; None where not both systems spoke."""
    if "jcs" not in summary or "m3lung" not in summary:
        return None
    said = by_system(summary)
    return f"{said['jcs']} {said['m3lung']}"


def texts_of(choice: VerdictChoice) -> tuple[str, ...]:
    """All texts that a choice means."""
    return tuple(
        f"{jcs} {label}" for jcs in JCS_VERDICTS for label in M3LUNG_LABELS if _means(choice, jcs, label)
    )


def _means(choice: VerdictChoice, jcs: str, label: str) -> bool:
    found = jcs == "positive" or label != "healthy"
    match choice:
        case VerdictChoice.POSITIVE:
            return found
        case VerdictChoice.NEGATIVE:
            return not found
        case VerdictChoice.DISAGREE:
            return (jcs == "positive") != (label == "covid19")
        case _:
            return label == choice.value
