"""Pictures of every slice in one file: what is there, where it lies, and that they say what the findings say."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.findings import Findings
from engine.label_volume import LabelVolume
from engine.volume import Volume
from node.slice_pictures import NoPictures, read_index, read_picture, write_pictures
from reporting import OBJECT_KINDS, ReportContext, build
from reporting.phantom_case import PhantomCase, make_case
from reporting.rendering import render_overview


@pytest.fixture(scope="module")
def case() -> tuple[Findings, Volume]:
    return make_case(PhantomCase(slices=6, matrix=64, lesion_slices=4))


@pytest.fixture
def file(case: tuple[Findings, Volume], tmp_path: Path) -> Path:
    findings, volume = case
    path = tmp_path / "pictures.zip"
    write_pictures(path, volume, findings)
    return path


def test_the_index_says_what_is_there(case: tuple[Findings, Volume], file: Path) -> None:
    findings, volume = case
    index = read_index(file)
    assert (index.slices, index.width, index.height) == (6, 512, 512)
    assert index.orientation == ("R", "L", "A", "P")
    assert index.positions == pytest.approx(volume.geometry.positions[:, 2])
    with_lesion = tuple(int(z) for z in np.flatnonzero(findings.lesion_labels.any(axis=(1, 2))))
    assert index.shown["lesion"] == with_lesion and index.shown["ct"] == tuple(range(6))


def test_the_mask_lies_where_the_lesion_is(case: tuple[Findings, Volume], file: Path) -> None:
    findings, _ = case
    z = read_index(file).shown["lesion"][0]
    alpha = np.asarray(Image.open(io.BytesIO(read_picture(file, "lesion", z))))[:, :, 3]
    enlarged = np.kron(findings.lesion_labels[z] > 0, np.ones((8, 8), dtype=bool))
    assert np.array_equal(alpha > 0, enlarged)


def test_a_heatmap_is_as_strong_as_the_map(case: tuple[Findings, Volume], file: Path) -> None:
    findings, _ = case
    z = read_index(file).shown["jcs"][0]
    alpha = np.asarray(Image.open(io.BytesIO(read_picture(file, "jcs", z))))[:, :, 3]
    assert alpha.astype(float) == pytest.approx(findings.jcs.activation_maps[z] * 230, abs=0.51)


def test_the_ct_is_in_the_lung_window(case: tuple[Findings, Volume], file: Path) -> None:
    _, volume = case
    grey = np.asarray(Image.open(io.BytesIO(read_picture(file, "ct", 2))).resize((64, 64)), dtype=float)
    expected = np.clip((volume.hu[2].astype(float) + 1350) * 255 / 1500, 0, 255)
    assert np.median(np.abs(grey - expected)) < 12


def test_what_is_not_there_is_said_so(file: Path, tmp_path: Path) -> None:
    free = next(z for z in range(6) if z not in read_index(file).shown["lesion"])
    for path, z in ((file, free), (file, 99), (tmp_path / "none.zip", 0)):
        with pytest.raises(NoPictures):
            read_picture(path, "lesion", z)
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(NoPictures):
        read_index(tmp_path / "broken.zip")
    assert not list(tmp_path.glob("*.part"))


def test_no_object_or_picture_makes_the_whole_mask(
    case: tuple[Findings, Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LabelVolume) -> np.ndarray:
        raise AssertionError("the whole array was asked for")

    findings, volume = case
    monkeypatch.setattr(LabelVolume, "whole", refuse)
    context = ReportContext(datetime(2026, 1, 2), settings_hash="5" * 64, software_version="0.1.0")
    kinds = [result.kind for result in build(findings, volume, context, OBJECT_KINDS)]
    assert set(kinds) == set(OBJECT_KINDS)
    write_pictures(tmp_path / "pictures.zip", volume, findings)
    render_overview(findings, volume)
