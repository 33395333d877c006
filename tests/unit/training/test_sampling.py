"""Fixed shares of sources and classes in a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from training.datasets.items import HOUNSFIELD, Item, Plane
from training.recipe import RecipeError
from training.sampling import Shares, drawn_batches, group_name, shares_of


def item(source: str, label: int | None, lesion: bool | None = None) -> Item:
    return Item(source, "p", "s", 0, Plane(Path("x.png")), HOUNSFIELD, label, lesion)


ITEMS = [item("a", 1), item("a", 1, lesion=False), item("a", 0), item("b", 3), item("b", None)]


def test_a_group_is_the_source_and_what_the_slice_shows() -> None:
    names = [group_name(i) for i in ITEMS]
    assert names == ["a/covid19", "a/healthy", "a/healthy", "b/cap", "b/unknown"]


def test_groups_that_are_not_named_are_left_out_and_empty_ones_give_their_share_away() -> None:
    shares = shares_of(ITEMS, {"a/healthy": 3.0, "b/cap": 1.0, "c/cap": 9.0, "a/covid19": 0.0})
    assert [group.tolist() for group in shares.groups] == [[1, 2], [3]]
    assert shares.shares.tolist() == [0.75, 0.25]


def test_data_without_any_of_the_groups_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"none of c/cap is in the data, which holds a/covid19, a/healthy"):
        shares_of(ITEMS, {"c/cap": 1.0})


@pytest.mark.parametrize("count", [4, 16, 33])
def test_shares_are_kept(count: int) -> None:
    shares = Shares((np.arange(100), np.array([500])), np.array([0.75, 0.25]))
    drawn = [shares.draw(count, np.random.default_rng(seed)) for seed in range(40)]
    assert {len(d) for d in drawn} == {count}
    few = sum(int((d == 500).sum()) for d in drawn)
    assert abs(few / (40 * count) - 0.25) < 0.03


def test_a_batch_depends_on_its_step_alone() -> None:
    shares = Shares((np.arange(50), np.arange(50, 60)), np.array([0.5, 0.5]))
    whole = list(drawn_batches(shares, 8, seed=1, first_step=0, last_step=6))
    assert list(drawn_batches(shares, 8, seed=1, first_step=4, last_step=6)) == whole[4:]
    assert [key[0] for key in whole[5]] == [5] * 8
    assert Counter(place < 50 for _, place in whole[0]) == {True: 4, False: 4}
    assert whole[0] != next(drawn_batches(shares, 8, seed=2, first_step=0, last_step=1))
