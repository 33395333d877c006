"""Writing model packages: graphs, weights, metadata, model card, and the hashes over them.

The format is the package contract in docs/architecture.md. Serving reads it without torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.export import WEIGHTS_FILE, store_graphs, to_onnx
from training.serving import ServingGraph

SCHEMA = "lungnode-package/1"
METADATA_FILE = "metadata.json"
CARD_FILE = "MODEL_CARD.md"

GRAPHS_OF_SYSTEM = {"jcs": {"classify", "segment"}, "m3lung": {"slices", "patient"}}
"""Graph names that a system knows; a package may hold fewer."""

REQUIRED_METADATA = (
    "name",
    "version",
    "system",
    "variant",
    "preprocessing",
    "classes",
    "thresholds",
    "description",
    "authors",
    "copyright",
    "license",
    "intended_use",
    "training_data",
    "metrics",
)


def write_package(
    directory: Path,
    graphs: Mapping[str, ServingGraph],
    metadata: Mapping[str, Any],
    model_card: str,
    half: bool = True,
) -> str:
    """Write a package, all of it or nothing.

    Args:
        directory: the package's directory; an existing package there is replaced.
        graphs: serving graphs by the names of the contract, e.g. {"classify": ..., "segment": ...}.
        metadata: the keys of `REQUIRED_METADATA`; `schema`, `graphs` and `files` are added here.
        model_card: text of MODEL_CARD.md.
        half: store matrices and kernels as float16.

    Returns:
        The package hash.

    Raises:
        ValueError: metadata keys are missing, or a graph does not belong to the system.
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    _check(graphs, metadata)
    models = {name: to_onnx(graph) for name, graph in graphs.items()}
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        staging.chmod(0o755)
        paths = store_graphs(staging, models, half)
        contents = {
            "schema": SCHEMA,
            **metadata,
            "graphs": {name: {"file": path.name} for name, path in paths.items()},
            "files": {name: _sha256(staging / name) for name in sorted(_binary_names(staging))},
        }
        (staging / METADATA_FILE).write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n")
        (staging / CARD_FILE).write_text(model_card.rstrip() + "\n")
        digest = package_hash(staging)
        _replace(staging, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return digest


def package_hash(directory: Path) -> str:
    """SHA-256 over the sorted lines `<sha256 of file>  <file name>\\n` of all files in the directory."""
    lines = sorted(f"{_sha256(path)}  {path.name}\n" for path in Path(directory).iterdir() if path.is_file())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check(graphs: Mapping[str, ServingGraph], metadata: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED_METADATA if key not in metadata]
    if missing:
        raise ValueError(f"package metadata lacks {', '.join(missing)}")
    known = GRAPHS_OF_SYSTEM.get(metadata["system"])
    if known is None:
        raise ValueError(f"system must be one of {sorted(GRAPHS_OF_SYSTEM)}, not {metadata['system']!r}")
    if not graphs or not set(graphs) <= known:
        raise ValueError(f"graphs of system {metadata['system']} are {sorted(known)}, not {sorted(graphs)}")


def _binary_names(directory: Path) -> list[str]:
    return [p.name for p in directory.iterdir() if p.suffix == ".onnx" or p.name == WEIGHTS_FILE]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(staging: Path, directory: Path) -> None:
    if not directory.exists():
        staging.rename(directory)
        return
    old = staging.with_name(staging.name + "-old")
    directory.rename(old)
    staging.rename(directory)
    shutil.rmtree(old)
