"""dcmqi, by which 3D Slicer reads segmentations and parametric maps, puts them where the findings are.

Its readers want slices at even distances, at right angles to their plane: uneven and tilted series are not read by it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from reporting import ReportContext, ReportOptions, build
from reporting.phantom_case import PhantomCase, make_case

CONTEXT = ReportContext(
    datetime(2026, 1, 2, 12),
    settings_hash="0",
    software_version="0",
    options=ReportOptions(parametric_map="full"),
)
CASES = {
    "axial": PhantomCase(),
    "oblique": PhantomCase(orientation=(0.9397, 0.3420, 0.0, -0.3368, 0.9254, 0.1736)),
    "feet first": PhantomCase(orientation=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    "prone": PhantomCase(orientation=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)),
    "multi-frame": PhantomCase(multi_frame=True),
}


@pytest.fixture
def converted(tmp_path: Path) -> Callable[[str, bytes], list[Path]]:
    """Runs one of dcmqi's readers over a DICOM file; returns the images that it wrote."""

    def convert(tool: str, content: bytes) -> list[Path]:
        found = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
        if found is None:
            pytest.skip(f"{tool} is not installed; pip install dcmqi")
        source, out = tmp_path / "object.dcm", tmp_path / "out"
        source.write_bytes(content)
        out.mkdir()
        command = [found, "--inputDICOM", str(source), "--outputDirectory", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(out.glob("*.nrrd"))

    return convert


def weighted_center(image: SimpleITK.Image, weights: np.ndarray) -> np.ndarray:
    """Centre of gravity in patient coordinates (LPS, mm) of weights [Z, Y, X] on an image's grid."""
    places = np.argwhere(weights > 0)
    index = (places * weights[tuple(places.T)][:, None]).sum(axis=0) / weights.sum()
    return np.array(image.TransformContinuousIndexToPhysicalPoint([float(v) for v in index[::-1]]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_segments_lie_at_the_lesions(case: PhantomCase, converted) -> None:
    findings, volume = make_case(case)
    (seg,) = build(findings, volume, CONTEXT, ("seg",))
    files = converted("segimage2itkimage", seg.encoded)
    assert len(files) == len(findings.lesions)
    for lesion, file in zip(findings.lesions, files, strict=True):
        image = SimpleITK.ReadImage(str(file))
        voxels = (SimpleITK.GetArrayFromImage(image) > 0).astype(float)
        assert voxels.sum() == (findings.lesion_labels == lesion.label).sum()
        assert np.allclose(weighted_center(image, voxels), lesion.centroid, atol=0.05)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_map_lies_at_its_place(case: PhantomCase, converted) -> None:
    findings, volume = make_case(case)
    (pm,) = build(findings, volume, CONTEXT, ("pm",))
    (file,) = converted("paramap2itkimage", pm.encoded)
    image = SimpleITK.ReadImage(str(file))
    maps = findings.jcs.activation_maps.astype(float)
    _, y, x = np.indices(maps.shape)
    middle = [(axis * maps).sum() / maps.sum() for axis in (y, x)]
    by_slice = maps.sum(axis=(1, 2)) / maps.sum()
    geometry = volume.geometry
    origin = by_slice @ geometry.positions
    in_plane = (
        middle[0] * geometry.pixel_spacing[0] * geometry.column_direction
        + middle[1] * geometry.pixel_spacing[1] * geometry.row_direction
    )
    stored = SimpleITK.GetArrayFromImage(image).astype(float)
    assert np.allclose(weighted_center(image, stored), origin + in_plane, atol=0.05)
    assert stored.max() == pytest.approx(maps.max(), abs=1e-5)
