"""Model packages: read, checked against their hashes and their contract, never unpickled (docs/architecture.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from engine.assessment import WindowFusion
from engine.errors import PackageInvalid
from engine.findings import PackageReference
from engine.own_model.contract import OwnModelMetadata
from engine.package_contract import Metadata, Probability, Section

SCHEMA = "lungnode-package/1"
METADATA = "metadata.json"
MODEL_CARD = "MODEL_CARD.md"


class JCSPreprocessing(Section):
    """What the graphs are given of a slice.

    crop, crop_fraction: `classify` gets the centred square of `crop_fraction` times the shorter side.
    segment_crop: `segment` gets whole slices, or the lungs' box of the series with `segment_margin` pixels.
    pictures_squeezed: of figures, which only an evaluation sees, `classify` gets `crop_fraction` of both sides instead.
    """

    crop: Literal["centre"] = "centre"
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 0.875
    segment_crop: Literal["slice", "lungs"] = "slice"
    segment_margin: Annotated[int, Field(ge=0, le=200)] = 10
    pictures_squeezed: bool = False


class JCSThresholds(Section):
    """Slice probability, count rule (A.3) and the lesion probability above which a pixel is lesion."""

    slice: Probability = 0.5
    patient_count: Annotated[float, Field(ge=0)] = 25
    patient_mode: Literal["auto", "absolute", "proportional"] = "auto"
    lesion: Probability = 0.5


class M3Preprocessing(Section):
    """The lungs' box with `crop_margin` pixels, of the series or of each slice."""

    crop: Literal["lungs"] = "lungs"
    crop_scope: Literal["volume", "slice"] = "volume"
    crop_margin: Annotated[int, Field(ge=0, le=200)] = 10


class M3Thresholds(Section):
    """Which rule gives the patient's class, T of eq. 5, and what the patient network averages over the windows."""

    patient_rule: Literal["network", "nonparametric"] = "network"
    nonparametric: Probability = 0.99
    window_fusion: WindowFusion = "scores"


class JCSMetadata(Metadata):
    """metadata.json of a JCS package."""

    system: Literal["jcs"]
    preprocessing: JCSPreprocessing = JCSPreprocessing()
    thresholds: JCSThresholds = JCSThresholds()
    classes: tuple[Literal["not_infected"], Literal["covid19"]]

    @property
    def screening_graphs(self) -> tuple[str, ...]:
        """The graphs without which a package cannot screen."""
        return ("classify", "segment")


class M3Metadata(Metadata):
    """metadata.json of a M3Lung-Sys package."""

    system: Literal["m3lung"]
    preprocessing: M3Preprocessing = M3Preprocessing()
    thresholds: M3Thresholds = M3Thresholds()
    classes: tuple[Literal["healthy"], Literal["covid19"], Literal["h1n1"], Literal["cap"]]

    @property
    def screening_graphs(self) -> tuple[str, ...]:
        """The graphs without which a package cannot screen."""
        return ("slices", "patient") if self.thresholds.patient_rule == "network" else ("slices",)


AnyMetadata = JCSMetadata | M3Metadata | OwnModelMetadata
"""metadata.json of any system."""

SYSTEMS = ("jcs", "m3lung", "onnx")


class _AnyMetadata(BaseModel):
    root: Annotated[AnyMetadata, Field(discriminator="system")]

    @model_validator(mode="after")
    def _complete(self) -> _AnyMetadata:
        if not self.root.graphs:
            raise ValueError("a package has at least one graph")
        for name, graph in self.root.graphs.items():
            if graph.file not in self.root.files:
                raise ValueError(f"graphs.{name}.file {graph.file} is not listed in files")
        return self


@dataclass(frozen=True)
class ModelPackage:
    """A checked package on disk. `sha256` is the package hash over all of its files."""

    path: Path
    metadata: AnyMetadata
    sha256: str

    @property
    def reference(self) -> PackageReference:
        return PackageReference(self.metadata.name, self.metadata.version, self.metadata.system, self.sha256)

    def graph_path(self, graph: str) -> Path:
        """The ONNX file of a graph; KeyError for a graph that the package has not."""
        return self.path / self.metadata.graphs[graph].file


def read_package(path: Path | str) -> ModelPackage:
    """Read and check a package directory.

    Every file that metadata.json lists is there with its SHA-256, and nothing but these files, metadata.json and
    MODEL_CARD.md is there. Raises PackageInvalid, naming the file or the key and what is wrong with it.
    """
    folder = Path(path)
    if not (folder / METADATA).is_file():
        raise PackageInvalid(f"{folder} is no model package: it has no {METADATA}")
    metadata = _metadata(folder)
    hashes = file_hashes(folder)
    for name, expected in metadata.files.items():
        if name not in hashes:
            raise PackageInvalid(f"{folder}: {name} is missing")
        if hashes[name] != expected:
            raise PackageInvalid(f"{folder}: {name} was altered (its SHA-256 differs from {METADATA})")
    if unlisted := sorted(set(hashes) - set(metadata.files) - {METADATA, MODEL_CARD}):
        raise PackageInvalid(f"{folder}: {unlisted[0]} is not listed in {METADATA}")
    return ModelPackage(folder, metadata, package_hash(hashes))


def package_hash(file_hashes: Mapping[str, str]) -> str:
    """SHA-256, hex, over the sorted lines `<sha256 of file>  <file name>` with a newline after each."""
    lines = sorted(f"{digest}  {name}\n" for name, digest in file_hashes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _metadata(folder: Path) -> AnyMetadata:
    try:
        content: Any = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        return _AnyMetadata.model_validate({"root": content}).root
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][1:] if part not in SYSTEMS) or "contents"
        said = first["msg"].removeprefix("Value error, ")
        raise PackageInvalid(f"{folder / METADATA}: {key}: {said}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise PackageInvalid(f"{folder / METADATA} cannot be read: {error}") from error


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256, hex, of every file of a folder. Raises PackageInvalid for what is no plain file."""
    try:
        return {entry.name: _file_hash(entry) for entry in sorted(folder.iterdir())}
    except OSError as error:
        raise PackageInvalid(f"{folder} cannot be read: {error}") from error


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise PackageInvalid(f"{path} is not a plain file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
