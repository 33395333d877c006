"""The simulated chest: what is asked of a stand-in for a patient."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from node.phantom import phantom_study, phantom_volume

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)


def test_it_holds_air_lung_soft_tissue_and_bone() -> None:
    hu = phantom_volume(slices=24, size=96, ill=False)
    assert hu.shape == (24, 96, 96) and hu.dtype == np.int16
    middle = hu[12]
    assert np.mean(middle[:4, :4]) == pytest.approx(-1000, abs=15)  # the room
    lung = np.mean((middle > -950) & (middle < -700))
    assert 0.10 < lung < 0.45
    assert middle.max() > 300
    assert np.mean((middle > 0) & (middle < 120)) > 0.05


def test_the_ill_one_has_more_dense_lung() -> None:
    ill, well = (phantom_volume(slices=24, size=96, ill=i) for i in (True, False))
    rise = ill.astype(int) - well
    assert np.sum(rise > 150) > 200  # far above the noise of 14 HU
    assert np.mean(rise < -150) == 0


def test_the_same_seed_gives_the_same_volume() -> None:
    first, again, other = (phantom_volume(8, 64, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_instances_say_that_they_are_simulated_and_lie_feet_first() -> None:
    hu = phantom_volume(6, 64)
    instances = list(phantom_study(hu, NOW))
    assert len({i.SOPInstanceUID for i in instances}) == 6
    assert len({i.SeriesInstanceUID for i in instances}) == 1
    assert {str(i.PatientName) for i in instances} == {"PHANTOM"}
    assert all("simulated" in i.StudyDescription for i in instances)
    heights = [i.ImagePositionPatient[2] for i in instances]
    assert heights == sorted(heights)
    stored = np.frombuffer(instances[2].PixelData, "<u2").reshape(64, 64).astype(int) - 1024
    np.testing.assert_array_equal(stored, hu[2])


@pytest.mark.dicom3tools
def test_an_independent_validator_finds_no_error(tmp_path: Path) -> None:
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy of dicom3tools is not installed")
    instance = next(phantom_study(phantom_volume(4, 64), NOW))
    instance.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    said = subprocess.run(["dciodvfy", tmp_path / "ct.dcm"], capture_output=True, text=True).stderr
    assert "Error" not in said, said


def test_making_one_needs_no_torch() -> None:
    code = "import sys, node.phantom; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
