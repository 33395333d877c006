"""From an exported network and a description to a package: checked, tried once, hashed, with the stub of a card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.errors import PackageInvalid, RunnerFailed
from engine.findings import OwnModelFindings
from engine.label_volume import LabelVolume
from engine.own_model.contract import GRAPH, OwnModelMetadata
from engine.own_model.screening import OwnModelSystem, screen_with
from engine.own_model.trial import series_of
from engine.own_model.wording import own_model_verdict
from engine.package_writing import write_package
from engine.packages import METADATA, read_package
from engine.runners.interface import RunnerOptions
from engine.runners.openvino_runner import OpenVINORunner
from engine.volume import Volume

FOR_PEOPLE = ("description", "authors", "copyright", "license", "intended_use", "training_data", "metrics")
"""What a description says for the model card; what it leaves out is said to be not stated."""

GRAPH_FILE = "model.onnx"


@dataclass(frozen=True)
class PackagedModel:
    """A package that was written. said: what the model said of the made-up slices, one line."""

    sha256: str
    said: str


def read_description(path: Path) -> dict[str, Any]:
    """The description of a network, YAML or JSON. Raises PackageInvalid, which names the file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        json.dumps(content)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise PackageInvalid(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise PackageInvalid(f"{path} is no description of a network: keys and values are expected")
    return content


def package_own_model(
    directory: Path, graph: Path, description: Mapping[str, Any], weights: Sequence[Path] = ()
) -> PackagedModel:
    """Write a package of type `onnx`; an existing one there is replaced only when everything fits.

    weights: files of external data that the ONNX file names. Raises PackageInvalid where the description or a file is
    wrong, RunnerFailed where the network does not run or gives something else than described.
    """
    metadata = {"name": directory.name, "version": "1.0.0", **description, "system": "onnx"}
    tried: list[OwnModelFindings] = []

    def fill(folder: Path) -> dict[str, str]:
        for source, name in ((graph, GRAPH_FILE), *((file, file.name) for file in weights)):
            try:
                shutil.copyfile(source, folder / name)
            except OSError as error:
                raise PackageInvalid(f"{source} cannot be read: {error.strerror}") from error
        return {GRAPH: GRAPH_FILE}

    def check(folder: Path) -> None:
        try:
            tried.append(try_out(folder))
        except PackageInvalid as error:
            raise PackageInvalid(str(error).replace(str(folder / METADATA), "the description")) from error

    sha256 = write_package(directory, metadata, model_card(metadata), fill, check)
    return PackagedModel(sha256, own_model_verdict(tried[0]))


def try_out(folder: Path) -> OwnModelFindings:
    """Run a package once on made-up slices. Raises PackageInvalid, RunnerFailed."""
    package = read_package(folder)
    if not isinstance(package.metadata, OwnModelMetadata):
        raise PackageInvalid(f"{folder} is no package of type onnx")
    options = RunnerOptions(precision="f32", threads=1, batch=2)
    system = OwnModelSystem(package, package.metadata, OpenVINORunner(package, options), options.batch)
    volume = _made_up()
    everywhere = LabelVolume.of(np.ones(volume.shape, dtype=bool))
    try:
        return screen_with(system, volume, everywhere, everywhere.areas() > 0)
    except RunnerFailed as error:
        raise RunnerFailed(f"the network does not do what its description says: {error}") from error
    finally:
        system.runner.close()


def _made_up() -> Volume:
    """Four axial slices of 48 x 64 pixels of noise, HU from -1000 to 200, always the same."""
    return series_of(np.random.default_rng(20).integers(-1000, 200, (4, 48, 64)).astype(np.int16))


def model_card(description: Mapping[str, Any]) -> str:
    """The stub of MODEL_CARD.md: what the description says, and that the rest is not stated."""
    said = {key: description.get(key) or "Not stated." for key in FOR_PEOPLE}
    classes = [
        f"| {entry.get('key')} | {code.get('meaning')} | {code.get('scheme')} {code.get('value')} | "
        f"{entry.get('threshold', 0.5)} |"
        for entry in description.get("classes") or ()
        if isinstance(entry, Mapping)
        for code in [entry.get("code") or {}]
    ]
    lines = [
        f"# {description.get('title', description['name'])}: {description['name']} {description['version']}",
        "",
        str(said["description"]),
        "",
        "| class | meaning | code | threshold |",
        "|---|---|---|---|",
        *classes,
        "",
        "## Intended use",
        "",
        str(said["intended_use"]),
        "",
        "## Trained on",
        "",
        *_listed(said["training_data"]),
        "",
        "## Scores",
        "",
        *_listed(said["metrics"]),
        "",
        "## Limits",
        "",
        "A model that the department added; this program runs it as described and has not evaluated it.",
        "",
        f"Authors: {said['authors']} Copyright: {said['copyright']} Licence: {said['license']}",
    ]
    return "\n".join(lines) + "\n"


def _listed(content: Any) -> list[str]:
    if isinstance(content, Mapping):
        return [f"- {key}: {value}" for key, value in content.items()]
    if isinstance(content, list):
        return [f"- {item}" for item in content]
    return [str(content)]
