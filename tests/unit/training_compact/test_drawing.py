from __future__ import annotations

import numpy as np
import pytest

from engine.findings import PneumoniaClass
from training.compact.drawing import drawer, groups_of
from training.compact.pool import NOT_COVID, Table


def table() -> Table:
    rows = [
        ("series", "a", PneumoniaClass.HEALTHY, "train"),
        ("series", "b", PneumoniaClass.COVID19, "train"),
        ("simulated", "a", PneumoniaClass.CAP, "train"),
        ("simulated", "b", PneumoniaClass.CAP, "train"),
        ("ct100", "x.png", PneumoniaClass.COVID19, "test"),
        ("ct100", "y.png", PneumoniaClass.COVID19, "train"),
        ("covid-ct", "z.png", NOT_COVID, "val"),
    ]
    n = len(rows)
    kind, patient, label, split = (np.array(column) for column in zip(*rows, strict=True))
    return Table(
        kind=kind,
        patient=patient,
        case=np.zeros(n, dtype=np.int64),
        order=np.arange(n),
        label=label.astype(np.int64),
        disease=label.astype(np.int64),
        masked=np.ones(n, dtype=np.bool_),
        box=np.tile([0.0, 0.0, 1.0, 1.0], (n, 1)),
        aspect=np.ones(n),
        split=split,
    )


def test_groups_tell_source_and_class_and_leave_test_splits_out() -> None:
    groups = groups_of(table())
    assert groups["healthy"].tolist() == [0]
    assert groups["covid"].tolist() == [1]
    assert groups["simulated cap"].tolist() == [2, 3]
    assert groups["ct100"].tolist() == [5]
    assert groups["figure other"].tolist() == [6]
    assert groups["cap"].size == 0


def test_left_out_patient_takes_the_cases_on_their_lungs_along() -> None:
    groups = groups_of(table(), without=("a",))
    assert groups["healthy"].size == 0
    assert groups["simulated cap"].tolist() == [3]


@pytest.mark.parametrize("count", [4, 16, 33])
def test_shares_are_kept_and_empty_groups_skipped(count: int) -> None:
    groups = {"many": np.arange(100), "few": np.array([500]), "none": np.array([], dtype=np.int64)}
    draw = drawer(groups, {"many": 3.0, "few": 1.0, "none": 5.0})
    rng = np.random.default_rng(0)
    few = 0
    for _ in range(40):
        drawn = draw.draw(count, rng)
        assert len(drawn) == count
        few += int((drawn == 500).sum())
    assert abs(few / (40 * count) - 0.25) < 0.03
