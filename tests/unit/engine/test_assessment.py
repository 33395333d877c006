"""The patient rules, with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.assessment import jcs_patient_rule, m3_nonparametric, patient_inputs


def probabilities(positive: int, n: int) -> np.ndarray:
    return np.where(np.arange(n) < positive, 0.9, 0.1)


@pytest.mark.parametrize(
    ("positive", "n", "mode", "expected", "threshold", "rule"),
    [
        (25, 300, "auto", False, 25, "absolute"),  # a tie is negative
        (26, 300, "auto", True, 25, "absolute"),
        (26, 400, "auto", True, 25, "absolute"),
        (26, 250, "auto", True, 25, "absolute"),
        (21, 249, "auto", True, 20.75, "proportional"),
        (20, 249, "auto", False, 20.75, "proportional"),
        (6, 74, "auto", False, 6.1666667, "proportional"),
        (7, 74, "auto", True, 6.1666667, "proportional"),
        (20, 20, "absolute", False, 25, "absolute"),
        (34, 400, "proportional", True, 33.333333, "proportional"),
        (33, 400, "proportional", False, 33.333333, "proportional"),
    ],
)
def test_jcs_count_rule(positive, n, mode, expected, threshold, rule) -> None:
    verdict = jcs_patient_rule(probabilities(positive, n), mode=mode)
    assert (verdict.positive, verdict.count, verdict.rule) == (expected, positive, rule)
    assert verdict.threshold == pytest.approx(threshold)
    assert verdict.outside_paper_protocol == (n < 250)


def test_a_probability_of_one_half_is_not_positive() -> None:
    assert jcs_patient_rule([0.5, 0.5000001], threshold=0).count == 1


def test_jcs_rule_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="mode"):
        jcs_patient_rule([0.1], mode="sometimes")  # type: ignore[arg-type]
    for values in ([1.2], [float("nan")], [[0.1]]):
        with pytest.raises(ValueError, match="in \\[0, 1\\]"):
            jcs_patient_rule(values)


def test_m3_fuses_lesion_and_class_as_in_equation_4() -> None:
    verdict = m3_nonparametric([[0.25, 0.75]], [[0.2, 0.4, 0.3, 0.1]])
    np.testing.assert_allclose(verdict.probabilities, [[0.25 + 0.15, 0.3, 0.225, 0.075]])
    assert verdict.counts.tolist() == [1, 0, 0, 0]
    assert verdict.label == 0


def one_hot(labels: list[int]) -> np.ndarray:
    return np.eye(4)[labels]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0] * 298 + [1] * 2, 0),  # 298 / 300 = 0.9933
        ([0] * 297 + [1] * 3, 1),  # 297 / 300 = 0.99 is not above 0.99
        ([0] * 99 + [3], 3),
        ([0] * 50 + [2, 2, 3, 3, 1], 2),  # tie: H1N1 before CAP
        ([0] * 50 + [1, 2, 3], 1),
        ([3, 3, 1], 3),
    ],
)
def test_m3_patient_rule_of_equation_5(labels: list[int], expected: int) -> None:
    lesion = np.array([[1.0, 0.0] if k == 0 else [0.0, 1.0] for k in labels])
    verdict = m3_nonparametric(lesion, one_hot(labels))
    assert verdict.label == expected
    assert verdict.counts.sum() == len(labels)


def test_an_exact_tie_in_a_slice_counts_for_both() -> None:
    assert m3_nonparametric([[0.0, 1.0]], [[0.0, 0.5, 0.0, 0.5]]).counts.tolist() == [0, 1, 0, 1]


@given(
    arrays(np.float64, st.tuples(st.integers(1, 9), st.just(2)), elements=st.floats(0.01, 1)),
    st.integers(0, 99),
)
def test_m3_probabilities_sum_to_one(lesion: np.ndarray, seed: int) -> None:
    lesion = lesion / lesion.sum(axis=1, keepdims=True)
    classes = np.random.default_rng(seed).dirichlet(np.ones(4), len(lesion))
    np.testing.assert_allclose(m3_nonparametric(lesion, classes).probabilities.sum(axis=1), 1)


def test_m3_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="need p_lesion"):
        m3_nonparametric([[0.5, 0.5]], [[0.5, 0.5]])
    with pytest.raises(ValueError, match="at least one slice"):
        m3_nonparametric(np.zeros((0, 2)), np.zeros((0, 4)))


def test_patient_inputs_are_a_pass_per_window_or_one_of_their_mean() -> None:
    features = np.array([[[1.0, 0.0]], [[2.0, 3.0]], [[6.0, 3.0]]], dtype=np.float32)
    assert patient_inputs(features, "scores") is features
    assert patient_inputs(features, "features").tolist() == [[[3.0, 2.0]]]
