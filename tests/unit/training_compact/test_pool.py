"""The pool from a tiny made-up copy of the real data's folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from engine.findings import PneumoniaClass
from training.compact import pool as pool_module
from training.compact.pool import NOT_COVID, UNKNOWN, add_masks, build_pool, open_pool
from training.compact.sources import GRID, Case, Figure, pseudo_hu


def chest(name: str, disease: PneumoniaClass, infected: slice) -> Case:
    z, y, x = np.mgrid[0:24, 0:GRID, 0:GRID]
    lungs = np.zeros(z.shape, dtype=np.bool_)
    for middle in (80, 176):
        lungs |= ((z - 12) / 13) ** 2 + ((y - 128) / 70) ** 2 + ((x - middle) / 40) ** 2 < 1
    hu = np.where(lungs, -850, 30) + np.random.default_rng(0).normal(0, 10, z.shape)
    ill = np.zeros(24, dtype=np.bool_)
    ill[infected] = True
    return Case(name, disease, hu.astype(np.int16), lungs, ill, (5.0, 1.3, 1.3))


def figure(name: str, covid: bool, split: str, mask: bool) -> Figure:
    grey = np.full((GRID, GRID), 60, dtype=np.uint8)
    drawn = np.zeros((GRID, GRID), dtype=np.bool_)
    drawn[100:140, 100:140] = True
    return Figure(name, pseudo_hu(grey), 1.25, covid, drawn if mask else None, split)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    series = [
        chest("covid-1", PneumoniaClass.COVID19, slice(9, 14)),
        chest("cap-1", PneumoniaClass.CAP, slice(9, 14)),
        chest("normal-1", PneumoniaClass.HEALTHY, slice(0, 0)),
    ]
    nlst = chest("nlst-1", PneumoniaClass.HEALTHY, slice(0, 0))
    monkeypatch.setattr(pool_module, "read_volumes", lambda data: series)
    monkeypatch.setattr(pool_module, "read_healthy_series", lambda data: nlst)
    monkeypatch.setattr(pool_module, "read_ct100", lambda data: [figure("a.png", True, "test", True)])
    others = [figure("b.jpg", True, "train", False), figure("c.jpg", False, "val", False)]
    monkeypatch.setattr(pool_module, "read_covid_ct", lambda data: others)
    build_pool(tmp_path, tmp_path / "pool", simulated_cases=4, seed=3)
    return tmp_path / "pool"


def test_labels_say_what_is_known(folder: Path) -> None:
    table = open_pool(folder).table
    series = table.kind == "series"
    covid, cap = series & (table.patient == "covid-1"), series & (table.patient == "cap-1")
    assert set(table.label[covid]) == {PneumoniaClass.HEALTHY, PneumoniaClass.COVID19}
    assert set(table.label[cap]) == {UNKNOWN, PneumoniaClass.CAP}
    assert set(table.label[table.kind == "covid-ct"]) == {PneumoniaClass.COVID19, NOT_COVID}
    ill = series & (table.label > 0)
    assert not table.masked[ill].any()
    assert table.masked[series & (table.label == PneumoniaClass.HEALTHY)].all()
    assert (table.split[table.kind == "ct100"] == "test").all()


def test_simulated_slices_have_the_mask_that_their_label_says(folder: Path) -> None:
    pool = open_pool(folder)
    simulated = np.flatnonzero(pool.table.kind == "simulated")
    assert len(set(pool.table.case[simulated])) == 4
    areas = pool.mask[simulated].sum(axis=(1, 2))
    assert (areas[pool.table.label[simulated] == PneumoniaClass.HEALTHY] == 0).all()
    assert (areas[pool.table.label[simulated] > 0] >= 25).all()
    assert "cap-1" not in pool.table.patient[simulated]


def test_lung_box_lies_around_the_lungs(folder: Path) -> None:
    table = open_pool(folder).table
    top, left, bottom, right = table.box[table.kind == "series"][0] * GRID
    assert 50 <= top <= 58
    assert 33 <= left <= 40
    assert 198 <= bottom <= 206
    assert 216 <= right <= 223


def test_seed_gives_the_same_pool(folder: Path, tmp_path: Path) -> None:
    build_pool(tmp_path, tmp_path / "again", simulated_cases=4, seed=3)
    one, two = open_pool(folder), open_pool(tmp_path / "again")
    assert np.array_equal(one.hu, two.hu)
    assert np.array_equal(one.mask, two.mask)


def test_drawn_masks_are_taken_unless_nearly_empty(folder: Path) -> None:
    table = open_pool(folder).table
    ill = np.flatnonzero((table.kind == "series") & (table.label > 0))[:2]
    drawn = np.zeros((2, GRID, GRID), dtype=np.bool_)
    drawn[0, 10:20, 10:20] = True
    drawn[1, 0, 0] = True
    assert add_masks(folder, ill, drawn) == 1
    after = open_pool(folder)
    assert after.table.masked[ill].tolist() == [True, False]
    assert np.array_equal(after.mask[ill[0]], drawn[0])
    assert not after.mask[ill[1]].any()


def test_lesion_free_part_keeps_away_from_infected_slices() -> None:
    case = chest("covid-1", PneumoniaClass.COVID19, slice(9, 14))
    free = pool_module._lesion_free(case)
    assert len(free.hu) <= 24 - (5 + 2 * 3)
    assert not free.infected.any()
    assert free.disease is PneumoniaClass.HEALTHY


@pytest.mark.real_data
def test_real_figures_keep_the_leaked_test_images_out(real_data: Path) -> None:
    from training.compact.sources import read_covid_ct, read_ct100

    figures = read_ct100(real_data)
    assert [sum(f.split == split for f in figures) for split in ("train", "test")] == [80, 20]
    with (real_data / "slices" / "covid-ct" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(read_covid_ct(real_data)) == len(rows)
