"""Measures with numbers worked out by hand (the worked numbers of the specification)."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import (
    adaptive_threshold,
    e_measure,
    error_rates,
    four_class,
    interval,
    overlap,
    p_values,
    resampled,
    surface_distances,
    two_class,
)

CONFUSION = np.array([[99, 2, 0, 1], [1, 94, 0, 1], [0, 0, 41, 0], [6, 2, 0, 45]])
CLASSES = ("healthy", "covid19", "h1n1", "cap")


def square(top: int, left: int, side: int = 4, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_two_class_by_hand() -> None:
    """TP 45, FP 10, TN 40, FN 5."""
    truth = np.array([1] * 50 + [0] * 50)
    probability = np.array([0.9] * 45 + [0.1] * 5 + [0.9] * 10 + [0.1] * 40)
    scores = two_class(truth, probability)
    expected = {
        "sensitivity": 0.9,
        "specificity": 0.8,
        "precision": 0.818182,
        "accuracy": 0.85,
        "f1": 0.857143,
        "f2": 0.882353,
        "f0.5": 0.833333,
        "auc": 0.85,
    }
    assert scores == pytest.approx(expected, abs=1e-6)


def test_exactly_the_threshold_is_negative_and_one_class_has_no_auc() -> None:
    scores = two_class(np.array([1, 1]), np.array([0.5, 0.51]))
    assert scores["sensitivity"] == 0.5
    assert np.isnan(scores["auc"])
    assert np.isnan(scores["specificity"])


def test_a_decision_of_its_own_leaves_the_ranking_to_the_score() -> None:
    scores = two_class(np.array([0, 0, 1]), np.array([0.01, 0.02, 0.03]), np.array([0, 1, 1]))
    assert (scores["auc"], scores["specificity"], scores["sensitivity"]) == (1.0, 0.5, 1.0)


def test_four_class_by_hand() -> None:
    truth = np.repeat(np.arange(4), CONFUSION.sum(axis=1))
    predicted = np.concatenate([np.repeat(np.arange(4), row) for row in CONFUSION])
    scores = four_class(truth, predicted, np.eye(4)[predicted], CLASSES)
    assert scores["accuracy"] == pytest.approx(0.955479, abs=1e-6)
    assert [scores[f"sensitivity_{c}"] for c in CLASSES] == pytest.approx(
        [0.970588, 0.979167, 1, 0.849057], abs=1e-6
    )
    assert [scores[f"specificity_{c}"] for c in CLASSES] == pytest.approx(
        [0.963158, 0.979592, 1, 0.991632], abs=1e-6
    )
    assert scores["auc_h1n1"] == 1.0


def test_error_rates_by_hand() -> None:
    """3 of 102, 7 of 190, 3 of 190."""
    assert error_rates(CONFUSION) == pytest.approx(
        {"fpe": 0.029412, "fne": 0.036842, "fdpe": 0.015789}, abs=1e-6
    )


def test_overlap_of_squares_shifted_by_one() -> None:
    scores = overlap(square(2, 3), square(2, 2))
    expected = {"dice": 0.75, "iou": 0.6, "voe": 0.4, "volume_similarity": 0.0, "rvd_percent": 0.0}
    assert scores == pytest.approx(expected)


def test_overlap_of_different_sizes() -> None:
    """8 of 16 pixels: volume similarity 2 * (8 - 16) / 24, RVD -50 %."""
    half = square(2, 2)
    half[4:] = False
    scores = overlap(half, square(2, 2))
    assert scores["volume_similarity"] == pytest.approx(-2 / 3)
    assert scores["rvd_percent"] == pytest.approx(-50)


def test_overlap_of_empty_masks() -> None:
    empty = np.zeros((8, 8), bool)
    assert overlap(empty, empty)["dice"] == 1
    assert np.isnan(overlap(square(2, 2), empty)["rvd_percent"])
    assert np.isnan(surface_distances(square(2, 2), empty, (1, 1))["asd"])


def test_surface_distances_by_hand() -> None:
    """Of the 12 contour pixels of either square 6 lie on the other's contour or beside it: mean 0.5, largest 1."""
    assert surface_distances(square(2, 3), square(2, 2), (1, 1)) == pytest.approx({"asd": 0.5, "msd": 1.0})
    assert surface_distances(square(2, 3), square(2, 2), (1, 2))["msd"] == pytest.approx(2.0)


def test_e_measure_by_hand() -> None:
    truth, found = np.zeros((4, 4), bool), np.zeros((4, 4))
    truth[1:3, 1:3] = True
    found[1:3, 1:4] = 1.0
    assert e_measure(found, truth)["e_adaptive"] == pytest.approx(0.881894, abs=1e-5)
    assert e_measure(truth.astype(float), truth)["e_adaptive"] == pytest.approx(16 / 15, abs=1e-5)


def test_adaptive_threshold_is_twice_the_mean_at_most_one() -> None:
    assert adaptive_threshold(np.array([[0.1, 0.3]])) == pytest.approx(0.4)
    assert adaptive_threshold(np.array([[0.9, 0.9]])) == 1.0


def test_patients_are_resampled_whole() -> None:
    seen = []
    resampled(["a", "a", "b"], lambda places: {"n": float(seen.append(sorted(places)) or 0)}, 50)
    assert {tuple(s) for s in seen} == {(0, 0, 1, 1), (0, 1, 2), (2, 2)}


def test_resamples_are_the_same_for_two_systems() -> None:
    first = resampled(list("abcdef"), lambda places: {"sum": float(places.sum())}, 20)["sum"]
    second = resampled(list("abcdef"), lambda places: {"sum": float(places.sum())}, 20)["sum"]
    assert np.array_equal(first, second)
    assert len(set(first)) > 5


def test_interval_holds_the_percentiles() -> None:
    found = interval(0.5, np.append(np.arange(1001) / 1000, np.nan))
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))


def test_p_values_of_equal_and_of_different_systems() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.8, 0.02, 500)
    assert p_values(scores, scores)["paired"] == 1.0
    apart = p_values(scores, scores - 0.1)
    assert apart["paired"] == 0.0
    assert apart["welch"] < 1e-6
    assert np.isnan(p_values(scores * np.nan, scores)["paired"])
