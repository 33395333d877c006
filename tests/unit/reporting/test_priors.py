"""An earlier screening beside the new one."""

from __future__ import annotations

from datetime import date

import pytest

from engine.findings import PneumoniaClass
from engine.summary import findings_summary
from reporting import PriorComparison, ReportReference, prior_comparison
from reporting.phantom_case import PhantomCase, make_case

REPORT = ReportReference("2.25.11", "2.25.12", "2.25.13")
THEN = date(2025, 11, 3)


def test_the_summary_of_a_screening_is_all_a_comparison_needs() -> None:
    findings, _ = make_case(PhantomCase())
    prior = prior_comparison(findings_summary(findings), "2.25.11", THEN, 60, REPORT)
    assert (prior.study_instance_uid, prior.study_date, prior.days_between) == ("2.25.11", THEN, 60)
    assert prior.report == REPORT
    assert prior.jcs_positive == findings.jcs.positive
    assert prior.m3lung_label is findings.m3lung.label
    assert prior.packages == (findings.jcs.package, findings.m3lung.package)
    assert prior.lesion_count == len(findings.lesions)
    assert prior.same_packages(findings)
    assert prior.lesion_volume_change_ml(findings) == 0
    assert prior.involvement_change_points(findings) == 0


def test_changes_are_now_less_then() -> None:
    findings, _ = make_case(PhantomCase())
    prior = PriorComparison(
        "2.25.11", THEN, 60, findings.lesion_volume_ml + 3, 4000.0, findings.lung_involvement_percent - 2, 1, False,
        PneumoniaClass.CAP,
    )  # fmt: skip
    assert prior.lesion_volume_change_ml(findings) == pytest.approx(-3)
    assert prior.involvement_change_points(findings) == pytest.approx(2)
    assert not prior.same_packages(findings)


def test_a_later_study_is_no_prior() -> None:
    findings, _ = make_case(PhantomCase())
    with pytest.raises(ValueError, match="5 days later"):
        prior_comparison(findings_summary(findings), "2.25.11", THEN, -5)


def test_a_summary_without_a_verdict_is_refused() -> None:
    findings, _ = make_case(PhantomCase())
    summary = findings_summary(findings)
    del summary["jcs"]
    with pytest.raises(KeyError, match="jcs"):
        prior_comparison(summary, "2.25.11", THEN, 60)
