"""The pool from a tiny made-up copy of the real data's folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engine.findings import PneumoniaClass
from training.candidates import Candidate
from training.datasets.check import check
from training.datasets.items import Dataset, DatasetError, Item, Split
from training.datasets.pixels import PixelSource
from training.datasets.pool import add_masks
from training.datasets.registry import open_dataset
from training.fit import Machine
from training.pool import build, drawn
from training.pool.build import build_pool
from training.pool.drawn import draw_missing_masks
from training.pool.sources import GRID, Case, Figure, pseudo_hu
from training.recipe import load_recipe
from training.run import train


def chest(name: str, disease: PneumoniaClass, infected: slice) -> Case:
    z, y, x = np.mgrid[0:24, 0:GRID, 0:GRID]
    lungs = np.zeros(z.shape, dtype=np.bool_)
    for middle in (80, 176):
        lungs |= ((z - 12) / 13) ** 2 + ((y - 128) / 70) ** 2 + ((x - middle) / 40) ** 2 < 1
    hu = np.where(lungs, -850, 30) + np.random.default_rng(0).normal(0, 10, z.shape)
    ill = np.zeros(24, dtype=np.bool_)
    ill[infected] = True
    return Case(name, disease, hu.astype(np.int16), lungs, ill, (5.0, 1.3, 1.3))


def figure(name: str, covid: bool, split: Split, mask: bool) -> Figure:
    grey = np.full((GRID, GRID), 60, dtype=np.uint8)
    drawn = np.zeros((GRID, GRID), dtype=np.bool_)
    drawn[100:140, 100:140] = True
    return Figure(name, f"patient of {name}", pseudo_hu(grey), 1.25, covid, drawn if mask else None, split)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    series = [
        chest("covid-1", PneumoniaClass.COVID19, slice(9, 14)),
        chest("cap-1", PneumoniaClass.CAP, slice(9, 14)),
        chest("normal-1", PneumoniaClass.HEALTHY, slice(0, 0)),
    ]
    nlst = chest("nlst-1", PneumoniaClass.HEALTHY, slice(0, 0))
    monkeypatch.setattr(build, "read_volumes", lambda data: series)
    monkeypatch.setattr(build, "read_healthy_series", lambda data: nlst)
    monkeypatch.setattr(build, "read_ct100", lambda data: [figure("a.png", True, "test", True)])
    others = [figure("b.jpg", True, "train", False), figure("c.jpg", False, "val", False)]
    monkeypatch.setattr(build, "read_covid_ct", lambda data: others)
    build_pool(tmp_path, tmp_path / "pool", simulated_cases=4, seed=3)
    return tmp_path / "pool"


def of(dataset: Dataset, source: str, patient: str | None = None) -> list[Item]:
    return [i for i in dataset.items if i.source == source and patient in (None, i.patient)]


def test_the_ordinary_reader_finds_the_pool_and_nothing_wrong_with_it(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset.name == "pool"
    assert check(dataset).problems == ()


def test_labels_say_what_is_known(folder: Path) -> None:
    dataset = open_dataset(folder)
    covid, cap = of(dataset, "COVID-CT-MD", "covid-1"), of(dataset, "COVID-CT-MD", "cap-1")
    assert {(i.label, i.lesion) for i in covid} == {(1, False), (1, True)}
    assert {(i.label, i.lesion) for i in cap} == {(None, False), (3, True)}
    assert {(i.label, i.lesion) for i in of(dataset, "COVID-CT")} == {(0, None), (1, None)}
    assert all((i.mask is None) == bool(i.lesion) for i in covid)
    (drawn,) = of(dataset, "COVID-19-CT100")
    assert (drawn.split, drawn.spacing) == ("test", (1.0, 1.25))
    assert not drawn.calibration.exact


def test_simulated_slices_have_the_mask_that_their_label_says(folder: Path) -> None:
    dataset, pixels = open_dataset(folder), PixelSource(folder)
    simulated = of(dataset, "simulated")
    assert len({item.series for item in simulated}) == 4
    assert "cap-1" not in {item.patient for item in simulated}
    for item in simulated:
        mask = pixels.mask(item)
        assert mask is not None
        assert bool(mask.any()) is item.lesion
        assert item.label is None or mask.sum() == 0 or mask.sum() >= 25


def test_slices_are_read_as_they_were_written(folder: Path) -> None:
    dataset, pixels = open_dataset(folder), PixelSource(folder)
    (drawn,) = of(dataset, "COVID-19-CT100")
    assert np.array_equal(pixels.hu(drawn), np.full((GRID, GRID), pseudo_hu(np.array([60], np.uint8))[0]))
    mask = pixels.mask(drawn)
    assert mask is not None
    assert mask.sum() == 1600


def test_a_paper_with_figures_in_two_splits_keeps_no_training_from_starting(folder: Path) -> None:
    """The source split them so; it is told."""
    table = (folder / "slices.csv").read_text()
    (folder / "slices.csv").write_text(table.replace("patient of c.jpg", "patient of b.jpg"))
    report = check(open_dataset(folder))
    assert not report.errors
    assert any("in more than one split" in str(problem) for problem in report.problems)


def test_lung_box_lies_around_the_lungs(folder: Path) -> None:
    box = of(open_dataset(folder), "COVID-CT-MD")[0].lung_box
    assert box is not None
    top, left, bottom, right = (side * GRID for side in box)
    assert 50 <= top <= 58
    assert 33 <= left <= 40
    assert 198 <= bottom <= 206
    assert 216 <= right <= 223


def test_seed_gives_the_same_pool(folder: Path, tmp_path: Path) -> None:
    build_pool(tmp_path, tmp_path / "again", simulated_cases=4, seed=3)
    for file in ("hu.npy", "mask.npy", "slices.csv"):
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_drawn_masks_are_taken_unless_nearly_empty(folder: Path) -> None:
    items = open_dataset(folder).items
    ill = np.array([n for n, i in enumerate(items) if i.patient == "covid-1" and i.mask is None][:2])
    drawn = np.zeros((2, GRID, GRID), dtype=np.bool_)
    drawn[0, 10:20, 10:20] = True
    drawn[1, 0, 0] = True
    assert add_masks(folder, ill, drawn) == 1
    after, pixels = open_dataset(folder).items, PixelSource(folder)
    mask = pixels.mask(after[ill[0]])
    assert mask is not None
    assert np.array_equal(mask, drawn[0])
    assert after[ill[1]].mask is None


def test_the_compact_recipes_train_on_a_pool(folder: Path, tmp_path: Path) -> None:
    """Two steps each, with smaller networks: data, shares, heads and views fit together."""
    machine = Machine(accelerator="cpu", devices=1, progress=False)
    tiny = {
        "jcs-classifier": "network={depths: [1, 1, 1, 1], planes: [16, 16, 16, 16]}",
        "jcs-segmenter": "network={widths: [4, 4, 8, 8, 8], depths: [1, 1, 1, 1, 1], encoder_norm: train}",
        "m3-slice": "network={depths: [1, 1, 1, 1], planes: [4, 4, 4, 4], stem: 4}",
        "m3-patient": "network={head_width: 4, heads: 2, norm: softmax}",
    }
    for name, network in tiny.items():
        more = [network, "image.size=32", "iterations=2", "batch=4"]
        more += [f"start.slice={tmp_path / 'm3-slice'}"] if name == "m3-patient" else []
        recipe = load_recipe(f"compact/{name}", more)
        assert train(recipe, folder, tmp_path / name, machine).finished


def test_missing_masks_are_drawn_in_the_lungs_box(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def everywhere(graph: str, hu: npt.NDArray[np.int16]) -> dict[str, npt.NDArray[np.uint8]]:
        return {"lesion_probability": np.full(hu.shape, 255, np.uint8)}

    candidate = Candidate("all", "jcs", frozenset({"segment"}), everywhere, "", segment_margin=10)
    monkeypatch.setattr(drawn, "open_candidate", lambda path: candidate)
    lacking = [
        n
        for n, i in enumerate(open_dataset(folder).items)
        if i.label and i.lesion is not False and not i.mask
    ]
    assert draw_missing_masks(folder, Path("all")) == (len(lacking), len(lacking))
    items, pixels = open_dataset(folder).items, PixelSource(folder)
    ill = next(i for i in items if i.patient == "covid-1" and i.lesion)
    mask = pixels.mask(ill)
    assert mask is not None
    assert ill.lung_box is not None
    top, left, bottom, right = (round(side * GRID) for side in ill.lung_box)
    assert mask[top:bottom, left:right].all()
    assert mask.sum() == (bottom - top) * (right - left)
    with pytest.raises(DatasetError, match="is no pool"):
        draw_missing_masks(folder.parent, Path("all"))


def test_a_table_that_does_not_fit_its_arrays_is_refused(folder: Path) -> None:
    table = folder / "slices.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(DatasetError, match=r"hu\.npy has other slices than the"):
        open_dataset(folder)


def test_lesion_free_part_keeps_away_from_infected_slices() -> None:
    case = chest("covid-1", PneumoniaClass.COVID19, slice(9, 14))
    free = build._lesion_free(case)
    assert len(free.hu) <= 24 - (5 + 2 * 3)
    assert not free.infected.any()
    assert free.disease is PneumoniaClass.HEALTHY


@pytest.mark.real_data
def test_real_figures_keep_the_leaked_test_images_out(real_data: Path) -> None:
    from training.pool.sources import read_covid_ct, read_ct100

    figures = read_ct100(real_data)
    assert [sum(f.split == split for f in figures) for split in ("train", "test")] == [80, 20]
    with (real_data / "slices" / "covid-ct" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    others = read_covid_ct(real_data)
    assert len(others) == len(rows)
    # A resampling of patients draws all figures of a paper at once.
    assert len({figure.patient for figure in others if figure.split == "test"}) == 95
