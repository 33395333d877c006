"""The words say what the numbers say."""

from __future__ import annotations

import dataclasses

import pytest

from engine.findings import PneumoniaClass
from reporting.phantom_case import PhantomCase, make_case
from reporting.wording import agreement, jcs_reason, lesion_summary, m3lung_reason


@pytest.mark.parametrize("label", list(PneumoniaClass))
@pytest.mark.parametrize("lesion_slices", [0, 4])
def test_agreement_is_about_covid19(label: PneumoniaClass, lesion_slices: int) -> None:
    findings, _ = make_case(PhantomCase(lesion_slices=lesion_slices, m3lung_label=label))
    said = agreement(findings)
    assert ("disagree" in said) == findings.discordant
    if findings.discordant:
        assert "JCS finds a COVID-19 pattern" in said
        assert ("no pneumonia pattern" in said) == (label is PneumoniaClass.HEALTHY)


def test_a_class_that_is_not_the_most_probable_is_explained() -> None:
    findings, _ = make_case(PhantomCase())
    assert "counting slices" not in m3lung_reason(findings.m3lung)
    counted = dataclasses.replace(findings.m3lung, probabilities=(0.48, 0.38, 0.06, 0.08))
    assert m3lung_reason(counted).startswith("no pneumonia 48.0 %, COVID-19 pneumonia 38.0 %")
    assert "counting slices" in m3lung_reason(counted)


def test_reason_of_jcs_names_count_limit_and_rule() -> None:
    findings, _ = make_case(PhantomCase())
    said = jcs_reason(findings.jcs)
    assert said.startswith("4 of 6 slices positive, above the limit of 0.5 (proportional rule)")
    assert "fewer slices than the method was published for" in said


def test_one_lesion_is_singular_and_none_is_said() -> None:
    one, _ = make_case(PhantomCase(lesions=1))
    assert lesion_summary(one).startswith("1 lesion, ")
    none, _ = make_case(PhantomCase(lesion_slices=0))
    assert lesion_summary(none).startswith("No lesion segmented (JCS segments positive studies only)")
    searched = dataclasses.replace(none, jcs=dataclasses.replace(none.jcs, positive=True))
    assert lesion_summary(searched).startswith("No lesion segmented. Lung volume")
