"""What was found, as lists choose by it."""

from __future__ import annotations

import pytest

from engine.findings import PneumoniaClass
from store.verdicts import JCS_VERDICTS, M3LUNG_LABELS, VerdictChoice, texts_of, verdict_text


def _summary(jcs: str, label: str) -> dict[str, object]:
    return {"jcs": {"positive": jcs == "positive"}, "m3lung": {"label": label}}


def test_the_store_knows_the_classes_of_the_engine() -> None:
    assert tuple(c.key for c in PneumoniaClass) == M3LUNG_LABELS


@pytest.mark.parametrize("jcs", JCS_VERDICTS)
@pytest.mark.parametrize("label", M3LUNG_LABELS)
def test_each_screening_is_either_positive_or_negative(jcs: str, label: str) -> None:
    text = verdict_text(_summary(jcs, label))
    chosen = {choice for choice in VerdictChoice if text in texts_of(choice)}
    positive = jcs == "positive" or label != "healthy"
    assert (VerdictChoice.POSITIVE in chosen) is positive
    assert (VerdictChoice.NEGATIVE in chosen) is not positive
    assert (VerdictChoice.DISAGREE in chosen) is ((jcs == "positive") != (label == "covid19"))
    assert {c.value for c in chosen} & set(M3LUNG_LABELS) == {label} - {"healthy"}
