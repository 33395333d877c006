"""The layers of own models' masks in the pictures of slices."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.findings import ClassFinding, Code, ModelClass, OwnModelFindings, PackageReference
from node.slice_pictures import OwnLayer, media_type, read_index, read_picture, write_pictures
from reporting.phantom_case import PhantomCase, make_case

LUNG = Code("39607008", "SCT", "Lung")


def test_what_an_own_model_marks_has_a_layer_a_class(tmp_path: Path) -> None:
    findings, volume = make_case(PhantomCase(slices=6, matrix=64, lesion_slices=4))
    labels = np.zeros(volume.shape, dtype=np.uint8)
    labels[1:3, 10:20, 10:30] = 2
    own = OwnModelFindings(
        package=PackageReference("two", "0.1.0", "onnx", "c" * 64),
        title="Effusions",
        site=LUNG,
        rule="any",
        classes=tuple(
            ClassFinding(ModelClass(name, Code("1", "99TEST", meaning), LUNG, color), True, volume_ml=1.0)
            for name, meaning, color in (("a", "Scar", (1, 2, 3)), ("b", "Pleural effusion", (90, 140, 230)))
        ),
        slice_scores=None,
        labels=labels,
        key_slices=(1,),
    )
    path = tmp_path / "own.zip"
    write_pictures(path, volume, replace(findings, own_models=(own,)))
    index = read_index(path)
    assert index.own == (OwnLayer("own0-2", "Effusions", "Pleural effusion", "#5a8ce6"),)
    assert index.shown["own0-2"] == (1, 2)
    picture = np.asarray(Image.open(io.BytesIO(read_picture(path, "own0-2", 1))))
    assert np.array_equal(picture[:, :, 3] > 0, np.kron(labels[1] == 2, np.ones((8, 8), dtype=bool)))
    assert set(map(tuple, picture[:, :, :3].reshape(-1, 3))) == {(90, 140, 230)}


@pytest.mark.parametrize(
    ("layer", "kind"),
    [("ct", "image/jpeg"), ("jcs", "image/png"), ("own0-12", "image/png"), ("../ct", None), ("own", None)],
)
def test_only_layers_have_pictures(layer: str, kind: str | None) -> None:
    assert media_type(layer) == kind
