"""What a model package has to be, and that nothing else is taken."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PackageInvalid
from engine.packages import JCSMetadata, M3Metadata, package_hash, read_package
from engine.screening import open_systems


def edit(package: Path, **changes: Any) -> None:
    path = package / "metadata.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_a_good_package_is_read(tmp_path: Path, make_package) -> None:
    jcs = read_package(make_package(tmp_path / "j", "jcs"))
    m3 = read_package(make_package(tmp_path / "m", "m3lung"))
    assert isinstance(jcs.metadata, JCSMetadata)
    assert isinstance(m3.metadata, M3Metadata)
    assert jcs.graph_path("classify").name == "classify.onnx"
    assert jcs.reference.system == "jcs"
    assert m3.metadata.preprocessing.crop_scope == "volume"


def test_the_hash_is_over_the_sorted_lines_of_all_files(tmp_path: Path, make_package) -> None:
    package = make_package(tmp_path / "j", "jcs")
    (package / "MODEL_CARD.md").write_text("card")
    lines = sorted(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in package.iterdir())
    assert read_package(package).sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert package_hash({"b": "1", "a": "2"}) == hashlib.sha256(b"1  b\n2  a\n").hexdigest()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": "other/2"}, "schema"),
        ({"system": "xray"}, "jcs.*m3lung"),
        ({"name": "../x"}, "name"),
        ({"version": ""}, "version"),
        ({"classes": ["covid19", "not_infected"]}, "classes"),
        ({"thresholds": {"slice": 1.5}}, "thresholds.slice"),
        ({"preprocessing": {"crop_fraction": 0}}, "preprocessing.crop_fraction"),
        ({"preprocessing": {"segment_crop": "box"}}, "preprocessing.segment_crop"),
        ({"preprocessing": {"segment_margin": -1}}, "preprocessing.segment_margin"),
        ({"graphs": {"classify": {"file": "../../etc/passwd"}}}, "graphs.classify.file"),
        ({"graphs": {"classify": {"file": "other.onnx"}}}, "other.onnx is not listed"),
        ({"graphs": {}}, "at least one graph"),
        ({"files": None}, "files"),
        ({"files": {"classify.onnx": "0" * 64}}, "altered"),
        ({"files": {"absent.bin": "0" * 64}}, "not listed|missing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, make_package, changes: dict[str, Any], reason: str) -> None:
    package = make_package(tmp_path / "j", "jcs")
    if set(changes) == {"files"} and changes["files"]:
        changes = {"files": json.loads((package / "metadata.json").read_text())["files"] | changes["files"]}
    edit(package, **changes)
    with pytest.raises(PackageInvalid, match=reason) as caught:
        read_package(package)
    assert "\n" not in str(caught.value)


def test_altered_missing_and_additional_files(tmp_path: Path, make_package) -> None:
    package = make_package(tmp_path / "j", "jcs")
    (package / "weights.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(PackageInvalid, match=r"weights\.pkl is not listed"):
        read_package(package)
    (package / "weights.pkl").unlink()
    (package / "segment.onnx").unlink()
    with pytest.raises(PackageInvalid, match=r"segment\.onnx is missing"):
        read_package(package)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_broken_metadata(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(PackageInvalid, match=r"metadata\.json"):
        read_package(tmp_path)


def test_no_package_at_all(tmp_path: Path) -> None:
    with pytest.raises(PackageInvalid, match="no model package"):
        read_package(tmp_path / "absent")


def test_a_package_without_a_graph_that_screening_needs(tmp_path: Path, make_package) -> None:
    package = make_package(tmp_path / "j", "jcs")
    edit(package, graphs={"classify": {"file": "classify.onnx"}})
    assert read_package(package).metadata.name == "jcs-tiny"
    with pytest.raises(PackageInvalid, match="graph segment is missing"):
        open_systems([package])
